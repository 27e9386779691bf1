// Batched scoring against the plain way: one full forward pass for each prompt, target and model.
#include "edit/scoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "tests/support/device.h"
#include "tests/support/tiny_model.h"

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

class ScoringTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  ScoringTest() : context_(device_options(2)), config_(tiny_config()), model_(random_model(context_, config_, 3)) {}

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
  std::vector<float> vector(int64_t count, unsigned seed, float spread) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random);
    return values;
  }

  Context context_;
  GptConfig config_;
  Model model_;
};

TEST_F(ScoringTest, PlainModelEqualsWholeForwardPasses) {
  Executor executor(context_, model_);
  const auto prompts = some_prompts(20);
  const auto scores = score_prompts(executor, prompts);
  ASSERT_EQ(scores.size(), prompts.size());
  for (size_t p = 0; p < prompts.size(); ++p) {
    SCOPED_TRACE(p);
    expect_equal(scores[p], prompts[p]);
  }
}

TEST_F(ScoringTest, LanesWithBranchesEqualEditedWeights) {
  Executor executor(context_, model_);
  std::vector<std::vector<float>> u, v;
  std::vector<EditedPrompts> groups;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {  // the last layer too: a lane without blocks
    const auto seed = static_cast<unsigned>(100 * layer);
    u.push_back(vector(config_.mlp_width, seed + 1, 0.3f));
    v.push_back(vector(config_.width, seed + 2, 1.0f));
  }
  for (size_t e = 0; e < u.size(); ++e) {
    groups.push_back({{{static_cast<int64_t>(e), u[e], v[e]}}, some_prompts(static_cast<unsigned>(1000 + 50 * e))});
  }
  groups.push_back({{{0, u[0], v[0]}, {2, u[2], v[2]}}, some_prompts(2000)});  // two layers at once
  groups.push_back({{{1, u[1], v[1]}}, {}});                                   // nothing to score
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
    for (const RankOneTerm& term : groups[g].terms) edited.add_rank_one(context_, term.layer, term.u, term.v);
    std::swap(edited, model_);
    for (size_t p = 0; p < groups[g].prompts.size(); ++p) expect_equal(scores[g].after[p], groups[g].prompts[p]);
    std::swap(edited, model_);
  }
}

TEST_F(ScoringTest, SmallMemoryCutsWavesAndChangesNothing) {
  const auto prompts = some_prompts(60);
  ContextOptions options = device_options(1);
  options.memory_budget = 100000;
  Context small(options);
  const Model same = random_model(small, config_, 3);
  Executor executor(small, same);
  const auto scores = score_prompts(executor, prompts);
  for (size_t p = 0; p < prompts.size(); ++p) expect_equal(scores[p], prompts[p]);
}

TEST_F(ScoringTest, RefusesWhatCannotBeScored) {
  Executor executor(context_, model_);
  const auto score = [&](ScoredPrompt prompt) { return score_prompts(executor, std::vector{std::move(prompt)}); };
  EXPECT_THROW(score({{}, {{1}}}), InputError);
  EXPECT_THROW(score({{1}, {{}}}), InputError);
  EXPECT_THROW(score({tokens(24, 1), {tokens(2, 2)}}), InputError);
  EXPECT_NO_THROW(score({tokens(24, 1), {tokens(1, 2)}}));
  const auto u = vector(config_.mlp_width, 1, 1), v = vector(config_.width, 2, 1);
  const auto edit = [&](std::vector<RankOneTerm> terms) {
    return score_edits(executor, std::vector<EditedPrompts>{{std::move(terms), some_prompts(1)}});
  };
  EXPECT_THROW(edit({}), ShapeError);
  EXPECT_THROW(edit({{3, u, v}}), ShapeError);
  EXPECT_THROW(edit({{-1, u, v}}), ShapeError);
  EXPECT_THROW(edit({{0, v, u}}), ShapeError);
}

}  // namespace
}  // namespace loci::test
