#include "kernels/layer_norm.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void layer_norm(Context& context, ConstView x, ConstView gain, ConstView bias, float epsilon, View y, View statistics) {
  require_valid("layer_norm", "x", x);
  require_shape("layer_norm", "gain", gain, 1, x.cols);
  require_shape("layer_norm", "bias", bias, 1, x.cols);
  require_shape("layer_norm", "y", y, x.rows, x.cols);
  if (!statistics.empty()) require_shape("layer_norm", "statistics", statistics, x.rows, 2);
  (context.on_cpu() ? cpu::layer_norm : cuda::layer_norm)(context, x, gain, bias, epsilon, y, statistics);
}

void add_layer_norm(Context& context, ConstView update, View x, ConstView gain, ConstView bias, float epsilon, View y,
                    View statistics) {
  require_valid("add_layer_norm", "x", x);
  require_shape("add_layer_norm", "update", update, x.rows, x.cols);
  require_shape("add_layer_norm", "gain", gain, 1, x.cols);
  require_shape("add_layer_norm", "bias", bias, 1, x.cols);
  require_shape("add_layer_norm", "y", y, x.rows, x.cols);
  if (!statistics.empty()) require_shape("add_layer_norm", "statistics", statistics, x.rows, 2);
  (context.on_cpu() ? cpu::add_layer_norm : cuda::add_layer_norm)(context, update, x, gain, bias, epsilon, y,
                                                                  statistics);
}

void layer_norm_backward(Context& context, ConstView x, ConstView gain, ConstView statistics, ConstView dy, View dx,
                         Write write, View dgain, View dbias) {
  require_valid("layer_norm_backward", "x", x);
  require_shape("layer_norm_backward", "gain", gain, 1, x.cols);
  require_shape("layer_norm_backward", "statistics", statistics, x.rows, 2);
  require_shape("layer_norm_backward", "dy", dy, x.rows, x.cols);
  require_shape("layer_norm_backward", "dx", dx, x.rows, x.cols);
  if (!dgain.empty()) require_shape("layer_norm_backward", "dgain", dgain, 1, x.cols);
  if (!dbias.empty()) require_shape("layer_norm_backward", "dbias", dbias, 1, x.cols);
  (context.on_cpu() ? cpu::layer_norm_backward : cuda::layer_norm_backward)(context, x, gain, statistics, dy, dx, write,
                                                                            dgain, dbias);
}

}  // namespace loci
