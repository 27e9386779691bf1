#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "edit/common/bases.h"
#include "edit/common/hparams.h"
#include "edit/method.h"
#include "edit/resources.h"
#include "runtime/io/settings.h"

/// Methods that find what a block should put out for each request, and bring the model there by updates of several
/// layers' down projections (Meng et al. 2023).
namespace loci {

/// The hyper-parameters that such methods share, with the keys of the published files.
struct LayerwiseHparams {
  std::vector<int64_t> layers;  ///< ascending; values are found for the last
  FactToken fact_token = FactToken::subject_last;
  ValueOptions value = {.clamp_factor = 0.75};
  double moment_weight = 15000;  ///< lambda, of C
  int64_t loss_layer = -1;       ///< must be the model's last; -1: not given
};
void visit_fields(Fields& field, LayerwiseHparams& hparams);

/// The hyper-parameters of a method that holds LayerwiseHparams as `common`: its defaults, and what the file of the
/// options says. `method` is its name in `alg_name` of EasyEdit's files. Throws InputError where they do not fit the
/// model.
template <typename Hparams>
Hparams read_layerwise_hparams(const Resources& resources, std::string_view method, Hparams hparams = {});

/// What tells one such method from another, beside its systems.
struct LayerwiseForm {
  ValueSearch search = {};  ///< values are found at its sites, and updates bring the first one there
  /// Of what is missing with n layers left, each layer inserts one n-th part, or the root of that.
  enum class Share { part, root_of_part } share = Share::part;
};

class LayerwiseMethod : public TwoStepMethod {
 public:
  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override;
  /// Edits with `value_star`, `value_before` and the loss curve.
  std::vector<Edit> find(Executor& executor, std::span<const PreparedRequest> requests) const override;
  /// Layer by layer, the layers before already changed.
  EditBatch write(Executor& executor, std::span<const PreparedRequest> requests,
                  std::vector<Edit> found) const override;
  int64_t default_batch_size() const override { return 0; }
  std::span<const std::string> context_templates() const override { return templates_; }

 protected:
  LayerwiseMethod(std::string name, const LayerwiseHparams& hparams, Resources& resources, LayerwiseForm form = {});

  /// D of one layer, so that the layer gets W += D^T R for the residuals R [n, d] that are still to be inserted: D [n,
  /// ff], from the keys K [n, ff] of the batch at that layer, `index` among the layers.
  virtual std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                         int64_t n) const = 0;
  /// Makes of the updates, which `model` does not have yet, what the batch changes.
  virtual void finish(Context& context, const Model& model, std::vector<Change>& updates) const {
    static_cast<void>(context), static_cast<void>(model), static_cast<void>(updates);
  }

  const std::vector<int64_t>& layers() const { return hparams_.layers; }
  int64_t width() const { return architecture_.mlp_width; }

 private:
  /// The rows at the sites of block `layers().back()` at a request's fact token: [sites][d].
  using SiteRows = std::vector<std::vector<float>>;
  std::vector<SiteRows> rows_at_sites(Executor& executor, const TemplatePrefixes& prefixes,
                                      std::span<const PreparedRequest> requests) const;
  Edit record(const PreparedRequest& request, SiteRows before, const ValueSolution& solution) const;
  std::vector<float> residuals(std::span<const Edit> found, std::span<const float> states, int64_t layers_left) const;

  std::string name_;
  LayerwiseHparams hparams_;
  LayerwiseForm form_;
  std::vector<std::string> templates_;
  TeacherForcing forcing_;
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
};

// ---------------------------------------------------------------------------------------------------------------------

/// The object of the hyper-parameter file; empty where none is given. Logs the keys that have no effect.
Json layerwise_json(const Resources& resources, std::string_view method, const std::vector<std::string>& with_effect);
void check_layerwise(LayerwiseHparams& hparams, const Resources& resources);

template <typename Hparams>
Hparams read_layerwise_hparams(const Resources& resources, std::string_view method, Hparams hparams) {
  const Fields fields = fields_of(hparams);
  const Json json = layerwise_json(resources, method, fields.keys());
  read_known_settings(json, resources.options().hparams, fields);
  check_layerwise(hparams.common, resources);
  return hparams;
}

}  // namespace loci
