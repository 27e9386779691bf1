#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

/// The hyper-parameters of a method that holds LayerwiseHparams as `common`, from the file of the options or its
/// defaults. `method` is its name in `alg_name` of EasyEdit's files. Throws InputError where they do not fit the model.
template <typename Hparams>
Hparams read_layerwise_hparams(const Resources& resources, std::string_view method);

class LayerwiseMethod : public Method {
 public:
  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override;
  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                              int64_t batch_size) const override;
  int64_t default_batch_size() const override { return 0; }
  std::span<const std::string> context_templates() const override { return templates_; }

 protected:
  LayerwiseMethod(std::string name, const LayerwiseHparams& hparams, Resources& resources);

  /// D of one layer, so that the layer gets W += D^T R for the residuals R [n, d] that are still to be inserted: D [n,
  /// ff], from the keys K [n, ff] of the batch at that layer, `index` among the layers.
  virtual std::vector<double> directions(Context& context, size_t index, std::span<const double> keys,
                                         int64_t n) const = 0;

  const std::vector<int64_t>& layers() const { return hparams_.layers; }
  int64_t width() const { return architecture_.mlp_width; }

 private:
  /// What block `layers().back()` puts out at a request's fact token, and should.
  struct Value {
    std::vector<float> before, wanted;
    std::vector<LossRow> curve;
  };
  std::vector<Value> find_values(Executor& executor, std::span<const PreparedRequest> requests) const;
  EditBatch insert(Executor& executor, std::span<const PreparedRequest> requests, std::span<Value> values) const;

  std::string name_;
  LayerwiseHparams hparams_;
  std::vector<std::string> templates_;
  TeacherForcing forcing_;
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
};

/// (M + diagonal I)^-1 S for S [n, ff] and M = K S^T [n, n]: D of methods whose constraint is a system of the requests.
/// Throws NumericalError "{name}: ..." where it is singular.
std::vector<double> solve_for_requests(Context& context, std::span<const double> keys, std::span<const double> solved,
                                       int64_t n, double diagonal, const std::string& name);

// ---------------------------------------------------------------------------------------------------------------------

/// The object of the hyper-parameter file; empty where none is given. Logs the keys that have no effect.
Json layerwise_json(const Resources& resources, std::string_view method, const std::vector<std::string>& with_effect);
void check_layerwise(LayerwiseHparams& hparams, const Resources& resources);

template <typename Hparams>
Hparams read_layerwise_hparams(const Resources& resources, std::string_view method) {
  Hparams hparams;
  const Fields fields = fields_of(hparams);
  const Json json = layerwise_json(resources, method, fields.keys());
  read_known_settings(json, resources.options().hparams, fields);
  check_layerwise(hparams.common, resources);
  return hparams;
}

}  // namespace loci
