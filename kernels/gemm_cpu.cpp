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

// A slab is computed by one thread of the pool. Columns are cut at multiples of the vector length, rows at multiples of
// what the kernels of each instruction set compute together: 4, 6 or 8.
constexpr int64_t kColumnUnit = 16;
constexpr int64_t kRowUnit = 24;
// Less arithmetic than this is not worth waking a thread for (about 10 microseconds of work).
constexpr double kFlopPerThread = 1e6;
// Up to this many rows, a product with a transposed operand (the unembedding of a few positions) is bound by reading
// that operand: dot products along its rows read it once, while the library would copy it first.
constexpr int64_t kFewRows = 16;

int64_t grain_units(int64_t units, double flop) {
  const double threads = std::max(1.0, flop / kFlopPerThread);
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(units) / threads));
}

const float* slab_of(Transpose transpose, const float* data, int64_t stride, int64_t first_row, int64_t first_col) {
  return transpose == Transpose::no ? data + first_row * stride + first_col : data + first_col * stride + first_row;
}

// c = op(a) op(b) + beta c, for an operand b that is still to be set.
Product product_of(Transpose transpose_a, ConstView a, Write write, View c) {
  Product product;
  product.transpose_a = transpose_a;
  product.m = c.rows;
  product.n = c.cols;
  product.k = transpose_a == Transpose::no ? a.cols : a.rows;
  product.a = a.data;
  product.lda = std::max(a.stride, a.cols);
  product.beta = write == Write::assign ? 0.0f : 1.0f;
  product.c = c.data;
  product.ldc = std::max(c.stride, c.cols);
  return product;
}

void set_operand(Product& product, const SecondOperand::Columns& b) {
  product.transpose_b = b.transpose;
  product.b = b.data;
  product.ldb = b.stride;
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

// Terms [first, first + count) of the sums.
Product terms_of(Product p, int64_t first, int64_t count) {
  p.a = slab_of(p.transpose_a, p.a, p.lda, 0, first);
  p.b = slab_of(p.transpose_b, p.b, p.ldb, first, 0);
  p.k = count;
  return p;
}

// The library has two kinds of kernels: some copy both operands first, some read them where they lie. Extents decide
// which, so the bits of a slab could follow the number of threads. Both kinds add the products of an element in order,
// unless they cut k, or the second kind has rows or columns left over, for which it adds even and odd terms apart. So
// slabs are cut such that both kinds give the same bits, or that the second kind is certain: it takes all products with
// at most so many rows, or so many columns.
constexpr int64_t kInPlace = 256;
// The second kind may cut more columns anywhere.
constexpr int64_t kMostColumns = 4032;

bool has(dnnl_cpu_isa_t instructions) { return (dnnl_get_effective_cpu_isa() & instructions) == instructions; }

// Up to so many terms are not cut; the kernels that read in place cut more terms into blocks of this length.
int64_t terms_in_order(Transpose transpose_a) {
  static const bool avx512 = has(dnnl_cpu_isa_avx512_core);
  if (avx512) return 384;
  return transpose_a == Transpose::no ? 256 : 96;
}

bool few_rows(const Product& p) { return p.m <= kFewRows && p.transpose_a == Transpose::no; }

// The part of `extent` in whole units. What is left is never one, as the library multiplies vectors in other ways.
int64_t in_units(int64_t extent, int64_t unit) {
  const int64_t left = extent % unit == 1 ? unit + 1 : extent % unit;
  return std::max<int64_t>(0, extent - left);
}

bool cut_by_columns(const Product& whole) { return whole.n >= whole.m; }

// Whether all slabs of a product take the same kind of kernels anyway.
bool one_kind(const Product& whole) {
  return whole.m == 1 || whole.n == 1 ||
         (cut_by_columns(whole) && whole.m <= kInPlace && whole.transpose_a == Transpose::no);
}

// multiply(), with blocks of terms as the kernels that read in place cut them.
void multiply_terms(Product p) {
  const int64_t most = terms_in_order(p.transpose_a);
  int64_t count = 0;
  for (int64_t first = 0; first < p.k; first += count) {
    const int64_t left = p.k - first;
    count = left >= 2 * most ? most : left > most ? (left + 1) / 2 : left;
    multiply(terms_of(p, first, count));
    p.beta = 1;
  }
}

// multiply() for a slab of a product, with bits that do not depend on how it was cut.
void multiply_slab(const Product& p, const Product& whole) {
  const bool vector = p.m == 1 || p.n == 1, dots = p.transpose_b == Transpose::yes && few_rows(p);
  if (vector || dots) return multiply(p);
  // Without AVX2 the kernels that copy add in yet another order: there no product gets as many rows as they need.
  static const bool copies = has(dnnl_cpu_isa_avx2);
  constexpr int64_t kMostRows = kInPlace / kRowUnit * kRowUnit;
  if (!copies && p.m > kInPlace) {
    multiply_slab(rows_of(p, 0, kMostRows), whole);
    return multiply_slab(rows_of(p, kMostRows, p.m - kMostRows), whole);
  }
  const int64_t even = in_units(p.n, kColumnUnit);
  const auto multiply_columns = [&](int64_t first, int64_t count) {
    const Product columns = columns_of(p, first, count);
    one_kind(whole) ? multiply(columns) : multiply_terms(columns);
  };
  for (int64_t first = 0; first < even; first += kMostColumns)
    multiply_columns(first, std::min(kMostColumns, even - first));
  if (even < p.n) multiply_columns(even, p.n - even);
}

// Calls `multiply_one(product, first_column)` for the slabs of a product, spread over the threads. The last slab also
// takes what is less than a unit.
template <typename Slab>
void over_slabs(Context& context, const Product& whole, const Slab& multiply_one) {
  const double flop =
      gemm_flop(static_cast<double>(whole.m), static_cast<double>(whole.n), static_cast<double>(whole.k));
  // Every thread reads the whole of the operand that is not cut: cut the larger one.
  const bool by_columns = cut_by_columns(whole);
  const int64_t unit = by_columns ? kColumnUnit : kRowUnit;
  const int64_t extent = by_columns ? whole.n : whole.m;
  const int64_t units = std::max<int64_t>(1, extent / unit);
  context.threads().parallel_for(units, grain_units(units, flop), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * unit, first_column = by_columns ? first : 0;
    const int64_t count = (end == units ? extent : end * unit) - first;
    const Product slab = by_columns ? columns_of(whole, first, count) : rows_of(whole, first, count);
    const int64_t even = one_kind(whole) ? slab.m : in_units(slab.m, kRowUnit);
    if (even > 0) multiply_one(rows_of(slab, 0, even), first_column);
    if (even < slab.m) multiply_one(rows_of(slab, even, slab.m - even), first_column);
  });
}

// Where only b is transposed, the library has kernels for small extents that sum in yet another order, so bits would
// follow the number of threads. Such products are cut into parts that their shape alone decides ...
constexpr int64_t kPartRows = 256;
constexpr int64_t kPartUnit = 8;  // of rows
constexpr int64_t kPartColumns = 192;
// ... or b is transposed first: from so many rows on where that copy stays small, and always where b is constant, so
// that the copy can be kept, if there is room.
constexpr int64_t kRowsWorthTransposing = 512;
// Elements of copies that are not kept.
constexpr int64_t kMostTransposed = int64_t{1} << 24;
// Elements and columns that a thread converts at a time for few rows.
constexpr int64_t kCachedElements = int64_t{1} << 17;
constexpr int64_t kLeastColumns = 64;

struct Range {
  int64_t first, count;
};

// The i-th of `parts` nearly equal ranges of `extent`, cut at multiples of `unit`.
Range part_of(int64_t extent, int64_t unit, int64_t parts, int64_t i) {
  const int64_t units = (extent + unit - 1) / unit;
  const int64_t first = std::min(extent, units * i / parts * unit);
  return {first, std::min(extent, units * (i + 1) / parts * unit) - first};
}

// The parts are `down` times `across`; each gets its columns of b for itself.
void multiply_in_parts(Context& context, const Product& whole, const SecondOperand& b, int64_t down, int64_t across) {
  context.threads().parallel_tasks(down * across, [&](TaskQueue& parts) {
    std::vector<float> room;
    while (const auto i = parts.take()) {
      const Range rows = part_of(whole.m, kPartUnit, down, *i % down);
      const Range columns = part_of(whole.n, kColumnUnit, across, *i / down);
      if (!b.in_place()) room.resize(static_cast<size_t>(whole.k * columns.count));
      Product part = whole;
      part.c += columns.first;
      part.n = columns.count;
      set_operand(part, b.columns(columns.first, columns.count, room.data()));
      multiply(rows_of(part, rows.first, rows.count));
    }
  });
}

LOCI_SIMD void convert_row(const Half* from, int64_t count, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
LOCI_SIMD void convert_row(const Bfloat* from, int64_t count, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
void convert_row(const float* from, int64_t count, float* to) { std::copy_n(from, count, to); }

// Each of `count` rows = row.
void copy_to_rows(const float* row, int64_t cols, float* to, int64_t stride, int64_t count) {
  for (int64_t r = 0; r < count; ++r) std::memcpy(to + r * stride, row, sizeof(float) * static_cast<size_t>(cols));
}

constexpr int64_t kBlock = 16;

// Rows [first, end) of to [cols, rows] = b^T.
template <typename Element>
void transpose_rows(const Element* b, int64_t stride, int64_t rows, int64_t first, int64_t end, float* to) {
  for (int64_t r = 0; r < rows; r += kBlock)
    for (int64_t c = first; c < end; ++c)
      for (int64_t i = r; i < std::min(rows, r + kBlock); ++i) to[c * rows + i] = to_float(b[i * stride + c]);
}
void transpose_rows(const StoredView& b, int64_t first, int64_t end, float* to) {
  visit_elements(b, [&](const auto* elements) { transpose_rows(elements, b.stride, b.rows, first, end, to); });
}

// b^T.
Tensor transposed(Context& context, const StoredView& b) {
  Tensor made(context, b.cols, b.rows);
  context.threads().parallel_for((b.cols + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    transpose_rows(b, begin * kBlock, std::min(b.cols, end * kBlock), made.data());
  });
  return made;
}

Tensor converted(Context& context, const StoredView& b) {
  Tensor made(context, b.rows, b.cols);
  context.threads().parallel_for(b.rows, row_grain(b.cols), [&](int64_t begin, int64_t end) {
    to_fp32(b.rows_slice(begin, end - begin), made.row(begin));
  });
  return made;
}

StoredView columns_of_operand(const SecondOperand& b, int64_t first, int64_t count) {
  return b.transpose == Transpose::no ? b.matrix.cols_slice(first, count) : b.matrix.rows_slice(first, count);
}

void multiply_slabs(Context& context, const Product& whole) {
  over_slabs(context, whole, [&](const Product& slab, int64_t) { multiply_slab(slab, whole); });
}

// By columns of op(b) that all threads make, then share.
void multiply_by_panels(Context& context, const Product& whole, const SecondOperand& b) {
  const int64_t most = std::max(kColumnUnit, kMostTransposed / whole.k / kColumnUnit * kColumnUnit);
  for (int64_t first = 0; first < whole.n; first += most) {
    const int64_t count = std::min(most, whole.n - first);
    const StoredView columns = columns_of_operand(b, first, count);
    const Tensor made = b.transpose == Transpose::yes ? transposed(context, columns) : converted(context, columns);
    Product panel = whole;
    panel.c += first;
    panel.n = count;
    set_operand(panel, {Transpose::no, made.data(), count});
    multiply_slabs(context, panel);
  }
}

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
      out = sum + (p.beta == 0 ? 0.0f : p.beta * out);
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

// c = a b^T + beta c for few rows of a.
LOCI_SIMD void multiply_few_rows(const Product& p) {
  int64_t col = 0;
  for (; col + 4 <= p.n; col += 4) dot_columns<4>(p, col);
  for (; col < p.n; ++col) dot_columns<1>(p, col);
}

// Keeps the transpose of a whole constant matrix, where the memory budget has room for it.
const Tensor* kept_transpose(Context& context, const StoredView& b, ConstantOperands::Matrix& matrix) {
  if (b.data != matrix.view.data || b.rows != matrix.view.rows || b.cols != matrix.view.cols) return nullptr;
  if (!matrix.transposed.empty()) return &matrix.transposed;
  const int64_t bytes = static_cast<int64_t>(sizeof(float)) * b.rows * b.cols;
  if (ConstantOperands::transposed_bytes(context) + bytes > context.memory_budget() / 4) return nullptr;
  matrix.transposed = transposed(context, b);
  return &matrix.transposed;
}

// A matrix and whether it is transposed to be the second operand.
SecondOperand as_stored(const StoredView& matrix, Transpose transpose) {
  SecondOperand operand{matrix, transpose, false, {}};
  operand.matrix.stride = std::max(matrix.stride, matrix.cols);
  return operand;
}

// c = op(a) op(b) + beta c for what `whole` says of a and c.
void multiply_by(Context& context, Product whole, const StoredView& b, Transpose transpose_b) {
  if (whole.k == 0) return multiply(whole);
  const bool few = few_rows(whole);
  const bool may_turn = transpose_b == Transpose::yes && whole.transpose_a == Transpose::no && !few;
  const SecondOperand operand = may_turn ? second_operand(context, b, whole.m) : as_stored(b, transpose_b);
  if (may_turn && operand.transpose == Transpose::yes && !operand.turned) {
    const int64_t down = std::max<int64_t>(1, whole.m / kPartRows),
                  across = std::max<int64_t>(1, whole.n / kPartColumns);
    return multiply_in_parts(context, whole, operand, down, across);
  }
  if (operand.in_place()) {
    set_operand(whole, operand.columns(0, whole.n, nullptr));
    return multiply_slabs(context, whole);
  }
  if (!few) return multiply_by_panels(context, whole, operand);
  // What is converted for few rows should not leave the caches before it is used.
  const int64_t across = std::min(whole.n / kLeastColumns, whole.n * whole.k / kCachedElements);
  multiply_in_parts(context, whole, operand, 1, std::max<int64_t>(1, across));
}

Transpose transpose_of(const WeightView& w) {
  return w.orientation == Orientation::in_out ? Transpose::no : Transpose::yes;
}
Transpose other(Transpose transpose) { return transpose == Transpose::no ? Transpose::yes : Transpose::no; }

}  // namespace

void multiply(const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (p.beta == 0)
      for (int64_t r = 0; r < p.m; ++r) std::fill_n(p.c + r * p.ldc, p.n, 0.0f);
    return;
  }
  if (p.transpose_b == Transpose::yes && few_rows(p)) return multiply_few_rows(p);
  omp_set_num_threads(1);  // of this thread: the pool already has one per core
  const dnnl_status_t status =
      dnnl_sgemm(p.transpose_a == Transpose::no ? 'N' : 'T', p.transpose_b == Transpose::no ? 'N' : 'T', p.m, p.n, p.k,
                 1, p.a, p.lda, p.b, p.ldb, p.beta, p.c, p.ldc);
  require<SystemError>(status == dnnl_success, "the matrix product [{}, {}] x [{}, {}] failed in oneDNN with status {}",
                       p.m, p.k, p.k, p.n, static_cast<int>(status));
}

void prepare_products() {
  const float one = 1;
  float product = 0;
  multiply({Transpose::no, Transpose::no, 1, 1, 1, &one, 1, &one, 1, 0, &product, 1});
}

void to_fp32(const StoredView& from, float* to) {
  visit_elements(from, [&](const auto* elements) {
    for (int64_t r = 0; r < from.rows; ++r) convert_row(elements + r * from.stride, from.cols, to + r * from.cols);
  });
}

SecondOperand::Columns SecondOperand::columns(int64_t first, int64_t count, float* room) const {
  const StoredView wanted = columns_of_operand(*this, first, count);
  if (in_place()) return {transpose, wanted.fp32().data, matrix.stride};
  if (turned) {
    transpose_rows(wanted, 0, wanted.cols, room);
    return {Transpose::no, room, count};
  }
  to_fp32(wanted, room);
  return {transpose, room, wanted.cols};
}

SecondOperand second_operand(Context& context, const StoredView& b, int64_t products_rows) {
  SecondOperand operand = as_stored(b, Transpose::yes);
  const StoredView& matrix = operand.matrix;
  ConstantOperands::Matrix* const constant = ConstantOperands::find(context, matrix);
  const bool small = b.rows * b.cols <= kMostTransposed;
  const bool plain = constant ? products_rows <= kFewRows : products_rows < kRowsWorthTransposing || !small;
  if (plain) return operand;
  if (const Tensor* kept = constant ? kept_transpose(context, matrix, *constant) : nullptr)
    return as_stored(kept->view(), Transpose::no);
  if (!small) {
    operand.turned = true;
    return operand;
  }
  operand.made = transposed(context, matrix);
  operand.matrix = std::as_const(operand.made).view();
  operand.transpose = Transpose::no;
  return operand;
}

SecondOperand second_operand(Context& context, const WeightView& w, int64_t products_rows) {
  return w.orientation == Orientation::in_out ? as_stored(w.stored(), Transpose::no)
                                              : second_operand(context, w.stored(), products_rows);
}

void gemm(Context& context, Transpose transpose_a, ConstView a, Transpose transpose_b, ConstView b, View c, Write write,
          float alpha) {
  if (alpha == 1) return multiply_by(context, product_of(transpose_a, a, write, c), b, transpose_b);
  // Some kernels of the library scale terms, some their sums.
  Tensor scaled = converted(context, a);
  cpu::scale(context, alpha, scaled.view());
  multiply_by(context, product_of(transpose_a, scaled.view(), write, c), b, transpose_b);
}

void linear(Context& context, ConstView x, const WeightView& w, ConstView bias, View y) {
  const Transpose transpose = transpose_of(w);
  if (bias.empty()) return multiply_by(context, product_of(Transpose::no, x, Write::assign, y), w.stored(), transpose);
  Product whole = product_of(Transpose::no, x, Write::accumulate, y);
  if (const SecondOperand operand = as_stored(w.stored(), transpose);
      operand.in_place() && transpose == Transpose::no) {
    set_operand(whole, operand.columns(0, whole.n, nullptr));
    return over_slabs(context, whole, [&](const Product& slab, int64_t first_col) {
      copy_to_rows(bias.data + first_col, slab.n, slab.c, slab.ldc, slab.m);
      multiply_slab(slab, whole);
    });
  }
  context.threads().parallel_for(y.rows, row_grain(y.cols), [&](int64_t begin, int64_t end) {
    copy_to_rows(bias.data, y.cols, y.row(begin), y.stride, end - begin);
  });
  multiply_by(context, whole, w.stored(), transpose);
}

void linear_activation(Context& context, ConstView x, const WeightView& w, ConstView bias, Activation kind, View up,
                       View y) {
  const View sum = up.empty() ? y : up;
  multiply_by(context, product_of(Transpose::no, x, Write::assign, sum), w.stored(), transpose_of(w));
  if (bias.empty())
    cpu::activation(context, kind, sum, y);
  else
    biased_activation(context, kind, bias, sum, y);
}

void linear_backward(Context& context, ConstView dy, const WeightView& w, View dx, Write write) {
  multiply_by(context, product_of(Transpose::no, dy, write, dx), w.stored(), other(transpose_of(w)));
}

}  // namespace loci::cpu
