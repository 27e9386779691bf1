#include "kernels/softmax.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "runtime/error.h"

namespace loci {

void log_sum_exp(Context& context, ConstView logits, View log_sum) {
  require_valid("log_sum_exp", "logits", logits);
  require_shape("log_sum_exp", "log_sum", log_sum, logits.rows, 1);
  (context.on_cpu() ? cpu::log_sum_exp : cuda::log_sum_exp)(context, logits, log_sum);
}

void softmax(Context& context, ConstView logits, View probabilities) {
  require_valid("softmax", "logits", logits);
  require_shape("softmax", "probabilities", probabilities, logits.rows, logits.cols);
  (context.on_cpu() ? cpu::softmax : cuda::softmax)(context, logits, probabilities);
}

void target_log_probabilities(Context& context, ConstView logits, const DeviceArray<int64_t>& rows,
                              const DeviceArray<int32_t>& targets, View log_probabilities) {
  require_valid("target_log_probabilities", "logits", logits);
  require_size("target_log_probabilities", "targets", targets.size(), rows.size());
  require_shape("target_log_probabilities", "log_probabilities", log_probabilities, rows.size(), 1);
  (context.on_cpu() ? cpu::target_log_probabilities : cuda::target_log_probabilities)(context, logits, rows, targets,
                                                                                      log_probabilities);
}

void argmax_rows(Context& context, ConstView logits, DeviceArray<int32_t>& best) {
  require_valid("argmax_rows", "logits", logits);
  require_size("argmax_rows", "best", best.size(), logits.rows);
  require<ShapeError>(logits.rows == 0 || logits.cols > 0, "argmax_rows: logits has no columns");
  (context.on_cpu() ? cpu::argmax_rows : cuda::argmax_rows)(context, logits, best);
}

void cross_entropy(Context& context, ConstView logits, const DeviceArray<int32_t>& targets,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write, float smoothing) {
  require_valid("cross_entropy", "logits", logits);
  require<ShapeError>(smoothing >= 0 && smoothing <= 1 && (smoothing == 0 || logits.cols > 1),
                      "cross_entropy: smoothing {} for {} columns", smoothing, logits.cols);
  require_size("cross_entropy", "targets", targets.size(), logits.rows);
  require_size("cross_entropy", "weights", weights.size(), logits.rows);
  require_shape("cross_entropy", "losses", losses, logits.rows, 1);
  require_shape("cross_entropy", "dlogits", dlogits, logits.rows, logits.cols);
  (context.on_cpu() ? cpu::cross_entropy : cuda::cross_entropy)(context, logits, targets, weights, losses, dlogits,
                                                                write, smoothing);
}

void kl_divergence(Context& context, ConstView logits, ConstView reference_log_probabilities,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write) {
  require_valid("kl_divergence", "logits", logits);
  require_shape("kl_divergence", "reference_log_probabilities", reference_log_probabilities, logits.rows, logits.cols);
  require_size("kl_divergence", "weights", weights.size(), logits.rows);
  require_shape("kl_divergence", "losses", losses, logits.rows, 1);
  require_shape("kl_divergence", "dlogits", dlogits, logits.rows, logits.cols);
  (context.on_cpu() ? cpu::kl_divergence : cuda::kl_divergence)(context, logits, reference_log_probabilities, weights,
                                                                losses, dlogits, write);
}

void log_softmax(Context& context, ConstView logits, View log_probabilities) {
  require_valid("log_softmax", "logits", logits);
  require_shape("log_softmax", "log_probabilities", log_probabilities, logits.rows, logits.cols);
  (context.on_cpu() ? cpu::log_softmax : cuda::log_softmax)(context, logits, log_probabilities);
}

}  // namespace loci
