#include <utility>

#include "kernels/cuda.h"
#include "kernels/cuda_vendor.h"
#include "runtime/tensor.h"

namespace loci::cuda {
namespace {

class DeviceFactor : public CholeskyFactor {
 public:
  DeviceFactor(Context& context, DeviceArray<double> upper, int64_t n)
      : context_(context), upper_(std::move(upper)), n_(n) {}

  void solve(std::span<double> rows) const override { apply(vendor::solve_definite, rows); }
  void forward_solve(std::span<double> rows) const override { apply(vendor::solve_lower, rows); }

 private:
  template <typename Solve>
  void apply(const Solve& solve, std::span<double> rows) const {
    const DeviceArray<double> columns(context_, std::span<const double>(rows));
    solve(context_, upper_.data(), n_, columns.data(), columns.size() / n_);
    context_.copy_to_host(rows.data(), columns.data(), rows.size_bytes());
  }

  Context& context_;
  DeviceArray<double> upper_;
  int64_t n_;
};

/// The first row of the factor whose diagonal is not positive, -1 where there is none: zero and NaN pivots must not
/// pass whatever the library calls them.
int64_t failed_pivot(Context& context, const double* upper, int64_t n) {
  const auto count = static_cast<size_t>(n);
  std::vector<double> diagonal(count);
  context.copy_rows_to_host(diagonal.data(), upper, sizeof(double), sizeof(double) * (count + 1), count);
  for (size_t i = 0; i < count; ++i)
    if (!(diagonal[i] > 0)) return static_cast<int64_t>(i);
  return -1;
}

}  // namespace

CholeskyAttempt factor_definite(Context& context, std::vector<double> matrix, int64_t n) {
  DeviceArray<double> upper(context, std::span<const double>(matrix));
  const int64_t minor = vendor::factor_definite(context, upper.data(), n);
  const int64_t failed = minor > 0 ? minor - 1 : failed_pivot(context, upper.data(), n);
  if (failed >= 0) return {nullptr, failed};
  return {std::make_unique<DeviceFactor>(context, std::move(upper), n), -1};
}

}  // namespace loci::cuda
