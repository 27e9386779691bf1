#include "edit/common/moment_system.h"

#include <fmt/format.h>

#include "kernels/product_fp64.h"
#include "runtime/error.h"

namespace loci {

std::vector<double> solve_for_requests(Context& context, std::span<const double> keys, std::span<const double> solved,
                                       int64_t n, double diagonal, const std::string& name) {
  const int64_t ff = std::ssize(keys) / n;
  std::vector<double> system(static_cast<size_t>(n * n)), columns(solved.size()), rows(solved.size());
  product_fp64(context, keys, Transpose::yes, solved, system, n, n, ff);
  for (int64_t i = 0; i < n; ++i) system[i * n + i] += diagonal;
  // The system's right sides are the columns of S.
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < ff; ++i) columns[i * n + r] = solved[r * ff + i];
  Cholesky(context, std::move(system), n, name).solve(columns);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < ff; ++i) rows[r * ff + i] = columns[i * n + r];
  return rows;
}

MomentSystems::MomentSystems(std::string method, std::vector<int64_t> layers, double lambda, Resources& resources)
    : method_(std::move(method)),
      layers_(std::move(layers)),
      lambda_(lambda),
      resources_(resources),
      width_(resources.architecture().mlp_width) {
  require<InputError>(lambda > 0, "{}: field \"mom2_update_weight\" is 0; {} needs the second moments",
                      resources.options().hparams, method_);
  for (const int64_t layer : layers_) factors_.push_back(resources.second_moment(layer));
}

std::vector<double> MomentSystems::solve(Context& context, size_t index, std::vector<double> keys, int64_t n) const {
  const std::string name = fmt::format("{}: the system of layer {}", method_, layers_[index]);
  const int64_t count = std::ssize(keys) / width_;
  const auto last = [&](std::vector<double> rows) {
    rows.erase(rows.begin(), rows.end() - n * width_);
    return rows;
  };
  if (count > width_) {
    std::vector<double> rows = last(keys);
    Cholesky(context, whole_system(context, index, keys), width_, name).solve(rows);
    return rows;
  }
  std::vector<double> solved = keys;
  factors_[index]->solve(solved);
  for (double& value : solved) value /= lambda_;
  return last(solve_for_requests(context, keys, solved, count, 1, name));
}

/// lambda C + K^T K.
std::vector<double> MomentSystems::whole_system(Context& context, size_t index, std::span<const double> keys) const {
  std::vector<double> system = resources_.second_moment_matrix(layers_[index]);
  std::vector<double> turned(keys.size()), products(system.size());
  const int64_t count = std::ssize(keys) / width_;
  for (int64_t r = 0; r < count; ++r)
    for (int64_t i = 0; i < width_; ++i) turned[i * count + r] = keys[r * width_ + i];
  product_fp64(context, turned, Transpose::no, keys, products, width_, width_, count);
  for (size_t i = 0; i < system.size(); ++i) system[i] = lambda_ * system[i] + products[i];
  return system;
}

}  // namespace loci
