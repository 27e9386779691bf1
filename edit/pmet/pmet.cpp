#include "edit/pmet/pmet.h"

#include "edit/common/layerwise.h"
#include "edit/common/moment_system.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

struct PmetHparams {
  PmetHparams() {
    common.value = {.steps = 30, .learning_rate = 0.2, .clamp_factor = 0.75, .kl_factor = 1};
    common.moment_weight = 6000;
  }

  LayerwiseHparams common;
  double target_factor = 1;
  std::vector<std::string> modules;
};

/// The published files list the modules that are written.
Field written_modules(std::vector<std::string>& modules) {
  Field field{"rewrite_module_tmps", "list of one module", "what is written: the MLP's down projection only",
              Presence::off};
  field.read = [&modules](const Json& json, const std::string& where) {
    modules = json_strings(json, "rewrite_module_tmps", where);
  };
  field.write = [&modules](Json& value) {
    if (!modules.empty()) value = modules;
  };
  return field;
}

void visit_fields(Fields& field, PmetHparams& hparams) {
  visit_fields(field, hparams.common);
  field("nll_loss_factor", hparams.target_factor, {.min = 1e-300}, "weight of the target's loss");
  field.add(written_modules(hparams.modules));
}

class Pmet : public LayerwiseMethod {
 public:
  Pmet(const PmetHparams& hparams, Resources& resources)
      : LayerwiseMethod("pmet", hparams.common, resources,
                        {.search = {.sites = {Site::mlp_out, Site::attn_out},
                                    .target_factor = hparams.target_factor,
                                    .eases_when_said = true},
                         .share = LayerwiseForm::Share::root_of_part}),
        hparams_(hparams),
        systems_("pmet", layers(), hparams.common.moment_weight, resources) {}

  Json settings() const override {
    PmetHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"context_templates", context_templates()}};
  }

 private:
  std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                 int64_t n) const override {
    return systems_.solve(context, index, {keys.begin(), keys.end()}, n);
  }

  PmetHparams hparams_;
  MomentSystems systems_;
};

}  // namespace

std::unique_ptr<Method> make_pmet(std::string_view, Resources& resources) {
  const PmetHparams hparams = read_layerwise_hparams<PmetHparams>(resources, "PMET");
  for (const std::string& module : hparams.modules)
    require_down_projection("rewrite_module_tmps", module, resources.architecture(), resources.options().hparams);
  return std::make_unique<Pmet>(hparams, resources);
}

std::vector<SettingRow> pmet_hparams(std::string_view) {
  PmetHparams hparams;
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
