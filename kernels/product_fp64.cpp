#include "kernels/product_fp64.h"

#include <cblas.h>

#include <algorithm>

#include "runtime/error.h"

namespace loci {

void product_fp64(Context& context, std::span<const double> a, Transpose transpose_b, std::span<const double> b,
                  std::span<double> c, int64_t m, int64_t n, int64_t k) {
  require<ShapeError>(std::ssize(a) == m * k && std::ssize(b) == k * n && std::ssize(c) == m * n,
                      "product_fp64: {} and {} values give {}, expected [{}, {}] and [{}, {}]", a.size(), b.size(),
                      c.size(), m, k, k, n);
  if (c.empty()) return;
  if (k == 0) {
    std::ranges::fill(c, 0.0);
    return;
  }
  // OpenBLAS orders its sums by its number of threads, so it gets one; the threads of the context share blocks of rows.
  constexpr int64_t kRows = 64;
  openblas_set_num_threads(1);
  const bool turned = transpose_b == Transpose::yes;
  const auto columns = static_cast<blasint>(n), depth = static_cast<blasint>(k);
  context.threads().parallel_for((m + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kRows;
      cblas_dgemm(CblasRowMajor, CblasNoTrans, turned ? CblasTrans : CblasNoTrans,
                  static_cast<blasint>(std::min(kRows, m - first)), columns, depth, 1, a.data() + first * k, depth,
                  b.data(), turned ? depth : columns, 0, c.data() + first * n, columns);
    }
  });
}

}  // namespace loci
