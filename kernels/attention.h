#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace loci {

/// How columns divide into heads. Query head h reads key head h / (heads / key_heads).
struct AttentionShape {
  int64_t heads;      ///< of queries and outputs
  int64_t key_heads;  ///< of keys and values; divides `heads`
  float scale;        ///< of the scores

  /// Query heads that read the same key head.
  int64_t group() const { return heads / key_heads; }
};

/// queries [batch.queries, heads * w]; keys, values [rows, key_heads * w], the sequences' own rows; w is a head's
/// width.
struct AttentionInputs {
  ConstView queries, keys, values;
};

/// Gradients of AttentionInputs, with the same shapes.
struct AttentionGradients {
  View queries, keys, values;
};

/// Keys and values of consecutive positions that a sequence sees in full: rows of a recorded base. Device memory.
struct AttentionSegment {
  const float* keys;    ///< [count, key_heads * w] with row stride `stride`
  const float* values;  ///< likewise
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

/// output[q] = sum_j softmax_j(scale * query[q] . key[j]) value[j] for each head.   (Vaswani et al. 2017, eq. 1; with
/// fewer key heads than heads Ainslie et al. 2023)
/// output [batch.queries, heads * w]. log_sums [batch.queries, heads], saved for the backward pass, may be empty.
/// Throws ShapeError before any write; on a GPU what the batch's arrays say is not checked.
void attention(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
               const AttentionInputs& inputs, View output, View log_sums);

/// The backward pass: gradients.queries = ..., gradients.keys += ..., gradients.values += ... for the own rows;
/// segments are constants. A key head gets the sum over the query heads that read it, in their order. `output` and
/// `log_sums` are those of the forward pass.
void attention_backward(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
                        const AttentionInputs& inputs, ConstView output, ConstView log_sums, ConstView output_gradients,
                        const AttentionGradients& gradients);

}  // namespace loci
