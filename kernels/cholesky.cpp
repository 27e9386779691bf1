#include "kernels/cholesky.h"

#include <cblas.h>
#include <lapacke.h>

#include <cmath>
#include <utility>

#include "runtime/error.h"

// Row-major lower is column-major upper: LAPACK works on the matrix as it lies, with C = U^T U and U = L^T.
namespace loci {
namespace {

lapack_int to_lapack(int64_t n) { return static_cast<lapack_int>(n); }

struct Diagonal {
  double mean = 0;
  int64_t zeros = 0;
  std::string first_zeros;
};

Diagonal inspect_diagonal(const std::vector<double>& matrix, int64_t n) {
  constexpr int64_t kNamed = 8;
  Diagonal diagonal;
  for (int64_t i = 0; i < n; ++i) {
    const double value = matrix[static_cast<size_t>(i * n + i)];
    diagonal.mean += value / static_cast<double>(n);
    if (value != 0) continue;
    if (diagonal.zeros < kNamed) diagonal.first_zeros += (diagonal.zeros ? ", " : "") + std::to_string(i);
    if (diagonal.zeros == kNamed) diagonal.first_zeros += ", ...";
    ++diagonal.zeros;
  }
  return diagonal;
}

[[noreturn]] void throw_not_definite(const std::string& name, int64_t row, const Diagonal& diagonal) {
  const std::string dead = diagonal.zeros ? fmt::format(" (rows with a zero diagonal, dead neurons, {} in all: {})",
                                                        diagonal.zeros, diagonal.first_zeros)
                                          : std::string();
  throw_error<NumericalError>(
      "{} is not positive definite: the Cholesky factorisation fails at row {}{}; use more samples or "
      "ask for a ridge, for example {:.3g} (1e-4 of the mean diagonal)",
      name, row, dead, 1e-4 * diagonal.mean);
}

}  // namespace

Cholesky::Cholesky(Context& context, std::vector<double> matrix, int64_t n, const std::string& name)
    : n_(n), norm_(0), factor_(std::move(matrix)) {
  require<ShapeError>(n >= 0 && static_cast<int64_t>(factor_.size()) == n * n,
                      "Cholesky: {} has {} elements, expected {} x {}", name, factor_.size(), n, n);
  if (n == 0) return;
  openblas_set_num_threads(context.threads().size());
  const Diagonal diagonal = inspect_diagonal(factor_, n);
  norm_ = LAPACKE_dlansy_work(LAPACK_COL_MAJOR, '1', 'U', to_lapack(n), factor_.data(), to_lapack(n),
                              std::vector<double>(static_cast<size_t>(n)).data());
  require<NumericalError>(std::isfinite(norm_), "{} holds values that are not finite", name);
  const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', to_lapack(n), factor_.data(), to_lapack(n));
  if (info > 0) throw_not_definite(name, info - 1, diagonal);
}

void Cholesky::solve(std::span<double> rows) const {
  if (rows.empty()) return;
  require<ShapeError>(n_ > 0 && rows.size() % static_cast<size_t>(n_) == 0,
                      "Cholesky::solve: {} elements are no rows of {}", rows.size(), n_);
  LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', to_lapack(n_), to_lapack(static_cast<int64_t>(rows.size()) / n_),
                      factor_.data(), to_lapack(n_), rows.data(), to_lapack(n_));
}

void Cholesky::forward_solve(std::span<double> rows) const {
  if (rows.empty()) return;
  require<ShapeError>(n_ > 0 && rows.size() % static_cast<size_t>(n_) == 0,
                      "Cholesky::forward_solve: {} elements are no rows of {}", rows.size(), n_);
  LAPACKE_dtrtrs_work(LAPACK_COL_MAJOR, 'U', 'T', 'N', to_lapack(n_), to_lapack(static_cast<int64_t>(rows.size()) / n_),
                      factor_.data(), to_lapack(n_), rows.data(), to_lapack(n_));
}

double Cholesky::condition_number() const {
  if (n_ == 0) return 1;
  double reciprocal = 0;
  std::vector<double> work(static_cast<size_t>(3 * n_));
  std::vector<lapack_int> integers(static_cast<size_t>(n_));
  LAPACKE_dpocon_work(LAPACK_COL_MAJOR, 'U', to_lapack(n_), factor_.data(), to_lapack(n_), norm_, &reciprocal,
                      work.data(), integers.data());
  return 1 / reciprocal;
}

}  // namespace loci
