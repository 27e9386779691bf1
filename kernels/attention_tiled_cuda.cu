#include <cmath>

#include "kernels/attention_cuda.h"
#include "kernels/cuda_mma.h"

// Sequences with many queries: a block has a tile of queries of one head and walks over tiles of the keys that they
// see, with the softmax carried along (Dao et al. 2022, algorithm 1), so that no matrix of scores is stored.
namespace loci::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

/// A tile of queries as a block's work.
struct QueryTile {
  AttentionSequence sequence;
  int head;
  int first;    // query
  int count;    // of queries
  int visible;  // keys that the first query sees, once the segments are known

  __device__ int64_t row(int query) const { return sequence.first_query + first + query; }
};

/// False where there is nothing to do. The last tiles see the most keys, so they come first.
template <int kQueries>
__device__ bool find_tile(const AttentionJob& job, unsigned tiles, QueryTile& tile) {
  const AttentionTile place = attention_tile(blockIdx.x, tiles, job.heads);
  tile.sequence = job.sequences[place.sequence];
  const auto queries = static_cast<int>(tile.sequence.queries);
  const int number = (queries + kQueries - 1) / kQueries - 1 - static_cast<int>(place.tile);
  tile.head = static_cast<int>(place.head);
  tile.first = number * kQueries;
  tile.count = min(kQueries, queries - tile.first);
  return number >= 0 && queries >= job.least_queries;
}

// --- On the tensor cores ---------------------------------------------------------------------------------------------

/// Sizes of a block's tiles for heads of up to kWidth columns. A warp has 16 kRowTiles queries; a tile of keys has
/// kKeys, of which the softmax takes kPart at a time.
template <typename Arithmetic_, int kWidth_, int kRowTiles_, int kKeys_, int kPart_>
struct MmaShape {
  using Arithmetic = Arithmetic_;
  static constexpr int kWidth = kWidth_, kRowTiles = kRowTiles_, kKeys = kKeys_, kPart = kPart_;
  static constexpr int kPerWord = Arithmetic::kPerWord;
  static constexpr int kWords = kWidth / kPerWord;  // of a row
  static constexpr int kBlocks = kWords / 16;       // of 16 words: two products' worth
  static constexpr int kWarpQueries = 16 * kRowTiles;
  static constexpr int kQueries = kWarps * kWarpQueries;
  /// Rows lie 16 (keys) and 8 (values) banks apart, so that 8 lanes' 16-byte accesses meet all banks once.
  static constexpr int kKeyStride = kWords % 32 == 16 ? kWords : kWords + 16;
  static constexpr int kValueStride = kWidth + 8;
  static constexpr int kRowChunks = kWidth / 4;
  static constexpr int kChunks = kKeys * kRowChunks / kThreads;  // of a thread
  static constexpr bool kQueriesInRegisters = kWidth <= 128;

  static constexpr int kRawFloats = kKeys * kWidth;
  static constexpr int kKeyWords = kKeys * kKeyStride;
  static constexpr int kValueWords = kKeys / kPerWord * kValueStride;
  static constexpr int kQueryWords = kQueriesInRegisters ? 4 : kQueries * kWords;
  static constexpr size_t shared_bytes() {
    return 2 * SharedMemory::bytes<float>(kRawFloats) + SharedMemory::bytes<unsigned>(kKeyWords) +
           SharedMemory::bytes<unsigned>(kValueWords) + SharedMemory::bytes<unsigned>(kQueryWords) +
           SharedMemory::bytes<int>(1);
  }
};

__device__ inline bool finite(float x) { return x - x == 0.0f; }
__device__ inline float finite_or_zero(float x) { return finite(x) ? x : 0.0f; }
__device__ inline float4 finite_or_zero(float4 x) {
  return make_float4(finite_or_zero(x.x), finite_or_zero(x.y), finite_or_zero(x.z), finite_or_zero(x.w));
}
__device__ inline bool all_finite(float4 x) { return finite(x.x) && finite(x.y) && finite(x.z) && finite(x.w); }

/// The keys and values of a tile in shared memory: copied as they are while the tile before is worked on, then rounded
/// into words. Values lie in rows of words that meet in a product: with tf32 the keys 0, 2, 4, 6, 1, 3, 5, 7 of each 8,
/// with bf16 a pair of keys in each word.
template <typename Shape>
class StagedTiles {
  using Arithmetic = typename Shape::Arithmetic;

 public:
  __device__ StagedTiles(SharedMemory& shared, const KeyList& keys, int seen, int width)
      : raw_keys_(shared.take<float>(Shape::kRawFloats)),
        raw_values_(shared.take<float>(Shape::kRawFloats)),
        keys_(shared.take<unsigned>(Shape::kKeyWords)),
        values_(shared.take<unsigned>(Shape::kValueWords)),
        list_(keys),
        seen_(seen),
        width_(width),
        thread_(static_cast<int>(threadIdx.x)) {}

  /// Starts the copies of keys `first` .. ; what lies behind the last key or column becomes zero.
  __device__ void fetch(int first) {
#pragma unroll 2
    for (int i = 0; i < Shape::kChunks; ++i) {
      const int number = i * kThreads + thread_;
      const int key = first + number / Shape::kRowChunks;
      fetch_chunk(list_.at(min(key, seen_ - 1)).key, key < seen_, number, raw_keys_ + 4 * number);
    }
#pragma unroll 2
    for (int i = 0; i < Shape::kChunks; ++i) {
      const int number = i / Shape::kPerWord * kThreads + thread_;
      const int key = first + number / Shape::kRowChunks * Shape::kPerWord + i % Shape::kPerWord;
      fetch_chunk(list_.at(min(key, seen_ - 1)).value, key < seen_, number, raw_values_ + 4 * (i * kThreads + thread_));
    }
  }

  /// Rounds what this thread has fetched; other threads see it after a barrier. Values that are not finite become zero
  /// where `clean`; returns whether there were any.
  __device__ bool round(bool clean) {
    await_copies();
#pragma unroll
    for (int i = 0; i < Shape::kChunks; ++i) round_key(i);
    bool found = false;
#pragma unroll
    for (int i = 0; i < Shape::kChunks; i += Shape::kPerWord) found = round_values(i, clean) || found;
    return found;
  }

  __device__ const unsigned* keys() const { return keys_; }
  __device__ const unsigned* values() const { return values_; }

 private:
  __device__ void fetch_chunk(const float* row, bool there, int number, float* to) const {
    const int column = number % Shape::kRowChunks * 4;
    if (list_.wide()) {
      there = there && column < width_;
      copy_later<16>(to, there ? row + column : row, there);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool inside = there && column + i < width_;
        copy_later<4>(to + i, inside ? row + column + i : row, inside);
      }
    }
  }

  __device__ float4 raw(const float* from, int i) const {
    return *reinterpret_cast<const float4*>(from + 4 * (i * kThreads + thread_));
  }

  __device__ void round_key(int i) {
    const int number = i * kThreads + thread_;
    const float4 x = raw(raw_keys_, i);
    unsigned* to =
        keys_ + number / Shape::kRowChunks * Shape::kKeyStride + number % Shape::kRowChunks * (4 / Shape::kPerWord);
    if constexpr (Shape::kPerWord == 1)
      *reinterpret_cast<uint4*>(to) = {Arithmetic::rounded(x.x), Arithmetic::rounded(x.y), Arithmetic::rounded(x.z),
                                       Arithmetic::rounded(x.w)};
    else
      *reinterpret_cast<uint2*>(to) = {Arithmetic::rounded(x.x, x.y), Arithmetic::rounded(x.z, x.w)};
  }

  __device__ bool round_values(int i, bool clean) {
    const int number = i / Shape::kPerWord * kThreads + thread_;
    const int row = number / Shape::kRowChunks, column = number % Shape::kRowChunks * 4;
    float4 x = raw(raw_values_, i), y = x;
    if constexpr (Shape::kPerWord == 2) y = raw(raw_values_, i + 1);
    bool found = false;
    if (clean) {
      found = !all_finite(x) || !all_finite(y);
      x = finite_or_zero(x);
      y = finite_or_zero(y);
    }
    if constexpr (Shape::kPerWord == 1) {
      const int place = row / 8 * 8 + row % 2 * 4 + row % 8 / 2;
      *reinterpret_cast<uint4*>(values_ + place * Shape::kValueStride + column) = {
          Arithmetic::rounded(x.x), Arithmetic::rounded(x.y), Arithmetic::rounded(x.z), Arithmetic::rounded(x.w)};
    } else {
      *reinterpret_cast<uint4*>(values_ + row * Shape::kValueStride + column) = {
          Arithmetic::rounded(x.x, y.x), Arithmetic::rounded(x.y, y.y), Arithmetic::rounded(x.z, y.z),
          Arithmetic::rounded(x.w, y.w)};
    }
    return found;
  }

  float* raw_keys_;
  float* raw_values_;
  unsigned* keys_;
  unsigned* values_;
  const KeyList& list_;
  int seen_, width_, thread_;
};

/// The 16 kRowTiles queries of a warp, with what they have of the softmax so far. In each product a lane has the
/// queries g and g + 8 of each 16 (g = lane / 4, t = lane % 4). The words 4 t .. 4 t + 3 of each 16 of a row are the
/// lane's share of two products, so that it reads them at once; which words meet in which product does not matter, as
/// long as the other operand agrees. In the same way the columns 4 g .. 4 g + 3 of each 32 of the values are its share
/// of four products, which leaves it the output columns 8 t .. 8 t + 7 of each 32.
template <typename Shape>
class MmaWarp {
  using Arithmetic = typename Shape::Arithmetic;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kPartTiles = Shape::kPart / 8;
  static constexpr int kOutputTiles = Shape::kWidth / 8;

 public:
  __device__ MmaWarp(const AttentionJob& job, const QueryTile& tile, unsigned* query_words)
      : job_(job),
        tile_(tile),
        column_(static_cast<int64_t>(tile.head) * job.width),
        first_(static_cast<int>(threadIdx.x) / kWarp * Shape::kWarpQueries),
        g_(static_cast<int>(threadIdx.x) % kWarp / 4),
        t_(static_cast<int>(threadIdx.x) % 4),
        query_words_(query_words) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kOutputTiles; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) output_[i][j][e] = 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        maximum_[i][h] = -INFINITY;
        sum_[i][h] = 0;
      }
    }
    load_queries();
  }

  /// Whether the warp has queries, and one of them sees key `key`.
  __device__ bool sees(int key) const {
    return first_ < tile_.count && key < tile_.visible + min(first_ + Shape::kWarpQueries, tile_.count) - 1;
  }

  /// Goes on with the tile of keys that starts with `first`.
  __device__ void add_tile(int first, const unsigned* keys, const unsigned* values) {
#pragma unroll 1
    for (int part = 0; part < Shape::kKeys; part += Shape::kPart) {
      if (!sees(first + part)) break;
      float p[kRowTiles][kPartTiles][4];
      scores(keys + part * Shape::kKeyStride, p);
      softmax(first + part, p);
      add_values(values + part / Shape::kPerWord * Shape::kValueStride, p);
    }
  }

  /// For a tile whose values were cleaned: NaN for the queries that see a value that is not finite.
  __device__ void spoil(const KeyList& keys, int first) {
    for (int key = first; key < first + Shape::kKeys && sees(key); ++key) {
      const float* value = keys.at(key).value;
#pragma unroll
      for (int j = 0; j < kOutputTiles; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = output_column(j, e);
          if (column >= job_.width || finite(value[column])) continue;
#pragma unroll
          for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h)
              if (key < tile_.visible + query(i, h)) output_[i][j][2 * h + e] = NAN;
        }
    }
  }

  __device__ void store() {
    const bool wide = job_.width % 4 == 0 && aligned_rows(job_.output.data, job_.output.stride);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = sum_[i][h];
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        if (first_ + 16 * i + 8 * h + g_ >= tile_.count) continue;
        const int64_t row = tile_.row(query(i, h));
        store_row(job_.output.at(row, column_), wide, 1 / sum, i, h);
        if (t_ == 0 && job_.log_sums.data) *job_.log_sums.at(row, tile_.head) = (maximum_[i][h] + log2f(sum)) * kLn2;
      }
  }

 private:
  /// The lane's query of row tile i, upper or lower half; queries behind the last one repeat it.
  __device__ int query(int i, int h) const { return min(first_ + 16 * i + 8 * h + g_, tile_.count - 1); }
  __device__ int output_column(int j, int e) const { return j / 4 * 32 + 8 * t_ + 4 * e + j % 4; }

  __device__ void load_queries() {
    const bool wide = job_.width % 4 == 0 && aligned_rows(job_.queries.data, job_.queries.stride);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int b = 0; b < Shape::kBlocks; ++b) {
        unsigned upper[4], lower[4];
        query_block(query(i, 0), b, wide, upper);
        query_block(query(i, 1), b, wide, lower);
        set_operand(i, 2 * b, {{upper[0], lower[0], upper[1], lower[1]}});
        set_operand(i, 2 * b + 1, {{upper[2], lower[2], upper[3], lower[3]}});
      }
  }

  /// Words 4 t .. 4 t + 3 of 16.
  __device__ void query_block(int query, int block, bool wide, unsigned (&words)[4]) const {
    const float* row = job_.queries.at(tile_.row(query), column_);
    const int first = (16 * block + 4 * t_) * Shape::kPerWord;
    const float4 x = load(row, first, wide);
    if constexpr (Shape::kPerWord == 1) {
      words[0] = Arithmetic::rounded(x.x);
      words[1] = Arithmetic::rounded(x.y);
      words[2] = Arithmetic::rounded(x.z);
      words[3] = Arithmetic::rounded(x.w);
    } else {
      const float4 y = load(row, first + 4, wide);
      words[0] = Arithmetic::rounded(x.x, x.y);
      words[1] = Arithmetic::rounded(x.z, x.w);
      words[2] = Arithmetic::rounded(y.x, y.y);
      words[3] = Arithmetic::rounded(y.z, y.w);
    }
  }
  __device__ float4 load(const float* row, int first, bool wide) const {
    return wide ? load_columns<true>(row, first, job_.width) : load_columns<false>(row, first, job_.width);
  }

  /// Where the lane keeps an operand that is not in registers: no other lane reads it.
  __device__ uint4* operand_place(int i, int step) const {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    return reinterpret_cast<uint4*>(query_words_) + ((warp * kRowTiles + i) * 2 * Shape::kBlocks + step) * kWarp + lane;
  }
  __device__ void set_operand(int i, int step, const MmaOperand& a) {
    if constexpr (Shape::kQueriesInRegisters)
      queries_[i][step] = a;
    else
      *operand_place(i, step) = {a.word[0], a.word[1], a.word[2], a.word[3]};
  }
  __device__ MmaOperand operand(int i, int step) const {
    if constexpr (Shape::kQueriesInRegisters) {
      return queries_[i][step];
    } else {
      const uint4 a = *operand_place(i, step);
      return {{a.x, a.y, a.z, a.w}};
    }
  }

  __device__ void scores(const unsigned* keys, float (&p)[kRowTiles][kPartTiles][4]) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int n = 0; n < kPartTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[i][n][e] = 0;
#pragma unroll
    for (int b = 0; b < Shape::kBlocks; ++b) {
      MmaOperand a[kRowTiles][2];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        a[i][0] = operand(i, 2 * b);
        a[i][1] = operand(i, 2 * b + 1);
      }
#pragma unroll
      for (int n = 0; n < kPartTiles; ++n) {
        const uint4 k = *reinterpret_cast<const uint4*>(keys + (8 * n + g_) * Shape::kKeyStride + 16 * b + 4 * t_);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          Arithmetic::multiply(p[i][n], a[i][0], k.x, k.y);
          Arithmetic::multiply(p[i][n], a[i][1], k.z, k.w);
        }
      }
    }
  }

  /// Scores of keys `first` .. become exp(scale score - maximum); what was summed before is brought to the new maximum.
  __device__ void softmax(int first, float (&p)[kRowTiles][kPartTiles][4]) {
    const float scale = job_.scale * kLog2E;
    const bool masked = first + Shape::kPart > tile_.visible + first_;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int visible = tile_.visible + query(i, h) - first - 2 * t_;
        float maximum = maximum_[i][h];
#pragma unroll
        for (int n = 0; n < kPartTiles; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = p[i][n][2 * h + e];
            score *= scale;
            if (masked && 8 * n + e >= visible) score = -INFINITY;
            maximum = fmaxf(maximum, score);
          }
        maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 1));
        maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 2));
        const float factor = fast_exp2(maximum_[i][h] - maximum);
        maximum_[i][h] = maximum;
        float sum = sum_[i][h] * factor;
#pragma unroll
        for (int n = 0; n < kPartTiles; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = p[i][n][2 * h + e];
            weight = fast_exp2(weight - maximum);
            sum += weight;
          }
        sum_[i][h] = sum;
#pragma unroll
        for (int j = 0; j < kOutputTiles; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) output_[i][j][2 * h + e] *= factor;
      }
  }

  __device__ void add_values(const unsigned* values, const float (&p)[kRowTiles][kPartTiles][4]) {
#pragma unroll
    for (int step = 0; step < kPartTiles / Shape::kPerWord; ++step) {
      MmaOperand a[kRowTiles];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
        a[i] = weights(p[i][Shape::kPerWord * step], p[i][Shape::kPerWord * step + Shape::kPerWord - 1]);
      const unsigned* upper = values + (8 * step + t_) * Shape::kValueStride + 4 * g_;
#pragma unroll
      for (int c = 0; c < Shape::kWidth / 32; ++c) {
        const uint4 v = *reinterpret_cast<const uint4*>(upper + 32 * c);
        const uint4 w = *reinterpret_cast<const uint4*>(upper + 4 * Shape::kValueStride + 32 * c);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          Arithmetic::multiply(output_[i][4 * c], a[i], v.x, w.x);
          Arithmetic::multiply(output_[i][4 * c + 1], a[i], v.y, w.y);
          Arithmetic::multiply(output_[i][4 * c + 2], a[i], v.z, w.z);
          Arithmetic::multiply(output_[i][4 * c + 3], a[i], v.w, w.w);
        }
      }
    }
  }

  /// The weights of one product's keys (with tf32 x and y are the same) as its left operand: what a lane has as a
  /// result is what it needs here, in the order of StagedTiles.
  __device__ static MmaOperand weights(const float (&x)[4], const float (&y)[4]) {
    if constexpr (Shape::kPerWord == 1) {
      return {
          {Arithmetic::rounded(x[0]), Arithmetic::rounded(x[2]), Arithmetic::rounded(x[1]), Arithmetic::rounded(x[3])}};
    } else {
      return {{Arithmetic::rounded(x[0], x[1]), Arithmetic::rounded(x[2], x[3]), Arithmetic::rounded(y[0], y[1]),
               Arithmetic::rounded(y[2], y[3])}};
    }
  }

  __device__ void store_row(float* row, bool wide, float factor, int i, int h) const {
#pragma unroll
    for (int c = 0; c < Shape::kWidth / 32; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float4 x =
            make_float4(factor * output_[i][4 * c][2 * h + e], factor * output_[i][4 * c + 1][2 * h + e],
                        factor * output_[i][4 * c + 2][2 * h + e], factor * output_[i][4 * c + 3][2 * h + e]);
        const int first = output_column(4 * c, e);
        wide ? store_columns<true>(row, first, job_.width, x) : store_columns<false>(row, first, job_.width, x);
      }
  }

  const AttentionJob& job_;
  const QueryTile& tile_;
  int64_t column_;
  int first_;  // query of the warp in the block's tile
  int g_, t_;
  unsigned* query_words_;
  float maximum_[kRowTiles][2];  // of the scaled scores, in units of log 2
  float sum_[kRowTiles][2];      // over the lane's keys
  MmaOperand queries_[Shape::kQueriesInRegisters ? kRowTiles : 1][2 * Shape::kBlocks];
  float output_[kRowTiles][kOutputTiles][4];
};

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2) attention_mma(AttentionJob job, unsigned tiles) {
  QueryTile tile;
  if (!find_tile<Shape::kQueries>(job, tiles, tile)) return;
  const KeyList keys(job, tile.sequence, static_cast<int64_t>(tile.head) * job.width);
  tile.visible = keys.segment_keys() + static_cast<int>(tile.sequence.visible_0) + tile.first;
  const int seen = tile.visible + tile.count - 1;

  SharedMemory shared;
  StagedTiles<Shape> staged(shared, keys, seen, job.width);
  unsigned* query_words = shared.take<unsigned>(Shape::kQueryWords);
  int* spoiled = shared.take<int>(1);
  if (threadIdx.x == 0) *spoiled = 0;

  staged.fetch(0);
  MmaWarp<Shape> warp(job, tile, query_words);
  for (int first = 0; first < seen; first += Shape::kKeys) {
    __syncthreads();  // all warps are done with the tile before
    // A probability of 0 keeps out a value that its query does not see, unless the value is not finite.
    const bool masked = first + Shape::kKeys > tile.visible;
    if (staged.round(masked)) atomicMax(spoiled, 1);
    __syncthreads();
    if (first + Shape::kKeys < seen) staged.fetch(first + Shape::kKeys);
    warp.add_tile(first, staged.keys(), staged.values());
    if (masked && *spoiled) warp.spoil(keys, first);
  }
  warp.store();
}

template <typename Arithmetic, typename Visit>
bool with_mma_shape(int width, const Visit& visit) {
  if (width <= 32)
    visit(MmaShape<Arithmetic, 32, 2, 64, 32>());
  else if (width <= 64)
    visit(MmaShape<Arithmetic, 64, 2, 64, 32>());
  else if (width <= 128)
    visit(MmaShape<Arithmetic, 128, 1, 32, 32>());
  else if (width <= 256)
    visit(MmaShape<Arithmetic, 256, 1, 16, 16>());
  else
    return false;
  return true;
}

/// Blocks for all tiles of `kQueries` queries, and the tiles of each sequence and head.
struct TileGrid {
  unsigned blocks, tiles;
};
TileGrid tile_grid(const char* op, const AttentionJob& job, int64_t most, int of) {
  const unsigned tiles = blocks_for(most, of);
  const int64_t blocks = static_cast<int64_t>(job.sequence_count) * job.heads * tiles;
  require<ShapeError>(blocks <= INT32_MAX, "{}: {} sequences of up to {} rows are too many for one call", op,
                      job.sequence_count, most);
  return {static_cast<unsigned>(blocks), tiles};
}

template <typename Arithmetic>
bool attend_by_mma(Context& context, const AttentionJob& job, int64_t most) {
  return with_mma_shape<Arithmetic>(job.width, [&]<typename Shape>(Shape) {
    const TileGrid grid = tile_grid("attention", job, most, Shape::kQueries);
    launch(context,
           {.op = "attention", .grid = grid.blocks, .threads = kThreads, .shared_bytes = Shape::shared_bytes()},
           attention_mma<Shape>, job, grid.tiles);
  });
}

}  // namespace

bool tiled_attention(Context& context, const AttentionJob& all, int64_t most) {
  AttentionJob job = all;
  job.least_queries = kTiledQueries;
  switch (context.precision()) {
    case Precision::tf32:
      return attend_by_mma<Tf32>(context, job, most);
    case Precision::bf16:
      return attend_by_mma<Bf16>(context, job, most);
    case Precision::fp32:
      break;
  }
  return false;
}

bool tiled_attention_backward(Context&, const AttentionBackwardJob&, int64_t) { return false; }

}  // namespace loci::cuda
