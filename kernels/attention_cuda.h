#pragma once

#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"

/// What the attention kernels share. For attention*_cuda.cu only.
namespace loci::cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

template <typename T>
struct AttentionRows {
  T* data = nullptr;
  int64_t stride = 0;

  AttentionRows() = default;
  AttentionRows(const MatrixView<T>& view) : data(view.data), stride(view.stride) {}
  __device__ T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

/// What all blocks of a launch share; a kernel's parameter.
struct AttentionJob {
  const AttentionSequence* sequences;
  const AttentionSegment* segments;
  unsigned sequence_count;
  unsigned heads;      ///< of queries
  unsigned key_heads;  ///< of keys and values
  unsigned group;      ///< query heads of a key head
  int width;           ///< of a head
  float scale;
  int least_queries;  ///< sequences with fewer queries are another launch's work
  int most_queries;   ///< and those with more
  AttentionRows<const float> queries, keys, values;
  AttentionRows<float> output, log_sums;

  AttentionJob(const AttentionBatch& batch, const AttentionShape& shape, const AttentionInputs& inputs)
      : sequences(batch.sequences.data()),
        segments(batch.segments.data()),
        sequence_count(static_cast<unsigned>(batch.sequences.size())),
        heads(static_cast<unsigned>(shape.heads)),
        key_heads(static_cast<unsigned>(shape.key_heads)),
        group(static_cast<unsigned>(shape.group())),
        width(static_cast<int>(inputs.queries.cols / shape.heads)),
        scale(shape.scale),
        least_queries(1),
        most_queries(INT32_MAX),
        queries(inputs.queries),
        keys(inputs.keys),
        values(inputs.values) {}

  __device__ int64_t column(int head) const { return static_cast<int64_t>(head) * width; }
  /// The first column of the keys and values that a query head reads.
  __device__ int64_t key_column(int head) const { return column(head / static_cast<int>(group)); }
};

struct AttentionBackwardJob : AttentionJob {
  AttentionRows<const float> saved_log_sums, output_gradients;
  AttentionRows<const float> projections;  ///< dO . O of each query and head
  AttentionRows<float> query_gradients, key_gradients, value_gradients;

  AttentionBackwardJob(const AttentionJob& job, const AttentionGradients& gradients)
      : AttentionJob(job),
        query_gradients(gradients.queries),
        key_gradients(gradients.keys),
        value_gradients(gradients.values) {}
};

/// Blocks or warps are numbered ((sequence * heads) + head) * tiles + tile, where the heads are those of the queries or
/// of the keys.
struct AttentionTile {
  unsigned sequence, head, tile;
};
__device__ inline AttentionTile attention_tile(unsigned number, unsigned tiles, unsigned heads) {
  const unsigned pair = number / tiles;
  return {pair / heads, pair % heads, number % tiles};
}

__device__ inline bool aligned_rows(const float* data, int64_t stride) {
  return (reinterpret_cast<uintptr_t>(data) % 16 | static_cast<uintptr_t>(stride) % 4) == 0;
}

/// Columns first .. first + 3 of a row of `width` columns, zero behind its end.
template <bool kWide>
__device__ float4 load_columns(const float* row, int first, int width) {
  float4 got = make_float4(0, 0, 0, 0);
  if (kWide) {
    if (first < width) got = *reinterpret_cast<const float4*>(row + first);
  } else {
    if (first < width) got.x = row[first];
    if (first + 1 < width) got.y = row[first + 1];
    if (first + 2 < width) got.z = row[first + 2];
    if (first + 3 < width) got.w = row[first + 3];
  }
  return got;
}
template <bool kWide>
__device__ void store_columns(float* row, int first, int width, float4 x) {
  if (kWide) {
    if (first < width) *reinterpret_cast<float4*>(row + first) = x;
  } else {
    if (first < width) row[first] = x.x;
    if (first + 1 < width) row[first + 1] = x.y;
    if (first + 2 < width) row[first + 2] = x.z;
    if (first + 3 < width) row[first + 3] = x.w;
  }
}

__device__ inline void add_scaled(float factor, float4 x, float4& y) {
  y.x = fmaf(factor, x.x, y.x);
  y.y = fmaf(factor, x.y, y.y);
  y.z = fmaf(factor, x.z, y.z);
  y.w = fmaf(factor, x.w, y.w);
}
__device__ inline float4 scaled(float factor, float4 x) {
  return make_float4(factor * x.x, factor * x.y, factor * x.z, factor * x.w);
}

/// P and dS of a query and a key: P = exp(scale s - log_sum), dS = scale P (dP - D). Zero for a key that is not seen.
struct BackwardWeights {
  float p, ds;
};
__device__ inline BackwardWeights backward_weights(bool sees, float score, float dp, float scale, float log_sum,
                                                   float projection) {
  const float p = exp2f((score * scale - log_sum) * kLog2E);
  return {sees ? p : 0.0f, sees ? scale * p * (dp - projection) : 0.0f};
}

struct KeyRow {
  const float* key;
  const float* value;
};

/// The keys of one sequence and head as its queries count them: those of the segments, then the own rows. `column` is
/// the key head's first one.
class KeyList {
 public:
  __device__ KeyList(const AttentionJob& job, const AttentionSequence& s, int64_t column)
      : segments_(job.segments + s.first_segment),
        own_{job.keys.at(s.first_key, column), job.values.at(s.first_key, column)},
        key_stride_(job.keys.stride),
        value_stride_(job.values.stride),
        column_(column) {
    bool wide = job.width % 4 == 0 && aligned_rows(own_.key, key_stride_) && aligned_rows(own_.value, value_stride_);
    int count = 0;
    for (int64_t i = 0; i < s.segments; ++i) {
      const AttentionSegment& segment = segments_[i];
      wide = wide && aligned_rows(segment.keys + column, segment.stride) &&
             aligned_rows(segment.values + column, segment.stride);
      count += static_cast<int>(segment.count);
    }
    segment_keys_ = count;
    wide_ = wide;
  }

  /// How many keys the segments hold.
  __device__ int segment_keys() const { return segment_keys_; }
  /// Whether every row can be read 16 bytes at a time.
  __device__ bool wide() const { return wide_; }

  __device__ KeyRow at(int key) const {
    if (key >= segment_keys_)
      return {own_.key + (key - segment_keys_) * key_stride_, own_.value + (key - segment_keys_) * value_stride_};
    const AttentionSegment* segment = segments_;
    int64_t left = key;
    while (left >= segment->count) left -= (segment++)->count;
    return {segment->keys + left * segment->stride + column_, segment->values + left * segment->stride + column_};
  }

 private:
  const AttentionSegment* segments_;
  KeyRow own_;
  int64_t key_stride_, value_stride_, column_;
  int segment_keys_;
  bool wide_;
};

/// An upper bound of the queries of one sequence.
inline int64_t most_queries(const AttentionBatch& batch) {
  return batch.max_queries > 0 ? batch.max_queries : std::min(batch.queries, batch.max_keys + 1);
}

/// Forward and backward pass over the sequences of at least `job.least_queries` queries, on the tensor cores
/// (attention_tiles_mma_cuda.cu) and in fp32 (attention_tiles_fp32_cuda.cu); false where no tiled kernel takes the head
/// width on this card, and nothing was issued.
bool tiled_attention_by_mma(Context& context, const AttentionJob& job, int64_t most_queries);
bool tiled_attention_in_fp32(Context& context, const AttentionJob& job, int64_t most_queries);
bool tiled_attention_backward_by_mma(Context& context, const AttentionBackwardJob& job, int64_t most_queries,
                                     int64_t most_keys);
bool tiled_attention_backward_in_fp32(Context& context, const AttentionBackwardJob& job, int64_t most_queries,
                                      int64_t most_keys);

}  // namespace loci::cuda
