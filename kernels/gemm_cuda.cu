#include <algorithm>

#include "kernels/cuda.h"
#include "kernels/cuda_mma.h"
#include "kernels/cuda_products.h"
#include "kernels/cuda_stored.h"

// Products go to the vendor's library; here is what surrounds them: operands in bf16, biases and activations that the
// library may take into the product, and what to do where it does not.
namespace loci::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGroup = 8;                        // elements of a row that are converted at once
constexpr int kGroups = 4;                       // of them per thread, all loads issued before the first use
constexpr int kSpan = kWarp * kGroup * kGroups;  // columns of one row that a warp converts

/// Eight elements of a row from `column` on; zeros behind its end.
template <bool wide_rows, typename Element>
__device__ void load_group(const Element* row, int64_t column, int64_t cols, float* group) {
  constexpr int kPerLoad = 16 / sizeof(Element);
  if (wide_rows) {
#pragma unroll
    for (int first = 0; first < kGroup; first += kPerLoad) {
      struct alignas(16) Loaded {
        Element at[kPerLoad];
      } loaded{};
      if (column + first < cols) loaded = *reinterpret_cast<const Loaded*>(row + column + first);
#pragma unroll
      for (int i = 0; i < kPerLoad; ++i) group[first + i] = in_fp32(loaded.at[i]);
    }
  } else {
    for (int i = 0; i < kGroup; ++i) group[i] = column + i < cols ? in_fp32(row[column + i]) : 0.0f;
  }
}

__device__ void store_group(const float* group, uint16_t* to) {
  uint4 packed;
  packed.x = Bf16::rounded(group[0], group[1]);
  packed.y = Bf16::rounded(group[2], group[3]);
  packed.z = Bf16::rounded(group[4], group[5]);
  packed.w = Bf16::rounded(group[6], group[7]);
  *reinterpret_cast<uint4*>(to) = packed;
}
__device__ void store_group(const float* group, float* to) {
  for (int half = 0; half < kGroup; half += 4)
    *reinterpret_cast<float4*>(to + half) = make_float4(group[half], group[half + 1], group[half + 2], group[half + 3]);
}

/// copy[r, :] = x[r, :] in bf16 or fp32 with zeros up to `stride`, a multiple of 8. A warp takes kSpan columns of a
/// row.
template <bool wide_rows, typename Element, typename To>
__global__ void convert_kernel(MatrixView<const Element> x, To* copy, int64_t stride, unsigned spans) {
  const unsigned unit = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const int64_t r = unit / spans;
  if (r >= x.rows) return;
  const int64_t first = int64_t{unit % spans} * kSpan + threadIdx.x % kWarp * kGroup;
  const Element* row = x.data + r * x.stride;
  float groups[kGroups][kGroup];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) load_group<wide_rows>(row, first + g * kWarp * kGroup, x.cols, groups[g]);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t column = first + g * kWarp * kGroup;
    if (column >= stride) return;
    store_group(groups[g], copy + r * stride + column);
  }
}

int64_t converted_stride(int64_t cols) { return (cols + kGroup - 1) / kGroup * kGroup; }

/// [rows, converted_stride(cols)], in bf16 (uint16_t) or fp32.
template <typename To>
DeviceArray<To> converted(Context& context, const StoredView& x) {
  const int64_t stride = converted_stride(x.cols);
  DeviceArray<To> copy(context, x.rows * stride);
  const unsigned spans = blocks_for(stride, kSpan);
  visit_matrix(x, [&]<typename Element>(MatrixView<const Element> elements) {
    launch(context, {.op = "conversion", .grid = blocks_for(x.rows * spans, kWarps), .threads = kThreads},
           wide(elements) ? convert_kernel<true, Element, To> : convert_kernel<false, Element, To>, elements,
           copy.data(), stride, spans);
  });
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

/// c = a op(b) in the context's precision. The operands must live until the product is issued.
vendor::Product product_of(const Operand& a, const Operand& b, Transpose transpose_b, int64_t k, View c) {
  return {.transpose_b = transpose_b,
          .m = c.rows,
          .n = c.cols,
          .k = k,
          .a = a.data,
          .lda = a.stride,
          .b = b.data,
          .ldb = b.stride,
          .c = c.data,
          .ldc = std::max(c.stride, c.cols)};
}

/// y = x w + bias, or x w where there is none, by a product with the bias in it, or onto rows that hold the bias
/// already.
void multiply_onto_bias(Context& context, vendor::Product product, const float* bias, View y) {
  product.epilogue = bias ? vendor::Epilogue::bias : vendor::Epilogue::none;
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
  if (product.epilogue == vendor::Epilogue::none || !bias) return false;
  product.bias = bias;
  product.aux = up.data;
  product.ld_aux = std::max(up.stride, up.cols);
  return vendor::multiply(context, product);
}

/// The second operand op(b) of a product whose results have `cols` columns.
struct SecondFactor {
  StoredView matrix;
  Transpose transpose;
  int64_t cols;

  SecondFactor columns(int64_t first, int64_t count) const {
    return {transpose == Transpose::no ? matrix.cols_slice(first, count) : matrix.rows_slice(first, count), transpose,
            count};
  }
};
SecondFactor factor_of(const WeightView& w) {
  return {w.stored(), w.orientation == Orientation::in_out ? Transpose::no : Transpose::yes, w.out};
}
SecondFactor transposed_factor_of(const WeightView& w) {
  return {w.stored(), w.orientation == Orientation::in_out ? Transpose::yes : Transpose::no, w.in};
}

/// What weights that must become fp32 may take at a time: large enough for products at full speed.
int64_t converted_bytes(const Context& context) { return std::min(int64_t{64} << 20, context.memory_budget() / 8); }

/// Calls part(factor, first) for parts of the factor's columns that together are all of it: one where products read it
/// as it is or in bf16, else as many as keep what is converted small.
template <typename Part>
void over_parts(Context& context, const SecondFactor& whole, const Part& part) {
  constexpr int64_t kUnit = 64;
  int64_t most = whole.cols;
  if (whole.matrix.type != StoredType::fp32 && context.precision() != Precision::bf16) {
    const int64_t column_bytes =
        static_cast<int64_t>(sizeof(float)) * whole.matrix.rows * whole.matrix.cols / whole.cols;
    most = std::max<int64_t>(1, converted_bytes(context) / column_bytes / kUnit) * kUnit;
  }
  for (int64_t first = 0; first < whole.cols; first += most)
    part(whole.columns(first, std::min(most, whole.cols - first)), first);
}

}  // namespace

Operand make_operand(Context& context, const StoredView& view) {
  const int64_t stride = std::max(view.stride, view.cols);
  if (context.precision() != Precision::bf16) {
    if (view.type == StoredType::fp32) return {view.data, stride, {}, {}};
    Operand operand{nullptr, converted_stride(view.cols), {}, converted<float>(context, view)};
    operand.data = operand.fp32.data();
    return operand;
  }
  if (view.type == StoredType::bf16) return {view.data, stride, {}, {}};
  if (ConstantOperands::Matrix* const constant = ConstantOperands::find(context, view)) {
    const StoredView& whole = constant->view;
    if (constant->bf16.empty()) constant->bf16 = converted<uint16_t>(context, whole);
    const int64_t offset =
        (static_cast<const char*>(view.data) - static_cast<const char*>(whole.data)) / stored_bytes(whole.type);
    const int64_t row = offset / whole.stride, column = offset % whole.stride;
    const int64_t kept_stride = converted_stride(whole.cols);
    return {constant->bf16.data() + row * kept_stride + column, kept_stride, {}, {}};
  }
  Operand operand{nullptr, converted_stride(view.cols), converted<uint16_t>(context, view), {}};
  operand.data = operand.bf16.data();
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
  vendor::Product product = product_of(left, right, transpose_b, k, c);
  product.transpose_a = transpose_a;
  product.alpha = alpha;
  product.beta = write == Write::assign ? 0.0f : 1.0f;
  vendor::multiply(context, product);
}

void linear(Context& context, ConstView x, const WeightView& w, ConstView bias, View y) {
  const float* const added = bias.empty() ? nullptr : bias.data;
  if (w.in == 0) return fill_rows(context, added, y);
  const Operand left = make_operand(context, x);
  over_parts(context, factor_of(w), [&](const SecondFactor& part, int64_t first) {
    const Operand right = make_operand(context, part.matrix);
    const View sums = y.cols_slice(first, part.cols);
    multiply_onto_bias(context, product_of(left, right, part.transpose, w.in, sums), added ? added + first : nullptr,
                       sums);
  });
}

void linear_activation(Context& context, ConstView x, const WeightView& w, ConstView bias, Activation kind, View up,
                       View y) {
  const View sum = up.empty() ? y : up;
  const float* const added = bias.empty() ? nullptr : bias.data;
  if (w.in == 0) {
    fill_rows(context, added, sum);
    return cuda::activation(context, kind, sum, y);
  }
  const Operand left = make_operand(context, x);
  over_parts(context, factor_of(w), [&](const SecondFactor& part, int64_t first) {
    const Operand right = make_operand(context, part.matrix);
    const float* const part_added = added ? added + first : nullptr;
    const View part_y = y.cols_slice(first, part.cols), part_sum = sum.cols_slice(first, part.cols),
               part_up = up.empty() ? View() : up.cols_slice(first, part.cols);
    if (multiply_into_activation(context, product_of(left, right, part.transpose, w.in, part_y), part_added, kind,
                                 part_up))
      return;
    multiply_onto_bias(context, product_of(left, right, part.transpose, w.in, part_sum), part_added, part_sum);
    cuda::activation(context, kind, part_sum, part_y);
  });
}

void linear_backward(Context& context, ConstView dy, const WeightView& w, View dx, Write write) {
  if (w.out == 0) {
    if (write == Write::assign) fill_rows(context, nullptr, dx);
    return;
  }
  const Operand left = make_operand(context, dy);
  over_parts(context, transposed_factor_of(w), [&](const SecondFactor& part, int64_t first) {
    const Operand right = make_operand(context, part.matrix);
    vendor::Product product = product_of(left, right, part.transpose, w.out, dx.cols_slice(first, part.cols));
    product.beta = write == Write::assign ? 0.0f : 1.0f;
    vendor::multiply(context, product);
  });
}

}  // namespace loci::cuda
