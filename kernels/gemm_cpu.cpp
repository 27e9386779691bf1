#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

namespace loci::cpu {
namespace {

// For every kind of product that it compiles, oneDNN looks for profilers to tell: a few milliseconds each, much in a
// short job. They hear of it where ONEDNN_JIT_PROFILE asks for that.
[[maybe_unused]] const dnnl_status_t kProfilersHearNothing =
    std::getenv("ONEDNN_JIT_PROFILE") || std::getenv("DNNL_JIT_PROFILE")
        ? dnnl_success
        : dnnl_set_jit_profiling_flags(DNNL_JIT_PROFILE_NONE);

// A slab is one single-threaded product on one thread of the pool. Columns are cut at multiples of the vector length.
constexpr int64_t kColumnUnit = 16;
constexpr int64_t kRowUnit = 8;
// Less arithmetic than this is not worth waking a thread for (about 10 microseconds of work).
constexpr double kFlopPerThread = 1e6;

int64_t grain_units(int64_t units, double flop) {
  const double threads = std::max(1.0, flop / kFlopPerThread);
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(units) / threads));
}

const float* slab_of(Transpose transpose, const float* data, int64_t stride, int64_t first_row, int64_t first_col) {
  return transpose == Transpose::no ? data + first_row * stride + first_col : data + first_col * stride + first_row;
}

// c = op(a) op(b) + beta c.
Product product_of(Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, float beta, View c) {
  return {transpose_a,
          transpose_b,
          c.rows,
          c.cols,
          transpose_a == Transpose::no ? a.cols : a.rows,
          1,
          a.data,
          std::max(a.stride, a.cols),
          b.data,
          std::max(b.stride, b.cols),
          beta,
          c.data,
          std::max(c.stride, c.cols)};
}

Product columns_of(Product p, int64_t first, int64_t count) {
  p.b = slab_of(p.transpose_b, p.b, p.ldb, 0, first);
  p.c += first;
  p.n = count;
  return p;
}

Product rows_of(Product p, int64_t first, int64_t count) {
  p.a = slab_of(p.transpose_a, p.a, p.lda, first, 0);
  p.c += first * p.ldc;
  p.m = count;
  return p;
}

// Calls `multiply_slab(product)` for the slabs of a product, spread over the threads.
template <typename Slab>
void over_slabs(Context& context, const Product& whole, const Slab& multiply_slab) {
  const double flop =
      gemm_flop(static_cast<double>(whole.m), static_cast<double>(whole.n), static_cast<double>(whole.k));
  // Every thread reads the whole of the operand that is not cut: cut the larger one.
  const bool by_columns = whole.n >= whole.m;
  const int64_t unit = by_columns ? kColumnUnit : kRowUnit;
  const int64_t extent = by_columns ? whole.n : whole.m;
  const int64_t units = (extent + unit - 1) / unit;
  context.threads().parallel_for(units, grain_units(units, flop), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * unit;
    const int64_t count = std::min(extent, end * unit) - first;
    multiply_slab(by_columns ? columns_of(whole, first, count) : rows_of(whole, first, count), by_columns ? first : 0);
  });
}

// The library sums a product with b transposed in an order that depends on its extents (the other three kinds do not),
// so bits would follow the number of threads. Such products are cut into parts that their shape alone decides ...
constexpr int64_t kPartRows = 256;
constexpr int64_t kPartColumns = 192;
// ... or b is transposed first: from so many rows on where that copy stays small, and always where b is constant, so
// that the copy can be kept, if there is room.
constexpr int64_t kRowsWorthTransposing = 512;
// Elements of copies that are not kept.
constexpr int64_t kMostTransposed = int64_t{1} << 24;

struct Range {
  int64_t first, count;
};

// The i-th of `parts` nearly equal ranges of `extent`, cut at multiples of `unit`.
Range part_of(int64_t extent, int64_t unit, int64_t parts, int64_t i) {
  const int64_t units = (extent + unit - 1) / unit;
  const int64_t first = std::min(extent, units * i / parts * unit);
  return {first, std::min(extent, units * (i + 1) / parts * unit) - first};
}

void multiply_in_fixed_parts(Context& context, const Product& whole) {
  const int64_t down = std::max<int64_t>(1, whole.m / kPartRows);
  const int64_t across = std::max<int64_t>(1, whole.n / kPartColumns);
  context.threads().parallel_tasks(down * across, [&](TaskQueue& parts) {
    while (const auto i = parts.take()) {
      const Range rows = part_of(whole.m, kRowUnit, down, *i % down);
      const Range columns = part_of(whole.n, kColumnUnit, across, *i / down);
      multiply(rows_of(columns_of(whole, columns.first, columns.count), rows.first, rows.count));
    }
  });
}

constexpr int64_t kBlock = 16;

// Rows [first, end) of to [cols, rows] = b^T.
void transpose_rows(const float* b, int64_t stride, int64_t rows, int64_t first, int64_t end, float* to) {
  for (int64_t r = 0; r < rows; r += kBlock)
    for (int64_t c = first; c < end; ++c)
      for (int64_t i = r; i < std::min(rows, r + kBlock); ++i) to[c * rows + i] = b[i * stride + c];
}

// b^T for b [rows, cols].
Tensor transposed(Context& context, const float* b, int64_t stride, int64_t rows, int64_t cols) {
  Tensor made(context, cols, rows);
  context.threads().parallel_for((cols + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    transpose_rows(b, stride, rows, begin * kBlock, std::min(cols, end * kBlock), made.data());
  });
  return made;
}

void multiply_slabs(Context& context, const Product& whole) {
  over_slabs(context, whole, [](const Product& slab, int64_t) { multiply(slab); });
}

void multiply_by_panels(Context& context, const Product& whole) {
  const int64_t most = std::max(kColumnUnit, kMostTransposed / whole.k / kColumnUnit * kColumnUnit);
  for (int64_t first = 0; first < whole.n; first += most) {
    Product panel = columns_of(whole, first, std::min(most, whole.n - first));
    const Tensor turned = transposed(context, panel.b, panel.ldb, panel.n, panel.k);
    panel.transpose_b = Transpose::no;
    panel.b = turned.data();
    panel.ldb = panel.n;
    multiply_slabs(context, panel);
  }
}

// Up to this many rows, a product with a transposed operand (the unembedding of a few positions) is bound by reading
// that operand: dot products along its rows read it once, while the library would copy it first.
constexpr int64_t kFewRows = 16;

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t kLanes = 16;

LOCI_INLINE float sum_of(const Lanes& lanes) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// Dot products of kRows rows of a with kCols rows of b.
template <int kRows, int kCols>
LOCI_INLINE void dot_block(const Product& p, int64_t row, int64_t col) {
  const float* a = p.a + row * p.lda;
  const float* b = p.b + col * p.ldb;
  Lanes sums[kRows][kCols] = {};
  int64_t i = 0;
  for (; i + kLanes <= p.k; i += kLanes)
    for (int c = 0; c < kCols; ++c) {
      const Lanes right = *reinterpret_cast<const Lanes*>(b + c * p.ldb + i);
      for (int r = 0; r < kRows; ++r) sums[r][c] += *reinterpret_cast<const Lanes*>(a + r * p.lda + i) * right;
    }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) {
      float sum = sum_of(sums[r][c]);
      for (int64_t j = i; j < p.k; ++j) sum += a[r * p.lda + j] * b[c * p.ldb + j];
      float& out = p.c[(row + r) * p.ldc + col + c];
      out = p.alpha * sum + (p.beta == 0 ? 0.0f : p.beta * out);
    }
}

template <int kCols>
LOCI_INLINE void dot_columns(const Product& p, int64_t col) {
  int64_t row = 0;
  for (; row + 4 <= p.m; row += 4) dot_block<4, kCols>(p, row, col);
  switch (p.m - row) {
    case 3:
      return dot_block<3, kCols>(p, row, col);
    case 2:
      return dot_block<2, kCols>(p, row, col);
    case 1:
      return dot_block<1, kCols>(p, row, col);
    default:
      return;
  }
}

// c = alpha a b^T + beta c for few rows of a.
LOCI_SIMD void multiply_few_rows(const Product& p) {
  int64_t col = 0;
  for (; col + 4 <= p.n; col += 4) dot_columns<4>(p, col);
  for (; col < p.n; ++col) dot_columns<1>(p, col);
}

bool few_rows(const Product& p) {
  return p.m <= kFewRows && p.transpose_a == Transpose::no && p.transpose_b == Transpose::yes;
}

// Keeps the transpose of a whole constant matrix, where the memory budget has room for it.
const Tensor* kept_transpose(Context& context, ConstView b, ConstantOperands::Matrix& matrix) {
  if (b.data != matrix.view.data || b.rows != matrix.view.rows || b.cols != matrix.view.cols) return nullptr;
  if (!matrix.transposed.empty()) return &matrix.transposed;
  const int64_t bytes = static_cast<int64_t>(sizeof(float)) * b.rows * b.cols;
  if (ConstantOperands::transposed_bytes(context) + bytes > context.memory_budget() / 4) return nullptr;
  matrix.transposed = transposed(context, b.data, std::max(b.stride, b.cols), b.rows, b.cols);
  return &matrix.transposed;
}

}  // namespace

void multiply(const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (p.beta == 0)
      for (int64_t r = 0; r < p.m; ++r) std::fill_n(p.c + r * p.ldc, p.n, 0.0f);
    return;
  }
  if (few_rows(p)) return multiply_few_rows(p);
  omp_set_num_threads(1);  // of this thread: the pool already has one per core
  const dnnl_status_t status =
      dnnl_sgemm(p.transpose_a == Transpose::no ? 'N' : 'T', p.transpose_b == Transpose::no ? 'N' : 'T', p.m, p.n, p.k,
                 p.alpha, p.a, p.lda, p.b, p.ldb, p.beta, p.c, p.ldc);
  require<SystemError>(status == dnnl_success, "the matrix product [{}, {}] x [{}, {}] failed in oneDNN with status {}",
                       p.m, p.k, p.k, p.n, static_cast<int>(status));
}

void prepare_products() {
  const float one = 1;
  float product = 0;
  multiply({Transpose::no, Transpose::no, 1, 1, 1, 1, &one, 1, &one, 1, 0, &product, 1});
}

void transpose(const float* b, int64_t stride, int64_t rows, int64_t cols, float* to) {
  transpose_rows(b, stride, rows, 0, cols, to);
}

SecondOperand second_operand(Context& context, ConstView b, int64_t products_rows) {
  using Form = SecondOperand::Form;
  b.stride = std::max(b.stride, b.cols);
  ConstantOperands::Matrix* const constant = ConstantOperands::find(context, b);
  const bool small = b.rows * b.cols <= kMostTransposed;
  const bool plain = constant ? products_rows <= kFewRows : products_rows < kRowsWorthTransposing || !small;
  if (plain) return {Form::plain, b, {}};
  if (const Tensor* kept = constant ? kept_transpose(context, b, *constant) : nullptr)
    return {Form::transposed, kept->view(), {}};
  if (!small) return {Form::panels, b, {}};
  SecondOperand operand{Form::transposed, {}, transposed(context, b.data, b.stride, b.rows, b.cols)};
  operand.matrix = operand.made.view();
  return operand;
}

void gemm(Context& context, Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, View c, Write write,
          float alpha) {
  Product whole = product_of(transpose_a, a, transpose_b, b, write == Write::assign ? 0.0f : 1.0f, c);
  whole.alpha = alpha;
  if (transpose_a == Transpose::yes || transpose_b == Transpose::no || few_rows(whole))
    return multiply_slabs(context, whole);
  const SecondOperand operand = second_operand(context, b, whole.m);
  if (operand.form == SecondOperand::Form::plain) return multiply_in_fixed_parts(context, whole);
  if (operand.form == SecondOperand::Form::panels) return multiply_by_panels(context, whole);
  whole.transpose_b = Transpose::no;
  whole.b = operand.matrix.data;
  whole.ldb = operand.matrix.stride;
  multiply_slabs(context, whole);
}

void linear(Context& context, ConstView x, ConstView w, ConstView bias, View y) {
  over_slabs(context, product_of(Transpose::no, x, Transpose::no, w, 1, y),
             [&](const Product& slab, int64_t first_col) {
               for (int64_t r = 0; r < slab.m; ++r)
                 std::memcpy(slab.c + r * slab.ldc, bias.data + first_col, sizeof(float) * static_cast<size_t>(slab.n));
               multiply(slab);
             });
}

void linear_activation(Context& context, ConstView x, ConstView w, ConstView bias, Activation kind, View up, View y) {
  const View sum = up.empty() ? y : up;
  multiply_slabs(context, product_of(Transpose::no, x, Transpose::no, w, 0, sum));
  biased_activation(context, kind, bias, sum, y);
}

}  // namespace loci::cpu
