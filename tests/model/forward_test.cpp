// Logits against a plain fp64 implementation on models of odd shape, and against the reference's outputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/executor/executor.h"
#include "runtime/io/npz.h"
#include "tests/support/device.h"
#include "tests/support/family_models.h"
#include "tests/support/paths.h"
#include "tests/support/plain_gpt.h"
#include "tests/support/tiny_model.h"
#include "tests/support/toy_family.h"

namespace loci::test {
namespace {

/// Logits of every position of every sequence, in plan order.
Tensor all_logits(Context& context, const Model& model, const std::vector<std::vector<int32_t>>& sequences) {
  Plan plan;
  for (size_t s = 0; s < sequences.size(); ++s) {
    plan.sequences.emplace_back().tokens = sequences[s];
    for (size_t t = 0; t < sequences[s].size(); ++t)
      plan.wanted.push_back({static_cast<int64_t>(s), static_cast<int64_t>(t)});
  }
  return std::move(Executor(context, model).run(plan).logits);
}

/// fp32 against exact values: each block adds a few roundings of sums of `width` terms to the residual stream, and the
/// logits sum `width` products of it. Errors of sums grow like the square root of their length. Softmax turns the
/// absolute error of a score into a relative error of its probability, and scores that are not divided by sqrt(head
/// width) are that much larger, their errors too. A gated MLP multiplies two sums and has the relative errors of both.
/// Where inputs of products are rounded, that is the error to count.
double logit_tolerance(const Architecture& config, double largest) {
  const double eps = product_eps(device_options().precision);
  const double scores =
      config.attention_scale == AttentionScale::none ? std::sqrt(static_cast<double>(config.head_width)) : 1;
  const double factors = config.mlp == Mlp::gated ? 2 : 1;
  return 4 * eps * largest * scores * factors *
         std::sqrt(static_cast<double>(config.width) * static_cast<double>(config.layers + 1));
}

struct ShapeCase {
  const char* name;
  Architecture config;
};

void PrintTo(const ShapeCase& shape, std::ostream* out) { *out << shape.name; }

std::vector<ShapeCase> shape_cases() {
  Architecture plain = tiny_config();
  Architecture five_heads = tiny_config(2, 5, 4, 33, 67, 30);  // width 20
  five_heads.tied = false;
  Architecture one_head = tiny_config(1, 1, 17, 130, 129, 40);
  one_head.activation = Activation::gelu;
  Architecture scaled = tiny_config(4, 7, 9, 65, 50, 33);  // width 63
  scaled.layer_scale = LayerScale::by_inverse_index;
  scaled.activation = Activation::relu;
  Architecture unscaled = tiny_config(2, 3, 11, 40, 50, 33);
  unscaled.attention_scale = AttentionScale::none;
  unscaled.epsilon = 1e-3;
  std::vector<ShapeCase> cases = {{"plain", plain},
                                  {"five_heads_untied", five_heads},
                                  {"one_head_gelu", one_head},
                                  {"inverse_layer_relu", scaled},
                                  {"unscaled_attention", unscaled},
                                  {"toy_family", toy_config()}};
  for (const FamilyCase& family : family_cases()) cases.push_back({family.name, family.config});
  return cases;
}

class ForwardShapes : public ::testing::TestWithParam<ShapeCase> {};

TEST_P(ForwardShapes, LogitsEqualThePlainImplementation) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 3);
  const PlainGpt plain(context, model);
  const std::vector<std::vector<int32_t>> sequences = {random_tokens(config.positions, config.vocabulary, 1),
                                                       random_tokens(1, config.vocabulary, 2),
                                                       random_tokens(13, config.vocabulary, 3)};
  const std::vector<float> logits = all_logits(context, model, sequences).to_host();
  size_t next = 0;
  for (const auto& tokens : sequences)
    for (const auto& row : plain.logits(tokens)) {
      double largest = 1;
      for (const double value : row) largest = std::max(largest, std::abs(value));
      for (const double expected : row) {
        const double error = std::abs(logits[next] - expected);
        if (!(error <= logit_tolerance(config, largest))) {
          FAIL() << "logit " << next << " is " << logits[next] << ", expected " << expected;
        }
        ++next;
      }
    }
  EXPECT_EQ(next, logits.size());
}

TEST_P(ForwardShapes, ScaledMlpOutputs) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 4);
  PlainGpt plain(context, model);
  const int64_t layer = config.layers - 1;
  plain.mlp_factors[layer] = 0.25;
  const auto dropped = random_tokens(9, config.vocabulary, 5), whole = random_tokens(6, config.vocabulary, 6);
  Plan plan;
  plan.sequences.resize(2);
  plan.sequences[0].tokens = whole;
  plan.sequences[1].tokens = dropped;
  plan.regularisers.mlp_scales = {{1, layer, 0.25f}};
  plan.wanted = {{1, 8}, {0, 5}};
  const auto logits = Executor(context, model).run(plan).logits.to_host();
  const auto expected = plain.logits(dropped).back();
  const double allowed = products_are_fp32() ? 1e-4 : logit_tolerance(config, 8);
  for (size_t v = 0; v < expected.size(); ++v) EXPECT_NEAR(logits[v], expected[v], allowed);
  plain.mlp_factors.clear();
  const auto untouched = plain.logits(whole).back();
  for (size_t v = 0; v < untouched.size(); ++v) EXPECT_NEAR(logits[expected.size() + v], untouched[v], allowed);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ForwardShapes, ::testing::ValuesIn(shape_cases()),
                         [](const auto& test) { return std::string(test.param.name); });

class GoldenForward : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!shared_dir()) GTEST_SKIP() << "no reference outputs (LOCI_TEST_DATA)";
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
    golden_ = *shared_dir() / "golden/tiny-a";
    arrays_ = read_npz(golden_ / "logits.npz");
  }
  const NpyArray& array(const std::string& name) const { return npz_at(arrays_, name, golden_ / "logits.npz"); }

  std::filesystem::path golden_;
  std::map<std::string, NpyArray> arrays_;
};

TEST_F(GoldenForward, LogitsTopTokensAndLogProbabilities) {
  Context context(device_options(2));
  const Model model = Model::load(context, golden_ / "model");
  const int64_t prompts = array("prompts").size();
  ASSERT_EQ(prompts, 15);
  double worst_logit = 0, worst_log_probability = 0;
  for (int64_t i = 0; i < prompts; ++i) {
    const std::string suffix = "_" + std::to_string(i);
    const auto ids = array("ids" + suffix).as<int64_t>();
    const std::vector<int32_t> tokens(ids.begin(), ids.end());
    const Tensor logits = all_logits(context, model, {tokens});
    const auto V = static_cast<size_t>(logits.cols());
    const std::vector<float> values = logits.to_host();
    const auto last = array("last_logits" + suffix).as<float>();
    const auto top = array("top_token" + suffix).as<int64_t>();
    const auto log_probabilities = array("logprob_next" + suffix).as<float>();
    ASSERT_EQ(last.size(), V);
    double largest = 0;
    for (const float value : last) largest = std::max(largest, std::abs(static_cast<double>(value)));
    // Both sides round; trained weights amplify roundings less than the random ones above.
    const double tolerance = logit_tolerance(model.config(), largest);
    for (size_t v = 0; v < V; ++v) {
      const double error = std::abs(values[values.size() - V + v] - last[v]);
      worst_logit = std::max(worst_logit, error / tolerance);
      if (!(error <= tolerance)) FAIL() << "prompt " << i << ", logit " << v << " differs by " << error;
    }
    for (size_t t = 0; t < tokens.size(); ++t) {
      const std::vector<double> row(values.begin() + static_cast<ptrdiff_t>(t * V),
                                    values.begin() + static_cast<ptrdiff_t>((t + 1) * V));
      EXPECT_EQ(std::max_element(row.begin(), row.end()) - row.begin(), top[t]) << "prompt " << i << " position " << t;
      if (t + 1 == tokens.size()) continue;
      const double ours = row[tokens[t + 1]] - PlainGpt::log_sum_exp(row);
      // The reference subtracts logits and their log-sum in fp32: two more roundings.
      const double bound = tolerance + std::pow(2.0, -23) * (largest + 12);
      const double error = std::abs(ours - log_probabilities[t]);
      worst_log_probability = std::max(worst_log_probability, error / bound);
      if (!(error <= bound)) FAIL() << "prompt " << i << ", log probability " << t << " differs by " << error;
    }
  }
  RecordProperty("worst_logit_share_of_tolerance", std::to_string(worst_logit));
  RecordProperty("worst_log_probability_share_of_tolerance", std::to_string(worst_log_probability));
}

TEST_F(GoldenForward, BatchOfAllPromptsEqualsEachAlone) {
  Context context(device_options(2));
  const Model model = Model::load(context, golden_ / "model");
  Plan plan;
  for (int64_t i = 0; i < array("prompts").size(); ++i) {
    const auto ids = array("ids_" + std::to_string(i)).as<int64_t>();
    plan.sequences.emplace_back().tokens.assign(ids.begin(), ids.end());
    plan.wanted.push_back({i, std::ssize(ids) - 1});
  }
  const Tensor logits = std::move(Executor(context, model).run(plan).logits);
  const auto values = logits.to_host();
  for (int64_t i = 0; i < logits.rows(); ++i) {
    const auto last = array("last_logits_" + std::to_string(i)).as<float>();
    double largest = 0;
    for (const float value : last) largest = std::max(largest, std::abs(static_cast<double>(value)));
    for (size_t v = 0; v < last.size(); ++v) {
      const double error = std::abs(values[static_cast<size_t>(i) * last.size() + v] - last[v]);
      if (!(error <= logit_tolerance(model.config(), largest))) FAIL() << "prompt " << i << ", logit " << v;
    }
  }
}

}  // namespace
}  // namespace loci::test
