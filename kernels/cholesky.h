#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/context.h"

namespace loci {

/// The fp64 Cholesky factor C = L L^T of a symmetric positive definite matrix, computed once and used for many right
/// sides.
class Cholesky {
 public:
  /// Factors `matrix` [n * n] (host, row-major, lower triangle read). Throws NumericalError where it is not positive
  /// definite; the message names the first row at which the factorisation failed, rows with a zero diagonal (dead
  /// neurons), and the ridge to ask for. `name` says what the matrix is.
  Cholesky(Context& context, std::vector<double> matrix, int64_t n, const std::string& name);

  int64_t size() const { return n_; }
  /// Solves C x = b for each row of b [count * n]; in place.
  void solve(std::span<double> rows) const;
  /// x^T C^-1 y style products need only L^-1: solves L z = b for each row, in place.
  void forward_solve(std::span<double> rows) const;
  /// Estimate of the condition number in the 1-norm (LAPACK dpocon).
  double condition_number() const;

 private:
  int64_t n_;
  double norm_;
  std::vector<double> factor_;
};

}  // namespace loci
