#include "edit/memit/memit.h"

#include <fmt/format.h>

#include "edit/common/layerwise.h"
#include "kernels/product_fp64.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

struct MemitHparams {
  LayerwiseHparams common;
};
void visit_fields(Fields& field, MemitHparams& hparams) { visit_fields(field, hparams.common); }

class Memit : public LayerwiseMethod {
 public:
  Memit(const MemitHparams& hparams, Resources& resources)
      : LayerwiseMethod("memit", hparams.common, resources), hparams_(hparams), resources_(resources) {
    require<InputError>(hparams.common.moment_weight > 0,
                        "{}: field \"mom2_update_weight\" is 0; memit needs the second moments",
                        resources.options().hparams);
    for (const int64_t layer : layers()) factors_.push_back(resources.second_moment(layer));
  }

  Json settings() const override {
    MemitHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"context_templates", context_templates()}};
  }

 private:
  std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                 int64_t n) const override {
    const double lambda = hparams_.common.moment_weight;
    const std::string name = fmt::format("memit: the system of layer {}", layers()[index]);
    std::vector<double> rows(keys.begin(), keys.end());
    if (n > width()) {
      Cholesky(context, whole_system(context, index, keys, n), width(), name).solve(rows);
      return rows;
    }
    factors_[index]->solve(rows);
    for (double& value : rows) value /= lambda;
    return solve_for_requests(context, keys, rows, n, 1, name);
  }

  /// lambda C + K^T K.
  std::vector<double> whole_system(Context& context, size_t index, std::span<const double> keys, int64_t n) const {
    std::vector<double> system = resources_.second_moment_matrix(layers()[index]);
    std::vector<double> turned(keys.size()), products(system.size());
    for (int64_t r = 0; r < n; ++r)
      for (int64_t i = 0; i < width(); ++i) turned[i * n + r] = keys[r * width() + i];
    product_fp64(context, turned, Transpose::no, keys, products, width(), width(), n);
    for (size_t i = 0; i < system.size(); ++i) system[i] = hparams_.common.moment_weight * system[i] + products[i];
    return system;
  }

  MemitHparams hparams_;
  Resources& resources_;
  std::vector<std::shared_ptr<const Cholesky>> factors_;  // of C, by layer
};

}  // namespace

std::unique_ptr<Method> make_memit(std::string_view, Resources& resources) {
  return std::make_unique<Memit>(read_layerwise_hparams<MemitHparams>(resources, "MEMIT"), resources);
}

}  // namespace loci
