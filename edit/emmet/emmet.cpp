#include "edit/emmet/emmet.h"

#include <fmt/format.h>

#include "edit/common/layerwise.h"
#include "edit/common/moment_system.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

struct EmmetHparams {
  EmmetHparams() { common.moment_weight = 1000; }

  LayerwiseHparams common;
  double update_norm_lambda = 0;
  double emmet_lambda = 0.1;
};
void visit_fields(Fields& field, EmmetHparams& hparams) {
  visit_fields(field, hparams.common);
  field("update_norm_lambda", hparams.update_norm_lambda, {.min = 0},
        "added to the diagonal of the weighted second moments");
  field("emmet_lambda", hparams.emmet_lambda, {.min = 0},
        "added to the diagonal of the requests' system, for batches of two and more");
}

class Emmet : public LayerwiseMethod {
 public:
  Emmet(const EmmetHparams& hparams, Resources& resources)
      : LayerwiseMethod("emmet", hparams.common, resources), hparams_(hparams) {
    require<InputError>(hparams.common.moment_weight > 0,
                        "{}: field \"mom2_update_weight\" is 0; emmet needs the second moments",
                        resources.options().hparams);
    const double ridge = hparams.update_norm_lambda / hparams.common.moment_weight;
    for (const int64_t layer : layers()) factors_.push_back(resources.second_moment(layer, ridge));
  }

  Json settings() const override {
    EmmetHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"context_templates", context_templates()}};
  }

 private:
  std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                 int64_t n) const override {
    std::vector<double> solved(keys.begin(), keys.end());
    factors_[index]->solve(solved);
    for (double& value : solved) value /= hparams_.common.moment_weight;
    return solve_for_requests(context, keys, solved, n, n > 1 ? hparams_.emmet_lambda : 0,
                              fmt::format("emmet: the system of layer {}", layers()[index]));
  }

  EmmetHparams hparams_;
  std::vector<std::shared_ptr<const Cholesky>> factors_;  // of C + (update_norm_lambda / lambda) I, by layer
};

}  // namespace

std::unique_ptr<Method> make_emmet(std::string_view, Resources& resources) {
  return std::make_unique<Emmet>(read_layerwise_hparams<EmmetHparams>(resources, "EMMET"), resources);
}

std::vector<SettingRow> emmet_hparams(std::string_view) {
  EmmetHparams hparams;
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
