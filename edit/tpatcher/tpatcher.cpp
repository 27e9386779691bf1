#include "edit/tpatcher/tpatcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "edit/common/hparams.h"
#include "edit/tpatcher/patch_training.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"
#include "runtime/random.h"
#include "runtime/wording.h"

namespace loci {
namespace {

struct TPatcherHparams {
  PatchOptions training{.layer = -1};
  int64_t most_neurons = 5;
  double amplifier = 10;
  int64_t memory_texts = 40000;
  int64_t memory_tokens = 32;
};

/// The keys are the flags of the published code.
void visit_fields(Fields& field, TPatcherHparams& hparams) {
  PatchOptions& training = hparams.training;
  field("layer", training.layer, {-1, kNoLimit}, "the layer beside whose MLP the neurons stand; -1: the last");
  field("max_edit_step", training.steps, {1, 1000000}, "steps of the training, at most");
  field("lr", training.learning_rate, {.min = 0}, "learning rate of Adam");
  field("weight_decay", training.weight_decay, {.min = 0}, "added to the gradient, times the parameter");
  field("gradient_clip_val", training.gradient_limit, {.min = 0}, "a longer gradient is shortened to it");
  field("eps", training.label_smoothing, {0, 1}, "label smoothing: the share of all tokens but the target's");
  field("alc", training.activation_weight, {.min = 0}, "weight of the activation loss");
  field("mlc", training.memory_weight, {.min = 0}, "weight of the memory loss");
  field("act_margin_val", training.activation_margin, {}, "margin of the activation loss");
  field("margin_val1", training.edit_margin, {}, "margin by which a neuron is to fire more than at the memory");
  field("margin_val2", training.memory_margin, {}, "margin below which it is to stay at the memory");
  field("example_repeat", training.copies, {1, 1000}, "copies of the request among the largest terms of the losses");
  field("check_val_every_n_epoch", training.check_every, {1, kNoLimit}, "steps between checks");
  field("lr_scheduler_factor", training.plateau_factor, {0, 1}, "of the rate where the loss has not fallen by 5 %");
  field("lr_scheduler_patience", training.plateau_patience, {0, kNoLimit}, "checks without that before the rate falls");
  field("start_val_epoch", training.first_stop, {0, kNoLimit}, "steps before the training may end");
  field("early_patience", training.stop_patience, {1, kNoLimit},
        "checks without a lower memory loss, the target being said, before the training ends");
  field("max_add_neuron_num", hparams.most_neurons, {1, 1000}, "neurons of a request, at most");
  field("amplify_con", hparams.amplifier, {}, "start of the factors of the values");
  field("memory_size", hparams.memory_texts, {1, kNoLimit}, "texts of the memory, at most");
  field("max_length", hparams.memory_tokens, {1, kNoLimit}, "tokens of each that are kept");
}

TPatcherHparams read_tpatcher_hparams(const Resources& resources) {
  constexpr std::array<std::string_view, 8> kWithoutEffect = {"use_init_weight", "amplify_v",     "activate_loss",
                                                              "memory_loss",     "update_memory", "freeze_model",
                                                              "optim",           "use_val"};
  TPatcherHparams hparams;
  const std::string& path = resources.options().hparams;
  const Fields fields = fields_of(hparams);
  read_known_settings(read_hparams_json(path, fields.keys(), kWithoutEffect), path, fields);
  int64_t& layer = hparams.training.layer;
  const int64_t layers = resources.architecture().layers;
  if (resources.options().layer >= 0) layer = resources.options().layer;
  if (layer < 0) layer = layers - 1;
  require<InputError>(layer < layers, "layer {} cannot be edited: the model has the layers 0 to {}", layer, layers - 1);
  return hparams;
}

/// Rows at mlp_in that neurons are to leave alone, in device memory; grows.
class Memory {
 public:
  Memory(Context& context, int64_t width) : context_(context), width_(width) {}

  void add(std::span<const float> rows) {
    reserve(rows_ + std::ssize(rows) / width_);
    context_.copy_to_device(all_.row(rows_), rows.data(), rows.size_bytes());
    rows_ += std::ssize(rows) / width_;
  }
  void add(std::span<const float* const> rows) {
    reserve(rows_ + std::ssize(rows));
    collect_rows(context_, {context_, rows}, all_.rows_slice(rows_, std::ssize(rows)));
    rows_ += std::ssize(rows);
  }
  void forget_from(int64_t row) { rows_ = row; }
  ConstView view() const { return all_.rows_slice(0, rows_); }

 private:
  void reserve(int64_t rows) {
    if (rows <= all_.rows()) return;
    Tensor larger(context_, std::max(rows, all_.rows() * 3 / 2), width_);
    if (rows_ > 0)
      context_.copy_on_device(larger.data(), all_.data(), sizeof(float) * static_cast<size_t>(rows_ * width_));
    all_ = std::move(larger);
  }

  Context& context_;
  int64_t width_;
  Tensor all_;
  int64_t rows_ = 0;
};

class TPatcher : public Method {
 public:
  TPatcher(const TPatcherHparams& hparams, Resources& resources)
      : hparams_(hparams),
        quirks_(resources.options().published_quirks),
        seed_(resources.options().seed),
        architecture_(resources.architecture()),
        tokenizer_(resources.tokenizer()),
        memory_(resources.executor().context(), architecture_.width) {
    resources.refuse_second_moments("t-patcher");
    resources.refuse_context_templates("t-patcher");
    remember(resources.executor(), resources.memory_texts(hparams.memory_texts, hparams.memory_tokens));
    rows_of_texts_ = memory_.view().rows;
  }

  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    return prepare_bare_request(request, tokenizer_, architecture_, where);
  }

  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                              int64_t batch_size) const override {
    require<ShapeError>(batch_size == 1, "t-patcher adds neurons for one request at a time, not for {}", batch_size);
    // So many are trained side by side: part of the result's bits, as all that shares products.
    constexpr size_t kTogether = 16;
    std::vector<EditBatch> batches;
    for (size_t first = 0; first < requests.size(); first += kTogether)
      for (EditBatch& batch : patch(executor, requests.subspan(first, std::min(kTogether, requests.size() - first))))
        batches.push_back(std::move(batch));
    return batches;
  }

  bool takes_batches() const override { return false; }
  void start_sequence() override { memory_.forget_from(rows_of_texts_); }

  void take_up(const EditBatch& batch) override {
    for (const Edit& edit : batch.edits) {
      std::span<const float> rows = edit.values(kInputs);
      const auto d = static_cast<size_t>(architecture_.width);
      if (quirks_) rows = rows.size() > 2 * d ? rows.subspan(d, rows.size() - 2 * d) : std::span<const float>();
      memory_.add(rows);
    }
  }

  Json settings() const override {
    TPatcherHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}, {"seed", seed_}};
  }

 private:
  static constexpr const char* kInputs = "inputs";

  void remember(Executor& executor, std::span<const std::vector<int32_t>> texts);
  std::vector<EditBatch> patch(Executor& executor, std::span<const PreparedRequest> requests) const;
  Run record(Executor& executor, std::span<const PreparedRequest> requests) const;
  PatchProblem start(const PreparedRequest& request, RecordingPtr base, std::span<const int32_t> said,
                     std::span<const float> inputs) const;
  Edit made(const PreparedRequest& request, std::vector<float> inputs, const TrainedPatch* patch) const;

  TPatcherHparams hparams_;
  bool quirks_;
  uint64_t seed_;
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
  Memory memory_;
  int64_t rows_of_texts_ = 0;
};

void TPatcher::remember(Executor& executor, std::span<const std::vector<int32_t>> texts) {
  const int64_t layer = hparams_.training.layer, most = executor.rows_per_wave();
  while (!texts.empty()) {
    const size_t some = wave_length(texts, most, [](const std::vector<int32_t>& text) { return std::ssize(text); });
    Plan plan;
    plan.stop = StopAfter{Site::mlp_in, layer};
    plan.recorded = {{Site::mlp_in, layer}};
    for (const std::vector<int32_t>& text : texts.first(some))
      plan.sequences.push_back({.tokens = text, .base = nullptr, .record = true});
    const Run run = executor.run(plan);
    std::vector<const float*> rows;
    for (size_t s = 0; s < some; ++s)
      for (int64_t p = 0; p < std::ssize(texts[s]); ++p) rows.push_back(run.recordings[s]->row(Site::mlp_in, layer, p));
    memory_.add(rows);
    texts = texts.subspan(some);
  }
}

/// The requests' texts, with the logits at their targets.
Run TPatcher::record(Executor& executor, std::span<const PreparedRequest> requests) const {
  Plan plan;
  plan.recorded = {{Site::mlp_in, hparams_.training.layer}};
  for (const PreparedRequest& request : requests) {
    const EditPrompt& prompt = request.prompts[0];
    for (int64_t t = 0; t < std::ssize(request.target); ++t)
      plan.wanted.push_back({std::ssize(plan.sequences), prompt.first_target + t});
    plan.sequences.push_back({.tokens = prompt.tokens, .base = nullptr, .record = true});
  }
  return executor.run(plan);
}

/// `said`: the model's most likely tokens where the target's are wanted; `inputs`: x of all rows.
PatchProblem TPatcher::start(const PreparedRequest& request, RecordingPtr base, std::span<const int32_t> said,
                             std::span<const float> inputs) const {
  PatchProblem problem{.base = std::move(base),
                       .first_target = request.prompts[0].first_target,
                       .target = request.target,
                       .positions = {},
                       .keys = {},
                       .bias = {},
                       .values = {},
                       .amplifiers = {}};
  const auto d = static_cast<size_t>(architecture_.width);
  for (size_t t = 0; t < said.size() && problem.count() < hparams_.most_neurons; ++t) {
    if (said[t] == request.target[t]) continue;
    const int64_t position = problem.first_target + static_cast<int64_t>(t);
    const std::span<const float> x = inputs.subspan(static_cast<size_t>(position) * d, d);
    double square = 0;
    for (const float value : x) square += static_cast<double>(value) * static_cast<double>(value);
    problem.positions.push_back(position);
    for (const float value : x) problem.keys.push_back(static_cast<float>(static_cast<double>(value) / square));
  }
  const size_t count = problem.positions.size();
  problem.bias.assign(count, 0);
  problem.amplifiers.assign(count * d, static_cast<float>(hparams_.amplifier));
  Random random(seed_, static_cast<uint64_t>(request.request.case_id));
  for (size_t i = 0; i < count * d; ++i) problem.values.push_back(static_cast<float>(random.normal()));
  return problem;
}

Edit TPatcher::made(const PreparedRequest& request, std::vector<float> inputs, const TrainedPatch* patch) const {
  Edit edit{.request = request.request,
            .method = "t-patcher",
            .layer = hparams_.training.layer,
            .recorded = {},
            .loss_curve = {}};
  const int64_t rows = std::ssize(inputs) / architecture_.width;
  edit.recorded.push_back({kInputs,
                           "what the MLP reads at the request's text, which later edits leave alone",
                           std::move(inputs),
                           {rows, architecture_.width}});
  if (!patch) return edit;
  std::vector<float> penalties;
  for (const PatchStep& step : patch->steps) {
    edit.loss_curve.push_back(
        {.total = step.total, .target = step.target_nll, .probability = std::exp(-step.target_nll)});
    penalties.insert(penalties.end(), {static_cast<float>(step.activation), static_cast<float>(step.memory)});
  }
  edit.recorded.push_back(
      {"penalties", "at each step: activation loss, memory loss", std::move(penalties), {std::ssize(patch->steps), 2}});
  return edit;
}

std::vector<EditBatch> TPatcher::patch(Executor& executor, std::span<const PreparedRequest> requests) const {
  Context& context = executor.context();
  const Run run = record(executor, requests);
  DeviceArray<int32_t> best(context, run.logits.rows());
  argmax_rows(context, run.logits.view(), best);
  const std::vector<int32_t> said = best.to_host();
  std::vector<std::vector<float>> inputs;
  std::vector<PatchProblem> problems;
  std::vector<size_t> problem_of;  // each request's; problems.size() where it needs none
  size_t wanted = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    const RecordingPtr& base = run.recordings[r];
    inputs.push_back(to_host(context, base->at[static_cast<size_t>(Site::mlp_in)][hparams_.training.layer]));
    const size_t tokens = requests[r].target.size();
    PatchProblem problem = start(requests[r], base, std::span(said).subspan(wanted, tokens), inputs[r]);
    wanted += tokens;
    problem_of.push_back(problem.count() > 0 ? problems.size() : requests.size());
    if (problem.count() > 0) problems.push_back(std::move(problem));
  }
  std::vector<TrainedPatch> trained = train_patches(executor, hparams_.training, memory_.view(), problems);
  std::vector<EditBatch> batches;
  for (size_t r = 0; r < requests.size(); ++r) {
    TrainedPatch* patch = problem_of[r] < trained.size() ? &trained[problem_of[r]] : nullptr;
    EditBatch& batch = batches.emplace_back();
    batch.edits.push_back(made(requests[r], std::move(inputs[r]), patch));
    if (patch) batch.changes.emplace_back(std::move(patch->neurons));
  }
  return batches;
}

}  // namespace

std::unique_ptr<Method> make_tpatcher(std::string_view, Resources& resources) {
  return std::make_unique<TPatcher>(read_tpatcher_hparams(resources), resources);
}

std::vector<SettingRow> tpatcher_hparams(std::string_view) {
  TPatcherHparams hparams;
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
