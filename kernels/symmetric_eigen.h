#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/context.h"

namespace loci {

/// The eigenvalues, ascending, and eigenvectors of a symmetric matrix: A = V diag(values) V^T, on the host in fp64.
struct SymmetricEigen {
  std::vector<double> values;   ///< [n]
  std::vector<double> vectors;  ///< V [n, n] row-major; column j belongs to values[j]; its largest entry is positive
};

/// `matrix` [n * n], row-major, lower triangle read (dsyevd of LAPACK or cuSOLVER). Throws NumericalError naming `name`
/// where the iteration does not converge or an entry is not finite.
SymmetricEigen symmetric_eigen(Context& context, std::vector<double> matrix, int64_t n, const std::string& name);

}  // namespace loci
