#include "edit/memit/restraint.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/product_fp64.h"
#include "kernels/symmetric_eigen.h"

namespace loci {
namespace {

std::vector<double> transposed(std::span<const double> matrix, int64_t rows, int64_t cols) {
  std::vector<double> result(matrix.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      result[static_cast<size_t>(c * rows + r)] = matrix[static_cast<size_t>(r * cols + c)];
  return result;
}

/// B B^T = U diag(s^2) U^T of B [n, k], n <= k.
SymmetricEigen left_singular(Context& context, std::span<const double> b, int64_t n, int64_t k) {
  std::vector<double> gram(static_cast<size_t>(n * n));
  product_fp64(context, b, Transpose::yes, b, gram, n, n, k);
  return symmetric_eigen(context, std::move(gram), n, "the singular values of a change");
}

/// B += U diag(f(s) / s - 1) U^T B over the singular values s > limit.
bool restrain_wide(Context& context, std::span<double> b, int64_t n, int64_t k, double limit) {
  const SymmetricEigen found = left_singular(context, b, n, k);
  const auto above = std::ranges::upper_bound(found.values, limit * limit) - found.values.begin();
  const int64_t count = n - above;
  if (count == 0) return false;
  std::vector<double> u(static_cast<size_t>(n * count)), weighted(u.size());  // [n, count] and its transpose
  for (int64_t j = 0; j < count; ++j) {
    const double s = std::sqrt(found.values[static_cast<size_t>(above + j)]);
    const double factor = (std::log(s) - std::log(limit) + limit) / s - 1;
    for (int64_t i = 0; i < n; ++i) {
      const double entry = found.vectors[static_cast<size_t>(i * n + above + j)];
      u[static_cast<size_t>(i * count + j)] = entry;
      weighted[static_cast<size_t>(j * n + i)] = factor * entry;
    }
  }
  std::vector<double> rows(static_cast<size_t>(count * k)), correction(b.size());
  product_fp64(context, weighted, Transpose::no, b, rows, count, k, n);
  product_fp64(context, u, Transpose::no, rows, correction, n, k, count);
  for (size_t i = 0; i < b.size(); ++i) b[i] += correction[i];
  return true;
}

}  // namespace

double largest_singular_value(Context& context, std::span<const double> matrix, int64_t rows, int64_t cols) {
  const SymmetricEigen found = rows <= cols ? left_singular(context, matrix, rows, cols)
                                            : left_singular(context, transposed(matrix, rows, cols), cols, rows);
  return std::sqrt(std::max(found.values.back(), 0.0));
}

bool restrain_singular_values(Context& context, std::span<double> change, int64_t rows, int64_t cols, double limit) {
  if (rows <= cols) return restrain_wide(context, change, rows, cols, limit);
  std::vector<double> turned = transposed(change, rows, cols);
  if (!restrain_wide(context, turned, cols, rows, limit)) return false;
  std::ranges::copy(transposed(turned, cols, rows), change.begin());
  return true;
}

}  // namespace loci
