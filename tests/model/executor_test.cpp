// The executor's lanes against the plain path: a full forward pass from position 0 and block 0 with the same patches.
#include "model/executor/executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/softmax.h"
#include "tests/support/device.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

constexpr float kEpsilon = 1.2e-7f;

/// Two runs of the same arithmetic in another order: a few dozen roundings of values of the logits' size. Inputs of
/// products that differ by a rounding of fp32 may be rounded to neighbours, 21 to 50 of them in a sum of random signs,
/// through three blocks.
void expect_close(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  const float allowed =
      products_are_fp32() ? 400 * kEpsilon : static_cast<float>(40 * product_eps(device_options().precision));
  float largest = 1;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < actual.size(); ++i) {
    const float error = std::abs(actual[i] - expected[i]);
    if (!(error <= allowed * largest)) {
      FAIL() << "element " << i << ": " << actual[i] << ", expected " << expected[i];
    }
  }
}

class ExecutorTest : public ::testing::Test {
 protected:
  ExecutorTest() : context_(device_options(2)), config_(tiny_config()), model_(random_model(context_, config_, 7)) {}

  Sequence plain(const std::vector<int32_t>& tokens, bool record = false) const {
    Sequence made;
    made.tokens = tokens;
    made.record = record;
    return made;
  }
  std::vector<float> last_logits(const std::vector<int32_t>& tokens, std::vector<RowPatch> patches = {}) {
    Plan plan;
    plan.sequences = {plain(tokens)};
    plan.patches = std::move(patches);
    plan.wanted = {{0, std::ssize(tokens) - 1}};
    return Executor(context_, model_).run(plan).logits.to_host();
  }
  RecordingPtr record(const std::vector<int32_t>& tokens, const std::vector<Site>& sites = {}) {
    Plan plan;
    plan.sequences = {plain(tokens, true)};
    for (int64_t layer = 0; layer < config_.layers; ++layer)
      for (const Site site : sites) plan.recorded.push_back({site, layer});
    return Executor(context_, model_).run(plan).recordings[0];
  }

  Context context_;
  Architecture config_;
  Model model_;
};

TEST_F(ExecutorTest, ARecordingTakesWhatIsPlannedForIt) {
  const std::vector<BlockSite> sites = {{Site::mlp_key, 0}, {Site::attn_out, 1}, {Site::mlp_out, 1}};
  Plan plan;
  for (unsigned i = 0; i < 100; ++i) plan.sequences.push_back(plain(random_tokens(20, config_.vocabulary, i), true));
  plan.stop = StopAfter{Site::resid, config_.layers - 1};
  plan.recorded = sites;
  context_.reset_peak();
  const int64_t before = context_.peak_bytes();
  const auto recordings = Executor(context_, model_).run(plan).recordings;
  context_.reset_peak();  // to what is taken now
  const auto planned = static_cast<double>(100 * 20 * recorded_row_bytes(config_, sites));
  const auto taken = static_cast<double>(context_.peak_bytes() - before);
  EXPECT_GE(taken, 0.99 * planned);
  EXPECT_LE(taken, 1.25 * planned);  // blocks of memory are rounded up
}

TEST_F(ExecutorTest, QuestionsAreAnsweredWithoutLogits) {
  const auto a = random_tokens(9, config_.vocabulary, 1), b = random_tokens(24, config_.vocabulary, 2);
  Plan plan;
  plan.sequences = {plain(a), plain(b)};
  plan.wanted = {{1, 23}, {0, 4}, {0, 8}};
  const loci::Run logits = Executor(context_, model_).run(plan);
  EXPECT_TRUE(logits.scores.collect().best.empty());
  plan.questions = {{2, 3}, {0, 7}, {2, 1}};
  const loci::Run asked = Executor(context_, model_).run(plan);
  EXPECT_EQ(asked.logits.rows(), 0);
  Tensor log_probabilities(context_, 3, config_.vocabulary);
  log_softmax(context_, logits.logits.view(), log_probabilities.view());
  const auto all = log_probabilities.to_host();
  std::vector<float> expected;
  for (const auto& [row, token] : plan.questions) expected.push_back(all[row * config_.vocabulary + token]);
  expect_close(asked.scores.collect().log_probabilities, expected);
  DeviceArray<int32_t> best(context_, 3);
  argmax_rows(context_, logits.logits.view(), best);
  EXPECT_EQ(asked.scores.collect().best, best.to_host());
  plan.stop = StopAfter{Site::resid, 0};
  EXPECT_THROW(Executor(context_, model_).run(plan), ShapeError);
  plan.stop.reset();
  plan.questions = {{3, 0}};
  EXPECT_THROW(Executor(context_, model_).run(plan), ShapeError);
}

TEST_F(ExecutorTest, RaggedBatchEqualsSequencesAlone) {
  const auto a = random_tokens(9, config_.vocabulary, 1), b = random_tokens(1, config_.vocabulary, 2),
             c = random_tokens(24, config_.vocabulary, 3);
  Plan plan;
  plan.sequences = {plain(a), plain(b), plain(c)};
  plan.wanted = {{2, 23}, {0, 8}, {1, 0}};
  const auto logits = Executor(context_, model_).run(plan).logits.to_host();
  const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
  expect_close({logits.begin(), logits.begin() + V}, last_logits(c));
  expect_close({logits.begin() + V, logits.begin() + 2 * V}, last_logits(a));
  expect_close({logits.begin() + 2 * V, logits.end()}, last_logits(b));
}

TEST_F(ExecutorTest, ContinuationBehindASharedPrefixEqualsTheWholeSequence) {
  const auto tokens = random_tokens(13, config_.vocabulary, 4);
  const auto base = record({tokens.begin(), tokens.begin() + 8});
  Plan plan;
  for (const int64_t first : {3, 8}) {  // the base may reach further than the prefix that is used
    Sequence lane = plain({tokens.begin() + first, tokens.end()});
    lane.first_position = first;
    lane.base = base;
    plan.sequences.push_back(lane);
    plan.wanted.push_back({std::ssize(plan.sequences) - 1, 12});
  }
  const auto logits = Executor(context_, model_).run(plan).logits.to_host();
  const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
  expect_close({logits.begin(), logits.begin() + V}, last_logits(tokens));
  expect_close({logits.begin() + V, logits.end()}, last_logits(tokens));
}

TEST_F(ExecutorTest, RestoringAStateInALaneEqualsPatchingAFullForward) {
  const auto clean = random_tokens(10, config_.vocabulary, 5);
  auto corrupted = clean;
  corrupted[2] = (corrupted[2] + 1) % 61;
  const auto base = record(corrupted), source = record(clean);
  Plan plan;
  std::vector<std::vector<float>> expected;
  for (int64_t layer = -1; layer < config_.layers; ++layer) {
    for (const int64_t position : {2, 3, 9}) {
      Sequence lane;
      lane.base = base;
      lane.first_layer = layer + 1;
      lane.first_position = position;
      lane.rows = 10 - position;
      if (layer < 0) lane.tokens.assign(corrupted.begin() + position, corrupted.end());
      const auto index = std::ssize(plan.sequences);
      plan.sequences.push_back(lane);
      const float* row = source->row(Site::resid, layer, position);
      plan.patches.push_back({index, position, Site::resid, layer, PatchMode::replace, row});
      plan.wanted.push_back({index, 9});
      expected.push_back(last_logits(corrupted, {{0, position, Site::resid, layer, PatchMode::replace, row}}));
    }
  }
  const auto logits = Executor(context_, model_).run(plan).logits.to_host();
  const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
  for (size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(i);
    const auto begin = logits.begin() + static_cast<ptrdiff_t>(i) * V;
    expect_close({begin, begin + V}, expected[i]);
  }
}

TEST_F(ExecutorTest, PatchesAtEverySiteReachTheLogits) {
  const auto tokens = random_tokens(6, config_.vocabulary, 6);
  const auto original = last_logits(tokens);
  std::vector<float> uneven(50);  // a constant row would vanish in the next layer norm
  for (size_t i = 0; i < uneven.size(); ++i) uneven[i] = i % 3 == 0 ? 0.75f : -0.25f;
  const Tensor wide = Tensor::from_host(context_, uneven, 1, 50);
  for (const Site site : {Site::embed, Site::attn_out, Site::mlp_key, Site::mlp_out, Site::resid}) {
    for (const PatchMode mode : {PatchMode::add, PatchMode::replace}) {
      const auto changed = last_logits(tokens, {{0, 4, site, 1, mode, wide.data()}});
      float difference = 0;
      for (size_t i = 0; i < changed.size(); ++i) difference = std::max(difference, std::abs(changed[i] - original[i]));
      EXPECT_GT(difference, 1e-3f) << "site " << static_cast<int>(site);
    }
  }
}

TEST_F(ExecutorTest, PatchesOfOneRowApplyInOrder) {
  const auto tokens = random_tokens(6, config_.vocabulary, 8);
  const auto base = record(tokens, {Site::attn_out, Site::mlp_out});
  // resid(1) = resid(0) + attn_out(1) + mlp_out(1), put together from recorded rows.
  const auto rebuilt = last_logits(tokens, {{0, 3, Site::resid, 1, PatchMode::replace, base->row(Site::resid, 0, 3)},
                                            {0, 3, Site::resid, 1, PatchMode::add, base->row(Site::attn_out, 1, 3)},
                                            {0, 3, Site::resid, 1, PatchMode::add, base->row(Site::mlp_out, 1, 3)}});
  expect_close(rebuilt, last_logits(tokens));
}

/// Rows whose MLP output is replaced do not run their MLP; those next to them do.
TEST_F(ExecutorTest, ReplacedMlpOutputsLeaveOtherRowsAsTheyAre) {
  const auto tokens = random_tokens(20, config_.vocabulary, 21);
  const auto other = record(random_tokens(20, config_.vocabulary, 22), {Site::mlp_out});
  Tensor keys(context_, 1, 50);
  for (const int64_t replaced : {1, 7, 19}) {
    Plan plan;
    plan.sequences = {plain(random_tokens(20, config_.vocabulary, 23)), plain(tokens)};
    for (int64_t i = 0; i < replaced; ++i)
      plan.patches.push_back({1, 18 - i, Site::mlp_out, 1, PatchMode::replace, other->row(Site::mlp_out, 1, 18 - i)});
    plan.patches.push_back({1, 19, Site::mlp_out, 1, PatchMode::add, other->row(Site::mlp_out, 1, 19)});
    plan.wanted = {{1, 19}};
    Plan whole = plan;  // somebody looks at the keys, so that all are computed
    whole.taps = {{1, 18, Site::mlp_key, 1, 0}};
    whole.tap_output = keys.view();
    Executor executor(context_, model_);
    const auto logits = executor.run(plan).logits.to_host();
    expect_close(logits, executor.run(whole).logits.to_host());
    if (replaced == 1) continue;
    plan.patches.erase(plan.patches.begin());
    EXPECT_NE(logits, executor.run(plan).logits.to_host());
  }
}

TEST_F(ExecutorTest, LanesOfLanes) {
  const auto tokens = random_tokens(11, config_.vocabulary, 9);
  const auto other = record(random_tokens(11, config_.vocabulary, 10));
  const auto root = record(tokens);
  Plan trunk_plan;
  Sequence trunk;
  trunk.base = root;
  trunk.first_layer = 1;
  trunk.first_position = 4;
  trunk.rows = 7;
  trunk.record = true;
  trunk_plan.sequences = {trunk};
  trunk_plan.patches = {{0, 4, Site::resid, 0, PatchMode::replace, other->row(Site::resid, 0, 4)}};
  const auto trunk_recording = Executor(context_, model_).run(trunk_plan).recordings[0];

  Plan plan;
  Sequence branch;
  branch.base = trunk_recording;
  branch.first_layer = 2;
  branch.first_position = 6;
  branch.rows = 5;
  plan.sequences = {branch};
  plan.patches = {{0, 6, Site::resid, 1, PatchMode::replace, other->row(Site::resid, 1, 6)}};
  plan.wanted = {{0, 10}};
  expect_close(Executor(context_, model_).run(plan).logits.to_host(),
               last_logits(tokens, {{0, 4, Site::resid, 0, PatchMode::replace, other->row(Site::resid, 0, 4)},
                                    {0, 6, Site::resid, 1, PatchMode::replace, other->row(Site::resid, 1, 6)}}));
}

TEST_F(ExecutorTest, BranchesEqualEditedWeights) {
  const auto tokens = random_tokens(9, config_.vocabulary, 11);
  const auto base = record(tokens, {Site::mlp_key});
  std::vector<float> u(50), v(21);
  for (size_t i = 0; i < u.size(); ++i) u[i] = 0.05f * static_cast<float>(i % 7) - 0.1f;
  for (size_t i = 0; i < v.size(); ++i) v[i] = 0.3f * static_cast<float>(i % 5) - 0.6f;
  const Tensor device_u = Tensor::from_host(context_, u, 1, 50), device_v = Tensor::from_host(context_, v, 1, 21);

  Plan plan;
  Sequence lane;
  lane.base = base;
  lane.first_layer = 2;
  lane.rows = 9;
  plan.sequences = {plain(tokens), plain(tokens), lane};
  plan.branches = {rank_one_branch(0, 1, device_u.view(), device_v.view()),
                   rank_one_branch(2, 1, device_u.view(), device_v.view())};
  plan.wanted = {{0, 8}, {1, 8}, {2, 8}};
  const auto logits = Executor(context_, model_).run(plan).logits.to_host();

  const auto original = last_logits(tokens);
  model_.add_low_rank(context_, {Role::down_weight, 1}, 1, u, v);
  const auto edited = last_logits(tokens);
  const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
  expect_close({logits.begin(), logits.begin() + V}, edited);
  expect_close({logits.begin() + V, logits.begin() + 2 * V}, original);
  expect_close({logits.begin() + 2 * V, logits.end()}, edited);
}

TEST_F(ExecutorTest, OnlyWhatIsAskedForIsRecorded) {
  Plan plan;
  plan.sequences = {plain(random_tokens(4, config_.vocabulary, 13), true)};
  plan.recorded = {{Site::mlp_key, 1}};
  const RecordingPtr made = Executor(context_, model_).run(plan).recordings[0];
  EXPECT_NE(made->row(Site::mlp_key, 1, 3), nullptr);
  EXPECT_THROW(made->row(Site::mlp_key, 0, 3), ShapeError);
  EXPECT_THROW(made->row(Site::mlp_out, 1, 3), ShapeError);
}

TEST_F(ExecutorTest, TapsAndObserversSeeTheRecordedRows) {
  const auto tokens = random_tokens(7, config_.vocabulary, 12);
  const auto base = record(tokens, {Site::mlp_key, Site::mlp_out, Site::attn_out});
  Tensor keys(context_, 2, 50);
  std::vector<float> observed;
  Plan plan;
  plan.sequences = {plain(tokens)};
  plan.taps = {{0, 5, Site::mlp_key, 1, 1}, {0, 2, Site::mlp_key, 2, 0}};
  plan.tap_output = keys.view();
  plan.stop = StopAfter{Site::mlp_key, 2};
  plan.observed = {{Site::mlp_out, 1}};
  plan.observer = [&](Site, int64_t, ConstView rows) { observed = to_host(context_, rows); };
  const auto run = Executor(context_, model_).run(plan);
  EXPECT_TRUE(run.logits.empty());
  expect_close(to_host(context_, keys.rows_slice(1, 1)), to_host(context_, {base->row(Site::mlp_key, 1, 5), 1, 50}));
  expect_close(to_host(context_, keys.rows_slice(0, 1)), to_host(context_, {base->row(Site::mlp_key, 2, 2), 1, 50}));
  expect_close(observed, to_host(context_, {base->row(Site::mlp_out, 1, 0), 7, 21}));
}

TEST_F(ExecutorTest, LastBlockKeepsOnlyTheRowsThatAreNeeded) {
  const auto a = random_tokens(8, config_.vocabulary, 13), b = random_tokens(5, config_.vocabulary, 14);
  const auto base = record(a);
  Plan all, few;
  Sequence late;  // joins behind the last block
  late.base = base;
  late.first_layer = config_.layers;
  late.first_position = 7;
  late.rows = 1;
  all.sequences = few.sequences = {plain(a), plain(b), late};
  few.wanted = {{0, 6}, {1, 4}, {2, 7}};
  for (int64_t p = 0; p < 8; ++p) all.wanted.push_back({0, p});
  for (int64_t p = 0; p < 5; ++p) all.wanted.push_back({1, p});
  all.wanted.push_back({2, 7});
  const auto everything = Executor(context_, model_).run(all).logits.to_host();
  const auto some = Executor(context_, model_).run(few).logits.to_host();
  const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
  const auto row = [&](const std::vector<float>& from, ptrdiff_t r) {
    return std::vector<float>(from.begin() + r * V, from.begin() + (r + 1) * V);
  };
  expect_close(row(some, 0), row(everything, 6));
  expect_close(row(some, 1), row(everything, 12));
  expect_close(row(some, 2), row(everything, 7));
}

TEST_F(ExecutorTest, AttentionCutsHideWhatLiesOutsideTheSegment) {
  const auto tokens = random_tokens(9, config_.vocabulary, 18);
  Plan plan;
  plan.sequences = {plain(tokens), plain(tokens)};
  plan.regularisers.attention_cuts = {{0, config_.layers, {4, 7}}, {1, 1, {4}}};
  plan.wanted = {{0, 8}, {0, 6}, {1, 8}};
  const auto logits = Executor(context_, model_).run(plan).logits.to_host();
  const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
  const auto whole = last_logits(tokens);
  const std::vector<float> cut(logits.begin(), logits.begin() + V), partly(logits.begin() + 2 * V, logits.end());
  float difference = 0, partial_difference = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    difference = std::max(difference, std::abs(cut[i] - whole[i]));
    partial_difference = std::max(partial_difference, std::abs(partly[i] - whole[i]));
  }
  EXPECT_GT(difference, 1e-3f);
  EXPECT_GT(partial_difference, 1e-3f);
  // What lies outside a segment cannot matter where every block is cut.
  auto other = tokens;
  other[0] = (other[0] + 1) % 61;
  other[5] = (other[5] + 1) % 61;
  plan.sequences[0].tokens = other;
  const auto again = Executor(context_, model_).run(plan).logits.to_host();
  EXPECT_EQ(std::vector<float>(again.begin(), again.begin() + V), cut);
}

/// Loss = mean cross-entropy of the wanted rows; its gradient by differences of the loss.
TEST_F(ExecutorTest, GradientOfJoinedRowsMatchesFiniteDifferences) {
  if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  const auto tokens = random_tokens(9, config_.vocabulary, 15);
  const auto base = record(tokens);
  Tensor delta = Tensor::zeros(context_, 1, config_.width);
  Plan plan;
  Sequence lane;
  lane.base = base;
  lane.first_layer = 2;
  lane.first_position = 3;
  lane.rows = 6;
  Sequence deeper = lane;
  deeper.first_layer = 3;
  plan.sequences = {deeper, lane};
  plan.patches = {{1, 3, Site::resid, 1, PatchMode::add, delta.data()}};
  plan.wanted = {{1, 5}, {1, 8}, {0, 8}};
  const DeviceArray<int32_t> targets(context_, std::vector<int32_t>{4, 9, 2});
  const DeviceArray<float> weights(context_, std::vector<float>{0.5f, 1.0f, 0.25f});
  Executor executor(context_, model_);
  const auto loss = [&] {
    const auto run = executor.run(plan);
    Tensor losses(context_, 3, 1), unused(context_, 3, config_.vocabulary);
    cross_entropy(context_, run.logits.view(), targets, weights, losses.view(), unused.view(), Write::assign);
    double total = 0;
    for (const float value : losses.to_host()) total += value;
    return total;
  };
  const auto run = executor.run(plan, Keep::activations);
  Tensor losses(context_, 3, 1), dlogits(context_, 3, config_.vocabulary);
  cross_entropy(context_, run.logits.view(), targets, weights, losses.view(), dlogits.view(), Write::assign);
  const RowGradients gradients = executor.backward(run, dlogits.view());
  const auto gradient = to_host(context_, gradients.joined.rows_slice(gradients.first_row[1], 1));
  const float step = 1e-2f;
  for (int64_t i = 0; i < config_.width; ++i) {
    std::vector<float> moved(static_cast<size_t>(config_.width));
    moved[i] = step;
    context_.copy_to_device(delta.data(), moved.data(), sizeof(float) * moved.size());
    const double up = loss();
    moved[i] = -step;
    context_.copy_to_device(delta.data(), moved.data(), sizeof(float) * moved.size());
    const double down = loss();
    // Central differences: error step^2 times the third derivative, and rounding of the loss over the step.
    EXPECT_NEAR(gradient[i], (up - down) / (2 * step), 2e-3) << "component " << i;
  }
}

TEST_F(ExecutorTest, ContradictoryPlansAreRefused) {
  Executor executor(context_, model_);
  const auto tokens = random_tokens(5, config_.vocabulary, 16);
  Plan plan;
  plan.sequences = {plain(tokens)};
  plan.wanted = {{0, 5}};
  EXPECT_THROW(executor.run(plan), ShapeError);
  plan.wanted = {{1, 0}};
  EXPECT_THROW(executor.run(plan), ShapeError);
  plan.wanted = {};
  plan.sequences = {plain(random_tokens(25, config_.vocabulary, 17))};
  EXPECT_THROW(executor.run(plan), InputError);
  plan.sequences = {plain({3, 61})};
  EXPECT_THROW(executor.run(plan), InputError);
  plan.sequences = {plain(tokens)};
  plan.sequences[0].first_layer = 1;
  EXPECT_THROW(executor.run(plan), ShapeError);
  plan.sequences = {plain(tokens)};
  plan.sequences[0].first_position = 2;
  EXPECT_THROW(executor.run(plan), ShapeError);
  const Tensor row(context_, 1, 21);
  plan.sequences = {plain(tokens)};
  plan.patches = {{0, 1, Site::resid, 3, PatchMode::add, row.data()}};
  EXPECT_THROW(executor.run(plan), ShapeError);
}

}  // namespace
}  // namespace loci::test
