#include "kernels/gemm.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void gemm(Context& context, Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, View c, Write write,
          float alpha) {
  const int64_t k = transpose_a == Transpose::no ? a.cols : a.rows;
  require_valid("gemm", "c", c);
  if (transpose_a == Transpose::no)
    require_shape("gemm", "a", a, c.rows, k);
  else
    require_shape("gemm", "a (transposed)", a, k, c.rows);
  if (transpose_b == Transpose::no)
    require_shape("gemm", "b", b, k, c.cols);
  else
    require_shape("gemm", "b (transposed)", b, c.cols, k);
  if (c.empty()) return;
  (context.on_cpu() ? cpu::gemm : cuda::gemm)(context, transpose_a, a, transpose_b, b, c, write, alpha);
}

namespace {

void require_linear(const char* op, ConstView x, ConstView w, ConstView bias, View y) {
  require_valid(op, "w", w);
  require_shape(op, "x", x, x.rows, w.rows);
  require_shape(op, "bias", bias, 1, w.cols);
  require_shape(op, "y", y, x.rows, w.cols);
}

}  // namespace

void linear(Context& context, ConstView x, ConstView w, ConstView bias, View y) {
  require_linear("linear", x, w, bias, y);
  if (y.empty()) return;
  (context.on_cpu() ? cpu::linear : cuda::linear)(context, x, w, bias, y);
}

void linear_activation(Context& context, ConstView x, ConstView w, ConstView bias, Activation kind, View up, View y) {
  require_linear("linear_activation", x, w, bias, y);
  if (!up.empty()) require_shape("linear_activation", "up", up, y.rows, y.cols);
  if (y.empty()) return;
  (context.on_cpu() ? cpu::linear_activation : cuda::linear_activation)(context, x, w, bias, kind, up, y);
}

}  // namespace loci
