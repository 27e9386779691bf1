#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace loci {

/// Keys and values of consecutive positions that a sequence sees in full: rows of a recorded base. Device memory.
struct AttentionSegment {
  const float* keys;    ///< [count, d] with row stride `stride`
  const float* values;  ///< [count, d] with row stride `stride`
  int64_t stride;
  int64_t count;
};

/// One sequence of a ragged batch. Its query rows are first_query .. first_query + queries - 1; query i sees all of its
/// segments and the first visible_0 + i of its own keys, rows first_key .. first_key + keys - 1.
struct AttentionSequence {
  int64_t first_query;
  int64_t queries;
  int64_t first_key;
  int64_t keys;
  int64_t visible_0;  ///< own keys that the first query sees (1 where the queries start at the first own row)
  int64_t first_segment;
  int64_t segments;
};

/// A ragged batch; the arrays are in device memory.
struct AttentionBatch {
  DeviceArray<AttentionSequence> sequences;
  DeviceArray<AttentionSegment> segments;
  int64_t queries = 0;      ///< in all
  int64_t max_keys = 0;     ///< of one sequence, segments included
  int64_t max_queries = 0;  ///< of one sequence; 0: not known, which makes a GPU look for them
};

/// output[q] = sum_j softmax_j(scale * query[q] . key[j]) value[j] for each head.   (Vaswani et al. 2017, eq. 1)
/// queries, output [batch.queries, d]; keys, values [rows, d]: the sequences' own rows; d = heads * head width.
/// log_sums [batch.queries, heads], saved for the backward pass, may be empty. Throws ShapeError before any write; on a
/// GPU what the batch's arrays say is not checked.
void attention(Context& context, const AttentionBatch& batch, int64_t heads, float scale, ConstView queries,
               ConstView keys, ConstView values, View output, View log_sums);

/// The backward pass: query_gradients = ..., key_gradients += ..., value_gradients += ... for the own rows; segments
/// are constants. `output` and `log_sums` are those of the forward pass.
void attention_backward(Context& context, const AttentionBatch& batch, int64_t heads, float scale, ConstView queries,
                        ConstView keys, ConstView values, ConstView output, ConstView log_sums,
                        ConstView output_gradients, View query_gradients, View key_gradients, View value_gradients);

}  // namespace loci
