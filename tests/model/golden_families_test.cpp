// Every family against what the published code computes: logits, sites and gradients of its small trained model.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "kernels/softmax.h"
#include "model/executor/executor.h"
#include "model/train/parameter_buffer.h"
#include "runtime/io/npz.h"
#include "tests/support/device.h"
#include "tests/support/npz.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

using Arrays = std::map<std::string, NpyArray>;

class GoldenFamilies : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!shared_dir()) GTEST_SKIP() << "no reference outputs (LOCI_TEST_DATA)";
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
    folder_ = *shared_dir() / "golden/families" / GetParam();
    if (!std::filesystem::exists(folder_)) GTEST_SKIP() << "no reference outputs of families";
    model_.emplace(Model::load(context_, folder_ / "model"));
  }
  Arrays arrays(const char* file) const { return read_npz(folder_ / file); }
  const NpyArray& array(const Arrays& arrays, const std::string& name) const { return npz_at(arrays, name, folder_); }

  std::filesystem::path folder_;
  Context context_{device_options(2)};
  std::optional<Model> model_;
};

std::vector<int32_t> tokens_of(const NpyArray& ids) {
  const auto values = ids.as<int64_t>();
  return {values.begin(), values.end()};
}

/// The largest difference, and the largest magnitude of what is expected.
struct Difference {
  double error = 0, size = 0;
};
template <typename Actual>
Difference difference(const Actual& actual, std::span<const float> expected) {
  EXPECT_EQ(std::ssize(actual), std::ssize(expected));
  Difference made;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    if (!(error <= made.error)) made.error = error;
    made.size = std::max(made.size, std::abs(static_cast<double>(expected[i])));
  }
  return made;
}

/// The reference itself moves by 1e-5 where its products are summed in fp64.
TEST_P(GoldenFamilies, Logits) {
  const Arrays golden = arrays("logits.npz");
  double worst = 0;
  for (int64_t i = 0; i < array(golden, "prompts").size(); ++i) {
    const std::string suffix = "_" + std::to_string(i);
    Plan plan;
    const auto& tokens = plan.sequences.emplace_back().tokens = tokens_of(array(golden, "ids" + suffix));
    for (int64_t t = 0; t < std::ssize(tokens); ++t) plan.wanted.push_back({0, t});
    const Tensor logits = std::move(Executor(context_, *model_).run(plan).logits);
    const std::vector<float> last = to_host(context_, logits.rows_slice(std::ssize(tokens) - 1, 1));
    const Difference found = difference(last, array(golden, "last_logits" + suffix).as<float>());
    EXPECT_LE(found.error, 1e-4) << "prompt " << i;
    worst = std::max(worst, found.error);
    const auto top = array(golden, "top_token" + suffix).as<int64_t>();
    DeviceArray<int32_t> best(context_, logits.rows());
    argmax_rows(context_, logits.view(), best);
    const std::vector<int32_t> best_tokens = best.to_host();
    EXPECT_TRUE(std::ranges::equal(best_tokens, top)) << "prompt " << i;
    const auto expected = array(golden, "logprob_next" + suffix).as<float>();
    Tensor normalised(context_, logits.rows(), logits.cols());
    log_softmax(context_, logits.view(), normalised.view());
    const std::vector<float> log_probabilities = normalised.to_host();
    for (size_t t = 0; t + 1 < tokens.size(); ++t)
      EXPECT_NEAR(log_probabilities[t * static_cast<size_t>(logits.cols()) + tokens[t + 1]], expected[t], 1e-4)
          << "prompt " << i << ", position " << t;
  }
  RecordProperty("worst_logit", std::to_string(worst));
}

/// The reference moves by 1.1e-6 of the largest entry of a site.
TEST_P(GoldenFamilies, Sites) {
  const Arrays golden = arrays("sites.npz");
  const int64_t layers = model_->config().layers;
  std::map<std::string, std::vector<float>> seen;
  Plan plan;
  plan.sequences.emplace_back().tokens = tokens_of(array(golden, "ids"));
  const std::vector<std::pair<Site, std::string>> sites = {{Site::embed, "embed"},
                                                           {Site::attn_out, "attn_out"},
                                                           {Site::mlp_key, "mlp_key"},
                                                           {Site::mlp_out, "mlp_out"},
                                                           {Site::resid, "resid"}};
  for (const auto& [site, name] : sites)
    for (int64_t layer = 0; layer < (site == Site::embed ? 1 : layers); ++layer) plan.observed.push_back({site, layer});
  plan.observer = [&](Site at, int64_t, ConstView rows) {
    for (const auto& [site, name] : sites) {
      const std::vector<float> values = to_host(context_, rows);
      if (site == at) seen[name].insert(seen[name].end(), values.begin(), values.end());
    }
  };
  plan.wanted = {{0, plan.sequences[0].row_count() - 1}};
  Executor(context_, *model_).run(plan);
  for (const auto& [site, name] : sites) {
    const Difference found = difference(seen[name], array(golden, name).as<float>());
    EXPECT_LE(found.error, 1e-5 * found.size) << name;
    RecordProperty(name, std::to_string(found.error / found.size));
  }
}

/// The reference moves by 3e-6 of the largest entry of each gradient.
TEST_P(GoldenFamilies, Gradients) {
  const Arrays golden = arrays("gradients.npz");
  const Architecture& config = model_->config();
  Plan plan;
  const auto& tokens = plan.sequences.emplace_back().tokens = tokens_of(array(golden, "ids"));
  const std::vector<int32_t> targets(tokens.begin() + 1, tokens.end());
  for (int64_t t = 0; t < std::ssize(targets); ++t) plan.wanted.push_back({0, t});
  Executor executor(context_, *model_);
  loci::Run run = executor.run(plan, Keep::activations);
  const std::vector<float> weights(targets.size(), 1.0f / static_cast<float>(targets.size()));
  Tensor losses(context_, std::ssize(targets), 1);
  cross_entropy(context_, run.logits.view(), {context_, std::span<const int32_t>(targets)},
                {context_, std::span<const float>(weights)}, losses.view(), run.logits.view(), Write::assign);
  double loss = 0;
  for (const float value : losses.to_host()) loss += static_cast<double>(value);
  EXPECT_NEAR(loss, array(golden, "loss").scalar<double>(), 2e-5);
  ParameterBuffer buffer(context_, config);
  executor.backward(run, run.logits.view(), &buffer.parameters());
  const auto ours = buffer.to_host(context_);
  double worst = 0;
  int compared = 0;
  for (const Parameter& parameter : parameters_of(config)) {
    const Packed packed = packed_of(config, parameter);
    const auto bytes = std::as_bytes(std::span(ours.at(parameter.name)));
    const auto tensors = pack(packed, sizeof(float), bytes);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const std::string name = published_name(config, parameter.role, packed.tensors[i].name);
      const std::span gradient(reinterpret_cast<const float*>(tensors[i].data()), tensors[i].size() / sizeof(float));
      double squares = 0;
      for (const float value : gradient) squares += static_cast<double>(value) * static_cast<double>(value);
      const double norm = array(golden, "norm:" + name).scalar<double>();
      EXPECT_NEAR(std::sqrt(squares), norm, 3e-5 * norm) << name;
      const auto found = golden.find("grad:" + name);
      if (found == golden.end()) continue;
      const Difference apart = difference(gradient, found->second.as<float>());
      EXPECT_LE(apart.error, 3e-5 * apart.size) << name;
      worst = std::max(worst, apart.error / apart.size);
      ++compared;
    }
  }
  EXPECT_GT(compared, 10);
  RecordProperty("worst_gradient", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(All, GoldenFamilies, ::testing::Values("gptj", "neox", "llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace loci::test
