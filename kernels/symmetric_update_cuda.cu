#include <algorithm>
#include <vector>

#include "kernels/cuda.h"
#include "kernels/cuda_products.h"
#include "kernels/cuda_reduce.h"

// x^T x by squares that cover the lower triangle: half of it is one square, half of what is left two squares of half
// the side, and so on, down to squares on the diagonal. The squares of one side are one batched product, large enough
// to fill the device; of the squares on the diagonal alone half the arithmetic is thrown away. Products go to scratch
// and are added from there, so the sum may be fp64.
namespace loci::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kLargestDiagonal = 1024;
constexpr int64_t kSideUnit = 16;  // columns at which squares may start: rows of all operands stay 16 bytes aligned

/// Equal blocks of the lower triangle, each `step` rows and columns after the one before.
struct Blocks {
  int64_t row, rows;
  int64_t col, cols;
  int64_t step, count;
  bool diagonal;
};

/// The squares of one side whose first lies at (row, 0): those that fit, then the one that the matrix cuts off.
void append_squares(int64_t n, int64_t row, int64_t side, int64_t step, std::vector<Blocks>& all) {
  const bool diagonal = row == 0;
  const int64_t whole = n >= row + side ? (n - row - side) / step + 1 : 0;
  if (whole > 0) all.push_back({row, side, 0, side, step, whole, diagonal});
  const int64_t last = whole * step, rest = n - row - last;
  if (rest > 0) all.push_back({row + last, rest, last, diagonal ? rest : side, step, 1, diagonal});
}

std::vector<Blocks> lower_blocks(int64_t n) {
  int64_t halvings = 0;
  while ((n >> halvings) > kLargestDiagonal) ++halvings;
  const int64_t part = (n + (int64_t{1} << halvings) - 1) >> halvings;
  const int64_t diagonal = (part + kSideUnit - 1) / kSideUnit * kSideUnit;
  std::vector<Blocks> all;
  append_squares(n, 0, diagonal, diagonal, all);
  for (int64_t side = diagonal; side < n; side *= 2) append_squares(n, side, side, 2 * side, all);
  return all;
}

template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

/// to[i] += from[i] for i < 4, or below `count` where that is less.
template <bool wide_rows, typename T>
__device__ void add_four(const float* from, int64_t count, T* to) {
  if (wide_rows && count >= 4) {
    const Pack<float> added = *reinterpret_cast<const Pack<float>*>(from);
    constexpr int kSize = Pack<T>::kSize;
    Pack<T> sums[4 / kSize];
#pragma unroll
    for (int p = 0; p < 4 / kSize; ++p) sums[p] = reinterpret_cast<const Pack<T>*>(to)[p];
#pragma unroll
    for (int p = 0; p < 4 / kSize; ++p) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sums[p].values[i] += static_cast<T>(added.values[p * kSize + i]);
      reinterpret_cast<Pack<T>*>(to)[p] = sums[p];
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < count) to[i] += static_cast<T>(from[i]);
  }
}

constexpr int kSpan = 4 * kWarp;  // columns that a warp adds

/// total += products in the lower triangle; products [count, rows, stride]. A warp takes kSpan columns of a row.
template <bool wide_rows, typename T>
__global__ void add_products_kernel(const float* products, int64_t stride, Blocks blocks, T* total,
                                    int64_t total_stride) {
  const unsigned spans = static_cast<unsigned>((blocks.cols + kSpan - 1) / kSpan);
  const unsigned unit = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const int64_t row = unit / spans;  // of all blocks
  if (row >= blocks.count * blocks.rows) return;
  const int64_t block = static_cast<unsigned>(row) / static_cast<unsigned>(blocks.rows);
  const int64_t r = row - block * blocks.rows;
  const int64_t columns = blocks.diagonal ? r + 1 : blocks.cols;
  const int64_t first = int64_t{unit % spans} * kSpan + threadIdx.x % kWarp * 4;
  if (first >= columns) return;
  T* to = total + (blocks.row + block * blocks.step + r) * total_stride + blocks.col + block * blocks.step;
  add_four<wide_rows>(products + row * stride + first, columns - first, to + first);
}

template <typename T>
void add_blocks(Context& context, const Operand& x, int64_t x_rows, const Blocks& blocks, T* total,
                int64_t total_stride) {
  const int64_t stride = (blocks.cols + 3) / 4 * 4;
  Tensor products(context, blocks.count * blocks.rows, stride);
  const size_t element = context.precision() == Precision::bf16 ? sizeof(uint16_t) : sizeof(float);
  const auto column = [&](int64_t c) {
    return static_cast<const unsigned char*>(x.data) + static_cast<size_t>(c) * element;
  };
  vendor::multiply(context, {.transpose_a = Transpose::yes,
                             .m = blocks.rows,
                             .n = blocks.cols,
                             .k = x_rows,
                             .a = column(blocks.row),
                             .lda = x.stride,
                             .b = column(blocks.col),
                             .ldb = x.stride,
                             .c = products.data(),
                             .ldc = stride,
                             .batch = blocks.count,
                             .batch_a = blocks.step,
                             .batch_b = blocks.step,
                             .batch_c = blocks.rows * stride});
  const bool wide_rows = reinterpret_cast<uintptr_t>(total) % 16 == 0 && total_stride % Pack<T>::kSize == 0;
  const int64_t units = blocks.count * blocks.rows * static_cast<int64_t>(blocks_for(blocks.cols, kSpan));
  launch(context, {.op = "symmetric_update", .grid = blocks_for(units, kWarps), .threads = kThreads},
         wide_rows ? add_products_kernel<true, T> : add_products_kernel<false, T>, products.data(), stride, blocks,
         total, total_stride);
}

template <typename T>
void update(Context& context, ConstView x, T* total, int64_t total_stride) {
  if (x.empty()) return;
  const Operand operand = make_operand(context, x);
  for (const Blocks& blocks : lower_blocks(x.cols)) add_blocks(context, operand, x.rows, blocks, total, total_stride);
}

constexpr int64_t kPairs = 4;  // of sums that a thread adds

/// totals += terms; kPacked: two at a time, from aligned addresses.
template <bool kPacked>
__global__ void add_fp64_kernel(const double* terms, double* totals, int64_t count) {
  constexpr int64_t kEach = kPacked ? 2 : 1;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kPairs * kThreads + threadIdx.x) * kEach;
#pragma unroll
  for (int64_t p = 0; p < kPairs; ++p) {
    const int64_t i = first + p * kThreads * kEach;
    if (kPacked && i + 1 < count) {
      const Pack<double> term = *reinterpret_cast<const Pack<double>*>(terms + i);
      Pack<double> total = *reinterpret_cast<const Pack<double>*>(totals + i);
      total.values[0] += term.values[0];
      total.values[1] += term.values[1];
      *reinterpret_cast<Pack<double>*>(totals + i) = total;
    } else if (i < count) {
      totals[i] += terms[i];
    }
  }
}

}  // namespace

void symmetric_update(Context& context, ConstView x, View sum) {
  update(context, x, sum.data, std::max(sum.stride, sum.cols));
}

void add_second_moment(Context& context, ConstView x, double* total) { update(context, x, total, x.cols); }

void add_fp64(Context& context, const double* terms, double* totals, int64_t count) {
  const bool packed = (reinterpret_cast<uintptr_t>(terms) | reinterpret_cast<uintptr_t>(totals)) % 16 == 0;
  launch(context,
         {.op = "add_fp64", .grid = blocks_for(count, kPairs * kThreads * (packed ? 2 : 1)), .threads = kThreads},
         packed ? add_fp64_kernel<true> : add_fp64_kernel<false>, terms, totals, count);
}

}  // namespace loci::cuda
