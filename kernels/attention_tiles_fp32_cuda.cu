#include <cmath>

#include "kernels/attention_tiles_cuda.h"
#include "kernels/cuda_mma.h"

// Tiled attention in fp32, whose products are the threads' own.
namespace loci::cuda {
namespace {

using namespace tiles;

/// A block has 64 rows (of queries, say), 16 a warp, and walks over tiles of kTile rows (of keys). A lane has rows 4 y
/// .. 4 y + 3 of its warp's (y = lane / 8, x = lane % 8): of their products with a tile the columns x, x + 8, .., of
/// sums over columns those from 4 x on of each 32. Rows lie 4 banks apart, so that 8 lanes' 16-byte accesses to 8 rows,
/// or to one, meet each bank once.
template <int kWidth_, int kTile_>
struct FloatShape {
  static constexpr int kWidth = kWidth_, kTile = kTile_;
  static constexpr int kRows = 64, kWarpRows = kRows / kWarps;
  static constexpr int kStride = kWidth + 4;
  static constexpr int kWeightStride = kTile + 4;
  static constexpr int kColumns = kTile / 8;   // of a lane's products
  static constexpr int kChunks = kWidth / 32;  // of 4 columns of a lane's sums

  /// Of shared memory, for these many arrays of rows of the block, of two tiles each, and of products.
  static constexpr size_t bytes(int rows, int tiles, int weights) {
    return rows * SharedMemory::bytes<float>(kRows * kStride) +
           tiles * SharedMemory::bytes<float>(2 * kTile * kStride) +
           weights * SharedMemory::bytes<float>(kRows * kWeightStride);
  }
};

template <typename Shape>
using LaneProducts = float[4][Shape::kColumns];
template <typename Shape>
using LaneSums = float4[4][Shape::kChunks];

struct FloatLane {
  int warp = static_cast<int>(threadIdx.x) / kWarp;
  int y = static_cast<int>(threadIdx.x) % kWarp / 8;
  int x = static_cast<int>(threadIdx.x) % 8;
  /// The lane's row i of the block.
  __device__ int row(int i) const { return 16 * warp + 4 * y + i; }
};

/// Starts the copies of kCount rows, of which `count` are there; the others, and what lies behind the last column,
/// become zero. row_at(r) is the address of row r.
template <typename Shape, int kCount, typename RowAt>
__device__ void fetch_rows(float* to, int count, int width, bool wide, const RowAt& row_at) {
  constexpr int kRowChunks = Shape::kWidth / 4;
#pragma unroll 2
  for (int number = static_cast<int>(threadIdx.x); number < kCount * kRowChunks; number += kThreads) {
    const int row = number / kRowChunks, column = number % kRowChunks * 4;
    const float* from = row_at(min(row, count - 1));
    float* chunk = to + row * Shape::kStride + column;
    if (wide) {
      const bool inside = row < count && column < width;
      copy_later<16>(chunk, inside ? from + column : from, inside);
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const bool inside = row < count && column + c < width;
        copy_later<4>(chunk + c, inside ? from + column + c : from, inside);
      }
    }
  }
}

/// Two tiles of rows: one is worked on while the next arrives.
template <typename Shape>
class TileBuffers {
 public:
  __device__ explicit TileBuffers(SharedMemory& shared)
      : rows_(shared.take<float>(2 * Shape::kTile * Shape::kStride)) {}
  /// The tile that starts so many rows behind the first one.
  __device__ float* at(int offset) const { return rows_ + offset / Shape::kTile % 2 * Shape::kTile * Shape::kStride; }

 private:
  float* rows_;
};

/// Starts the copies of the tile of keys and values from `first` on; zeros behind the `seen` keys of the sequence.
template <typename Shape>
__device__ void fetch_keys(const KeyList& keys, int first, int seen, int width, const TileBuffers<Shape>& key_rows,
                           const TileBuffers<Shape>& value_rows) {
  fetch_rows<Shape, Shape::kTile>(key_rows.at(first), seen - first, width, keys.wide(),
                                  [&](int row) { return keys.at(first + row).key; });
  fetch_rows<Shape, Shape::kTile>(value_rows.at(first), seen - first, width, keys.wide(),
                                  [&](int row) { return keys.at(first + row).value; });
}

/// Replaces what is not finite in the chunks that this thread has fetched of a tile; returns whether there was any.
template <typename Shape>
__device__ bool clean_rows(float* rows) {
  constexpr int kRowChunks = Shape::kWidth / 4;
  bool found = false;
  for (int number = static_cast<int>(threadIdx.x); number < Shape::kTile * kRowChunks; number += kThreads) {
    auto* chunk = reinterpret_cast<float4*>(rows + number / kRowChunks * Shape::kStride + number % kRowChunks * 4);
    if (all_finite(*chunk)) continue;
    *chunk = finite_or_zero(*chunk);
    found = true;
  }
  return found;
}

__device__ inline float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }

/// c = A B^T for the rows of the block and of a tile.
template <typename Shape>
__device__ void multiply_rows(const float* a, const float* b, LaneProducts<Shape>& c) {
  const FloatLane lane;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kColumns; ++j) c[i][j] = 0;
#pragma unroll 2
  for (int k = 0; k < Shape::kWidth; k += 4) {
    float4 held[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) held[i] = load4(a + lane.row(i) * Shape::kStride + k);
#pragma unroll
    for (int j = 0; j < Shape::kColumns; ++j) {
      const float4 met = load4(b + (lane.x + 8 * j) * Shape::kStride + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        c[i][j] = fmaf(held[i].x, met.x, c[i][j]);
        c[i][j] = fmaf(held[i].y, met.y, c[i][j]);
        c[i][j] = fmaf(held[i].z, met.z, c[i][j]);
        c[i][j] = fmaf(held[i].w, met.w, c[i][j]);
      }
    }
  }
}

/// c += A B for products A of the warp's rows, which go through `weights` [rows of the block, kTile].
template <typename Shape>
__device__ void add_columns(const LaneProducts<Shape>& a, const float* b, float* weights, LaneSums<Shape>& c) {
  const FloatLane lane;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < Shape::kColumns; ++j) weights[lane.row(i) * Shape::kWeightStride + lane.x + 8 * j] = a[i][j];
  __syncwarp();
#pragma unroll 2
  for (int k = 0; k < Shape::kTile; k += 4) {
    float4 held[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) held[i] = load4(weights + lane.row(i) * Shape::kWeightStride + k);
#pragma unroll
    for (int m = 0; m < Shape::kChunks; ++m) {
      const float* rows = b + k * Shape::kStride + 32 * m + 4 * lane.x;
      const float4 met[4] = {load4(rows), load4(rows + Shape::kStride), load4(rows + 2 * Shape::kStride),
                             load4(rows + 3 * Shape::kStride)};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        add_scaled(held[i].x, met[0], c[i][m]);
        add_scaled(held[i].y, met[1], c[i][m]);
        add_scaled(held[i].z, met[2], c[i][m]);
        add_scaled(held[i].w, met[3], c[i][m]);
      }
    }
  }
}

template <int kChunks>
__device__ void clear(float4 (&x)[4][kChunks]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int m = 0; m < kChunks; ++m) x[i][m] = make_float4(0, 0, 0, 0);
}

template <int kChunks>
__device__ void store_sums(const float4 (&sums)[kChunks], float factor, Write write, int width, bool wide, float* row) {
#pragma unroll
  for (int m = 0; m < kChunks; ++m) {
    const int first = 32 * m + 4 * FloatLane().x;
    float4 x = scaled(factor, sums[m]);
    if (write == Write::accumulate)
      add_scaled(1, wide ? load_columns<true>(row, first, width) : load_columns<false>(row, first, width), x);
    wide ? store_columns<true>(row, first, width, x) : store_columns<false>(row, first, width, x);
  }
}

/// The softmax of a lane's four queries so far.
template <typename Shape>
struct FloatSoftmax {
  float maximum[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float sum[4] = {};  // over the lane's keys

  /// Scores of the keys from `first` on become exp(scale score - maximum); `sums` are brought to the new maximum.
  __device__ void add(const QueryTile& tile, int first, float scale, LaneProducts<Shape>& p, LaneSums<Shape>& sums) {
    const FloatLane lane;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int visible = tile.visible + min(lane.row(i), tile.count - 1) - first - lane.x;
      float now = maximum[i];
#pragma unroll
      for (int j = 0; j < Shape::kColumns; ++j) {
        p[i][j] = 8 * j < visible ? p[i][j] * scale : -INFINITY;
        now = fmaxf(now, p[i][j]);
      }
#pragma unroll
      for (int bit = 1; bit < 8; bit *= 2) now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, bit));
      const float factor = exp2f((maximum[i] - now) * kLog2E);
      maximum[i] = now;
      sum[i] *= factor;
#pragma unroll
      for (int j = 0; j < Shape::kColumns; ++j) {
        p[i][j] = exp2f((p[i][j] - now) * kLog2E);
        sum[i] += p[i][j];
      }
#pragma unroll
      for (int m = 0; m < Shape::kChunks; ++m) sums[i][m] = scaled(factor, sums[i][m]);
    }
  }
};

/// Where values became zero: NaN for the queries that see them.
template <typename Shape>
__device__ void spoil(const QueryTile& tile, const KeyList& keys, int width, LaneSums<Shape>& sums) {
  const FloatLane lane;
  for (int key = tile.visible / Shape::kTile * Shape::kTile; tile.warp_sees<Shape::kWarpRows>(key); ++key) {
    const float* value = keys.at(key).value;
#pragma unroll
    for (int m = 0; m < Shape::kChunks; ++m) {
      const float4 x = load_columns<false>(value, 32 * m + 4 * lane.x, width);
      const float4 nan = make_float4(x.x - x.x, x.y - x.y, x.z - x.z, x.w - x.w);  // 0 where it is finite
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (key < tile.visible + min(lane.row(i), tile.count - 1)) add_scaled(1, nan, sums[i][m]);
    }
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2) attention_float(AttentionJob job, unsigned tiles) {
  QueryTile tile;
  if (!find_query_tile<Shape::kRows>(job, tiles, tile)) return;
  const int64_t column = job.column(tile.head);
  const KeyList keys(job, tile.sequence, job.key_column(tile.head));
  const int seen = tile.see(keys);
  const FloatLane lane;

  SharedMemory shared;
  float* queries = shared.take<float>(Shape::kRows * Shape::kStride);
  const TileBuffers<Shape> key_rows(shared), value_rows(shared);
  float* weights = shared.take<float>(Shape::kRows * Shape::kWeightStride);
  int* spoiled = shared.take<int>(1);
  if (threadIdx.x == 0) *spoiled = 0;
  const auto fetch = [&](int first) { fetch_keys(keys, first, seen, job.width, key_rows, value_rows); };
  fetch_rows<Shape, Shape::kRows>(queries, tile.count, job.width, aligned_heads(job.queries, job.width),
                                  [&](int row) { return job.queries.at(tile.row(row), column); });
  fetch(0);
  FloatSoftmax<Shape> softmax;
  LaneSums<Shape> sums;
  clear(sums);
  __syncthreads();  // `spoiled` is set
  for (int first = 0; first < seen; first += Shape::kTile) {
    await_copies();
    // A probability of 0 keeps out a value that its query does not see, unless the value is not finite.
    if (first + Shape::kTile > tile.visible && clean_rows<Shape>(value_rows.at(first))) atomicMax(spoiled, 1);
    __syncthreads();  // the tile is there, and all warps are done with the one before
    if (first + Shape::kTile < seen) fetch(first + Shape::kTile);
    if (!tile.warp_sees<Shape::kWarpRows>(first)) continue;
    LaneProducts<Shape> p;
    multiply_rows<Shape>(queries, key_rows.at(first), p);
    softmax.add(tile, first, job.scale, p, sums);
    add_columns<Shape>(p, value_rows.at(first), weights, sums);
  }
  if (*spoiled) spoil<Shape>(tile, keys, job.width, sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float sum = softmax.sum[i];
#pragma unroll
    for (int bit = 1; bit < 8; bit *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
    const int query = lane.row(i);
    if (query >= tile.count) continue;
    store_sums(sums[i], 1 / sum, Write::assign, job.width, aligned_heads(job.output, job.width),
               job.output.at(tile.row(query), column));
    if (lane.x == 0 && job.log_sums.data) *job.log_sums.at(tile.row(query), tile.head) = softmax.maximum[i] + logf(sum);
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2)
    attention_query_gradients_float(AttentionBackwardJob job, unsigned tiles) {
  QueryTile tile;
  if (!find_query_tile<Shape::kRows>(job, tiles, tile)) return;
  const int64_t column = job.column(tile.head);
  const KeyList keys(job, tile.sequence, job.key_column(tile.head));
  const int seen = tile.see(keys);
  const FloatLane lane;

  SharedMemory shared;
  float* queries = shared.take<float>(Shape::kRows * Shape::kStride);
  float* gradients = shared.take<float>(Shape::kRows * Shape::kStride);
  const TileBuffers<Shape> key_rows(shared), value_rows(shared);
  float* weights = shared.take<float>(Shape::kRows * Shape::kWeightStride);
  const auto fetch = [&](int first) { fetch_keys(keys, first, seen, job.width, key_rows, value_rows); };
  fetch_rows<Shape, Shape::kRows>(queries, tile.count, job.width, aligned_heads(job.queries, job.width),
                                  [&](int row) { return job.queries.at(tile.row(row), column); });
  fetch_rows<Shape, Shape::kRows>(gradients, tile.count, job.width, aligned_heads(job.output_gradients, job.width),
                                  [&](int row) { return job.output_gradients.at(tile.row(row), column); });
  fetch(0);
  LaneSums<Shape> sums;
  clear(sums);
  for (int first = 0; first < seen; first += Shape::kTile) {
    await_copies();
    __syncthreads();
    if (first + Shape::kTile < seen) fetch(first + Shape::kTile);
    if (!tile.warp_sees<Shape::kWarpRows>(first)) continue;
    LaneProducts<Shape> s, dp;
    multiply_rows<Shape>(queries, key_rows.at(first), s);
    multiply_rows<Shape>(gradients, value_rows.at(first), dp);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = min(lane.row(i), tile.count - 1);
      const float log_sum = *job.saved_log_sums.at(tile.row(query), tile.head);
      const float projection = *job.projections.at(tile.row(query), tile.head);
#pragma unroll
      for (int j = 0; j < Shape::kColumns; ++j)
        s[i][j] = backward_weights(first + lane.x + 8 * j < tile.visible + query, s[i][j], dp[i][j], job.scale, log_sum,
                                   projection)
                      .ds;
    }
    add_columns<Shape>(s, key_rows.at(first), weights, sums);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (lane.row(i) < tile.count)
      store_sums(sums[i], 1, Write::assign, job.width, aligned_heads(job.query_gradients, job.width),
                 job.query_gradients.at(tile.row(lane.row(i)), column));
}

/// A block has a tile of own keys and walks over the queries that see them.
template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2) attention_key_gradients_float(AttentionBackwardJob job, unsigned tiles) {
  QueryTile tile;  // of keys
  if (!find_key_tile<Shape::kRows>(job, tiles, tile)) return;
  const AttentionSequence& s = tile.sequence;
  const int64_t column = job.column(tile.head), first_row = s.first_key + tile.first;
  const int visible_0 = static_cast<int>(s.visible_0);
  const FloatLane lane;

  SharedMemory shared;
  float* keys = shared.take<float>(Shape::kRows * Shape::kStride);
  float* values = shared.take<float>(Shape::kRows * Shape::kStride);
  const TileBuffers<Shape> query_rows(shared), gradient_rows(shared);
  float* weights = shared.take<float>(Shape::kRows * Shape::kWeightStride);
  using Queries = SeeingQueries<Shape::kTile>;
  const auto fetch = [&](const Queries& queries, int offset) {
    const int64_t row = s.first_query + queries.first(), from = job.column(queries.head());
    fetch_rows<Shape, Shape::kTile>(query_rows.at(offset), queries.count(), job.width,
                                    aligned_heads(job.queries, job.width),
                                    [&](int i) { return job.queries.at(row + i, from); });
    fetch_rows<Shape, Shape::kTile>(gradient_rows.at(offset), queries.count(), job.width,
                                    aligned_heads(job.output_gradients, job.width),
                                    [&](int i) { return job.output_gradients.at(row + i, from); });
  };
  fetch_rows<Shape, Shape::kRows>(keys, tile.count, job.width, aligned_heads(job.keys, job.width),
                                  [&](int i) { return job.keys.at(first_row + i, column); });
  fetch_rows<Shape, Shape::kRows>(values, tile.count, job.width, aligned_heads(job.values, job.width),
                                  [&](int i) { return job.values.at(first_row + i, column); });
  Queries queries(job, tile);
  fetch(queries, 0);
  LaneSums<Shape> dk, dv;
  clear(dk);
  clear(dv);
  for (int offset = 0; queries.there(); offset += Shape::kTile, queries = queries.next()) {
    await_copies();
    __syncthreads();
    if (const Queries next = queries.next(); next.there()) fetch(next, offset + Shape::kTile);
    // The warp's first key is the one that most queries see.
    if (tile.first + lane.warp * Shape::kWarpRows >= visible_0 + queries.first() + Shape::kTile - 1) continue;
    LaneProducts<Shape> p, ds;
    multiply_rows<Shape>(keys, query_rows.at(offset), p);
    multiply_rows<Shape>(values, gradient_rows.at(offset), ds);
#pragma unroll
    for (int j = 0; j < Shape::kColumns; ++j) {
      const int of_tile = lane.x + 8 * j, query = queries.first() + of_tile;
      const int64_t row = s.first_query + queries.first() + min(of_tile, queries.count() - 1);
      const float log_sum = *job.saved_log_sums.at(row, queries.head()),
                  projection = *job.projections.at(row, queries.head());
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool sees = of_tile < queries.count() && tile.first + lane.row(i) < visible_0 + query;
        const BackwardWeights w = backward_weights(sees, p[i][j], ds[i][j], job.scale, log_sum, projection);
        p[i][j] = w.p;
        ds[i][j] = w.ds;
      }
    }
    add_columns<Shape>(p, gradient_rows.at(offset), weights, dv);
    add_columns<Shape>(ds, query_rows.at(offset), weights, dk);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = lane.row(i);
    if (row >= tile.count) continue;
    store_sums(dk[i], 1, Write::accumulate, job.width, aligned_heads(job.key_gradients, job.width),
               job.key_gradients.at(first_row + row, column));
    store_sums(dv[i], 1, Write::accumulate, job.width, aligned_heads(job.value_gradients, job.width),
               job.value_gradients.at(first_row + row, column));
  }
}

}  // namespace

bool tiled_attention_in_fp32(Context& context, const AttentionJob& job, int64_t most) {
  const auto issue = [&]<typename Shape>(Shape) {
    const size_t bytes = Shape::bytes(1, 2, 1) + SharedMemory::bytes<int>(1);
    if (!fits(context, bytes)) return false;
    const TileGrid grid = tile_grid("attention", job, job.heads, most, Shape::kRows);
    launch(context, {.op = "attention", .grid = grid.blocks, .threads = kThreads, .shared_bytes = bytes},
           attention_float<Shape>, job, grid.tiles);
    return true;
  };
  if (job.width <= 32) return issue(FloatShape<32, 64>());
  if (job.width <= 64) return issue(FloatShape<64, 64>()) || issue(FloatShape<64, 32>());
  if (job.width <= 128) return issue(FloatShape<128, 32>()) || issue(FloatShape<128, 16>());
  return false;
}

bool tiled_attention_backward_in_fp32(Context& context, const AttentionBackwardJob& job, int64_t most,
                                      int64_t most_keys) {
  const auto issue = [&]<typename Shape>(Shape) {
    const char* op = "attention_backward";
    const size_t bytes = Shape::bytes(2, 2, 1);
    if (!fits(context, bytes)) return false;
    const TileGrid queries = tile_grid(op, job, job.heads, most, Shape::kRows),
                   keys = tile_grid(op, job, job.key_heads, most_keys, Shape::kRows);
    launch(context, {.op = op, .grid = queries.blocks, .threads = kThreads, .shared_bytes = bytes},
           attention_query_gradients_float<Shape>, job, queries.tiles);
    launch(context, {.op = op, .grid = keys.blocks, .threads = kThreads, .shared_bytes = bytes},
           attention_key_gradients_float<Shape>, job, keys.tiles);
    return true;
  };
  if (job.width <= 32) return issue(FloatShape<32, 32>());
  if (job.width <= 64) return issue(FloatShape<64, 32>());
  if (job.width <= 128) return issue(FloatShape<128, 16>());
  return false;
}

}  // namespace loci::cuda
