// Fine-tuning and knowledge neurons against plain forward and backward passes of whole sequences.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "edit/methods.h"
#include "kernels/softmax.h"
#include "model/train/parameter_buffer.h"
#include "runtime/io/atomic_file.h"
#include "tests/edit/support.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

const std::vector<EditRequest> kTuningRequests = {{0, "{}, the", "Rome", "xy", "a"}, {1, "In {}", "Paris", "y", "bc"}};
constexpr int64_t kEdited = 1;

/// Log-probabilities of a sequence's next tokens, by position, and the gradients of all parameters for a loss that is
/// the weighted sum of -log p of some of them.
struct Term {
  int64_t position;
  int32_t token;
  float weight;
};

class FineTuning : public testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }

  struct Made {
    std::unique_ptr<Resources> resources;
    std::unique_ptr<Method> method;
    std::vector<PreparedRequest> requests;
  };
  Made make(Executor& executor, const std::string& name, const Json& hparams, bool quirks = false) {
    write_file_atomically(dir_.file("hparams.json"), hparams.dump());
    EditOptions options;
    options.method = name;
    options.hparams = dir_.file("hparams.json");
    options.published_quirks = quirks;
    Made made{std::make_unique<Resources>(options, executor, tokenizer_, Lineage{}), nullptr, {}};
    made.method = make_method(name, *made.resources);
    for (const EditRequest& request : kTuningRequests) made.requests.push_back(made.method->prepare(request, "r"));
    return made;
  }

  std::vector<int32_t> prompt_of(const EditRequest& request) const {
    return tokenizer_.encode_ids(bare_prompt(request));
  }
  std::vector<int32_t> target_of(const EditRequest& request) const {
    return tokenizer_.encode_ids(spaced_target(request.target_new));
  }

  /// The loss of one whole sequence, term by term; its gradients are added to `gradients`.
  double loss_of(const Model& model, const std::vector<int32_t>& tokens, std::span<const Term> terms,
                 ParameterBuffer* gradients) {
    Executor executor(context_, model);
    double loss = 0;
    for (const Term& term : terms) {
      Plan plan;
      plan.sequences.emplace_back().tokens = tokens;
      plan.wanted.push_back({0, term.position});
      const loci::Run run = executor.run(plan, gradients ? Keep::activations : Keep::nothing);
      Tensor logit_gradients(context_, 1, run.logits.cols()), losses(context_, 1, 1);
      cross_entropy(context_, run.logits.view(), {context_, std::span(&term.token, 1)},
                    {context_, std::span(&term.weight, 1)}, losses.view(), logit_gradients.view(), Write::assign);
      loss += static_cast<double>(losses.to_host()[0]);
      if (gradients) executor.backward(run, logit_gradients.view(), &gradients->parameters());
    }
    return loss;
  }

  /// What a request's loss consists of.
  std::vector<Term> terms_of(const EditRequest& request, bool forced, double requests) const {
    const std::vector<int32_t> target = target_of(request);
    const auto weight = static_cast<float>(1 / (requests * static_cast<double>(target.size())));
    const auto last = std::ssize(prompt_of(request)) - 1;
    std::vector<Term> terms;
    for (int64_t t = 0; t < std::ssize(target); ++t) terms.push_back({forced ? last + t : last, target[t], weight});
    return terms;
  }
  std::vector<int32_t> tokens_of(const EditRequest& request, bool forced) const {
    std::vector<int32_t> tokens = prompt_of(request), target = target_of(request);
    if (forced) tokens.insert(tokens.end(), target.begin(), target.end() - 1);
    return tokens;
  }

  Context context_{device_options()};
  Model model_ = random_model(context_, byte_config(), 3);
  Tokenizer tokenizer_ = byte_tokenizer();
  TemporaryDir dir_;
};

// Adam's first step is -lr g / (|g| + eps): it shows the gradient's sign, and with it every place of the loss.
TEST_F(FineTuning, TheFirstStepFollowsTheGradientOfWholeSequences) {
  for (const std::string name : {"ft", "ft-m"}) {
    SCOPED_TRACE(name);
    const bool forced = name == "ft-m";
    Executor executor(context_, model_);
    const Made made = make(executor, name, {{"layers", {kEdited}}, {"num_steps", 1}, {"lr", 0.001}});
    const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
    ASSERT_EQ(batch.changes.size(), 2u);
    ParameterBuffer gradients(context_, model_.config());
    double loss = 0;
    for (const EditRequest& request : kTuningRequests)
      loss += loss_of(model_, tokens_of(request, forced), terms_of(request, forced, 2), &gradients);
    ASSERT_EQ(batch.edits[0].loss_curve.size(), 1u);
    EXPECT_NEAR(batch.edits[0].loss_curve[0].total, loss, 1e-4);
    const BlockParameters<float>& block = gradients.parameters().blocks[kEdited];
    const std::vector<std::pair<std::vector<float>, size_t>> expected = {{to_host(context_, block.down_weight), 0},
                                                                         {to_host(context_, block.down_bias), 1}};
    for (const auto& [gradient, change] : expected) {
      const std::vector<float>& delta = std::get<Dense>(batch.changes[change]).delta;
      ASSERT_EQ(delta.size(), gradient.size());
      double largest = 0;
      for (const float g : gradient) largest = std::max(largest, std::abs(static_cast<double>(g)));
      int64_t compared = 0;
      for (size_t i = 0; i < delta.size(); ++i) {
        if (std::abs(static_cast<double>(gradient[i])) < 1e-3 * largest) continue;
        EXPECT_NEAR(delta[i], gradient[i] > 0 ? -0.001 : 0.001, 1e-5) << i;
        ++compared;
      }
      EXPECT_GT(compared, std::ssize(delta) / 4);
    }
  }
}

TEST_F(FineTuning, TheLossFallsAndIsThatOfTheChangedModel) {
  Executor executor(context_, model_);
  const Made made = make(executor, "ft-m", {{"layers", {kEdited}}, {"num_steps", 12}, {"lr", 0.01}, {"batch_size", 1}});
  const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
  const std::vector<LossRow>& curve = batch.edits[1].loss_curve;
  ASSERT_GE(curve.size(), 4u);
  EXPECT_LT(curve.back().total, 0.5 * curve[1].total);
  EXPECT_EQ(curve.size() % 2, 0u) << "two chunks an epoch";
  // One request a step: the second loss is that of the model after the first step.
  const Made first = make(executor, "ft-m", {{"layers", {kEdited}}, {"num_steps", 1}, {"lr", 0.01}});
  Model changed = model_;
  EditedModel(first.method->edit(executor, std::span(first.requests).first(1), 1)[0].changes)
      .fold_into(context_, changed);
  EXPECT_NEAR(curve[1].total,
              loss_of(changed, tokens_of(kTuningRequests[1], true), terms_of(kTuningRequests[1], true, 1), nullptr),
              1e-4);
}

TEST_F(FineTuning, TheConstraintHoldsForEveryElement) {
  Executor executor(context_, model_);
  const Json hparams = {{"layers", {kEdited}}, {"num_steps", 5}, {"lr", 0.01}, {"norm_constraint", 0.015}};
  const Made made = make(executor, "ft-l", hparams);
  const EditBatch batch = made.method->edit(executor, made.requests, 1)[0];
  int64_t at_the_limit = 0;
  for (const Change& change : batch.changes)
    for (const float value : std::get<Dense>(change).delta) {
      EXPECT_LE(std::abs(value), 0.015f);
      at_the_limit += std::abs(value) == 0.015f;
    }
  EXPECT_GT(at_the_limit, 100);
}

TEST_F(FineTuning, WeightDecayPullsTowardsZero) {
  Executor executor(context_, model_);
  const auto change = [&](double decay) {
    const Made made =
        make(executor, "ft", {{"layers", {kEdited}}, {"num_steps", 1}, {"lr", 0.001}, {"weight_decay", decay}});
    return std::get<Dense>(made.method->edit(executor, made.requests, 0)[0].changes[0]).delta;
  };
  // So strong that it decides alone.
  const std::vector<float> delta = change(1e6),
                           weight = stored_to_host(context_, model_.parameters().blocks[kEdited].down_weight.stored());
  for (size_t i = 0; i < delta.size(); ++i) {
    if (std::abs(weight[i]) > 0.01f) {
      EXPECT_EQ(delta[i]<0, weight[i]> 0) << i;
    }
  }
  EXPECT_NE(change(0), delta);
}

/// Scores by central differences of whole forward passes whose activations are patched.
TEST_F(FineTuning, NeuronsAreScoredByIntegratedGradients) {
  Executor executor(context_, model_);
  constexpr int64_t kSteps = 4;
  for (const bool quirks : {false, true}) {
    SCOPED_TRACE(quirks);
    const Made made = make(executor, "kn", {{"steps", kSteps}, {"adaptive_threshold", 0.4}}, quirks);
    const EditBatch batch = made.method->edit(executor, std::span(made.requests).first(1), 1)[0];
    const Edit& edit = batch.edits[0];
    const EditRequest& request = kTuningRequests[0];
    const int64_t ff = model_.config().mlp_width, layers = model_.config().layers;
    const std::span<const float> scores = edit.values("scores");
    ASSERT_EQ(std::ssize(scores), layers * ff);
    std::vector<int32_t> answer =
        tokenizer_.encode_ids(quirks ? request.target_true : spaced_target(request.target_true));
    const Site site = quirks ? Site::mlp_pre : Site::mlp_key;
    std::mt19937 random(3);
    for (int sample = 0; sample < 6; ++sample) {
      const auto layer = static_cast<int64_t>(random() % static_cast<unsigned>(layers)),
                 neuron = static_cast<int64_t>(random() % static_cast<unsigned>(ff));
      double expected = 0;
      std::vector<int32_t> tokens = prompt_of(request);
      for (const int32_t token : answer) {
        const int64_t last = std::ssize(tokens) - 1;
        Tensor activations(context_, 1, ff);
        Plan read;
        read.sequences.emplace_back().tokens = tokens;
        read.stop = StopAfter{site, layer};
        read.taps.push_back({0, last, site, layer, 0});
        read.tap_output = activations.view();
        executor.run(read);
        const std::vector<float> whole = activations.to_host();
        const auto probability = [&](double share, double shift) {
          std::vector<float> row = whole;
          for (float& value : row) value = static_cast<float>(share * static_cast<double>(value));
          row[neuron] += static_cast<float>(shift);
          const Tensor patch = Tensor::from_host(context_, row, 1, ff);
          Plan plan;
          plan.sequences.emplace_back().tokens = tokens;
          plan.patches.push_back({0, last, site, layer, PatchMode::replace, patch.row(0)});
          plan.wanted.push_back({0, last});
          const std::vector<float> logits = executor.run(plan).logits.to_host();
          double sum = 0;
          for (const float logit : logits)
            sum += std::exp(static_cast<double>(logit) - static_cast<double>(logits[token]));
          return 1 / sum;
        };
        for (int64_t s = 0; s < kSteps; ++s) {
          const double share = static_cast<double>(s) / (kSteps - 1), h = 0.02;
          expected += static_cast<double>(whole[neuron]) / kSteps * (probability(share, h) - probability(share, -h)) /
                      (2 * h) / static_cast<double>(answer.size());
        }
        if (!quirks) tokens.push_back(token);
      }
      double largest = 0;
      for (const float score : scores) largest = std::max(largest, std::abs(static_cast<double>(score)));
      EXPECT_NEAR(scores[layer * ff + neuron], expected, 5e-3 * largest + 0.02 * std::abs(expected));
    }
    // The rows of the neurons above the threshold, and no others, get the difference of embeddings.
    const float limit = 0.4f * *std::ranges::max_element(scores);
    int64_t chosen = 0;
    for (const Change& change : batch.changes) {
      const auto& one = std::get<LowRank>(change);
      for (int64_t i = 0; i < ff; ++i) {
        EXPECT_EQ(one.keys[i] == 1, scores[one.weight.layer * ff + i] > limit);
        chosen += one.keys[i] == 1;
      }
    }
    EXPECT_EQ(chosen, std::ranges::count_if(scores, [&](float score) { return score > limit; }));
    EXPECT_GT(chosen, 0);
  }
}

/// With `refine`, the neurons that more than a share of the prompts have.
TEST_F(FineTuning, RefinedNeuronsAreThoseOfSeveralPrompts) {
  Executor executor(context_, model_);
  const auto neurons_of = [&](const EditRequest& request, const Json& hparams, const char* name) {
    Made made = make(executor, "kn", hparams);
    const std::vector<PreparedRequest> one = {made.method->prepare(request, "r")};
    const EditBatch batch = made.method->edit(executor, one, 1)[0];
    std::set<std::pair<int64_t, int64_t>> found, changed;
    for (const RecordedValues& values : batch.edits[0].recorded)
      if (values.name == name)
        for (size_t i = 0; i < values.integers.size(); i += 2)
          found.emplace(values.integers[i], values.integers[i + 1]);
    for (const Change& change : batch.changes)
      for (int64_t i = 0; i < model_.config().mlp_width; ++i)
        if (std::get<LowRank>(change).keys[i] == 1) changed.emplace(weight_of(change).layer, i);
    if (name == std::string("neurons")) {
      EXPECT_EQ(found, changed);
    }
    return found;
  };
  const Json coarse = {{"steps", 5}, {"adaptive_threshold", 0.2}};
  Json refined = coarse;
  refined["refine"] = true;
  EditRequest request = kTuningRequests[0];
  request.paraphrases = {"They say Rome, the", "Of Rome, the old"};
  std::map<std::pair<int64_t, int64_t>, int> counts;
  for (const auto& neuron : neurons_of(request, coarse, "neurons")) ++counts[neuron];
  for (const std::string& prompt : request.paraphrases) {
    EditRequest other = kTuningRequests[0];
    other.prompt = prompt;
    other.prompt.replace(prompt.find("Rome"), 4, "{}");
    for (const auto& neuron : neurons_of(other, coarse, "neurons")) ++counts[neuron];
  }
  // Of three prompts: two or more, or all.
  for (const auto& [share, least] : {std::pair(0.4, 2), std::pair(0.7, 3)}) {
    refined["p"] = share;
    std::set<std::pair<int64_t, int64_t>> expected;
    for (const auto& [neuron, count] : counts)
      if (count >= least) expected.insert(neuron);
    ASSERT_FALSE(expected.empty());
    EXPECT_LT(expected.size(), counts.size());
    EXPECT_EQ(neurons_of(request, refined, "neurons"), expected);
    EXPECT_EQ(neurons_of(request, refined, "coarse_neurons"), neurons_of(request, coarse, "neurons"));
  }
}

TEST_F(FineTuning, WhatDoesNotFitIsRefusedByName) {
  Executor executor(context_, model_);
  const auto refused = [&](const std::string& name, const Json& hparams) {
    return error_of<InputError>([&] { make(executor, name, hparams); });
  };
  expect_message(refused("ft", {{"layers", {1, 2}}}), {"layers", "exactly one"});
  expect_message(refused("ft", {{"layers", {7}}}), {"layer 7", "0 to 3"});
  expect_message(refused("ft", Json::object()), {"no layer"});
  expect_message(refused("ft-l", {{"layers", {1}}}), {"ft-l", "norm_constraint"});
  expect_message(refused("ft-l", {{"layers", {1}}, {"norm_constraint", 1}}), {"norm_constraint", "decimal point"});
  expect_message(refused("ft", {{"layers", {1}}, {"objective_optimization", "target_new"}}),
                 {"objective_optimization", "prompt_last"});
  expect_message(refused("kn", {{"steps", 1}}), {"steps"});
  expect_message(refused("kn", {{"p", 2}}), {"p"});
  const Made kn = make(executor, "kn", Json::object());
  EditRequest without = kTuningRequests[0];
  without.target_true.clear();
  expect_message(error_of<InputError>([&] { kn.method->prepare(without, "file: case 0"); }),
                 {"file: case 0", "target_true"});
  EditOptions options;
  options.method = "kn";
  options.cov = {"c.h5"};
  Resources resources(options, executor, tokenizer_, {});
  expect_message(error_of<InputError>([&] { make_method("kn", resources); }), {"cov", "c.h5", "kn"});
}

}  // namespace
}  // namespace loci::test
