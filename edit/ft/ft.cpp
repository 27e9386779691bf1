#include "edit/ft/ft.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "edit/common/hparams.h"
#include "kernels/adam.h"
#include "kernels/gemm.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// Losses below this are good enough: the step is left out, and the training ends where the mean of an epoch is.
constexpr double kGoodLoss = 0.01;

struct FtHparams {
  int64_t layer = -1;
  int64_t steps = 25;
  double learning_rate = 5e-4;
  double weight_decay = 0;
  double constraint = 0;  ///< 0: none
  int64_t chunk = 64;
};

Field one_layer(int64_t& layer) {
  Field field{"layers", "list of one layer", "the layer that is trained", Presence::off};
  field.read = [&layer](const Json& json, const std::string& where) {
    const std::vector<int64_t> layers = json_ints(json, "layers", where, 0);
    require<InputError>(layers.size() == 1, "{}: field \"layers\" must hold exactly one layer, got {}", where,
                        layers.size());
    layer = layers[0];
  };
  field.write = [&layer](Json& value) {
    if (layer >= 0) value = Json::array({layer});
  };
  return field;
}

Field norm_constraint(double& constraint) {
  Field field{"norm_constraint", "number with a decimal point, or `false`",
              "how far an element may move from its original", Presence::off};
  field.read = [&constraint](const Json& json, const std::string& where) {
    const Json& value = json_field(json, "norm_constraint", where);
    if (value == false) return;
    require<InputError>(
        value.is_number_float() && value.get<double>() > 0,
        "{}: field \"norm_constraint\" is {}; write a number above 0 with a decimal point, or false (the "
        "published code takes an integer for no constraint)",
        where, value.dump().substr(0, 40));
    constraint = value.get<double>();
  };
  field.write = [&constraint](Json& value) {
    if (constraint > 0) value = constraint;
  };
  return field;
}

void visit_fields(Fields& field, FtHparams& hparams) {
  field.add(one_layer(hparams.layer));
  field("num_steps", hparams.steps, {1, 100000}, "epochs over the requests of a batch, at most");
  field("lr", hparams.learning_rate, {.min = 0}, "learning rate of Adam");
  field("weight_decay", hparams.weight_decay, {.min = 0}, "added to the gradient, times the weight");
  field.add(norm_constraint(hparams.constraint));
  field("batch_size", hparams.chunk, {1, kNoLimit}, "requests of one step");
}

FtHparams read_ft_hparams(std::string_view method, const Resources& resources) {
  constexpr std::array<std::string_view, 2> kWithoutEffect = {"kl_factor", "objective_optimization"};
  FtHparams hparams;
  const std::string& path = resources.options().hparams;
  const Fields fields = fields_of(hparams);
  const Json json = read_hparams_json(path, fields.keys(), kWithoutEffect, [&](const Json& file) {
    const std::string objective = json_string_or(file, "objective_optimization", "", path);
    const std::string_view wanted = method == "ft-m" ? "target_new" : "prompt_last";
    require<InputError>(objective.empty() || objective == wanted,
                        "{}: field \"objective_optimization\" is \"{}\", but {} takes \"{}\"", path, objective, method,
                        wanted);
    require_down_projection(file, resources.architecture(), path);
  });
  read_known_settings(json, path, fields);
  if (resources.options().layer >= 0) hparams.layer = resources.options().layer;
  const int64_t layers = resources.architecture().layers;
  require<InputError>(hparams.layer >= 0, "no layer to edit is given; set \"layers\" in {}, or {}", option("hparams"),
                      option("layer"));
  require<InputError>(hparams.layer < layers, "layer {} cannot be edited: the model has the layers 0 to {}",
                      hparams.layer, layers - 1);
  require<InputError>(method != "ft-l" || hparams.constraint > 0,
                      "ft-l needs \"norm_constraint\" in {}; ft is the method without", option("hparams"));
  return hparams;
}

/// Which targets are read where: one row of logits for each of them, or one for all targets of a request.
enum class Reading { teacher_forced, at_the_prompts_end };

/// Requests that share a step, their states at the layer, which does not change, and what is asked of them.
struct Chunk {
  Plan plan;      ///< lanes above the layer; their patches read `change`
  Tensor keys;    ///< [rows, ff]
  Tensor change;  ///< [rows, d] of the MLP's output
  std::vector<RecordingPtr> bases;
  std::vector<std::vector<int32_t>> targets;  ///< by pass: of each wanted row, -1 where it has no more
  std::vector<float> weights;                 ///< of each wanted row
};

/// Trains one layer on the requests of one batch.
class LayerTraining {
 public:
  LayerTraining(Executor& executor, const FtHparams& hparams, Reading reading,
                std::span<const PreparedRequest> requests)
      : executor_(executor),
        context_(executor.context()),
        hparams_(hparams),
        block_(executor.model().parameters().blocks[hparams.layer]) {
    const Architecture& config = executor.model().config();
    for (size_t first = 0; first < requests.size(); first += static_cast<size_t>(hparams.chunk))
      chunks_.push_back(make_chunk(
          requests.subspan(first, std::min(requests.size() - first, static_cast<size_t>(hparams.chunk))), reading));
    for (Parameter* parameter : {&weight_, &bias_}) {
      const int64_t rows = parameter == &weight_ ? config.mlp_width : 1;
      for (Tensor* tensor : {&parameter->change, &parameter->first, &parameter->second})
        *tensor = Tensor::zeros(context_, rows, config.width);
    }
  }

  /// Returns the loss of each chunk of each epoch, before its step.
  std::vector<LossRow> run() {
    std::vector<LossRow> curve;
    for (int64_t epoch = 0; epoch < hparams_.steps; ++epoch) {
      double sum = 0;
      for (Chunk& chunk : chunks_) {
        const double loss = step(chunk);
        curve.push_back({.total = loss, .target = loss, .probability = std::exp(-loss)});
        sum += loss;
      }
      if (sum / static_cast<double>(chunks_.size()) < kGoodLoss) break;
    }
    return curve;
  }

  std::vector<float> weight_change() const { return weight_.change.to_host(); }  ///< [ff, d]
  std::vector<float> bias_change() const { return bias_.change.to_host(); }

 private:
  struct Parameter {
    Tensor change, first, second;  ///< from the original; Adam's moments
  };

  Chunk make_chunk(std::span<const PreparedRequest> requests, Reading reading);
  void ask(Chunk& chunk, int64_t sequence, const PreparedRequest& request, Reading reading, size_t requests);
  double step(Chunk& chunk);
  void update(Parameter& parameter, Tensor& gradient, const std::vector<float>& original);

  Executor& executor_;
  Context& context_;
  const FtHparams& hparams_;
  const BlockParameters<const float>& block_;
  std::vector<Chunk> chunks_;
  Parameter weight_, bias_;
  int64_t steps_ = 0;
};

Chunk LayerTraining::make_chunk(std::span<const PreparedRequest> requests, Reading reading) {
  const int64_t layer = hparams_.layer;
  const Architecture& config = executor_.model().config();
  Plan base;
  base.stop = StopAfter{Site::resid, layer};
  base.recorded = {{Site::mlp_key, layer}};
  for (const PreparedRequest& request : requests) {
    const std::vector<int32_t>& tokens = request.prompts[0].tokens;
    const int64_t rows = reading == Reading::teacher_forced ? std::ssize(tokens) : request.prompts[0].first_target + 1;
    base.sequences.push_back({.tokens = {tokens.begin(), tokens.begin() + rows}, .base = nullptr, .record = true});
  }
  Chunk chunk;
  chunk.bases = executor_.run(base).recordings;
  std::vector<const float*> keys;
  for (size_t s = 0; s < requests.size(); ++s)
    for (int64_t p = 0; p < base.sequences[s].row_count(); ++p)
      keys.push_back(chunk.bases[s]->row(Site::mlp_key, layer, p));
  const auto rows = std::ssize(keys);
  chunk.keys = Tensor(context_, rows, config.mlp_width);
  collect_rows(context_, {context_, std::span<const float* const>(keys)}, chunk.keys.view());
  chunk.change = Tensor::zeros(context_, rows, config.width);
  int64_t row = 0;
  for (size_t s = 0; s < requests.size(); ++s) {
    const auto sequence = static_cast<int64_t>(s);
    chunk.plan.sequences.push_back(
        {.tokens = {}, .rows = base.sequences[s].row_count(), .first_layer = layer + 1, .base = chunk.bases[s]});
    for (int64_t p = 0; p < base.sequences[s].row_count(); ++p)
      chunk.plan.patches.push_back({sequence, p, Site::resid, layer, PatchMode::add, chunk.change.row(row++)});
    ask(chunk, sequence, requests[s], reading, requests.size());
  }
  return chunk;
}

/// The mean over a request's targets, then over requests.
void LayerTraining::ask(Chunk& chunk, int64_t sequence, const PreparedRequest& request, Reading reading,
                        size_t requests) {
  const auto tokens = std::ssize(request.target);
  const auto weight = static_cast<float>(1 / (static_cast<double>(requests) * static_cast<double>(tokens)));
  const bool forced = reading == Reading::teacher_forced;
  const int64_t wanted = forced ? tokens : 1, passes = forced ? 1 : tokens;
  const size_t before = chunk.plan.wanted.size();
  for (int64_t t = 0; t < wanted; ++t) {
    chunk.plan.wanted.push_back({sequence, request.prompts[0].first_target + t});
    chunk.weights.push_back(weight);
  }
  if (std::ssize(chunk.targets) < passes)
    chunk.targets.resize(static_cast<size_t>(passes), std::vector<int32_t>(before, -1));
  for (size_t pass = 0; pass < chunk.targets.size(); ++pass)
    for (int64_t t = 0; t < wanted; ++t)
      chunk.targets[pass].push_back(
          static_cast<int64_t>(pass) < passes ? request.target[forced ? t : static_cast<int64_t>(pass)] : -1);
}

/// Returns the loss before the step.
double LayerTraining::step(Chunk& chunk) {
  gemm(context_, Transpose::no, chunk.keys.view(), Transpose::no, weight_.change.view(), chunk.change.view());
  const Tensor ones = Tensor::from_host(context_, std::vector<float>(static_cast<size_t>(chunk.keys.rows()), 1.0f),
                                        chunk.keys.rows(), 1);
  gemm(context_, Transpose::no, ones.view(), Transpose::no, bias_.change.view(), chunk.change.view(),
       Write::accumulate);
  Run run = executor_.run(chunk.plan, Keep::activations);
  Tensor gradients = Tensor::padded(context_, run.logits.rows(), run.logits.cols());
  double loss = 0;
  for (size_t pass = 0; pass < chunk.targets.size(); ++pass) {
    Tensor losses(context_, run.logits.rows(), 1);
    cross_entropy(context_, run.logits.view(), {context_, std::span<const int32_t>(chunk.targets[pass])},
                  {context_, std::span<const float>(chunk.weights)}, losses.view(), gradients.view(),
                  pass == 0 ? Write::assign : Write::accumulate);
    for (const float part : losses.to_host()) loss += static_cast<double>(part);
  }
  require<NumericalError>(std::isfinite(loss), "the loss of fine-tuning is not finite; lower \"lr\"");
  if (loss < kGoodLoss) return loss;
  const RowGradients back = executor_.backward(run, gradients.view());
  const Architecture& config = executor_.model().config();
  Tensor weight_gradient(context_, config.mlp_width, config.width),
      bias_gradient = Tensor::zeros(context_, 1, config.width);
  gemm(context_, Transpose::yes, chunk.keys.view(), Transpose::no, back.joined.view(), weight_gradient.view());
  add_column_sums(context_, back.joined.view(), bias_gradient.view());
  ++steps_;
  const bool decays = hparams_.weight_decay > 0;
  update(weight_, weight_gradient,
         decays ? stored_to_host(context_, block_.down_weight.stored()) : std::vector<float>());
  update(bias_, bias_gradient, decays ? to_host(context_, block_.down_bias) : std::vector<float>());
  return loss;
}

void LayerTraining::update(Parameter& parameter, Tensor& gradient, const std::vector<float>& original) {
  const View change = parameter.change.view();
  if (!original.empty()) {
    Tensor decay = Tensor::from_host(context_, original, change.rows, change.cols);
    add(context_, parameter.change.view(), decay.view());
    scale(context_, static_cast<float>(hparams_.weight_decay), decay.view());
    add(context_, decay.view(), gradient.view());
  }
  adam_step(context_, {.learning_rate = hparams_.learning_rate}, steps_, gradient.view(), 1, change,
            parameter.first.view(), parameter.second.view());
  if (hparams_.constraint > 0) clamp(context_, static_cast<float>(hparams_.constraint), change);
}

class FineTuning : public Method {
 public:
  FineTuning(std::string_view name, const FtHparams& hparams, Resources& resources)
      : name_(name), hparams_(hparams), architecture_(resources.architecture()), tokenizer_(resources.tokenizer()) {
    resources.refuse_second_moments(name);
    resources.refuse_context_templates(name);
    const Orientation stored = parameter_at(architecture_, {Role::down_weight, hparams.layer}).stored;
    require<InputError>(hparams.weight_decay == 0 || stored == Orientation::in_out,
                        "field \"weight_decay\" is for models that store matrices as [in, out]; set it to 0");
  }

  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    return prepare_bare_request(request, tokenizer_, architecture_, where);
  }

  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                              int64_t batch_size) const override {
    std::vector<EditBatch> batches;
    for (const std::span<const PreparedRequest> some : cut_into_batches(requests, batch_size))
      batches.push_back(train(executor, some));
    return batches;
  }

  Json settings() const override {
    FtHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}};
  }

 private:
  EditBatch train(Executor& executor, std::span<const PreparedRequest> requests) const {
    LayerTraining training(executor, hparams_, name_ == "ft-m" ? Reading::teacher_forced : Reading::at_the_prompts_end,
                           requests);
    const std::vector<LossRow> curve = training.run();
    EditBatch batch;
    for (const PreparedRequest& request : requests)
      batch.edits.push_back(
          {.request = request.request, .method = name_, .layer = hparams_.layer, .recorded = {}, .loss_curve = curve});
    const WeightId weight{Role::down_weight, hparams_.layer}, bias{Role::down_bias, hparams_.layer};
    batch.changes.emplace_back(Dense{weight, {}, as_stored(training.weight_change(), weight)});
    if (!executor.model().parameters().blocks[hparams_.layer].down_bias.empty())
      batch.changes.emplace_back(Dense{bias, {}, training.bias_change()});
    return batch;
  }

  std::vector<float> as_stored(std::vector<float> in_out, WeightId weight) const {
    if (parameter_at(architecture_, weight).stored == Orientation::in_out) return in_out;
    std::vector<float> turned(in_out.size());
    const int64_t ff = architecture_.mlp_width, d = architecture_.width;
    for (int64_t i = 0; i < ff; ++i)
      for (int64_t j = 0; j < d; ++j) turned[j * ff + i] = in_out[i * d + j];
    return turned;
  }

  std::string name_;
  FtHparams hparams_;
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
};

}  // namespace

std::unique_ptr<Method> make_ft(std::string_view name, Resources& resources) {
  return std::make_unique<FineTuning>(name, read_ft_hparams(name, resources), resources);
}

std::vector<SettingRow> ft_hparams(std::string_view name) {
  FtHparams hparams;
  if (name == "ft-l") return hparam_rows(fields_of(hparams), {"layers", "norm_constraint"});
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
