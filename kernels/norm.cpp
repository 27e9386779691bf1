#include "kernels/norm.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {
namespace {

void require_shapes(const char* op, ConstView x, ConstView gain, ConstView bias, ConstView y, ConstView statistics) {
  require_valid(op, "x", x);
  require_shape(op, "gain", gain, 1, x.cols);
  if (!bias.empty()) require_shape(op, "bias", bias, 1, x.cols);
  require_shape(op, "y", y, x.rows, x.cols);
  if (!statistics.empty()) require_shape(op, "statistics", statistics, x.rows, 2);
}

}  // namespace

void normalise(Context& context, Norm norm, ConstView x, ConstView gain, ConstView bias, float epsilon, View y,
               View statistics) {
  require_shapes("normalise", x, gain, bias, y, statistics);
  (context.on_cpu() ? cpu::normalise : cuda::normalise)(context, norm, x, gain, bias, epsilon, y, statistics);
}

void add_normalise(Context& context, Norm norm, ConstView update, View x, ConstView gain, ConstView bias, float epsilon,
                   View y, View statistics) {
  require_shapes("add_normalise", x, gain, bias, y, statistics);
  require_shape("add_normalise", "update", update, x.rows, x.cols);
  (context.on_cpu() ? cpu::add_normalise : cuda::add_normalise)(context, norm, update, x, gain, bias, epsilon, y,
                                                                statistics);
}

void normalise_backward(Context& context, Norm norm, ConstView x, ConstView gain, ConstView statistics, ConstView dy,
                        View dx, Write write, View dgain, View dbias) {
  require_valid("normalise_backward", "x", x);
  require_shape("normalise_backward", "gain", gain, 1, x.cols);
  require_shape("normalise_backward", "statistics", statistics, x.rows, 2);
  require_shape("normalise_backward", "dy", dy, x.rows, x.cols);
  require_shape("normalise_backward", "dx", dx, x.rows, x.cols);
  if (!dgain.empty()) require_shape("normalise_backward", "dgain", dgain, 1, x.cols);
  if (!dbias.empty()) require_shape("normalise_backward", "dbias", dbias, 1, x.cols);
  (context.on_cpu() ? cpu::normalise_backward : cuda::normalise_backward)(context, norm, x, gain, statistics, dy, dx,
                                                                          write, dgain, dbias);
}

}  // namespace loci
