#pragma once

#include "kernels/attention_cuda.h"

/// What the two tiled attention kernels share. Sequences with many queries: a block has a tile of queries of one head
/// and walks over tiles of the keys that they see, with the softmax carried along (Dao et al. 2022, algorithm 1), so
/// that no matrix of scores is stored. For attention_tiles_*_cuda.cu only.
namespace loci::cuda::tiles {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

/// A tile of queries (or of own keys) of one head as a block's work.
struct QueryTile {
  AttentionSequence sequence;
  int head;     // of the queries; of a tile of keys the key head
  int first;    // query
  int count;    // of queries
  int visible;  // keys that the first query sees, after see()

  /// Counts the keys that the queries see, `keys` those of the sequence; returns how many the last one does.
  __device__ int see(const KeyList& keys) {
    visible = keys.segment_keys() + static_cast<int>(sequence.visible_0) + first;
    return visible + count - 1;
  }
  __device__ int64_t row(int query) const { return sequence.first_query + first + query; }
  /// Whether the warp has queries, and one of them sees this key.
  template <int kWarpRows>
  __device__ bool warp_sees(int key) const {
    const int mine = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;
    return mine < count && key < visible + min(mine + kWarpRows, count) - 1;
  }
};

/// Whether this block has the tile of `rows` rows with this number. With equal numbers of blocks to come the longest
/// should come first: the last queries see the most keys, and the first keys are seen by the most queries.
__device__ inline bool place_tile(const AttentionJob& job, const AttentionTile& place, int number, int tile_rows,
                                  int rows, QueryTile& tile) {
  tile.head = static_cast<int>(place.head);
  tile.first = number * tile_rows;
  tile.count = min(tile_rows, rows - tile.first);
  return number >= 0 && tile.count > 0 && tile.sequence.queries >= job.least_queries;
}
template <int kRows>
__device__ bool find_query_tile(const AttentionJob& job, unsigned tiles, QueryTile& tile) {
  const AttentionTile place = attention_tile(blockIdx.x, tiles, job.heads);
  tile.sequence = job.sequences[place.sequence];
  const auto rows = static_cast<int>(tile.sequence.queries);
  return place_tile(job, place, (rows + kRows - 1) / kRows - 1 - static_cast<int>(place.tile), kRows, rows, tile);
}
template <int kRows>
__device__ bool find_key_tile(const AttentionJob& job, unsigned tiles, QueryTile& tile) {
  const AttentionTile place = attention_tile(blockIdx.x, tiles, job.key_heads);
  tile.sequence = job.sequences[place.sequence];
  const auto rows = static_cast<int>(tile.sequence.visible_0 + tile.sequence.queries - 1);  // that are seen
  return place_tile(job, place, static_cast<int>(place.tile), kRows, rows, tile);
}

/// Tiles of the queries that see a tile of own keys: those of the first head that reads the keys, of the second one ...
template <int kTile>
class SeeingQueries {
 public:
  __device__ SeeingQueries(const AttentionJob& job, const QueryTile& keys)
      : first_seen_(max(0, keys.first + 1 - static_cast<int>(keys.sequence.visible_0))),
        queries_(static_cast<int>(keys.sequence.queries)),
        last_head_(static_cast<int>((keys.head + 1) * job.group) - 1),
        head_(static_cast<int>(keys.head * job.group)),
        first_(first_seen_) {}

  __device__ bool there() const { return head_ <= last_head_; }
  __device__ SeeingQueries next() const {
    SeeingQueries tile = *this;
    tile.first_ += kTile;
    if (tile.first_ >= queries_) {
      tile.first_ = first_seen_;
      ++tile.head_;
    }
    return tile;
  }
  __device__ int head() const { return head_; }
  __device__ int first() const { return first_; }             // query of the tile
  __device__ int count() const { return queries_ - first_; }  // of queries from there on

 private:
  int first_seen_;  // by which the tile's first key is seen
  int queries_;
  int last_head_;
  int head_;
  int first_;
};

__device__ inline bool finite(float x) { return x - x == 0.0f; }
__device__ inline float finite_or_zero(float x) { return finite(x) ? x : 0.0f; }
__device__ inline float4 finite_or_zero(float4 x) {
  return make_float4(finite_or_zero(x.x), finite_or_zero(x.y), finite_or_zero(x.z), finite_or_zero(x.w));
}
__device__ inline bool all_finite(float4 x) { return finite(x.x) && finite(x.y) && finite(x.z) && finite(x.w); }

__device__ inline bool aligned_heads(const AttentionRows<const float>& rows, int width) {
  return width % 4 == 0 && aligned_rows(rows.data, rows.stride);
}
__device__ inline bool aligned_heads(const AttentionRows<float>& rows, int width) {
  return width % 4 == 0 && aligned_rows(rows.data, rows.stride);
}

/// Blocks for all tiles of `of` rows, and the tiles of each sequence and each of `heads`.
struct TileGrid {
  unsigned blocks, tiles;
};
inline TileGrid tile_grid(const char* op, const AttentionJob& job, unsigned heads, int64_t most, int of) {
  const unsigned tiles = blocks_for(most, of);
  const int64_t blocks = static_cast<int64_t>(job.sequence_count) * heads * tiles;
  require<ShapeError>(blocks <= INT32_MAX, "{}: {} sequences of up to {} rows are too many for one call", op,
                      job.sequence_count, most);
  return {static_cast<unsigned>(blocks), tiles};
}

/// Whether a block may take this much shared memory: 227 KiB on the data centre's cards, 99 KiB on most others.
inline bool fits(Context& context, size_t shared_bytes) {
  return shared_bytes <= context.cuda().shared_bytes_per_block();
}

}  // namespace loci::cuda::tiles
