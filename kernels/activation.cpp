#include "kernels/activation.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void activation(Context& context, Activation kind, ConstView x, View y) {
  require_valid("activation", "x", x);
  require_shape("activation", "y", y, x.rows, x.cols);
  (context.on_cpu() ? cpu::activation : cuda::activation)(context, kind, x, y);
}

void activation_backward(Context& context, Activation kind, ConstView x, ConstView dy, View dx) {
  require_valid("activation_backward", "x", x);
  require_shape("activation_backward", "dy", dy, x.rows, x.cols);
  require_shape("activation_backward", "dx", dx, x.rows, x.cols);
  (context.on_cpu() ? cpu::activation_backward : cuda::activation_backward)(context, kind, x, dy, dx);
}

}  // namespace loci
