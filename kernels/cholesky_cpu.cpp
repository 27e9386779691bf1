#include <cblas.h>
#include <lapacke.h>

#include <utility>

#include "kernels/cpu.h"

// Row-major lower is column-major upper: LAPACK works on the matrix as it lies, with C = U^T U and U = L^T.
namespace loci::cpu {
namespace {

lapack_int to_lapack(int64_t n) { return static_cast<lapack_int>(n); }

class HostFactor : public CholeskyFactor {
 public:
  HostFactor(std::vector<double> upper, int64_t n) : upper_(std::move(upper)), n_(to_lapack(n)) {}

  void solve(std::span<double> rows) const override {
    LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', n_, count(rows), upper_.data(), n_, rows.data(), n_);
  }
  void forward_solve(std::span<double> rows) const override {
    LAPACKE_dtrtrs_work(LAPACK_COL_MAJOR, 'U', 'T', 'N', n_, count(rows), upper_.data(), n_, rows.data(), n_);
  }

 private:
  lapack_int count(std::span<double> rows) const { return to_lapack(static_cast<int64_t>(rows.size())) / n_; }

  std::vector<double> upper_;
  lapack_int n_;
};

}  // namespace

CholeskyAttempt factor_definite(Context& context, std::vector<double> matrix, int64_t n) {
  openblas_set_num_threads(context.threads().size());
  const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', to_lapack(n), matrix.data(), to_lapack(n));
  if (info > 0) return {nullptr, info - 1};
  return {std::make_unique<HostFactor>(std::move(matrix), n), -1};
}

}  // namespace loci::cpu
