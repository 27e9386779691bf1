#include "kernels/adam.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void adam_step(Context& context, const AdamOptions& options, int64_t step, ConstView gradient, float gradient_scale,
               View x, View first, View second) {
  require_valid("adam_step", "x", x);
  require_shape("adam_step", "gradient", gradient, x.rows, x.cols);
  require_shape("adam_step", "first", first, x.rows, x.cols);
  require_shape("adam_step", "second", second, x.rows, x.cols);
  require<ShapeError>(step >= 1, "adam_step: step is {}, the first one is 1", step);
  (context.on_cpu() ? cpu::adam_step : cuda::adam_step)(context, options, step, gradient, gradient_scale, x, first,
                                                        second);
}

double sum_of_squares(Context& context, ConstView x) {
  require_valid("sum_of_squares", "x", x);
  return (context.on_cpu() ? cpu::sum_of_squares : cuda::sum_of_squares)(context, x);
}

void clamp_row_norms(Context& context, ConstView limits, View x) {
  require_valid("clamp_row_norms", "x", x);
  require_shape("clamp_row_norms", "limits", limits, x.rows, 1);
  (context.on_cpu() ? cpu::clamp_row_norms : cuda::clamp_row_norms)(context, limits, x);
}

}  // namespace loci
