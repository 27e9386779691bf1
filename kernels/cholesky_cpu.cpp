#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <utility>

#include "kernels/cpu.h"

// Row-major lower is column-major upper: LAPACK works on the matrix as it lies, with C = U^T U and U = L^T. OpenBLAS
// orders its sums by its number of threads, so it gets one here: the matrix is cut into tiles of one size, and the
// threads of the context share these.
namespace loci::cpu {
namespace {

lapack_int to_lapack(int64_t n) { return static_cast<lapack_int>(n); }

constexpr int64_t kTile = 256;
constexpr int64_t kRightSides = 8;  // solved together

class HostFactor : public CholeskyFactor {
 public:
  HostFactor(Context& context, std::vector<double> upper, int64_t n)
      : context_(context), upper_(std::move(upper)), n_(to_lapack(n)) {}

  void solve(std::span<double> rows) const override {
    over_right_sides(rows, [&](double* first, lapack_int count) {
      LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', n_, count, upper_.data(), n_, first, n_);
    });
  }
  void forward_solve(std::span<double> rows) const override {
    over_right_sides(rows, [&](double* first, lapack_int count) {
      LAPACKE_dtrtrs_work(LAPACK_COL_MAJOR, 'U', 'T', 'N', n_, count, upper_.data(), n_, first, n_);
    });
  }

 private:
  template <typename Solve>
  void over_right_sides(std::span<double> rows, const Solve& solve_some) const {
    openblas_set_num_threads(1);
    const int64_t count = std::ssize(rows) / n_;
    context_.threads().parallel_for((count + kRightSides - 1) / kRightSides, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * kRightSides; i < std::min(count, end * kRightSides); i += kRightSides)
        solve_some(rows.data() + i * n_, to_lapack(std::min(kRightSides, count - i)));
    });
  }

  Context& context_;
  std::vector<double> upper_;
  lapack_int n_;
};

/// The factorisation of one matrix, tile row by tile row (right-looking).
class TiledFactorisation {
 public:
  TiledFactorisation(Context& context, double* upper, int64_t n) : context_(context), upper_(upper), n_(n) {}

  /// The first row that is not definite, or -1.
  int64_t run() const {
    for (int64_t row = 0; row < tiles(); ++row) {
      const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', extent(row), tile(row, row), to_lapack(n_));
      if (info > 0) return row * kTile + info - 1;
      finish_row(row);
      update_rest(row);
    }
    return -1;
  }

 private:
  int64_t tiles() const { return (n_ + kTile - 1) / kTile; }
  lapack_int extent(int64_t i) const { return to_lapack(std::min(kTile, n_ - i * kTile)); }
  double* tile(int64_t row, int64_t column) const { return upper_ + (column * n_ + row) * kTile; }

  // U_rc = U_rr^-T A_rc for the columns c > r.
  void finish_row(int64_t row) const {
    const auto stride = to_lapack(n_);
    context_.threads().parallel_tasks(tiles() - row - 1, [&](TaskQueue& tasks) {
      while (const auto i = tasks.take()) {
        const int64_t column = row + 1 + *i;
        cblas_dtrsm(CblasColMajor, CblasLeft, CblasUpper, CblasTrans, CblasNonUnit, extent(row), extent(column), 1,
                    tile(row, row), stride, tile(row, column), stride);
      }
    });
  }

  // A_ic -= U_ri^T U_rc for r < i <= c.
  void update_rest(int64_t row) const {
    std::vector<std::pair<int64_t, int64_t>> targets;
    for (int64_t column = row + 1; column < tiles(); ++column)
      for (int64_t i = row + 1; i <= column; ++i) targets.emplace_back(i, column);
    context_.threads().parallel_tasks(std::ssize(targets), [&](TaskQueue& tasks) {
      while (const auto t = tasks.take()) subtract(row, targets[*t]);
    });
  }

  void subtract(int64_t row, std::pair<int64_t, int64_t> target) const {
    const auto [i, column] = target;
    const auto stride = to_lapack(n_);
    if (i == column)
      cblas_dsyrk(CblasColMajor, CblasUpper, CblasTrans, extent(i), extent(row), -1, tile(row, i), stride, 1,
                  tile(i, i), stride);
    else
      cblas_dgemm(CblasColMajor, CblasTrans, CblasNoTrans, extent(i), extent(column), extent(row), -1, tile(row, i),
                  stride, tile(row, column), stride, 1, tile(i, column), stride);
  }

  Context& context_;
  double* upper_;
  int64_t n_;
};

}  // namespace

CholeskyAttempt factor_definite(Context& context, std::vector<double> matrix, int64_t n) {
  openblas_set_num_threads(1);
  const int64_t indefinite = TiledFactorisation(context, matrix.data(), n).run();
  if (indefinite >= 0) return {nullptr, indefinite};
  return {std::make_unique<HostFactor>(context, std::move(matrix), n), -1};
}

}  // namespace loci::cpu
