// Batched scoring against the plain way: one full forward pass for each prompt, target and model.
#include "edit/scoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "tests/support/device.h"
#include "tests/support/tiny_model.h"
#include "tests/support/toy_family.h"

namespace loci::test {
namespace {

/// Log probabilities of one sequence's tokens behind `prompt`, from whole forward passes and fp64 softmax.
TargetScore plain_score(Context& context, const Model& model, const std::vector<int32_t>& prompt,
                        const std::vector<int32_t>& target) {
  Plan plan;
  Sequence sequence;
  sequence.tokens = prompt;
  sequence.tokens.insert(sequence.tokens.end(), target.begin(), target.end() - 1);
  plan.sequences = {sequence};
  for (size_t j = 0; j < target.size(); ++j) {
    plan.wanted.push_back({0, static_cast<int64_t>(prompt.size() + j) - 1});
  }
  const Run run = Executor(context, model).run(plan);
  const std::vector<float> logits = run.logits.to_host();
  const auto V = static_cast<size_t>(run.logits.cols());
  TargetScore score;
  for (size_t j = 0; j < target.size(); ++j) {
    const auto row = logits.begin() + static_cast<ptrdiff_t>(j * V);
    const auto best = std::max_element(row, row + static_cast<ptrdiff_t>(V));
    double sum = 0;
    for (auto it = row; it != row + static_cast<ptrdiff_t>(V); ++it) sum += std::exp(double{*it} - double{*best});
    score.log_probabilities.push_back(static_cast<float>(row[target[j]] - *best - std::log(sum)));
    score.best.push_back(static_cast<int32_t>(best - row));
  }
  return score;
}

/// On two families: GPT-2's matrices are stored as [in, out], the other's as [out, in].
class ScoringTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  ScoringTest()
      : context_(device_options(2)),
        config_(GetParam() == std::string("toy") ? toy_config() : tiny_config()),
        model_(random_model(context_, config_, 3)) {}

  /// Logits of size about 10 after a few hundred products: 1e-4 covers another order of sums.
  void expect_equal(const PromptScore& actual, const ScoredPrompt& prompt) {
    ASSERT_EQ(actual.size(), prompt.targets.size());
    for (size_t t = 0; t < actual.size(); ++t) {
      const TargetScore expected = plain_score(context_, model_, prompt.tokens, prompt.targets[t]);
      EXPECT_EQ(actual[t].best, expected.best);
      ASSERT_EQ(actual[t].log_probabilities.size(), expected.log_probabilities.size());
      for (size_t j = 0; j < expected.log_probabilities.size(); ++j) {
        const float error = std::abs(actual[t].log_probabilities[j] - expected.log_probabilities[j]);
        if (!(error <= 1e-4f)) {
          ADD_FAILURE() << "target " << t << " token " << j << ": " << actual[t].log_probabilities[j] << ", expected "
                        << expected.log_probabilities[j];
        }
      }
    }
  }

  std::vector<int32_t> tokens(int64_t count, unsigned seed) const {
    return random_tokens(count, config_.vocabulary, seed);
  }
  std::vector<ScoredPrompt> some_prompts(unsigned seed) const {
    return {{tokens(5, seed), {tokens(1, seed + 1), tokens(1, seed + 2)}},
            {tokens(1, seed + 3), {tokens(4, seed + 4), tokens(1, seed + 5)}},
            {tokens(17, seed + 6), {tokens(3, seed + 7)}},
            {tokens(21, seed + 8), {tokens(4, seed + 9), tokens(2, seed + 10)}}};  // fills the context
  }
  Change low_rank(WeightId weight, int64_t rank, unsigned seed) const {
    const Parameter parameter = parameter_at(config_, weight);
    const bool in_out = parameter.stored == Orientation::in_out;
    const int64_t in = in_out ? parameter.rows() : parameter.cols(), out = in_out ? parameter.cols() : parameter.rows();
    return LowRank{weight, rank, vector(rank * in, seed + 1, 0.3f), vector(rank * out, seed + 2, 1.0f)};
  }
  Change dense(WeightId weight, std::vector<int64_t> rows, unsigned seed) const {
    const Parameter parameter = parameter_at(config_, weight);
    const int64_t count = rows.empty() ? parameter.rows() : std::ssize(rows);
    return Dense{weight, std::move(rows), vector(count * parameter.cols(), seed, 0.3f)};
  }
  Change neurons(int64_t layer, int64_t count, Activation activation, unsigned seed) const {
    return Neurons{{Role::down_weight, layer},
                   activation,
                   vector(count * config_.width, seed + 1, 0.3f),
                   vector(count, seed + 2, 1.0f),
                   vector(count * config_.width, seed + 3, 1.0f)};
  }
  std::vector<float> vector(int64_t count, unsigned seed, float spread) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random);
    return values;
  }

  Context context_;
  Architecture config_;
  Model model_;
};

TEST_P(ScoringTest, PlainModelEqualsWholeForwardPasses) {
  Executor executor(context_, model_);
  const auto prompts = some_prompts(20);
  const auto scores = score_prompts(executor, prompts);
  ASSERT_EQ(scores.size(), prompts.size());
  for (size_t p = 0; p < prompts.size(); ++p) {
    SCOPED_TRACE(p);
    expect_equal(scores[p], prompts[p]);
  }
}

TEST_P(ScoringTest, LanesWithBranchesEqualEditedWeights) {
  Executor executor(context_, model_);
  std::vector<Change> changes;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {  // the last layer too: a lane without blocks
    const auto seed = static_cast<unsigned>(100 * layer);
    changes.push_back(low_rank({Role::down_weight, layer}, 1, seed));
  }
  const std::vector<Change> two_layers = {changes[0], changes[2]};
  // Other matrices and ranks; one of the first layer leaves nothing of the model's own run to start from.
  const std::vector<Change> attention = {low_rank({Role::qkv_weight, 1}, 3, 1), low_rank({Role::out_weight, 1}, 1, 2)};
  const std::vector<Change> all_kinds = {low_rank({Role::up_weight, 0}, 2, 3), changes[0],
                                         low_rank({Role::down_weight, 2}, 4, 4)};
  const std::vector<Change> high_rank = {low_rank({Role::down_weight, 1}, 5, 5)};
  const std::vector<Change> rows = {dense({Role::up_weight, 1}, {2, 7}, 6), dense({Role::down_weight, 2}, {}, 7),
                                    changes[0]};
  const std::vector<Change> beside = {neurons(2, 3, Activation::gelu_new, 8)};
  const std::vector<Change> beside_lower = {neurons(0, 1, Activation::relu, 9), changes[0],
                                            neurons(2, 2, Activation::gelu, 10)};
  const std::vector<Change> nothing;
  std::vector<EditedPrompts> groups;
  for (size_t e = 0; e < changes.size(); ++e)
    groups.push_back(
        {EditedModel(std::span(changes).subspan(e, 1)), some_prompts(static_cast<unsigned>(1000 + 50 * e))});
  for (const auto* several : {&two_layers, &attention, &all_kinds, &high_rank, &rows, &beside, &beside_lower, &nothing})
    groups.push_back({EditedModel(*several), some_prompts(2000)});
  groups.push_back({EditedModel(high_rank), {}});  // nothing to score
  const auto scores = score_edits(executor, groups);
  ASSERT_EQ(scores.size(), groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    SCOPED_TRACE(g);
    ASSERT_EQ(scores[g].before.size(), groups[g].prompts.size());
    for (size_t p = 0; p < groups[g].prompts.size(); ++p) expect_equal(scores[g].before[p], groups[g].prompts[p]);
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    SCOPED_TRACE(g);
    Model edited = random_model(context_, config_, 3);
    groups[g].model.fold_into(context_, edited);
    std::swap(edited, model_);
    for (size_t p = 0; p < groups[g].prompts.size(); ++p) expect_equal(scores[g].after[p], groups[g].prompts[p]);
    std::swap(edited, model_);
  }
}

TEST_P(ScoringTest, SmallMemoryCutsWavesAndChangesNothing) {
  const auto prompts = some_prompts(60);
  ContextOptions options = device_options(1);
  options.memory_budget = 100000;
  Context small(options);
  const Model same = random_model(small, config_, 3);
  Executor executor(small, same);
  const auto scores = score_prompts(executor, prompts);
  for (size_t p = 0; p < prompts.size(); ++p) expect_equal(scores[p], prompts[p]);
}

TEST_P(ScoringTest, RefusesWhatCannotBeScored) {
  Executor executor(context_, model_);
  const auto score = [&](ScoredPrompt prompt) { return score_prompts(executor, std::vector{std::move(prompt)}); };
  EXPECT_THROW(score({{}, {{1}}}), InputError);
  EXPECT_THROW(score({{1}, {{}}}), InputError);
  EXPECT_THROW(score({tokens(24, 1), {tokens(2, 2)}}), InputError);
  EXPECT_NO_THROW(score({tokens(24, 1), {tokens(1, 2)}}));
  const auto edit = [&](const std::vector<Change>& changes) {
    return score_edits(executor, std::vector<EditedPrompts>{{EditedModel(changes), some_prompts(1)}});
  };
  const auto good = std::get<LowRank>(low_rank({Role::down_weight, 0}, 1, 1));
  EXPECT_NO_THROW(edit({good}));
  for (const int64_t layer : {int64_t{3}, int64_t{-1}})
    EXPECT_THROW(edit({LowRank{{Role::down_weight, layer}, 1, good.keys, good.values}}), InputError);
  EXPECT_THROW(edit({LowRank{good.weight, 1, good.values, good.keys}}), InputError);
  EXPECT_THROW(edit({LowRank{good.weight, 2, good.keys, good.values}}), InputError);
  EXPECT_THROW(edit({Dense{good.weight, {0, 0}, vector(2 * config_.width, 1, 1)}}), InputError);
  EXPECT_THROW(edit({Dense{good.weight, {config_.mlp_width}, vector(config_.width, 1, 1)}}), InputError);
  EXPECT_THROW(edit({Dense{good.weight, {}, vector(config_.width, 1, 1)}}), InputError);
  const auto beside = std::get<Neurons>(neurons(1, 2, Activation::relu, 1));
  EXPECT_THROW(edit({Neurons{{Role::down_weight, 3}, beside.activation, beside.keys, beside.bias, beside.values}}),
               InputError);
  EXPECT_THROW(edit({Neurons{beside.weight, beside.activation, beside.keys, {1}, beside.values}}), InputError);
  EXPECT_THROW(edit({Neurons{beside.weight, beside.activation, {}, {}, {}}}), InputError);
}

INSTANTIATE_TEST_SUITE_P(Families, ScoringTest, ::testing::Values("gpt2", "toy"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace loci::test
