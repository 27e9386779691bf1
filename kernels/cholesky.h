#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cholesky_factor.h"
#include "runtime/context.h"

namespace loci {

/// The fp64 Cholesky factor C = L L^T of a symmetric positive definite matrix, computed once and used for many right
/// sides. It lives on the context's device, which must outlive it; matrices and right sides come from the host.
class Cholesky {
 public:
  /// Factors `matrix` [n * n] (host, row-major, lower triangle read). Throws NumericalError where it is not positive
  /// definite; the message names the first row at which the factorisation failed, rows with a zero diagonal (dead
  /// neurons), and the ridge to ask for; SystemError where the device has no memory for it. `name` says what the matrix
  /// is.
  Cholesky(Context& context, std::vector<double> matrix, int64_t n, const std::string& name);

  int64_t size() const { return n_; }
  /// Solves C x = b for each row of b [count * n]; in place.
  void solve(std::span<double> rows) const;
  /// x^T C^-1 y style products need only L^-1: solves L z = b for each row, in place.
  void forward_solve(std::span<double> rows) const;
  /// Estimate of the condition number in the 1-norm, as LAPACK's dpocon makes it (Higham 1988).
  double condition_number() const;

 private:
  void require_rows(const char* op, std::span<double> rows) const;

  int64_t n_;
  double norm_ = 0;  // of C, in the 1-norm
  std::unique_ptr<const CholeskyFactor> factor_;
};

}  // namespace loci
