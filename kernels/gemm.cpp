#include "kernels/gemm.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {
namespace {

void count(Context& context, View product, int64_t summed) {
  context.count_matrix_flop(
      gemm_flop(static_cast<double>(product.rows), static_cast<double>(product.cols), static_cast<double>(summed)));
}

}  // namespace

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
  count(context, c, k);
  (context.on_cpu() ? cpu::gemm : cuda::gemm)(context, transpose_a, a, transpose_b, b, c, write, alpha);
}

namespace {

// The shapes of y = x W + bias.
template <typename X, typename Y>
void require_linear(const char* op, const MatrixView<X>& x, const WeightView& w, const MatrixView<Y>& y) {
  require_stored(op, "w", w.stored());
  require_shape(op, "x", x, x.rows, w.in);
  require_shape(op, "y", y, x.rows, w.out);
}

void require_bias(const char* op, ConstView bias, const WeightView& w) {
  if (!bias.empty()) require_shape(op, "bias", bias, 1, w.out);
}

}  // namespace

void linear(Context& context, ConstView x, const WeightView& w, ConstView bias, View y) {
  require_linear("linear", x, w, y);
  require_bias("linear", bias, w);
  if (y.empty()) return;
  count(context, y, x.cols);
  (context.on_cpu() ? cpu::linear : cuda::linear)(context, x, w, bias, y);
}

void linear_activation(Context& context, ConstView x, const WeightView& w, ConstView bias, Activation kind, View up,
                       View y) {
  require_linear("linear_activation", x, w, y);
  require_bias("linear_activation", bias, w);
  if (!up.empty()) require_shape("linear_activation", "up", up, y.rows, y.cols);
  if (y.empty()) return;
  count(context, y, x.cols);
  (context.on_cpu() ? cpu::linear_activation : cuda::linear_activation)(context, x, w, bias, kind, up, y);
}

void linear_backward(Context& context, ConstView dy, const WeightView& w, View dx, Write write) {
  require_linear("linear_backward", dx, w, dy);
  if (dx.empty()) return;
  count(context, dx, dy.cols);
  (context.on_cpu() ? cpu::linear_backward : cuda::linear_backward)(context, dy, w, dx, write);
}

void prepare_products(Context& context) {
  if (context.on_cpu()) cpu::prepare_products();
}

ConstantOperands::ConstantOperands(Context& context, std::span<const StoredView> matrices) : context_(context) {
  for (const StoredView& view : matrices)
    if (!view.empty()) matrices_.try_emplace(view.data, Matrix{view, {}, {}});
  context_.constant_operands().push_back(this);
}

ConstantOperands::ConstantOperands(Context& context, std::span<const ConstView> matrices)
    : ConstantOperands(context, std::vector<StoredView>(matrices.begin(), matrices.end())) {}

ConstantOperands::~ConstantOperands() { std::erase(context_.constant_operands(), this); }

ConstantOperands::Matrix* ConstantOperands::find(Context& context, const StoredView& view) {
  for (ConstantOperands* const promise : context.constant_operands())
    if (Matrix* const matrix = promise->find_own(view)) return matrix;
  return nullptr;
}

int64_t ConstantOperands::transposed_bytes(Context& context) {
  int64_t bytes = 0;
  for (const ConstantOperands* const promise : context.constant_operands())
    for (const auto& [data, matrix] : promise->matrices_)
      bytes += static_cast<int64_t>(sizeof(float)) * matrix.transposed.rows() * matrix.transposed.cols();
  return bytes;
}

ConstantOperands::Matrix* ConstantOperands::find_own(const StoredView& view) {
  const auto behind = matrices_.upper_bound(view.data);
  if (behind == matrices_.begin()) return nullptr;
  Matrix& matrix = std::prev(behind)->second;
  const StoredView& whole = matrix.view;
  const int64_t stride = std::max(whole.stride, whole.cols);
  const int64_t bytes = static_cast<const char*>(view.data) - static_cast<const char*>(whole.data);
  const int64_t offset = bytes / stored_bytes(whole.type);
  const bool inside = offset / stride + view.rows <= whole.rows && offset % stride + view.cols <= whole.cols;
  return view.type == whole.type && inside && (view.rows <= 1 || view.stride == whole.stride) ? &matrix : nullptr;
}

}  // namespace loci
