#include "kernels/cholesky.h"

#include <lapacke.h>

#include <array>
#include <cmath>
#include <utility>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "runtime/error.h"

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
    const double value = matrix[i * n + i];
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

Cholesky::Cholesky(Context& context, std::vector<double> matrix, int64_t n, const std::string& name) : n_(n) {
  require<ShapeError>(n >= 0 && std::ssize(matrix) == n * n, "Cholesky: {} has {} elements, expected {} x {}", name,
                      matrix.size(), n, n);
  if (n == 0) return;
  const Diagonal diagonal = inspect_diagonal(matrix, n);
  // Row-major lower is column-major upper.
  norm_ = LAPACKE_dlansy_work(LAPACK_COL_MAJOR, '1', 'U', to_lapack(n), matrix.data(), to_lapack(n),
                              std::vector<double>(static_cast<size_t>(n)).data());
  require<NumericalError>(std::isfinite(norm_), "{} holds values that are not finite", name);
  CholeskyAttempt attempt =
      (context.on_cpu() ? cpu::factor_definite : cuda::factor_definite)(context, std::move(matrix), n);
  if (!attempt.factor) throw_not_definite(name, attempt.failed_row, diagonal);
  factor_ = std::move(attempt.factor);
}

void Cholesky::require_rows(const char* op, std::span<double> rows) const {
  require<ShapeError>(rows.empty() || (n_ > 0 && rows.size() % static_cast<size_t>(n_) == 0),
                      "Cholesky::{}: {} elements are no rows of {}", op, rows.size(), n_);
}

void Cholesky::solve(std::span<double> rows) const {
  require_rows("solve", rows);
  if (!rows.empty()) factor_->solve(rows);
}

void Cholesky::forward_solve(std::span<double> rows) const {
  require_rows("forward_solve", rows);
  if (!rows.empty()) factor_->forward_solve(rows);
}

namespace {

/// Doubles at the beginning of a cache line: the sums of OpenBLAS's dasum, which dlacn2 calls, depend on where an array
/// begins, and the allocator does not put it at the same place in every run.
class AlignedDoubles {
 public:
  explicit AlignedDoubles(size_t size) : size_(size), lines_((size + 7) / 8) {}
  double* data() { return lines_.data()->values; }
  std::span<double> span() { return {data(), size_}; }

 private:
  struct alignas(64) Line {
    double values[8] = {};
  };
  size_t size_;
  std::vector<Line> lines_;
};

}  // namespace

/// |C| |C^-1|, the second by dlacn2, which asks for a few products of C^-1 (C is symmetric) with vectors it chooses.
double Cholesky::condition_number() const {
  if (n_ == 0) return 1;
  const auto size = static_cast<size_t>(n_);
  AlignedDoubles x(size), work(size);
  std::vector<lapack_int> signs(size);
  std::array<lapack_int, 3> state{};
  lapack_int wanted = 0;
  double inverse_norm = 0;
  while (true) {
    LAPACKE_dlacn2_work(to_lapack(n_), work.data(), x.data(), signs.data(), &inverse_norm, &wanted, state.data());
    if (wanted == 0) return norm_ * inverse_norm;
    factor_->solve(x.span());
  }
}

}  // namespace loci
