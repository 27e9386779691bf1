#include "edit/memit/memit.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "edit/common/layerwise.h"
#include "edit/common/moment_system.h"
#include "edit/memit/restraint.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

enum class Variant { plain, keeps_earlier_keys, rectified, restrained };

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
  if (name == "memit-prune") hparams.variant = Variant::restrained;
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

/// PRUNE: what a sequence changes at a matrix in all has no singular values far above those of the matrix.
class Restraint {
 public:
  /// `update` is to be made next. It becomes what takes the matrix from its total change to the restrained one.
  void restrain(Context& context, const Model& model, Change& update) {
    Dense dense = dense_of(std::get<LowRank>(update), model.config());
    const StoredView stored = weight_of(model.parameters(), dense.weight).stored();
    const std::vector<float>& before = totals_[dense.weight.layer];
    std::vector<double> total(dense.delta.begin(), dense.delta.end());
    for (size_t i = 0; i < before.size(); ++i) total[i] += static_cast<double>(before[i]);
    if (!restrain_singular_values(context, total, stored.rows, stored.cols, limit(context, stored, dense.weight.layer)))
      return;
    for (size_t i = 0; i < total.size(); ++i)
      dense.delta[i] = static_cast<float>(total[i] - (before.empty() ? 0 : static_cast<double>(before[i])));
    update = std::move(dense);
  }
  void take_up(const Change& change, const Architecture& architecture) {
    const Dense dense = std::holds_alternative<LowRank>(change) ? dense_of(std::get<LowRank>(change), architecture)
                                                                : std::get<Dense>(change);
    std::vector<float>& total = totals_[dense.weight.layer];
    total.resize(dense.delta.size());
    for (size_t i = 0; i < total.size(); ++i) total[i] += dense.delta[i];
  }
  void start_sequence() { totals_.clear(); }

 private:
  /// The largest singular value of the matrix without the total change.
  double limit(Context& context, const StoredView& stored, int64_t layer) {
    const auto found = limits_.find(layer);
    if (found != limits_.end()) return found->second;
    const std::vector<float> now = stored_to_host(context, stored), &change = totals_[layer];
    std::vector<double> original(now.begin(), now.end());
    for (size_t i = 0; i < change.size(); ++i) original[i] -= static_cast<double>(change[i]);
    return limits_[layer] = largest_singular_value(context, original, stored.rows, stored.cols);
  }

  std::map<int64_t, std::vector<float>> totals_;  // by layer, as stored; empty: nothing yet
  std::map<int64_t, double> limits_;              // by layer
};

class Memit : public LayerwiseMethod {
 public:
  Memit(std::string_view name, const MemitHparams& hparams, Resources& resources)
      : LayerwiseMethod(std::string(name), hparams.common, resources),
        hparams_(hparams),
        architecture_(resources.architecture()),
        systems_(std::string(name), layers(), hparams.common.moment_weight, resources),
        earlier_(layers().size()) {}

  Json settings() const override {
    MemitHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"context_templates", context_templates()}};
  }

  void take_up(const EditBatch& batch) override {
    if (hparams_.variant == Variant::restrained)
      for (const Change& change : batch.changes) restraint_.take_up(change, architecture_);
    if (hparams_.variant != Variant::keeps_earlier_keys) return;
    for (const Edit& edit : batch.edits) {
      const std::span<const float> keys = edit.values("keys");
      for (size_t l = 0; l < earlier_.size(); ++l) {
        const auto row = keys.subspan(l * static_cast<size_t>(width()), static_cast<size_t>(width()));
        earlier_[l].insert(earlier_[l].end(), row.begin(), row.end());
      }
    }
  }
  void start_sequence() override {
    std::ranges::fill(earlier_, std::vector<double>());
    restraint_.start_sequence();
  }

 private:
  std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                 int64_t n) const override {
    std::vector<double> all = earlier_[index];
    all.insert(all.end(), keys.begin(), keys.end());
    return systems_.solve(context, index, std::move(all), n);
  }

  void finish(Context& context, const Model& model, std::vector<Change>& updates) const override {
    if (hparams_.variant == Variant::restrained)
      for (Change& update : updates) restraint_.restrain(context, model, update);
    if (hparams_.variant != Variant::rectified) return;
    for (Change& update : updates) {
      Dense dense = dense_of(std::get<LowRank>(update), model.config());
      const std::vector<float> weights = stored_to_host(context, weight_of(model.parameters(), dense.weight).stored());
      keep_largest(weights, hparams_.kept_share, dense.delta);
      update = std::move(dense);
    }
  }

  MemitHparams hparams_;
  const Architecture& architecture_;
  MomentSystems systems_;
  std::vector<std::vector<double>> earlier_;  // by layer: keys of batches before [requests, ff]
  mutable Restraint restraint_;               // keeps what it has computed about the weights
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
