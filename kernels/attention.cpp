#include "kernels/attention.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {
namespace {

void require_inputs(const char* op, const AttentionBatch& batch, int64_t heads, ConstView queries, ConstView keys,
                    ConstView values) {
  require_shape(op, "queries", queries, batch.queries, queries.cols);
  require<ShapeError>(heads > 0 && queries.cols % heads == 0, "{}: {} columns do not divide into {} heads", op,
                      queries.cols, heads);
  require_shape(op, "keys", keys, keys.rows, queries.cols);
  require_shape(op, "values", values, keys.rows, queries.cols);
}

}  // namespace

void attention(Context& context, const AttentionBatch& batch, int64_t heads, float scale, ConstView queries,
               ConstView keys, ConstView values, View output, View log_sums) {
  require_inputs("attention", batch, heads, queries, keys, values);
  require_shape("attention", "output", output, batch.queries, queries.cols);
  if (!log_sums.empty()) require_shape("attention", "log_sums", log_sums, batch.queries, heads);
  (context.on_cpu() ? cpu::attention : cuda::attention)(context, batch, heads, scale, queries, keys, values, output,
                                                        log_sums);
}

void attention_backward(Context& context, const AttentionBatch& batch, int64_t heads, float scale, ConstView queries,
                        ConstView keys, ConstView values, ConstView output, ConstView log_sums,
                        ConstView output_gradients, View query_gradients, View key_gradients, View value_gradients) {
  const char* op = "attention_backward";
  require_inputs(op, batch, heads, queries, keys, values);
  require_shape(op, "output", output, batch.queries, queries.cols);
  require_shape(op, "log_sums", log_sums, batch.queries, heads);
  require_shape(op, "output_gradients", output_gradients, batch.queries, queries.cols);
  require_shape(op, "query_gradients", query_gradients, batch.queries, queries.cols);
  require_shape(op, "key_gradients", key_gradients, keys.rows, queries.cols);
  require_shape(op, "value_gradients", value_gradients, keys.rows, queries.cols);
  (context.on_cpu() ? cpu::attention_backward : cuda::attention_backward)(
      context, batch, heads, scale, queries, keys, values, output, log_sums, output_gradients, query_gradients,
      key_gradients, value_gradients);
}

}  // namespace loci
