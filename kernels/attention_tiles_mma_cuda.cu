#include <algorithm>
#include <cmath>

#include "kernels/attention_tiles_cuda.h"
#include "kernels/cuda_mma.h"

// Tiled attention on the tensor cores, in tf32 and bf16.
namespace loci::cuda {
namespace {

using namespace tiles;

enum class Operands { in_registers, in_shared_memory };

/// Sizes of a block's tiles for heads of up to kWidth columns. Each warp has 16 kRowTiles rows (of queries, say) as
/// left operands and walks over tiles of kTile rows (of keys), of which it takes kPart at a time.
template <typename Arithmetic_, int kWidth_, int kRowTiles_, int kTile_, int kPart_, Operands kOperands_>
struct MmaShape {
  using Arithmetic = Arithmetic_;
  static constexpr int kWidth = kWidth_, kRowTiles = kRowTiles_, kTile = kTile_, kPart = kPart_;
  static constexpr Operands kOperands = kOperands_;
  static constexpr int kPerWord = Arithmetic::kPerWord;
  static constexpr int kWords = kWidth / kPerWord;  // of a row
  static constexpr int kBlocks = kWords / 16;       // of 16 words: two products' worth
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kPartTiles = kPart / 8;
  static constexpr int kOutputTiles = kWidth / 8;

  /// Rows of words lie 16 banks apart, words of columns 8, so that 8 lanes' 16-byte accesses meet each bank once.
  static constexpr int kRowStride = kWords % 32 == 16 ? kWords : kWords + 16;
  static constexpr int kColumnStride = kWidth + 8;
  static constexpr int kRowChunks = kWidth / 4;
  static constexpr int kChunks = kTile * kRowChunks / kThreads;  // of 16 bytes, that a thread brings of a tile

  static constexpr int kRawFloats = kTile * kWidth;
  static constexpr int kRowWords = kTile * kRowStride;
  static constexpr int kColumnWords = kTile / kPerWord * kColumnStride;
  static constexpr int kOperandWords = kOperands == Operands::in_registers ? 4 : kRows * kWords;

  /// Of shared memory, for these many arrays of each kind.
  static constexpr size_t bytes(int raws, int rows, int columns, int operands) {
    return raws * SharedMemory::bytes<float>(kRawFloats) + rows * SharedMemory::bytes<unsigned>(kRowWords) +
           columns * SharedMemory::bytes<unsigned>(kColumnWords) +
           operands * SharedMemory::bytes<unsigned>(kOperandWords);
  }
};

enum class Values { as_they_are, zero_unless_finite };

/// A tile of rows on its way into shared memory: copied as it is while the tile before is worked on, then rounded to
/// words by the threads that brought it. The words of a right operand lie in one of two orders:
///   rows     row r of the tile is a column of the operand: its words lie close together;
///   columns  row r is a row of the operand: words hold column c of 1 or 2 rows. With tf32 the order of the rows is 0,
///            2, 4, 6, 1, 3, 5, 7 of each 8, in which a lane has the results of one product as operand of the next.
template <typename Shape>
class TileStage {
  using Arithmetic = typename Shape::Arithmetic;

 public:
  __device__ TileStage(SharedMemory& shared, int width, bool wide)
      : raw_(shared.take<float>(Shape::kRawFloats)),
        width_(width),
        wide_(wide),
        thread_(static_cast<int>(threadIdx.x)) {}

  /// Starts the copies of `count` rows; what lies behind them, or behind the last column, becomes zero. row_at(r) is
  /// the address of row r.
  template <typename RowAt>
  __device__ void fetch(int count, const RowAt& row_at) {
#pragma unroll 2
    for (int i = 0; i < Shape::kChunks; ++i) {
      const int row = row_of(i), column = column_of(i);
      const float* from = row_at(min(row, count - 1));
      float* to = raw_ + 4 * (i * kThreads + thread_);
      if (wide_) {
        const bool inside = row < count && column < width_;
        copy_later<16>(to, inside ? from + column : from, inside);
      } else {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const bool inside = row < count && column + c < width_;
          copy_later<4>(to + c, inside ? from + column + c : from, inside);
        }
      }
    }
  }

  /// What follows is for behind await_copies(); other threads see the words after a barrier.
  __device__ void round_rows(unsigned* words) const {
#pragma unroll
    for (int i = 0; i < Shape::kChunks; ++i) {
      const float4 x = raw(i);
      unsigned* to = words + row_of(i) * Shape::kRowStride + column_of(i) / Shape::kPerWord;
      if constexpr (Shape::kPerWord == 1)
        *reinterpret_cast<uint4*>(to) = {Arithmetic::rounded(x.x), Arithmetic::rounded(x.y), Arithmetic::rounded(x.z),
                                         Arithmetic::rounded(x.w)};
      else
        *reinterpret_cast<uint2*>(to) = {Arithmetic::rounded(x.x, x.y), Arithmetic::rounded(x.z, x.w)};
    }
  }

  /// Returns whether there were values that are not finite, where it was asked to replace them.
  __device__ bool round_columns(unsigned* words, Values values) const {
    bool found = false;
#pragma unroll
    for (int i = 0; i < Shape::kChunks; i += Shape::kPerWord) {
      float4 x = raw(i), y = x;
      if constexpr (Shape::kPerWord == 2) y = raw(i + 1);
      if (values == Values::zero_unless_finite) {
        found = found || !all_finite(x) || !all_finite(y);
        x = finite_or_zero(x);
        y = finite_or_zero(y);
      }
      const int row = row_of(i);
      if constexpr (Shape::kPerWord == 1) {
        const int place = row / 8 * 8 + row % 2 * 4 + row % 8 / 2;
        *reinterpret_cast<uint4*>(words + place * Shape::kColumnStride + column_of(i)) = {
            Arithmetic::rounded(x.x), Arithmetic::rounded(x.y), Arithmetic::rounded(x.z), Arithmetic::rounded(x.w)};
      } else {
        *reinterpret_cast<uint4*>(words + row / 2 * Shape::kColumnStride + column_of(i)) = {
            Arithmetic::rounded(x.x, y.x), Arithmetic::rounded(x.y, y.y), Arithmetic::rounded(x.z, y.z),
            Arithmetic::rounded(x.w, y.w)};
      }
    }
    return found;
  }

 private:
  /// The place in the tile of the thread's chunk i. Rows that share words are one thread's.
  __device__ int number(int i) const { return i / Shape::kPerWord * kThreads + thread_; }
  __device__ int row_of(int i) const { return number(i) / Shape::kRowChunks * Shape::kPerWord + i % Shape::kPerWord; }
  __device__ int column_of(int i) const { return number(i) % Shape::kRowChunks * 4; }
  __device__ float4 raw(int i) const { return *reinterpret_cast<const float4*>(raw_ + 4 * (i * kThreads + thread_)); }

  float* raw_;
  int width_;
  bool wide_;
  int thread_;
};

/// Starts the copies of the tile of keys and values from `first` on; zeros behind the `seen` keys of the sequence.
template <typename Shape>
__device__ void fetch_keys(const KeyList& keys, int first, int seen, TileStage<Shape>& key_stage,
                           TileStage<Shape>& value_stage) {
  key_stage.fetch(seen - first, [&](int row) { return keys.at(first + row).key; });
  value_stage.fetch(seen - first, [&](int row) { return keys.at(first + row).value; });
}

/// Where a lane is in a product: it has rows g and g + 8 of each 16 rows of a warp.
struct MmaLane {
  int warp = static_cast<int>(threadIdx.x) / kWarp;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int g = lane / 4;
  int t = lane % 4;
  /// The row of the block that element 2 h or 2 h + 1 of row tile i belongs to.
  template <typename Shape>
  __device__ int row(int i, int h) const {
    return warp * Shape::kWarpRows + 16 * i + 8 * h + g;
  }
};

/// A warp's rows as left operand. The words 4 t .. 4 t + 3 of each 16 of a row are the lane's share of two products, so
/// that it reads the other operand's words 16 bytes at a time: which words meet in which product does not matter as
/// long as both operands agree.
template <typename Shape>
class RowOperand {
  using Arithmetic = typename Shape::Arithmetic;

 public:
  __device__ explicit RowOperand(SharedMemory& shared) : words_(shared.take<unsigned>(Shape::kOperandWords)) {}

  /// row_at(r) is the address of row r of the block.
  template <typename RowAt>
  __device__ void load(const RowAt& row_at, int width, bool wide) {
    const MmaLane lane;
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i)
#pragma unroll
      for (int b = 0; b < Shape::kBlocks; ++b) {
        unsigned upper[4], lower[4];
        load_words(row_at(lane.row<Shape>(i, 0)), 16 * b + 4 * lane.t, width, wide, upper);
        load_words(row_at(lane.row<Shape>(i, 1)), 16 * b + 4 * lane.t, width, wide, lower);
        set(i, 2 * b, {{upper[0], lower[0], upper[1], lower[1]}});
        set(i, 2 * b + 1, {{upper[2], lower[2], upper[3], lower[3]}});
      }
  }

  __device__ MmaOperand at(int i, int step) const {
    if constexpr (Shape::kOperands == Operands::in_registers) {
      return operands_[i][step];
    } else {
      const uint4 a = *place(i, step);
      return {{a.x, a.y, a.z, a.w}};
    }
  }

 private:
  __device__ static void load_words(const float* row, int first, int width, bool wide, unsigned (&words)[4]) {
    const auto load = [&](int column) {
      return wide ? load_columns<true>(row, column, width) : load_columns<false>(row, column, width);
    };
    const float4 x = load(first * Shape::kPerWord);
    if constexpr (Shape::kPerWord == 1) {
      words[0] = Arithmetic::rounded(x.x);
      words[1] = Arithmetic::rounded(x.y);
      words[2] = Arithmetic::rounded(x.z);
      words[3] = Arithmetic::rounded(x.w);
    } else {
      const float4 y = load(first * Shape::kPerWord + 4);
      words[0] = Arithmetic::rounded(x.x, x.y);
      words[1] = Arithmetic::rounded(x.z, x.w);
      words[2] = Arithmetic::rounded(y.x, y.y);
      words[3] = Arithmetic::rounded(y.z, y.w);
    }
  }

  /// Where the lane keeps an operand that is not in registers: no other lane reads it.
  __device__ uint4* place(int i, int step) const {
    const MmaLane lane;
    return reinterpret_cast<uint4*>(words_) + ((lane.warp * Shape::kRowTiles + i) * 2 * Shape::kBlocks + step) * kWarp +
           lane.lane;
  }
  __device__ void set(int i, int step, const MmaOperand& a) {
    if constexpr (Shape::kOperands == Operands::in_registers)
      operands_[i][step] = a;
    else
      *place(i, step) = {a.word[0], a.word[1], a.word[2], a.word[3]};
  }

  static constexpr bool kHeld = Shape::kOperands == Operands::in_registers;
  unsigned* words_;
  MmaOperand operands_[kHeld ? Shape::kRowTiles : 1][kHeld ? 2 * Shape::kBlocks : 1];
};

/// Products of a warp's rows with kPart rows of a tile; a lane has columns 8 n + 2 t and 8 n + 2 t + 1.
template <typename Shape>
using PartProducts = float[Shape::kRowTiles][Shape::kPartTiles][4];
/// Sums of a warp's rows over all rows of all tiles; a lane has columns 8 t .. 8 t + 7 of each 32 (output_column).
template <typename Shape>
using OutputSums = float[Shape::kRowTiles][Shape::kOutputTiles][4];

template <int kRowTiles, int kTiles>
__device__ void clear(float (&x)[kRowTiles][kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[i][j][e] = 0;
}

/// c = A B^T, B as round_rows left it.
template <typename Shape>
__device__ void multiply_rows(const RowOperand<Shape>& a, const unsigned* b_rows, PartProducts<Shape>& c) {
  const MmaLane lane;
  clear(c);
#pragma unroll
  for (int b = 0; b < Shape::kBlocks; ++b) {
    MmaOperand held[Shape::kRowTiles][2];
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) {
      held[i][0] = a.at(i, 2 * b);
      held[i][1] = a.at(i, 2 * b + 1);
    }
#pragma unroll
    for (int n = 0; n < Shape::kPartTiles; ++n) {
      const uint4 k =
          *reinterpret_cast<const uint4*>(b_rows + (8 * n + lane.g) * Shape::kRowStride + 16 * b + 4 * lane.t);
#pragma unroll
      for (int i = 0; i < Shape::kRowTiles; ++i) {
        Shape::Arithmetic::multiply(c[i][n], held[i][0], k.x, k.y);
        Shape::Arithmetic::multiply(c[i][n], held[i][1], k.z, k.w);
      }
    }
  }
}

/// The results x and y of two products (of one, twice, with tf32) as left operand of the next.
template <typename Arithmetic>
__device__ MmaOperand as_operand(const float (&x)[4], const float (&y)[4]) {
  if constexpr (Arithmetic::kPerWord == 1)
    return {
        {Arithmetic::rounded(x[0]), Arithmetic::rounded(x[2]), Arithmetic::rounded(x[1]), Arithmetic::rounded(x[3])}};
  else
    return {{Arithmetic::rounded(x[0], x[1]), Arithmetic::rounded(x[2], x[3]), Arithmetic::rounded(y[0], y[1]),
             Arithmetic::rounded(y[2], y[3])}};
}

/// c += A B, B as round_columns left it. The columns 4 g .. 4 g + 3 of each 32 of B are a lane's share of 4 products.
template <typename Shape>
__device__ void add_columns(const PartProducts<Shape>& a, const unsigned* b_columns, OutputSums<Shape>& c) {
  using Arithmetic = typename Shape::Arithmetic;
  const MmaLane lane;
#pragma unroll
  for (int step = 0; step < Shape::kPartTiles / Shape::kPerWord; ++step) {
    MmaOperand held[Shape::kRowTiles];
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i)
      held[i] =
          as_operand<Arithmetic>(a[i][Shape::kPerWord * step], a[i][Shape::kPerWord * step + Shape::kPerWord - 1]);
    const unsigned* first = b_columns + (8 * step + lane.t) * Shape::kColumnStride + 4 * lane.g;
#pragma unroll
    for (int block = 0; block < Shape::kWidth / 32; ++block) {
      const uint4 v = *reinterpret_cast<const uint4*>(first + 32 * block);
      const uint4 w = *reinterpret_cast<const uint4*>(first + 4 * Shape::kColumnStride + 32 * block);
#pragma unroll
      for (int i = 0; i < Shape::kRowTiles; ++i) {
        Arithmetic::multiply(c[i][4 * block], held[i], v.x, w.x);
        Arithmetic::multiply(c[i][4 * block + 1], held[i], v.y, w.y);
        Arithmetic::multiply(c[i][4 * block + 2], held[i], v.z, w.z);
        Arithmetic::multiply(c[i][4 * block + 3], held[i], v.w, w.w);
      }
    }
  }
}

/// The column of elements e and 2 + e of output tile j.
__device__ inline int output_column(int j, int e) { return j / 4 * 32 + 8 * MmaLane().t + 4 * e + j % 4; }

/// row = factor * sums, or +=, for the lane's columns of row tile i, half h.
template <typename Shape>
__device__ void store_output(const OutputSums<Shape>& sums, int i, int h, float factor, Write write, int width,
                             bool wide, float* row) {
#pragma unroll
  for (int block = 0; block < Shape::kWidth / 32; ++block)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int first = output_column(4 * block, e);
      float4 x = make_float4(factor * sums[i][4 * block][2 * h + e], factor * sums[i][4 * block + 1][2 * h + e],
                             factor * sums[i][4 * block + 2][2 * h + e], factor * sums[i][4 * block + 3][2 * h + e]);
      if (write == Write::accumulate) {
        const float4 before = wide ? load_columns<true>(row, first, width) : load_columns<false>(row, first, width);
        x = make_float4(before.x + x.x, before.y + x.y, before.z + x.z, before.w + x.w);
      }
      wide ? store_columns<true>(row, first, width, x) : store_columns<false>(row, first, width, x);
    }
}

// Forward

/// The queries of a warp, with what they have of the softmax so far.
template <typename Shape>
class ForwardWarp {
  static constexpr int kRowTiles = Shape::kRowTiles;

 public:
  __device__ ForwardWarp(const AttentionJob& job, const QueryTile& tile, SharedMemory& shared)
      : job_(job), tile_(tile), column_(job.column(tile.head)), queries_(shared) {
    clear(output_);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        maximum_[i][h] = -INFINITY;
        sum_[i][h] = 0;
      }
    queries_.load([&](int row) { return job.queries.at(tile.row(min(row, tile.count - 1)), column_); }, job.width,
                  aligned_heads(job.queries, job.width));
  }

  /// Goes on with the tile of keys that starts with `first`.
  __device__ void add_tile(int first, const unsigned* key_rows, const unsigned* value_columns) {
#pragma unroll 1
    for (int part = 0; part < Shape::kTile; part += Shape::kPart) {
      if (!tile_.warp_sees<Shape::kWarpRows>(first + part)) break;
      PartProducts<Shape> p;
      multiply_rows<Shape>(queries_, key_rows + part * Shape::kRowStride, p);
      softmax(first + part, p);
      add_columns<Shape>(p, value_columns + part / Shape::kPerWord * Shape::kColumnStride, output_);
    }
  }

  /// Where some of the values of keys `first` and behind became zero: NaN for the queries that see them.
  __device__ void spoil(const KeyList& keys, int first) {
    for (int key = first; tile_.warp_sees<Shape::kWarpRows>(key); ++key) {
      const float* value = keys.at(key).value;
#pragma unroll
      for (int j = 0; j < Shape::kOutputTiles; ++j)
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
    const MmaLane lane;
    const bool wide = aligned_heads(job_.output, job_.width);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = sum_[i][h];
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        const int query = lane.row<Shape>(i, h);
        if (query >= tile_.count) continue;
        store_output<Shape>(output_, i, h, 1 / sum, Write::assign, job_.width, wide,
                            job_.output.at(tile_.row(query), column_));
        if (lane.t == 0 && job_.log_sums.data)
          *job_.log_sums.at(tile_.row(query), tile_.head) = (maximum_[i][h] + log2f(sum)) * kLn2;
      }
  }

 private:
  /// Queries behind the last one repeat it.
  __device__ int query(int i, int h) const { return min(MmaLane().row<Shape>(i, h), tile_.count - 1); }

  /// Scores of keys `first` .. become exp(scale score - maximum); what was summed before is brought to the new maximum.
  __device__ void softmax(int first, PartProducts<Shape>& p) {
    const MmaLane lane;
    const float scale = job_.scale * kLog2E;
    const bool masked = first + Shape::kPart > tile_.visible + lane.warp * Shape::kWarpRows;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int visible = tile_.visible + query(i, h) - first - 2 * lane.t;
        float maximum = maximum_[i][h];
#pragma unroll
        for (int n = 0; n < Shape::kPartTiles; ++n)
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
        for (int n = 0; n < Shape::kPartTiles; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = p[i][n][2 * h + e];
            weight = fast_exp2(weight - maximum);
            sum += weight;
          }
        sum_[i][h] = sum;
#pragma unroll
        for (int j = 0; j < Shape::kOutputTiles; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) output_[i][j][2 * h + e] *= factor;
      }
  }

  const AttentionJob& job_;
  const QueryTile& tile_;
  int64_t column_;
  RowOperand<Shape> queries_;
  float maximum_[kRowTiles][2];  // of the scaled scores, in units of log 2
  float sum_[kRowTiles][2];      // over the lane's keys
  OutputSums<Shape> output_;
};

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2) attention_mma(AttentionJob job, unsigned tiles) {
  QueryTile tile;
  if (!find_query_tile<Shape::kRows>(job, tiles, tile)) return;
  const KeyList keys(job, tile.sequence, job.key_column(tile.head));
  const int seen = tile.see(keys);

  SharedMemory shared;
  TileStage<Shape> key_stage(shared, job.width, keys.wide()), value_stage(shared, job.width, keys.wide());
  unsigned* key_rows = shared.take<unsigned>(Shape::kRowWords);
  unsigned* value_columns = shared.take<unsigned>(Shape::kColumnWords);
  int* spoiled = shared.take<int>(1);
  if (threadIdx.x == 0) *spoiled = 0;
  const auto fetch = [&](int first) { fetch_keys(keys, first, seen, key_stage, value_stage); };

  fetch(0);
  ForwardWarp<Shape> warp(job, tile, shared);
  for (int first = 0; first < seen; first += Shape::kTile) {
    await_copies();
    __syncthreads();  // all warps are done with the tile before
    // A probability of 0 keeps out a value that its query does not see, unless the value is not finite.
    const bool masked = first + Shape::kTile > tile.visible;
    key_stage.round_rows(key_rows);
    if (value_stage.round_columns(value_columns, masked ? Values::zero_unless_finite : Values::as_they_are))
      atomicMax(spoiled, 1);
    __syncthreads();
    if (first + Shape::kTile < seen) fetch(first + Shape::kTile);
    warp.add_tile(first, key_rows, value_columns);
  }
  if (*spoiled) warp.spoil(keys, tile.visible / Shape::kTile * Shape::kTile);
  warp.store();
}

// Backward, with P = exp(scale S - log_sum):  dP = dO V^T;  dS = scale P (dP - D);  dQ = dS K;  dK += dS^T Q;
// dV += P^T dO.

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2) attention_query_gradients_mma(AttentionBackwardJob job, unsigned tiles) {
  QueryTile tile;
  if (!find_query_tile<Shape::kRows>(job, tiles, tile)) return;
  const int64_t column = job.column(tile.head);
  const KeyList keys(job, tile.sequence, job.key_column(tile.head));
  const int seen = tile.see(keys);
  const MmaLane lane;

  SharedMemory shared;
  TileStage<Shape> key_stage(shared, job.width, keys.wide()), value_stage(shared, job.width, keys.wide());
  unsigned* key_rows = shared.take<unsigned>(Shape::kRowWords);
  unsigned* value_rows = shared.take<unsigned>(Shape::kRowWords);
  unsigned* key_columns = shared.take<unsigned>(Shape::kColumnWords);
  RowOperand<Shape> queries(shared), gradients(shared);
  const auto fetch = [&](int first) { fetch_keys(keys, first, seen, key_stage, value_stage); };
  fetch(0);
  const auto row_of = [&](int row) { return tile.row(min(row, tile.count - 1)); };
  queries.load([&](int row) { return job.queries.at(row_of(row), column); }, job.width,
               aligned_heads(job.queries, job.width));
  gradients.load([&](int row) { return job.output_gradients.at(row_of(row), column); }, job.width,
                 aligned_heads(job.output_gradients, job.width));
  float log_sums[2], projections[2];
  int visible[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane.row<Shape>(0, h);
    log_sums[h] = *job.saved_log_sums.at(row_of(row), tile.head) * kLog2E;
    projections[h] = *job.projections.at(row_of(row), tile.head);
    visible[h] = tile.visible + min(row, tile.count - 1) - 2 * lane.t;
  }
  OutputSums<Shape> sums;
  clear(sums);
  for (int first = 0; first < seen; first += Shape::kTile) {
    await_copies();
    __syncthreads();
    key_stage.round_rows(key_rows);
    value_stage.round_rows(value_rows);
    // A key that is not finite makes dS NaN where it is seen; elsewhere its product with 0 must be 0.
    key_stage.round_columns(key_columns, Values::zero_unless_finite);
    __syncthreads();
    if (first + Shape::kTile < seen) fetch(first + Shape::kTile);
#pragma unroll 1
    for (int part = 0; part < Shape::kTile; part += Shape::kPart) {
      if (!tile.warp_sees<Shape::kWarpRows>(first + part)) break;
      PartProducts<Shape> s, dp;
      multiply_rows<Shape>(queries, key_rows + part * Shape::kRowStride, s);
      multiply_rows<Shape>(gradients, value_rows + part * Shape::kRowStride, dp);
#pragma unroll
      for (int n = 0; n < Shape::kPartTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float p = fast_exp2(s[0][n][e] * (job.scale * kLog2E) - log_sums[e / 2]);
          const bool sees = first + part + 8 * n + e % 2 < visible[e / 2];
          s[0][n][e] = sees ? job.scale * p * (dp[0][n][e] - projections[e / 2]) : 0.0f;
        }
      add_columns<Shape>(s, key_columns + part / Shape::kPerWord * Shape::kColumnStride, sums);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane.row<Shape>(0, h);
    if (row < tile.count)
      store_output<Shape>(sums, 0, h, 1, Write::assign, job.width, aligned_heads(job.query_gradients, job.width),
                          job.query_gradients.at(tile.row(row), column));
  }
}

/// Log sums and projections of a tile of queries, brought as TileStage brings rows.
template <int kTile>
class ScalarStage {
 public:
  __device__ explicit ScalarStage(SharedMemory& shared)
      : raw_(shared.take<float>(2 * kTile)), values_(shared.take<float>(2 * kTile)) {}

  template <typename FirstAt, typename SecondAt>
  __device__ void fetch(int count, const FirstAt& first_at, const SecondAt& second_at) {
    const auto i = static_cast<int>(threadIdx.x);
    if (i >= kTile) return;
    copy_later<4>(raw_ + i, first_at(min(i, count - 1)), i < count);
    copy_later<4>(raw_ + kTile + i, second_at(min(i, count - 1)), i < count);
  }
  __device__ void publish() const {
    for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kThreads) {
      values_[i] = raw_[i];
      values_[kTile + i] = raw_[kTile + i];
    }
  }
  __device__ float first(int i) const { return values_[i]; }
  __device__ float second(int i) const { return values_[kTile + i]; }

  static constexpr size_t bytes() { return 2 * SharedMemory::bytes<float>(2 * kTile); }

 private:
  float* raw_;
  float* values_;
};

/// A block has a tile of own keys and walks over the queries that see them.
template <typename Shape>
__global__ void __launch_bounds__(kThreads, 2) attention_key_gradients_mma(AttentionBackwardJob job, unsigned tiles) {
  QueryTile tile;  // of keys
  if (!find_key_tile<Shape::kRows>(job, tiles, tile)) return;
  const AttentionSequence& s = tile.sequence;
  const int64_t column = job.column(tile.head);
  const int visible_0 = static_cast<int>(s.visible_0);
  const MmaLane lane;

  SharedMemory shared;
  TileStage<Shape> query_stage(shared, job.width, aligned_heads(job.queries, job.width));
  TileStage<Shape> gradient_stage(shared, job.width, aligned_heads(job.output_gradients, job.width));
  unsigned* query_rows = shared.take<unsigned>(Shape::kRowWords);
  unsigned* gradient_rows = shared.take<unsigned>(Shape::kRowWords);
  unsigned* query_columns = shared.take<unsigned>(Shape::kColumnWords);
  unsigned* gradient_columns = shared.take<unsigned>(Shape::kColumnWords);
  RowOperand<Shape> keys(shared), values(shared);
  ScalarStage<Shape::kTile> scalars(shared);
  using Queries = SeeingQueries<Shape::kTile>;
  const auto fetch = [&](const Queries& queries) {
    const int head = queries.head();
    const int64_t row = s.first_query + queries.first(), from = job.column(head);
    query_stage.fetch(queries.count(), [&](int i) { return job.queries.at(row + i, from); });
    gradient_stage.fetch(queries.count(), [&](int i) { return job.output_gradients.at(row + i, from); });
    scalars.fetch(
        queries.count(), [&](int i) { return job.saved_log_sums.at(row + i, head); },
        [&](int i) { return job.projections.at(row + i, head); });
  };
  Queries queries(job, tile);
  fetch(queries);
  const auto row_of = [&](int row) { return s.first_key + tile.first + min(row, tile.count - 1); };
  keys.load([&](int row) { return job.keys.at(row_of(row), column); }, job.width, aligned_heads(job.keys, job.width));
  values.load([&](int row) { return job.values.at(row_of(row), column); }, job.width,
              aligned_heads(job.values, job.width));
  OutputSums<Shape> dk, dv;
  clear(dk);
  clear(dv);
  for (; queries.there(); queries = queries.next()) {
    await_copies();
    __syncthreads();
    query_stage.round_rows(query_rows);
    gradient_stage.round_rows(gradient_rows);
    query_stage.round_columns(query_columns, Values::as_they_are);
    gradient_stage.round_columns(gradient_columns, Values::as_they_are);
    scalars.publish();
    __syncthreads();
    if (const Queries next = queries.next(); next.there()) fetch(next);
    const int first = queries.first();
#pragma unroll 1
    for (int part = 0; part < Shape::kTile && part < queries.count(); part += Shape::kPart) {
      // The warp's first key is the one that most queries see.
      if (tile.first + lane.warp * Shape::kWarpRows >= visible_0 + first + part + Shape::kPart - 1) continue;
      PartProducts<Shape> p, ds;
      multiply_rows<Shape>(keys, query_rows + part * Shape::kRowStride, p);
      multiply_rows<Shape>(values, gradient_rows + part * Shape::kRowStride, ds);
#pragma unroll
      for (int n = 0; n < Shape::kPartTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int at = part + 8 * n + 2 * lane.t + e % 2;
          const bool sees = at < queries.count() && tile.first + lane.row<Shape>(0, e / 2) < visible_0 + first + at;
          const float weight = fast_exp2(p[0][n][e] * (job.scale * kLog2E) - scalars.first(at) * kLog2E);
          p[0][n][e] = sees ? weight : 0.0f;
          ds[0][n][e] = sees ? job.scale * weight * (ds[0][n][e] - scalars.second(at)) : 0.0f;
        }
      add_columns<Shape>(p, gradient_columns + part / Shape::kPerWord * Shape::kColumnStride, dv);
      add_columns<Shape>(ds, query_columns + part / Shape::kPerWord * Shape::kColumnStride, dk);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane.row<Shape>(0, h);
    if (row >= tile.count) continue;
    store_output<Shape>(dk, 0, h, 1, Write::accumulate, job.width, aligned_heads(job.key_gradients, job.width),
                        job.key_gradients.at(row_of(row), column));
    store_output<Shape>(dv, 0, h, 1, Write::accumulate, job.width, aligned_heads(job.value_gradients, job.width),
                        job.value_gradients.at(row_of(row), column));
  }
}

// Launches

template <typename Arithmetic>
bool attend_by_mma(Context& context, const AttentionJob& job, int64_t most) {
  const auto issue = [&]<typename Shape>(Shape) {
    const size_t bytes = Shape::bytes(2, 1, 1, 1) + SharedMemory::bytes<int>(1);
    if (!fits(context, bytes)) return false;
    const TileGrid grid = tile_grid("attention", job, job.heads, most, Shape::kRows);
    launch(context, {.op = "attention", .grid = grid.blocks, .threads = kThreads, .shared_bytes = bytes},
           attention_mma<Shape>, job, grid.tiles);
    return true;
  };
  if (job.width <= 32) return issue(MmaShape<Arithmetic, 32, 2, 64, 32, Operands::in_registers>());
  if (job.width <= 64) return issue(MmaShape<Arithmetic, 64, 2, 64, 32, Operands::in_registers>());
  if (job.width <= 128) return issue(MmaShape<Arithmetic, 128, 1, 32, 32, Operands::in_registers>());
  if (job.width <= 256) return issue(MmaShape<Arithmetic, 256, 1, 16, 16, Operands::in_shared_memory>());
  return false;
}

template <typename Arithmetic>
bool differentiate_by_mma(Context& context, const AttentionBackwardJob& job, int64_t most, int64_t most_keys) {
  const auto issue = [&]<typename Shape>(Shape) {
    const char* op = "attention_backward";
    const size_t query_bytes = Shape::bytes(2, 2, 1, 2);
    const size_t key_bytes = Shape::bytes(2, 2, 2, 2) + ScalarStage<Shape::kTile>::bytes();
    if (!fits(context, std::max(query_bytes, key_bytes))) return false;
    const TileGrid queries = tile_grid(op, job, job.heads, most, Shape::kRows),
                   keys = tile_grid(op, job, job.key_heads, most_keys, Shape::kRows);
    launch(context, {.op = op, .grid = queries.blocks, .threads = kThreads, .shared_bytes = query_bytes},
           attention_query_gradients_mma<Shape>, job, queries.tiles);
    launch(context, {.op = op, .grid = keys.blocks, .threads = kThreads, .shared_bytes = key_bytes},
           attention_key_gradients_mma<Shape>, job, keys.tiles);
    return true;
  };
  if (job.width <= 32) return issue(MmaShape<Arithmetic, 32, 1, 32, 32, Operands::in_registers>());
  if (job.width <= 64) return issue(MmaShape<Arithmetic, 64, 1, 32, 32, Operands::in_registers>());
  if (job.width <= 128) return issue(MmaShape<Arithmetic, 128, 1, 16, 16, Operands::in_shared_memory>());
  return false;
}

}  // namespace

bool tiled_attention_by_mma(Context& context, const AttentionJob& job, int64_t most) {
  return context.precision() == Precision::bf16 ? attend_by_mma<Bf16>(context, job, most)
                                                : attend_by_mma<Tf32>(context, job, most);
}

bool tiled_attention_backward_by_mma(Context& context, const AttentionBackwardJob& job, int64_t most,
                                     int64_t most_keys) {
  return context.precision() == Precision::bf16 ? differentiate_by_mma<Bf16>(context, job, most, most_keys)
                                                : differentiate_by_mma<Tf32>(context, job, most, most_keys);
}

}  // namespace loci::cuda
