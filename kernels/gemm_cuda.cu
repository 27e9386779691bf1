#include <algorithm>

#include "kernels/cuda.h"
#include "kernels/cuda_mma.h"
#include "kernels/cuda_products.h"
#include "kernels/cuda_reduce.h"

// Products go to the vendor's library; here is what surrounds them: operands in bf16, biases and activations that the
// library may take into the product, and what to do where it does not.
namespace loci::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroup = 8;                        // elements of a bf16 row that are written at once, 16 bytes
constexpr int kGroups = 4;                       // of them per thread, all loads issued before the first use
constexpr int kSpan = kWarp * kGroup * kGroups;  // columns of one row that a warp converts

/// Eight elements of a row from `column` on; zeros behind its end.
template <bool wide_rows>
__device__ void load_group(const float* row, int64_t column, int64_t cols, float* group) {
  if (wide_rows) {
    for (int half = 0; half < 2; ++half) {
      const int64_t at = column + 4 * half;
      const float4 four = at < cols ? *reinterpret_cast<const float4*>(row + at) : make_float4(0, 0, 0, 0);
      group[4 * half] = four.x;
      group[4 * half + 1] = four.y;
      group[4 * half + 2] = four.z;
      group[4 * half + 3] = four.w;
    }
  } else {
    for (int i = 0; i < kGroup; ++i) group[i] = column + i < cols ? row[column + i] : 0.0f;
  }
}

/// copy[r, :] = x[r, :] in bf16 with zeros up to `stride`, a multiple of 8. A warp takes kSpan columns of a row.
template <bool wide_rows>
__global__ void convert_kernel(ConstView x, uint16_t* copy, int64_t stride, unsigned spans) {
  const unsigned unit = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const int64_t r = unit / spans;
  if (r >= x.rows) return;
  const int64_t first = int64_t{unit % spans} * kSpan + threadIdx.x % kWarp * kGroup;
  const float* row = x.data + r * x.stride;
  float groups[kGroups][kGroup];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) load_group<wide_rows>(row, first + g * kWarp * kGroup, x.cols, groups[g]);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t column = first + g * kWarp * kGroup;
    if (column >= stride) return;
    uint4 packed;
    packed.x = Bf16::rounded(groups[g][0], groups[g][1]);
    packed.y = Bf16::rounded(groups[g][2], groups[g][3]);
    packed.z = Bf16::rounded(groups[g][4], groups[g][5]);
    packed.w = Bf16::rounded(groups[g][6], groups[g][7]);
    *reinterpret_cast<uint4*>(copy + r * stride + column) = packed;
  }
}

int64_t bf16_stride(int64_t cols) { return (cols + kGroup - 1) / kGroup * kGroup; }

/// [rows, bf16_stride(cols)]
DeviceArray<uint16_t> to_bf16(Context& context, ConstView x) {
  const int64_t stride = bf16_stride(x.cols);
  DeviceArray<uint16_t> copy(context, x.rows * stride);
  const unsigned spans = blocks_for(stride, kSpan);
  launch(context, {.op = "conversion to bf16", .grid = blocks_for(x.rows * spans, kWarps), .threads = kThreads},
         wide(x) ? convert_kernel<true> : convert_kernel<false>, x, copy.data(), stride, spans);
  return copy;
}

/// y[r, :] = row, or 0 where there is none. A thread takes one column of several rows.
__global__ void fill_rows_kernel(const float* row, View y, int64_t rows_per_block) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= y.cols) return;
  const float value = row ? row[column] : 0.0f;
  const int64_t first = blockIdx.x * rows_per_block;
  const int64_t end = min(first + rows_per_block, y.rows);
  for (int64_t r = first; r < end; ++r) y.data[r * y.stride + column] = value;
}

void fill_rows(Context& context, const float* row, View y) {
  constexpr int64_t kRowsPerBlock = 8;
  launch(context,
         {.op = "fill_rows",
          .grid = {blocks_for(y.rows, kRowsPerBlock), blocks_for(y.cols, kThreads)},
          .threads = kThreads},
         fill_rows_kernel, row, y, kRowsPerBlock);
}

/// c = a b in the context's precision. The operands must live until the product is issued.
vendor::Product product_of(const Operand& a, const Operand& b, int64_t k, View c) {
  return {.m = c.rows,
          .n = c.cols,
          .k = k,
          .a = a.data,
          .lda = a.stride,
          .b = b.data,
          .ldb = b.stride,
          .c = c.data,
          .ldc = std::max(c.stride, c.cols)};
}

/// y = x w + bias by a product with the bias in it, or onto rows that hold the bias already.
void multiply_onto_bias(Context& context, vendor::Product product, const float* bias, View y) {
  product.epilogue = vendor::Epilogue::bias;
  product.bias = bias;
  if (vendor::multiply(context, product)) return;
  fill_rows(context, bias, y);
  product.epilogue = vendor::Epilogue::none;
  product.beta = 1;
  vendor::multiply(context, product);
}

/// The epilogue that is as good as the activation in this precision. In fp32 the library's tanh is not; where the
/// operands are rounded to 2^-11 or worse it is. Its ReLU is not documented to keep NaN.
vendor::Epilogue fused_activation(Precision precision, Activation kind, bool keeps_up) {
  using enum vendor::Epilogue;
  if (kind == Activation::gelu_new && precision != Precision::fp32) return keeps_up ? gelu_aux_bias : gelu_bias;
  return none;
}

/// The whole of linear_activation() in one product; false, with nothing written, where that cannot be.
bool multiply_into_activation(Context& context, vendor::Product product, const float* bias, Activation kind, View up) {
  product.epilogue = fused_activation(context.precision(), kind, !up.empty());
  if (product.epilogue == vendor::Epilogue::none) return false;
  product.bias = bias;
  product.aux = up.data;
  product.ld_aux = std::max(up.stride, up.cols);
  return vendor::multiply(context, product);
}

}  // namespace

Operand make_operand(Context& context, ConstView view) {
  if (context.precision() != Precision::bf16) return {view.data, std::max(view.stride, view.cols), {}};
  if (ConstantOperands::Matrix* const constant = ConstantOperands::find(context, view)) {
    const ConstView& whole = constant->view;
    if (constant->bf16.empty()) constant->bf16 = to_bf16(context, whole);
    const int64_t row = (view.data - whole.data) / whole.stride, column = (view.data - whole.data) % whole.stride;
    const int64_t stride = bf16_stride(whole.cols);
    return {constant->bf16.data() + row * stride + column, stride, {}};
  }
  Operand operand{nullptr, bf16_stride(view.cols), to_bf16(context, view)};
  operand.data = operand.copy.data();
  return operand;
}

void gemm(Context& context, Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, View c, Write write,
          float alpha) {
  const int64_t k = transpose_a == Transpose::no ? a.cols : a.rows;
  if (k == 0) {
    if (write == Write::assign) fill_rows(context, nullptr, c);
    return;
  }
  const Operand left = make_operand(context, a), right = make_operand(context, b);
  vendor::Product product = product_of(left, right, k, c);
  product.transpose_a = transpose_a;
  product.transpose_b = transpose_b;
  product.alpha = alpha;
  product.beta = write == Write::assign ? 0.0f : 1.0f;
  vendor::multiply(context, product);
}

void linear(Context& context, ConstView x, ConstView w, ConstView bias, View y) {
  if (w.rows == 0) return fill_rows(context, bias.data, y);
  const Operand left = make_operand(context, x), right = make_operand(context, w);
  multiply_onto_bias(context, product_of(left, right, w.rows, y), bias.data, y);
}

void linear_activation(Context& context, ConstView x, ConstView w, ConstView bias, Activation kind, View up, View y) {
  const View sum = up.empty() ? y : up;
  if (w.rows == 0) {
    fill_rows(context, bias.data, sum);
  } else {
    const Operand left = make_operand(context, x), right = make_operand(context, w);
    if (multiply_into_activation(context, product_of(left, right, w.rows, y), bias.data, kind, up)) return;
    multiply_onto_bias(context, product_of(left, right, w.rows, sum), bias.data, sum);
  }
  cuda::activation(context, kind, sum, y);
}

}  // namespace loci::cuda
