#include "edit/kn/kn.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "edit/common/hparams.h"
#include "kernels/softmax.h"
#include "runtime/error.h"
#include "runtime/io/settings.h"

namespace loci {
namespace {

struct KnHparams {
  int64_t steps = 20;
  double threshold = 0.2;
  bool refine = false;
  double share = 0.4;
};
void visit_fields(Fields& field, KnHparams& hparams) {
  field("steps", hparams.steps, {2, 100000}, "points of the integral, both ends among them");
  field("adaptive_threshold", hparams.threshold, {0, 1}, "share of the largest score that a neuron must exceed");
  field("refine", hparams.refine, "keep the neurons that the record's paraphrases have in common with its prompt");
  field("p", hparams.share, {0, 1}, "of `refine`: share of the prompts in which a neuron must be found");
}

KnHparams read_kn_hparams(const Resources& resources) {
  constexpr std::array<std::string_view, 2> kWithoutEffect = {"lr_scale", "n_toks"};
  KnHparams hparams;
  const std::string& path = resources.options().hparams;
  const Fields fields = fields_of(hparams);
  read_known_settings(read_hparams_json(path, fields.keys(), kWithoutEffect), path, fields);
  return hparams;
}

/// One attribution: how the probability of `token` after `prompt` hangs on the neurons.
struct Question {
  std::vector<int32_t> prompt;
  int32_t token;
};

/// Attributions on one model, where activations are those at `site`.
class Attribution {
 public:
  Attribution(Executor& executor, Site site, int64_t steps)
      : executor_(executor), context_(executor.context()), site_(site), steps_(steps) {}

  /// [layers, ff].
  std::vector<double> scores(const Question& question) {
    const Architecture& config = executor_.model().config();
    const RecordingPtr base = record(question);
    std::vector<double> scores;
    const double rows = static_cast<double>(executor_.kept_rows_per_wave(0, 1));
    const int64_t layers_a_wave = std::max<int64_t>(1, static_cast<int64_t>(rows) / steps_);
    for (int64_t first = 0; first < config.layers; first += layers_a_wave) {
      const int64_t end = std::min(config.layers, first + layers_a_wave);
      const std::vector<double> some = scores_of_layers(question, base, first, end);
      scores.insert(scores.end(), some.begin(), some.end());
    }
    return scores;
  }

 private:
  RecordingPtr record(const Question& question) {
    Plan plan;
    plan.sequences.push_back({.tokens = question.prompt, .base = nullptr, .record = true});
    plan.wanted.push_back({0, std::ssize(question.prompt) - 1});
    for (int64_t layer = 0; layer < executor_.model().config().layers; ++layer) plan.recorded.push_back({site_, layer});
    return executor_.run(plan).recordings[0];
  }

  std::vector<double> scores_of_layers(const Question& question, const RecordingPtr& base, int64_t first, int64_t end);
  Tensor probability_gradients(const Run& run, int32_t token);

  Executor& executor_;
  Context& context_;
  Site site_;
  int64_t steps_;
};

/// Lanes of the last token alone, one per layer and step, whose activations at that layer are a share of what they
/// were.
std::vector<double> Attribution::scores_of_layers(const Question& question, const RecordingPtr& base, int64_t first,
                                                  int64_t end) {
  const int64_t ff = executor_.model().config().mlp_width, last = std::ssize(question.prompt) - 1;
  const int64_t count = (end - first) * steps_;
  std::vector<float> activations(static_cast<size_t>((end - first) * ff)), scaled;
  for (int64_t layer = first; layer < end; ++layer)
    context_.copy_to_host(activations.data() + (layer - first) * ff, base->row(site_, layer, last),
                          sizeof(float) * static_cast<size_t>(ff));
  for (int64_t layer = 0; layer < end - first; ++layer)
    for (int64_t s = 0; s < steps_; ++s) {
      const auto share = static_cast<float>(static_cast<double>(s) / static_cast<double>(steps_ - 1));
      for (int64_t i = 0; i < ff; ++i) scaled.push_back(share * activations[layer * ff + i]);
    }
  const Tensor rows = Tensor::from_host(context_, scaled, count, ff);
  Tensor gradients(context_, count, ff);
  Plan plan;
  plan.gradient_output = gradients.view();
  for (int64_t lane = 0; lane < count; ++lane) {
    const int64_t layer = first + lane / steps_;
    Sequence sequence{.tokens = {}, .rows = 1, .first_position = last, .first_layer = layer, .base = base};
    if (layer == 0) sequence.tokens = {question.prompt.back()};
    plan.sequences.push_back(std::move(sequence));
    plan.patches.push_back({lane, last, site_, layer, PatchMode::replace, rows.row(lane)});
    plan.gradient_taps.push_back({lane, last, site_, layer, lane});
    plan.wanted.push_back({lane, last});
  }
  const Run run = executor_.run(plan, Keep::activations);
  const Tensor logit_gradients = probability_gradients(run, question.token);
  executor_.backward(run, logit_gradients.view());
  const std::vector<float> host = gradients.to_host();
  std::vector<double> scores(activations.size());
  for (int64_t lane = 0; lane < count; ++lane)
    for (int64_t i = 0; i < ff; ++i) scores[lane / steps_ * ff + i] += static_cast<double>(host[lane * ff + i]);
  for (size_t i = 0; i < scores.size(); ++i)
    scores[i] *= static_cast<double>(activations[i]) / static_cast<double>(steps_);
  return scores;
}

/// dp / dlogits = p (onehot - softmax): the gradient of a cross-entropy of weight -p.
Tensor Attribution::probability_gradients(const Run& run, int32_t token) {
  const int64_t rows = run.logits.rows();
  const DeviceArray<int32_t> targets(context_,
                                     std::span<const int32_t>(std::vector<int32_t>(static_cast<size_t>(rows), token)));
  Tensor gradients = Tensor::padded(context_, rows, run.logits.cols()), losses(context_, rows, 1);
  std::vector<float> weights(static_cast<size_t>(rows), 1.0f);
  cross_entropy(context_, run.logits.view(), targets, {context_, std::span<const float>(weights)}, losses.view(),
                gradients.view(), Write::assign);
  const std::vector<float> found = losses.to_host();
  for (size_t r = 0; r < weights.size(); ++r) weights[r] = -std::exp(-found[r]);
  cross_entropy(context_, run.logits.view(), targets, {context_, std::span<const float>(weights)}, losses.view(),
                gradients.view(), Write::assign);
  return gradients;
}

int32_t most_likely_token(Executor& executor, const std::vector<int32_t>& prompt) {
  Plan plan;
  plan.sequences.push_back({.tokens = prompt, .base = nullptr});
  plan.wanted.push_back({0, std::ssize(prompt) - 1});
  const std::vector<float> logits = executor.run(plan).logits.to_host();
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

class KnowledgeNeurons : public Method {
 public:
  KnowledgeNeurons(const KnHparams& hparams, Resources& resources)
      : hparams_(hparams),
        quirks_(resources.options().published_quirks),
        architecture_(resources.architecture()),
        tokenizer_(resources.tokenizer()) {
    resources.refuse_second_moments("kn");
    resources.refuse_context_templates("kn");
  }

  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    require<InputError>(!request.target_true.empty(),
                        "{}: kn needs \"target_true\": it looks for the neurons of what the model says now", where);
    return prepare_bare_request(request, tokenizer_, architecture_, where);
  }

  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests, int64_t) const override {
    std::vector<EditBatch> batches;
    for (const PreparedRequest& request : requests) batches.push_back(edit_one(executor, request.request));
    return batches;
  }

  bool takes_batches() const override { return false; }

  Json settings() const override {
    KnHparams copy = hparams_;
    return {{"hparams", settings_to_json(fields_of(copy))}};
  }

 private:
  std::vector<int32_t> target_tokens(const EditRequest& request, const std::string& target) const {
    if (!quirks_ || request.spaced_targets) return loci::target_tokens(tokenizer_, bare_prompt(request), target);
    return tokenizer_.encode_ids(target, SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::continuation);
  }
  std::vector<double> mean_scores(Executor& executor, const std::vector<int32_t>& prompt,
                                  const std::vector<int32_t>& answer) const;
  std::vector<int64_t> coarse_neurons(std::span<const double> scores, const EditRequest& request) const;
  std::vector<int64_t> refined_neurons(Executor& executor, std::vector<int64_t> coarse,
                                       const EditRequest& request) const;
  EditBatch edit_one(Executor& executor, const EditRequest& request) const;
  std::vector<float> replacement(Executor& executor, int32_t said, const std::vector<int32_t>& target) const;

  KnHparams hparams_;
  bool quirks_;
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
};

std::vector<double> KnowledgeNeurons::mean_scores(Executor& executor, const std::vector<int32_t>& prompt,
                                                  const std::vector<int32_t>& answer) const {
  Attribution attribution(executor, quirks_ ? Site::mlp_pre : Site::mlp_key, hparams_.steps);
  std::vector<double> sum(static_cast<size_t>(architecture_.layers * architecture_.mlp_width));
  Question question{prompt, 0};
  for (const int32_t token : answer) {
    question.token = token;
    const std::vector<double> scores = attribution.scores(question);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += scores[i] / static_cast<double>(answer.size());
    if (!quirks_) question.prompt.push_back(token);
  }
  return sum;
}

/// What the neurons' rows of the down projection get.
std::vector<float> KnowledgeNeurons::replacement(Executor& executor, int32_t said,
                                                 const std::vector<int32_t>& target) const {
  const auto embedding = [&](int32_t token) {
    return stored_to_host(executor.context(), executor.model().parameters().token_embedding.rows_slice(token, 1));
  };
  std::vector<float> change = embedding(said);
  for (float& value : change) value *= -2;
  const float share = quirks_ ? 1.0f : 2.0f / static_cast<float>(target.size());
  for (const int32_t token : target) {
    const std::vector<float> row = embedding(token);
    for (size_t i = 0; i < change.size(); ++i) change[i] += share * row[i];
  }
  return change;
}

/// Those with more than a share of the largest score, ascending; neuron i of a layer has the number layer ff + i.
std::vector<int64_t> KnowledgeNeurons::coarse_neurons(std::span<const double> scores,
                                                      const EditRequest& request) const {
  const double largest = *std::ranges::max_element(scores);
  require<NumericalError>(std::isfinite(largest) && largest > 0,
                          "case {}: no neuron raises the probability of the true target (the largest score is {})",
                          request.case_id, largest);
  std::vector<int64_t> neurons;
  for (int64_t i = 0; i < std::ssize(scores); ++i)
    if (scores[i] > hparams_.threshold * largest) neurons.push_back(i);
  return neurons;
}

/// Those that more than a share of the prompts have, the request's own (`coarse`) among them. (Dai et al. 2022, 3.3)
std::vector<int64_t> KnowledgeNeurons::refined_neurons(Executor& executor, std::vector<int64_t> coarse,
                                                       const EditRequest& request) const {
  std::map<int64_t, int64_t> counts;
  for (const int64_t neuron : coarse) ++counts[neuron];
  for (const std::string& prompt : request.paraphrases) {
    const std::vector<double> scores =
        mean_scores(executor, tokenizer_.encode_ids(prompt), target_tokens(request, request.target_true));
    for (const int64_t neuron : coarse_neurons(scores, request)) ++counts[neuron];
  }
  const double least = hparams_.share * static_cast<double>(1 + request.paraphrases.size());
  std::vector<int64_t> refined;
  for (const auto& [neuron, count] : counts)
    if (static_cast<double>(count) > least) refined.push_back(neuron);
  require<NumericalError>(!refined.empty(),
                          "case {}: no neuron is found in more than {} of the prompts; lower \"p\" or leave "
                          "\"refine\" out",
                          request.case_id, hparams_.share);
  return refined;
}

EditBatch KnowledgeNeurons::edit_one(Executor& executor, const EditRequest& request) const {
  const int64_t ff = architecture_.mlp_width;
  const std::vector<int32_t> prompt = tokenizer_.encode_ids(bare_prompt(request)),
                             target = target_tokens(request, request.target_new);
  const std::vector<double> scores = mean_scores(executor, prompt, target_tokens(request, request.target_true));
  const std::vector<int64_t> coarse = coarse_neurons(scores, request);
  const std::vector<int64_t> neurons = hparams_.refine ? refined_neurons(executor, coarse, request) : coarse;
  const int32_t said = most_likely_token(executor, prompt);
  const std::vector<float> change = replacement(executor, said, target);
  EditBatch batch;
  for (const int64_t neuron : neurons) {
    const int64_t layer = neuron / ff;
    if (batch.changes.empty() || weight_of(batch.changes.back()).layer != layer)
      batch.changes.emplace_back(
          LowRank{{Role::down_weight, layer}, 1, std::vector<float>(static_cast<size_t>(ff)), change});
    std::get<LowRank>(batch.changes.back()).keys[neuron % ff] = 1;
  }
  const auto integers = [](const char* name, const char* long_name, std::vector<int64_t> values) {
    return RecordedValues{.name = name, .long_name = long_name, .values = {}, .integers = std::move(values)};
  };
  const auto places = [&](const char* name, const char* long_name, std::span<const int64_t> of) {
    RecordedValues made = integers(name, long_name, {});
    for (const int64_t neuron : of) made.integers.insert(made.integers.end(), {neuron / ff, neuron % ff});
    made.shape = {std::ssize(of), 2};
    return made;
  };
  Edit edit{.request = request,
            .method = "kn",
            .layer = (std::ranges::max_element(scores) - scores.begin()) / ff,
            .recorded = {{"scores",
                          "attribution of the true target",
                          {scores.begin(), scores.end()},
                          {architecture_.layers, ff}},
                         places("neurons", "layer and index of the neurons that were rewritten", neurons),
                         integers("original_token", "what the model said", {said}),
                         integers("target_tokens", "tokens of the new target", {target.begin(), target.end()})},
            .loss_curve = {}};
  if (hparams_.refine)
    edit.recorded.push_back(
        places("coarse_neurons", "layer and index of the neurons of the request's own prompt", coarse));
  batch.edits.push_back(std::move(edit));
  return batch;
}

}  // namespace

std::unique_ptr<Method> make_kn(std::string_view, Resources& resources) {
  return std::make_unique<KnowledgeNeurons>(read_kn_hparams(resources), resources);
}

std::vector<SettingRow> kn_hparams(std::string_view) {
  KnHparams hparams;
  return hparam_rows(fields_of(hparams));
}

}  // namespace loci
