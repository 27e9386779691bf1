#include "kernels/symmetric_eigen.h"

#include <cmath>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// The libraries leave the sign of an eigenvector open; fixed here so that results do not depend on the library.
void fix_signs(std::vector<double>& vectors, size_t n) {
  for (size_t j = 0; j < n; ++j) {
    size_t largest = 0;
    for (size_t i = 1; i < n; ++i)
      if (std::abs(vectors[i * n + j]) > std::abs(vectors[largest * n + j])) largest = i;
    if (vectors[largest * n + j] >= 0) continue;
    for (size_t i = 0; i < n; ++i) vectors[i * n + j] = -vectors[i * n + j];
  }
}

}  // namespace

SymmetricEigen symmetric_eigen(Context& context, std::vector<double> matrix, int64_t n, const std::string& name) {
  require<ShapeError>(n >= 0 && std::ssize(matrix) == n * n, "{}: {} values for a [{}, {}] matrix", name, matrix.size(),
                      n, n);
  for (const double value : matrix)
    require<NumericalError>(std::isfinite(value), "{}: the matrix holds a value that is not finite", name);
  SymmetricEigen eigen;
  eigen.values.resize(static_cast<size_t>(n));
  if (n > 0) {
    const int64_t failed =
        (context.on_cpu() ? cpu::eigenvectors : cuda::eigenvectors)(context, matrix, n, eigen.values);
    require<NumericalError>(failed == 0, "{}: the eigenvalues did not converge (dsyevd: {})", name, failed);
  }
  eigen.vectors = std::move(matrix);
  fix_signs(eigen.vectors, static_cast<size_t>(n));
  return eigen;
}

}  // namespace loci
