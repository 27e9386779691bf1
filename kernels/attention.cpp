#include "kernels/attention.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {
namespace {

void require_inputs(const char* op, const AttentionBatch& batch, const AttentionShape& shape,
                    const AttentionInputs& inputs) {
  const int64_t columns = inputs.queries.cols;
  require_shape(op, "queries", inputs.queries, batch.queries, columns);
  require<ShapeError>(shape.heads > 0 && columns % shape.heads == 0, "{}: {} columns do not divide into {} heads", op,
                      columns, shape.heads);
  require<ShapeError>(shape.key_heads > 0 && shape.heads % shape.key_heads == 0,
                      "{}: {} heads cannot share {} key heads equally", op, shape.heads, shape.key_heads);
  const int64_t key_columns = columns / shape.group();
  require_shape(op, "keys", inputs.keys, inputs.keys.rows, key_columns);
  require_shape(op, "values", inputs.values, inputs.keys.rows, key_columns);
}

template <typename T>
void require_like(const char* op, const char* name, const MatrixView<T>& view, ConstView like) {
  require_shape(op, name, view, like.rows, like.cols);
}

}  // namespace

void attention(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
               const AttentionInputs& inputs, View output, View log_sums) {
  require_inputs("attention", batch, shape, inputs);
  require_like("attention", "output", output, inputs.queries);
  if (!log_sums.empty()) require_shape("attention", "log_sums", log_sums, batch.queries, shape.heads);
  (context.on_cpu() ? cpu::attention : cuda::attention)(context, batch, shape, inputs, output, log_sums);
}

void attention_backward(Context& context, const AttentionBatch& batch, const AttentionShape& shape,
                        const AttentionInputs& inputs, ConstView output, ConstView log_sums, ConstView output_gradients,
                        const AttentionGradients& gradients) {
  const char* op = "attention_backward";
  require_inputs(op, batch, shape, inputs);
  require_like(op, "output", output, inputs.queries);
  require_shape(op, "log_sums", log_sums, batch.queries, shape.heads);
  require_like(op, "output_gradients", output_gradients, inputs.queries);
  require_like(op, "query_gradients", gradients.queries, inputs.queries);
  require_like(op, "key_gradients", gradients.keys, inputs.keys);
  require_like(op, "value_gradients", gradients.values, inputs.keys);
  (context.on_cpu() ? cpu::attention_backward : cuda::attention_backward)(context, batch, shape, inputs, output,
                                                                          log_sums, output_gradients, gradients);
}

}  // namespace loci
