#include "kernels/attention_cuda.h"

#include <cmath>

// Sequences with few queries, and every head width that no tiled kernel takes, are the work of single warps: a warp has
// one head and a few queries (or, for the gradients of keys and values, a few keys) of a sequence in its registers and
// walks over the keys (queries). Its lanes are a grid of 4 rows by 8 columns: row r takes every fourth key, column c
// the columns 4 c .. 4 c + 3 of each 32. So a row of a head is read in 128 coalesced bytes; dot products are summed
// over the 8 columns, outputs over the 4 rows at the end. Arithmetic is fp32 in every precision: these kernels wait for
// memory. The four warps of a block have neighbouring work, which reads the same rows or neighbouring heads of them.
namespace loci::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 4;              // of a warp's lanes
constexpr int kColumns = 8;           // lanes of a row
constexpr int kChunk = 4 * kColumns;  // columns of a head that the lanes of a row hold at a time
constexpr int kTileKeys = 16;
constexpr int kSplitWarps = 8;  // that share a lone query
constexpr int kSplitThreads = kSplitWarps * kWarp;
constexpr int kSplitKeys = 128;  // from which on they do
constexpr int kSteps = kTileKeys / kRows;

/// Steps whose loads are in flight together, as far as registers go.
template <int kChunks>
constexpr int kGroup = kChunks <= 2   ? 4
                       : kChunks <= 4 ? 2
                                      : 1;

/// Blocks that a multiprocessor is to hold: 168 registers a thread, or 255.
template <int kChunks>
constexpr int kBlocks = kChunks <= 2 ? 3 : 2;

__device__ inline float dot(float4 a, float4 b, float sum) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
  sum = fmaf(a.z, b.z, sum);
  return fmaf(a.w, b.w, sum);
}
/// Zero where all four are finite, else NaN.
__device__ inline float nan_unless_finite(float4 x) { return 0.0f * x.x + 0.0f * x.y + (0.0f * x.z + 0.0f * x.w); }

/// What a lane holds of a row of a head: columns panel + 32 m + 4 c .. + 3 for m < kChunks.
template <int kChunks, bool kWide>
__device__ void load_row(const float* row, int panel, int width, float4 (&to)[kChunks]) {
  const int first = panel + 4 * (static_cast<int>(threadIdx.x) % kColumns);
#pragma unroll
  for (int m = 0; m < kChunks; ++m) to[m] = load_columns<kWide>(row, first + kChunk * m, width);
}
template <int kChunks, bool kWide>
__device__ void store_row(float* row, int panel, int width, const float4 (&from)[kChunks]) {
  const int first = panel + 4 * (static_cast<int>(threadIdx.x) % kColumns);
#pragma unroll
  for (int m = 0; m < kChunks; ++m) store_columns<kWide>(row, first + kChunk * m, width, from[m]);
}

/// Sums each of the values over the 8 lanes of a row; lane c gets the sum of value c / (8 / kCount).
template <int kCount>
__device__ float scatter_sums(float (&values)[kCount]) {
  const int c = static_cast<int>(threadIdx.x) % kColumns;
  int left = kCount;
#pragma unroll
  for (int bit = kColumns / 2; bit > 0; bit /= 2) {
    if (left == 1) {
      values[0] += __shfl_xor_sync(kAllLanes, values[0], bit);
      continue;
    }
    left /= 2;
#pragma unroll
    for (int i = 0; i < left; ++i) {
      const bool upper = (c & bit) != 0;
      const float give = upper ? values[i] : values[i + left];
      const float keep = upper ? values[i + left] : values[i];
      values[i] = keep + __shfl_xor_sync(kAllLanes, give, bit);
    }
  }
  return values[0];
}

/// The value that scatter_sums left to the lanes of number `i` in the caller's row.
template <int kCount>
__device__ float of_item(float value, int i) {
  return __shfl_sync(kAllLanes, value, i * (kColumns / kCount), kColumns);
}

template <int kChunks>
__device__ void sum_over_rows(float4 (&x)[kChunks]) {
#pragma unroll
  for (int m = 0; m < kChunks; ++m)
#pragma unroll
    for (int bit = kColumns; bit < kWarp; bit *= 2) {
      x[m].x += __shfl_xor_sync(kAllLanes, x[m].x, bit);
      x[m].y += __shfl_xor_sync(kAllLanes, x[m].y, bit);
      x[m].z += __shfl_xor_sync(kAllLanes, x[m].z, bit);
      x[m].w += __shfl_xor_sync(kAllLanes, x[m].w, bit);
    }
}

/// Sums over the 4 rows of lanes; row i % 4 stores item i.
template <int kCount, int kChunks, typename Store>
__device__ void sum_and_store(float4 (&items)[kCount][kChunks], int count, const Store& store) {
  const int row = static_cast<int>(threadIdx.x) % kWarp / kColumns;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i >= count) break;
    sum_over_rows(items[i]);
    if (i % kRows == row) store(i, items[i]);
  }
}

/// The part of a launch that a warp does: items (queries or keys) first .. first + count - 1 of a sequence's head (of
/// queries or of keys), and of their outputs the columns from `panel` on.
struct WarpWork {
  AttentionSequence sequence;
  int head;
  int first;
  int panel;
};

/// How a launch divides a sequence's heads into warps.
struct WarpDivision {
  unsigned heads, tiles, panels;
};

/// False where there is nothing to do. Warps are numbered as attention_tile says, with the panels within a tile.
template <int kItems, int kChunks>
__device__ bool find_work(const AttentionJob& job, const WarpDivision& division, WarpWork& work) {
  const unsigned number = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const AttentionTile tile = attention_tile(number / division.panels, division.tiles, division.heads);
  if (tile.sequence >= job.sequence_count) return false;
  work.sequence = job.sequences[tile.sequence];
  work.head = static_cast<int>(tile.head);
  work.first = static_cast<int>(tile.tile) * kItems;
  work.panel = static_cast<int>(number % division.panels) * kChunks * kChunk;
  return work.sequence.queries >= job.least_queries && work.sequence.queries <= job.most_queries;
}

// --- Forward ---------------------------------------------------------------------------------------------------------

template <int kQueries, int kChunks, bool kWide>
class ForwardWarp {
 public:
  __device__ ForwardWarp(const AttentionJob& job, const WarpWork& work, const KeyList& keys)
      : job_(job),
        keys_(keys),
        panel_(work.panel),
        panels_(job.width > kChunks * kChunk),
        count_(static_cast<int>(min(static_cast<int64_t>(kQueries), work.sequence.queries - work.first))),
        first_row_(work.sequence.first_query + work.first),
        column_(job.column(work.head)),
        visible_(keys.segment_keys() + static_cast<int>(work.sequence.visible_0) + work.first),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        query_(min(lane_ % kColumns / (kColumns / kQueries), count_ - 1)) {}

  __device__ void run(int head) {
    walk(0, 1);
    const float inverse = 1 / sum_;
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      const float factor = of_item<kQueries>(inverse, q);
#pragma unroll
      for (int m = 0; m < kChunks; ++m) output_[q][m] = scaled(factor, output_[q][m]);
    }
    sum_and_store(output_, count_, [&](int q, const float4(&row)[kChunks]) {
      store_row<kChunks, kWide>(job_.output.at(first_row_ + q, column_), panel_, job_.width, row);
    });
    const bool writes =
        lane_ < kColumns && lane_ % (kColumns / kQueries) == 0 && lane_ / (kColumns / kQueries) < count_ && panel_ == 0;
    if (writes && job_.log_sums.data) *job_.log_sums.at(first_row_ + query_, head) = maximum_ + logf(sum_);
  }

  /// The same for a lone query by all warps of the block, which take tiles of keys in turn.
  __device__ void run_together(int head, int warps, SharedMemory& shared) {
    float* maxima = shared.take<float>(warps);
    float* sums = shared.take<float>(warps);
    float* outputs = shared.take<float>(warps * kChunks * kChunk);
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    walk(warp, warps);
    sum_over_rows(output_[0]);
    if (lane_ == 0) {
      maxima[warp] = maximum_;
      sums[warp] = sum_;
    }
    if (lane_ < kColumns)
#pragma unroll
      for (int m = 0; m < kChunks; ++m)
        *reinterpret_cast<float4*>(outputs + (warp * kChunks + m) * kChunk + 4 * lane_) = output_[0][m];
    __syncthreads();
    float maximum = maxima[0], sum = 0;
    for (int w = 1; w < warps; ++w) maximum = fmaxf(maximum, maxima[w]);
    for (int w = 0; w < warps; ++w) sum += sums[w] * exp2f((maxima[w] - maximum) * kLog2E);
    const int columns = min(kChunks * kChunk, job_.width - panel_);
    for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) {
      float output = 0;
      for (int w = 0; w < warps; ++w)
        output += exp2f((maxima[w] - maximum) * kLog2E) * outputs[w * kChunks * kChunk + c];
      *job_.output.at(first_row_, column_ + panel_ + c) = output / sum;
    }
    if (threadIdx.x == 0 && panel_ == 0 && job_.log_sums.data)
      *job_.log_sums.at(first_row_, head) = maximum + logf(sum);
  }

 private:
  /// Takes the tiles of keys `tile`, `tile` + `step`, ...
  __device__ void walk(int tile, int step) {
#pragma unroll
    for (int q = 0; q < kQueries; ++q)
#pragma unroll
      for (int m = 0; m < kChunks; ++m) output_[q][m] = make_float4(0, 0, 0, 0);
    load_queries(0);
    for (int first = tile * kTileKeys; first < seen(); first += step * kTileKeys) add_keys(first);
    sum_ += __shfl_xor_sync(kAllLanes, sum_, 8);
    sum_ += __shfl_xor_sync(kAllLanes, sum_, 16);
  }

  __device__ int seen() const { return visible_ + count_ - 1; }  // keys that the last query sees

  __device__ void load_queries(int panel) {
#pragma unroll
    for (int q = 0; q < kQueries; ++q)
      load_row<kChunks, kWide>(job_.queries.at(first_row_ + min(q, count_ - 1), column_), panel, job_.width,
                               queries_[q]);
  }

  /// The softmax goes on with keys first .. first + 15; a lane has the score of its query and key first + 4 step + row.
  __device__ void add_keys(int first) {
    const KeyRow row = keys_.at(min(first + lane_, seen() - 1));
    float p[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) p[step] = 0;
    for (int panel = 0; panel < job_.width; panel += kChunks * kChunk) {
      if (panels_) load_queries(panel);
      add_scores(first, row.key, panel, p);
    }
    float maximum = maximum_;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int key = first + step * kRows + lane_ / kColumns;
      p[step] = key < visible_ + query_ ? p[step] * job_.scale : -INFINITY;
      maximum = fmaxf(maximum, p[step]);
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 8));
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 16));
    if (first > 0) rescale(exp2f((maximum_ - maximum) * kLog2E));
    maximum_ = maximum;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      p[step] = exp2f((p[step] - maximum) * kLog2E);
      sum_ += p[step];
    }
    add_values(first, row.value, p);
  }

  __device__ void rescale(float factor) {
    sum_ *= factor;
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      const float of_query = of_item<kQueries>(factor, q);
#pragma unroll
      for (int m = 0; m < kChunks; ++m) output_[q][m] = scaled(of_query, output_[q][m]);
    }
  }

  /// Row `step` * 4 + r of the tile, whose address lane number that has. Rows behind the last key repeat it.
  template <typename T>
  __device__ T* tile_row(T* of_lane, int step) const {
    return reinterpret_cast<T*>(
        __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(of_lane), step * kRows + lane_ / kColumns));
  }

  __device__ void add_scores(int first, const float* key, int panel, float (&scores)[kSteps]) {
#pragma unroll
    for (int group = 0; group < kSteps; group += kGroup<kChunks>) {
      if (first + group * kRows >= seen()) break;
      float4 k[kGroup<kChunks>][kChunks];
#pragma unroll
      for (int i = 0; i < kGroup<kChunks>; ++i)
        load_row<kChunks, kWide>(tile_row(key, group + i), panel, job_.width, k[i]);
#pragma unroll
      for (int i = 0; i < kGroup<kChunks>; ++i) {
        float partial[kQueries];
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          partial[q] = 0;
#pragma unroll
          for (int m = 0; m < kChunks; ++m) partial[q] = dot(queries_[q][m], k[i][m], partial[q]);
        }
        scores[group + i] += scatter_sums<kQueries>(partial);
      }
    }
  }

  __device__ void add_values(int first, const float* value, const float (&p)[kSteps]) {
#pragma unroll
    for (int group = 0; group < kSteps; group += kGroup<kChunks>) {
      const int first_key = first + group * kRows;
      if (first_key >= seen()) break;
      float4 v[kGroup<kChunks>][kChunks];
#pragma unroll
      for (int i = 0; i < kGroup<kChunks>; ++i)
        load_row<kChunks, kWide>(tile_row(value, group + i), panel_, job_.width, v[i]);
      // A probability of 0 keeps out a value that its query does not see, unless the value is not finite.
      const bool all_visible = first_key + kGroup<kChunks> * kRows <= visible_;
      if (!all_visible && !all_finite(v)) {
        add_visible_values(first_key, v, p, group);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kGroup<kChunks>; ++i)
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          const float of_query = of_item<kQueries>(p[group + i], q);
#pragma unroll
          for (int m = 0; m < kChunks; ++m) add_scaled(of_query, v[i][m], output_[q][m]);
        }
    }
  }

  __device__ static bool all_finite(const float4 (&v)[kGroup<kChunks>][kChunks]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kGroup<kChunks>; ++i)
#pragma unroll
      for (int m = 0; m < kChunks; ++m) sum += nan_unless_finite(v[i][m]);
    return __all_sync(kAllLanes, sum == 0);
  }

  __device__ void add_visible_values(int first_key, const float4 (&v)[kGroup<kChunks>][kChunks],
                                     const float (&p)[kSteps], int group) {
#pragma unroll
    for (int i = 0; i < kGroup<kChunks>; ++i)
#pragma unroll
      for (int q = 0; q < kQueries; ++q) {
        const float of_query = of_item<kQueries>(p[group + i], q);
        const bool sees = first_key + i * kRows + lane_ / kColumns < visible_ + min(q, count_ - 1);
#pragma unroll
        for (int m = 0; m < kChunks; ++m)
          if (sees) add_scaled(of_query, v[i][m], output_[q][m]);
      }
  }

  const AttentionJob& job_;
  const KeyList& keys_;
  int panel_;    // the first column of the outputs
  bool panels_;  // whether a head is wider than a lane row's registers
  int count_;
  int64_t first_row_;
  int64_t column_;
  int visible_;  // keys that the first query sees
  int lane_;
  int query_;  // whose scores the lane has
  float maximum_ = -INFINITY;
  float sum_ = 0;  // over the lane's keys
  float4 queries_[kQueries][kChunks];
  float4 output_[kQueries][kChunks];
};

template <int kQueries, int kChunks>
__global__ void __launch_bounds__(kThreads, kBlocks<kChunks>) attention_warps(AttentionJob job, WarpDivision division) {
  WarpWork work;
  if (!find_work<kQueries, kChunks>(job, division, work) || work.first >= work.sequence.queries) return;
  const KeyList keys(job, work.sequence, job.key_column(work.head));
  const bool wide = keys.wide() && aligned_rows(job.queries.data, job.queries.stride) &&
                    aligned_rows(job.output.data, job.output.stride);
  if (wide)
    ForwardWarp<kQueries, kChunks, true>(job, work, keys).run(work.head);
  else
    ForwardWarp<kQueries, kChunks, false>(job, work, keys).run(work.head);
}

/// Lone queries with many keys: a block for each sequence, head and panel. Shared memory: split_bytes.
template <int kChunks>
__global__ void __launch_bounds__(kSplitThreads, kChunks <= 2 ? 2 : 1)
    attention_split(AttentionJob job, unsigned panels) {
  const AttentionTile place = attention_tile(blockIdx.x / panels, 1, job.heads);
  const WarpWork work{job.sequences[place.sequence], static_cast<int>(place.head), 0,
                      static_cast<int>(blockIdx.x % panels) * kChunks * kChunk};
  if (work.sequence.queries == 0) return;
  const KeyList keys(job, work.sequence, job.key_column(work.head));
  SharedMemory shared;
  if (keys.wide() && aligned_rows(job.queries.data, job.queries.stride))
    ForwardWarp<1, kChunks, true>(job, work, keys).run_together(work.head, kSplitWarps, shared);
  else
    ForwardWarp<1, kChunks, false>(job, work, keys).run_together(work.head, kSplitWarps, shared);
}
template <int kChunks>
constexpr size_t split_bytes() {
  return 2 * SharedMemory::bytes<float>(kSplitWarps) + SharedMemory::bytes<float>(kSplitWarps * kChunks * kChunk);
}

// --- Backward --------------------------------------------------------------------------------------------------------

/// projections[query, head] = dO . O, by the 8 lanes of a row.
__global__ void __launch_bounds__(kThreads)
    attention_projections(AttentionRows<const float> gradients, AttentionRows<const float> outputs, int64_t queries,
                          int64_t heads, int width, float* projections) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * (kThreads / kColumns) + threadIdx.x / kColumns;
  const bool inside = pair < queries * heads;
  const int64_t query = pair / heads, column = pair % heads * width;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % kColumns; inside && i < width; i += kColumns)
    sum = fmaf(*gradients.at(query, column + i), *outputs.at(query, column + i), sum);
  for (int bit = kColumns / 2; bit > 0; bit /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
  if (inside && threadIdx.x % kColumns == 0) projections[pair] = sum;
}

/// dQ = sum_j dS_j K_j for a few queries. A lane has the dots of its query with key `first` + row.
template <int kQueries, int kChunks, bool kWide>
__device__ void query_gradients(const AttentionBackwardJob& job, const WarpWork& work, const KeyList& keys) {
  const AttentionSequence& s = work.sequence;
  const int64_t column = job.column(work.head), first_row = s.first_query + work.first;
  const int count = static_cast<int>(min(static_cast<int64_t>(kQueries), s.queries - work.first));
  const int visible = keys.segment_keys() + static_cast<int>(s.visible_0) + work.first;
  const int seen = visible + count - 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = lane / kColumns;
  const int query = min(lane % kColumns / (kColumns / kQueries), count - 1);
  const float log_sum = *job.saved_log_sums.at(first_row + query, work.head);
  const float projection = *job.projections.at(first_row + query, work.head);
  float4 q[kQueries][kChunks], dy[kQueries][kChunks], dq[kQueries][kChunks];
  const auto load_queries = [&](int panel) {
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const int64_t at = first_row + min(i, count - 1);
      load_row<kChunks, kWide>(job.queries.at(at, column), panel, job.width, q[i]);
      load_row<kChunks, kWide>(job.output_gradients.at(at, column), panel, job.width, dy[i]);
    }
  };
#pragma unroll
  for (int i = 0; i < kQueries; ++i)
#pragma unroll
    for (int m = 0; m < kChunks; ++m) dq[i][m] = make_float4(0, 0, 0, 0);
  load_queries(0);
  const bool panels = job.width > kChunks * kChunk;
  for (int first = 0; first < seen; first += kRows) {
    const int key = first + row;
    const KeyRow at = keys.at(min(key, seen - 1));
    float4 k[kChunks], v[kChunks];
    float score = 0, dp = 0;
    int panel = 0;
    do {
      if (panels) load_queries(panel);
      load_row<kChunks, kWide>(at.key, panel, job.width, k);
      load_row<kChunks, kWide>(at.value, panel, job.width, v);
      float scores[kQueries], dps[kQueries];
#pragma unroll
      for (int i = 0; i < kQueries; ++i) {
        scores[i] = dps[i] = 0;
#pragma unroll
        for (int m = 0; m < kChunks; ++m) {
          scores[i] = dot(q[i][m], k[m], scores[i]);
          dps[i] = dot(dy[i][m], v[m], dps[i]);
        }
      }
      score += scatter_sums<kQueries>(scores);
      dp += scatter_sums<kQueries>(dps);
      panel += kChunks * kChunk;
    } while (panel < job.width);
    if (panels) load_row<kChunks, kWide>(at.key, work.panel, job.width, k);
    const BackwardWeights w = backward_weights(key < visible + query, score, dp, job.scale, log_sum, projection);
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const float ds = of_item<kQueries>(w.ds, i);
#pragma unroll
      for (int m = 0; m < kChunks; ++m) add_scaled(ds, k[m], dq[i][m]);
    }
  }
  sum_and_store(dq, count, [&](int i, const float4(&sum)[kChunks]) {
    store_row<kChunks, kWide>(job.query_gradients.at(first_row + i, column), work.panel, job.width, sum);
  });
}

/// dK_j += sum_i dS_ij Q_i, dV_j += sum_i P_ij dO_i for a few own keys, over the queries of all heads that read the key
/// head. A lane has the dots of its key with query `first` + row.
template <int kKeys, int kChunks, bool kWide>
__device__ void key_gradients(const AttentionBackwardJob& job, const WarpWork& work) {
  const AttentionSequence& s = work.sequence;
  const int64_t key_column = job.column(work.head), first_row = s.first_key + work.first;
  const int visible_0 = static_cast<int>(s.visible_0), queries = static_cast<int>(s.queries);
  const int count = min(kKeys, visible_0 + queries - 1 - work.first);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = lane / kColumns;
  const int key = work.first + min(lane % kColumns / (kColumns / kKeys), count - 1);
  float4 k[kKeys][kChunks], v[kKeys][kChunks], dk[kKeys][kChunks], dv[kKeys][kChunks];
  const auto load_keys = [&](int panel) {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int64_t at = first_row + min(i, count - 1);
      load_row<kChunks, kWide>(job.keys.at(at, key_column), panel, job.width, k[i]);
      load_row<kChunks, kWide>(job.values.at(at, key_column), panel, job.width, v[i]);
    }
  };
#pragma unroll
  for (int i = 0; i < kKeys; ++i)
#pragma unroll
    for (int m = 0; m < kChunks; ++m) dk[i][m] = dv[i][m] = make_float4(0, 0, 0, 0);
  load_keys(0);
  const bool panels = job.width > kChunks * kChunk;
  // Query i sees the own keys before visible_0 + i.
  const int first_seen = max(0, work.first + 1 - visible_0);
  const auto add_queries = [&](int head, int first) {
    const int64_t column = job.column(head);
    const int query = first + row;
    const int64_t at = s.first_query + min(query, queries - 1);
    float4 q[kChunks], dy[kChunks];
    float score = 0, dp = 0;
    const float log_sum = *job.saved_log_sums.at(at, head), projection = *job.projections.at(at, head);
    int panel = 0;
    do {
      if (panels) load_keys(panel);
      load_row<kChunks, kWide>(job.queries.at(at, column), panel, job.width, q);
      load_row<kChunks, kWide>(job.output_gradients.at(at, column), panel, job.width, dy);
      float scores[kKeys], dps[kKeys];
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        scores[i] = dps[i] = 0;
#pragma unroll
        for (int m = 0; m < kChunks; ++m) {
          scores[i] = dot(k[i][m], q[m], scores[i]);
          dps[i] = dot(v[i][m], dy[m], dps[i]);
        }
      }
      score += scatter_sums<kKeys>(scores);
      dp += scatter_sums<kKeys>(dps);
      panel += kChunks * kChunk;
    } while (panel < job.width);
    if (panels) {
      load_row<kChunks, kWide>(job.queries.at(at, column), work.panel, job.width, q);
      load_row<kChunks, kWide>(job.output_gradients.at(at, column), work.panel, job.width, dy);
    }
    const bool sees = query < queries && key < visible_0 + query;
    const BackwardWeights w = backward_weights(sees, score, dp, job.scale, log_sum, projection);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const float p = of_item<kKeys>(w.p, i), ds = of_item<kKeys>(w.ds, i);
#pragma unroll
      for (int m = 0; m < kChunks; ++m) {
        add_scaled(p, dy[m], dv[i][m]);
        add_scaled(ds, q[m], dk[i][m]);
      }
    }
  };
  const int group = static_cast<int>(job.group);
#pragma unroll 1
  for (int i = 0; i < group; ++i)
#pragma unroll 1
    for (int first = first_seen; first < queries; first += kRows) add_queries(work.head * group + i, first);
  const auto add_to = [&](const AttentionRows<float>& gradients, float4(&sums)[kKeys][kChunks]) {
    sum_and_store(sums, count, [&](int i, float4(&sum)[kChunks]) {
      float* to = gradients.at(first_row + i, key_column);
      float4 before[kChunks];
      load_row<kChunks, kWide>(to, work.panel, job.width, before);
#pragma unroll
      for (int m = 0; m < kChunks; ++m) add_scaled(1, before[m], sum[m]);
      store_row<kChunks, kWide>(to, work.panel, job.width, sum);
    });
  };
  add_to(job.key_gradients, dk);
  add_to(job.value_gradients, dv);
}

template <int kQueries, int kChunks>
__global__ void __launch_bounds__(kThreads, kBlocks<kChunks>)
    attention_query_gradients(AttentionBackwardJob job, WarpDivision division) {
  WarpWork work;
  if (!find_work<kQueries, kChunks>(job, division, work) || work.first >= work.sequence.queries) return;
  const KeyList keys(job, work.sequence, job.key_column(work.head));
  const bool wide = keys.wide() && aligned_rows(job.queries.data, job.queries.stride) &&
                    aligned_rows(job.output_gradients.data, job.output_gradients.stride) &&
                    aligned_rows(job.query_gradients.data, job.query_gradients.stride);
  if (wide)
    query_gradients<kQueries, kChunks, true>(job, work, keys);
  else
    query_gradients<kQueries, kChunks, false>(job, work, keys);
}

template <int kKeys, int kChunks>
__global__ void __launch_bounds__(kThreads) attention_key_gradients(AttentionBackwardJob job, WarpDivision division) {
  WarpWork work;
  if (!find_work<kKeys, kChunks>(job, division, work) ||
      work.first >= work.sequence.visible_0 + work.sequence.queries - 1)
    return;
  const bool wide = job.width % 4 == 0 && aligned_rows(job.keys.data, job.keys.stride) &&
                    aligned_rows(job.values.data, job.values.stride) &&
                    aligned_rows(job.queries.data, job.queries.stride) &&
                    aligned_rows(job.output_gradients.data, job.output_gradients.stride) &&
                    aligned_rows(job.key_gradients.data, job.key_gradients.stride) &&
                    aligned_rows(job.value_gradients.data, job.value_gradients.stride);
  if (wide)
    key_gradients<kKeys, kChunks, true>(job, work);
  else
    key_gradients<kKeys, kChunks, false>(job, work);
}

// --- Launches --------------------------------------------------------------------------------------------------------

/// Calls visit<items, chunks>() with what fits the registers for this head width. `most` items are asked for at most.
template <typename Visit>
void with_shape(int width, int64_t most, const Visit& visit) {
  if (width <= kChunk) {
    visit.template operator()<4, 1>();
  } else if (width <= 2 * kChunk) {
    most == 1 ? visit.template operator()<1, 2>() : visit.template operator()<4, 2>();
  } else if (width <= 4 * kChunk) {
    visit.template operator()<2, 4>();
  } else {
    visit.template operator()<1, 8>();
  }
}

struct WarpGrid {
  Launch launch;
  WarpDivision division;
};
WarpGrid warp_grid(const char* op, const AttentionJob& job, unsigned heads, int64_t most_items, int items, int chunks) {
  const auto tiles = blocks_for(most_items, items), panels = blocks_for(job.width, chunks * kChunk);
  const int64_t warps = static_cast<int64_t>(job.sequence_count) * heads * tiles * panels;
  require<ShapeError>(warps <= UINT32_MAX, "{}: {} sequences of up to {} rows are too many for one call", op,
                      job.sequence_count, most_items);
  return {{.op = op, .grid = blocks_for(warps, kWarps), .threads = kThreads}, {heads, tiles, panels}};
}

void attend_by_warps(Context& context, const AttentionJob& job, int64_t most) {
  with_shape(job.width, most, [&]<int kQueries, int kChunks>() {
    const WarpGrid grid = warp_grid("attention", job, job.heads, most, kQueries, kChunks);
    launch(context, grid.launch, attention_warps<kQueries, kChunks>, job, grid.division);
  });
}

void attend_lone_queries(Context& context, const AttentionJob& job) {
  const auto issue = [&]<int kChunks>() {
    const unsigned panels = blocks_for(job.width, kChunks * kChunk);
    const int64_t blocks = static_cast<int64_t>(job.sequence_count) * job.heads * panels;
    require<ShapeError>(blocks <= INT32_MAX, "attention: {} sequences are too many for one call", job.sequence_count);
    launch(context,
           {.op = "attention",
            .grid = static_cast<unsigned>(blocks),
            .threads = kSplitThreads,
            .shared_bytes = split_bytes<kChunks>()},
           attention_split<kChunks>, job, panels);
  };
  if (job.width <= kChunk)
    issue.template operator()<1>();
  else if (job.width <= 2 * kChunk)
    issue.template operator()<2>();
  else
    issue.template operator()<4>();
}

void differentiate_by_warps(Context& context, const AttentionBackwardJob& job, int64_t most, int64_t most_keys) {
  with_shape(job.width, most, [&]<int kQueries, int kChunks>() {
    const WarpGrid grid = warp_grid("attention_backward", job, job.heads, most, kQueries, kChunks);
    launch(context, grid.launch, attention_query_gradients<kQueries, kChunks>, job, grid.division);
  });
  with_shape(job.width, most_keys, [&]<int kKeys, int kChunks>() {
    const WarpGrid grid = warp_grid("attention_backward", job, job.key_heads, most_keys, kKeys, kChunks);
    launch(context, grid.launch, attention_key_gradients<kKeys, kChunks>, job, grid.division);
  });
}

/// Sequences of at least this many queries are tiled, where a tiled kernel takes their head width.
constexpr int kTiledQueries = 24;

/// False where they are left to the warps.
bool attend_by_tiles(Context& context, AttentionJob job, int64_t most) {
  if (most < kTiledQueries) return false;
  job.least_queries = kTiledQueries;
  return context.precision() == Precision::fp32 ? tiled_attention_in_fp32(context, job, most)
                                                : tiled_attention_by_mma(context, job, most);
}
bool differentiate_by_tiles(Context& context, AttentionBackwardJob job, int64_t most, int64_t most_keys) {
  if (most < kTiledQueries) return false;
  job.least_queries = kTiledQueries;
  return context.precision() == Precision::fp32 ? tiled_attention_backward_in_fp32(context, job, most, most_keys)
                                                : tiled_attention_backward_by_mma(context, job, most, most_keys);
}

/// Limits the job to the sequences that the tiled kernels leave; false where there are none.
bool keep_short_sequences(const AttentionBatch& batch, int64_t most, AttentionJob& job) {
  job.most_queries = kTiledQueries - 1;
  const bool all_of_the_same_length = batch.max_queries * batch.sequences.size() == batch.queries;
  return !(all_of_the_same_length && most >= kTiledQueries);
}

}  // namespace

void attention(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
               const AttentionInputs& inputs, View output, View log_sums) {
  if (output.empty() || batch.sequences.empty()) return;
  AttentionJob job(batch, shape, inputs);
  job.output = output;
  if (!log_sums.empty()) job.log_sums = log_sums;
  const int64_t most = most_queries(batch);
  const bool tiled = attend_by_tiles(context, job, most);
  if (most == 1 && batch.max_keys >= kSplitKeys)
    attend_lone_queries(context, job);
  else if (!tiled)
    attend_by_warps(context, job, most);
  else if (keep_short_sequences(batch, most, job))
    attend_by_warps(context, job, job.most_queries);
}

void attention_backward(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
                        const AttentionInputs& inputs, ConstView output, ConstView log_sums, ConstView output_gradients,
                        const AttentionGradients& gradients) {
  if (output.empty() || batch.sequences.empty()) return;
  const int64_t pairs = batch.queries * shape.heads;
  const DeviceArray<float> projections(context, pairs);
  AttentionBackwardJob job(AttentionJob(batch, shape, inputs), gradients);
  launch(context, {.op = "attention_backward", .grid = blocks_for(pairs, kThreads / kColumns), .threads = kThreads},
         attention_projections, AttentionRows<const float>(output_gradients), AttentionRows<const float>(output),
         batch.queries, shape.heads, job.width, projections.data());
  job.saved_log_sums = log_sums;
  job.output_gradients = output_gradients;
  job.projections = ConstView(projections.data(), batch.queries, shape.heads);
  const int64_t most = most_queries(batch);
  const bool tiled = differentiate_by_tiles(context, job, most, batch.max_keys);
  if (!tiled)
    differentiate_by_warps(context, job, most, batch.max_keys);
  else if (keep_short_sequences(batch, most, job))
    differentiate_by_warps(context, job, job.most_queries, batch.max_keys);
}

}  // namespace loci::cuda
