#include "edit/memit/memit.h"

#include <algorithm>
#include <cmath>

#include "edit/common/layerwise.h"
#include "edit/common/moment_system.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

enum class Variant { plain, keeps_earlier_keys, rectified };

struct MemitHparams {
  Variant variant = Variant::plain;  // by the name of the method
  LayerwiseHparams common;
  double kept_share = 0.4;
};
void visit_fields(Fields& field, MemitHparams& hparams) {
  visit_fields(field, hparams.common);
  if (hparams.variant == Variant::rectified)
    field("kept_share", hparams.kept_share, {.min = 1e-9, .max = 1},
          "share of an update's elements that are kept: those that change most relative to the weight");
}

MemitHparams defaults_of(std::string_view name) {
  MemitHparams hparams;
  if (name == "memit-seq") hparams.variant = Variant::keeps_earlier_keys;
  if (name == "memit-rect") hparams.variant = Variant::rectified;
  return hparams;
}

/// The elements of `delta` [as W] that change W most, relative to it; the others become 0.
void keep_largest(std::span<const float> weights, double share, std::span<float> delta) {
  constexpr float kSmall = 1e-8f;  // as in the published code
  std::vector<float> relative(delta.size());
  for (size_t i = 0; i < delta.size(); ++i) relative[i] = std::abs(delta[i] / (weights[i] + kSmall));
  const auto kept = static_cast<std::ptrdiff_t>(share * static_cast<double>(delta.size()));
  if (kept >= std::ssize(delta)) return;
  std::vector<float> sorted = relative;
  std::ranges::nth_element(sorted, sorted.begin() + kept, std::ranges::greater());
  for (size_t i = 0; i < delta.size(); ++i)
    if (relative[i] <= sorted[static_cast<size_t>(kept)]) delta[i] = 0;
}

class Memit : public LayerwiseMethod {
 public:
  Memit(std::string_view name, const MemitHparams& hparams, Resources& resources)
      : LayerwiseMethod(std::string(name), hparams.common, resources),
        hparams_(hparams),
        systems_(std::string(name), layers(), hparams.common.moment_weight, resources),
        earlier_(layers().size()) {}

  Json settings() const override {
    MemitHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"context_templates", context_templates()}};
  }

  void take_up(const EditBatch& batch) override {
    if (hparams_.variant != Variant::keeps_earlier_keys) return;
    for (const Edit& edit : batch.edits) {
      const std::span<const float> keys = edit.values("keys");
      for (size_t l = 0; l < earlier_.size(); ++l) {
        const auto row = keys.subspan(l * static_cast<size_t>(width()), static_cast<size_t>(width()));
        earlier_[l].insert(earlier_[l].end(), row.begin(), row.end());
      }
    }
  }
  void start_sequence() override { std::ranges::fill(earlier_, std::vector<double>()); }

 private:
  std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                 int64_t n) const override {
    std::vector<double> all = earlier_[index];
    all.insert(all.end(), keys.begin(), keys.end());
    return systems_.solve(context, index, std::move(all), n);
  }

  void finish(Context& context, const Model& model, std::vector<Change>& updates) const override {
    if (hparams_.variant != Variant::rectified) return;
    for (Change& update : updates) {
      Dense dense = dense_of(std::get<LowRank>(update), model.config());
      const std::vector<float> weights = stored_to_host(context, weight_of(model.parameters(), dense.weight).stored());
      keep_largest(weights, hparams_.kept_share, dense.delta);
      update = std::move(dense);
    }
  }

  MemitHparams hparams_;
  MomentSystems systems_;
  std::vector<std::vector<double>> earlier_;  // by layer: keys of batches before [requests, ff]
};

}  // namespace

std::unique_ptr<Method> make_memit(std::string_view name, Resources& resources) {
  return std::make_unique<Memit>(name, read_layerwise_hparams(resources, "MEMIT", defaults_of(name)), resources);
}

std::vector<SettingRow> memit_hparams(std::string_view name) {
  MemitHparams hparams = defaults_of(name);
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
