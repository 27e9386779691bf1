#include "edit/alphaedit/alphaedit.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "edit/common/layerwise.h"
#include "kernels/product_fp64.h"
#include "kernels/symmetric_eigen.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

struct AlphaEditHparams {
  LayerwiseHparams common;
  double nullspace_threshold = 0.02;
  double l2 = 10;
};
void visit_fields(Fields& field, AlphaEditHparams& hparams) {
  visit_fields(field, hparams.common);
  field("nullspace_threshold", hparams.nullspace_threshold, {.min = 0},
        "directions in which the second moments are below this may change");
  field("L2", hparams.l2, {.min = 1e-300}, "weight of the update's own length");
}

/// The null space of a layer's second moments, and the keys of earlier batches in it.
struct NullSpace {
  int64_t dimension = 0;
  std::vector<double> basis;  ///< U [ff, dimension], orthonormal columns
  std::vector<double> past;   ///< [earlier requests, dimension]
};

NullSpace find_null_space(const SymmetricEigen& eigen, double threshold, int64_t layer) {
  const auto width = std::ssize(eigen.values);
  NullSpace space;
  space.dimension = std::ranges::lower_bound(eigen.values, threshold) - eigen.values.begin();
  // Second moments are sums of fp32 products.
  const double rounding = static_cast<double>(std::numeric_limits<float>::epsilon()) *
                          std::max(std::abs(eigen.values.front()), std::abs(eigen.values.back()));
  for (const double value : eigen.values)
    if (std::abs(value - threshold) <= rounding)
      spdlog::warn(
          "alphaedit: layer {}: the eigenvalue {:.6g} of the second moments lies within rounding of "
          "nullspace_threshold "
          "{:.6g}; whether its direction may change is chance",
          layer, value, threshold);
  require<InputError>(
      space.dimension > 0,
      "alphaedit: layer {}: no eigenvalue of the second moments is below nullspace_threshold {:.6g} (the "
      "smallest is {:.6g}); raise it",
      layer, threshold, eigen.values.front());
  space.basis.resize(static_cast<size_t>(width * space.dimension));
  for (int64_t i = 0; i < width; ++i)
    std::copy_n(eigen.vectors.begin() + i * width, space.dimension, space.basis.begin() + i * space.dimension);
  return space;
}

class AlphaEdit : public LayerwiseMethod {
 public:
  AlphaEdit(const AlphaEditHparams& hparams, Resources& resources)
      : LayerwiseMethod("alphaedit", hparams.common, resources),
        hparams_(hparams),
        context_(resources.executor().context()) {
    for (const int64_t layer : layers())
      spaces_.push_back(find_null_space(resources.second_moment_eigen(layer), hparams.nullspace_threshold, layer));
  }

  Json settings() const override {
    AlphaEditHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"context_templates", context_templates()}};
  }

  /// The keys as the file has them, so that a job that continues has the same.
  void take_up(const EditBatch& batch) override {
    for (const Edit& edit : batch.edits) {
      const std::span<const float> keys = edit.values("keys");
      for (size_t l = 0; l < spaces_.size(); ++l) {
        const auto row = keys.subspan(l * static_cast<size_t>(width()), static_cast<size_t>(width()));
        const std::vector<double> projected = project({row.begin(), row.end()}, l);
        spaces_[l].past.insert(spaces_[l].past.end(), projected.begin(), projected.end());
      }
    }
  }

  void start_sequence() override {
    for (NullSpace& space : spaces_) space.past.clear();
  }

  void describe(H5File& output) const override {
    std::vector<int64_t> dimensions;
    for (const NullSpace& space : spaces_) dimensions.push_back(space.dimension);
    write_dataset<int64_t>(output, "/null_dimensions", dimensions, {std::ssize(dimensions)},
                           {.units = "1", .long_name = "dimensions of each layer's null space"});
  }

 private:
  /// K U for keys K [n, ff]: [n, dimension].
  std::vector<double> project(const std::vector<double>& keys, size_t index) const {
    const NullSpace& space = spaces_[index];
    const int64_t n = std::ssize(keys) / width();
    std::vector<double> projected(static_cast<size_t>(n * space.dimension));
    product_fp64(context_, keys, Transpose::no, space.basis, projected, n, space.dimension, width());
    return projected;
  }

  /// With Q the keys of all batches in the null space: (Q^T Q + L2 I)^-1 K~^T, turned, then out of the null space.
  std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                 int64_t n) const override {
    const NullSpace& space = spaces_[index];
    std::vector<double> rows = project({keys.begin(), keys.end()}, index);
    std::vector<double> all = space.past;
    all.insert(all.end(), rows.begin(), rows.end());
    const std::string name = fmt::format("alphaedit: the system of layer {}", layers()[index]);
    if (std::ssize(all) / space.dimension < space.dimension)
      solve_by_requests(context, space, all, rows, n, name);
    else
      solve_by_directions(context, space, all, rows, name);
    std::vector<double> out(static_cast<size_t>(n * width()));
    product_fp64(context, rows, Transpose::yes, space.basis, out, n, width(), space.dimension);
    return out;
  }

  /// K~ - K~ Q^T (L2 I + Q Q^T)^-1 Q, over L2.
  void solve_by_requests(Context& context, const NullSpace& space, const std::vector<double>& all,
                         std::vector<double>& rows, int64_t n, const std::string& name) const {
    const int64_t r = space.dimension, count = std::ssize(all) / r;
    std::vector<double> system(static_cast<size_t>(count * count)), shares(static_cast<size_t>(n * count)),
        known(rows.size());
    product_fp64(context, all, Transpose::yes, all, system, count, count, r);
    for (int64_t i = 0; i < count; ++i) system[i * count + i] += hparams_.l2;
    product_fp64(context, rows, Transpose::yes, all, shares, n, count, r);
    Cholesky(context, std::move(system), count, name).solve(shares);
    product_fp64(context, shares, Transpose::no, all, known, n, r, count);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = (rows[i] - known[i]) / hparams_.l2;
  }

  void solve_by_directions(Context& context, const NullSpace& space, const std::vector<double>& all,
                           std::vector<double>& rows, const std::string& name) const {
    const int64_t r = space.dimension, count = std::ssize(all) / r;
    std::vector<double> turned(all.size()), system(static_cast<size_t>(r * r));
    for (int64_t k = 0; k < count; ++k)
      for (int64_t i = 0; i < r; ++i) turned[i * count + k] = all[k * r + i];
    product_fp64(context, turned, Transpose::no, all, system, r, r, count);
    for (int64_t i = 0; i < r; ++i) system[i * r + i] += hparams_.l2;
    Cholesky(context, std::move(system), r, name).solve(rows);
  }

  AlphaEditHparams hparams_;
  Context& context_;
  std::vector<NullSpace> spaces_;  // by layer
};

}  // namespace

std::unique_ptr<Method> make_alphaedit(std::string_view, Resources& resources) {
  return std::make_unique<AlphaEdit>(read_layerwise_hparams<AlphaEditHparams>(resources, "AlphaEdit"), resources);
}

std::vector<SettingRow> alphaedit_hparams(std::string_view) {
  AlphaEditHparams hparams;
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
