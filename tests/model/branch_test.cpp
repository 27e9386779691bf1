// Branches and gradient taps. What they give is known without them: a linear branch is an edited weight, a group of
// neurons is a wider MLP, and the gradients of biases are the sums of the gradients of rows.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "kernels/rows.h"
#include "model/executor/executor.h"
#include "model/train/parameter_buffer.h"
#include "tests/support/device.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

/// A small matrix of fixed values on the device.
Tensor pattern(Context& context, int64_t rows, int64_t cols, float size, int64_t seed) {
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (int64_t i = 0; i < std::ssize(values); ++i)
    values[i] = size * static_cast<float>(std::sin(static_cast<double>(1 + i * 7 + seed * 13)));
  return Tensor::from_host(context, values, rows, cols);
}

double norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

/// The same arithmetic in another order, through a few blocks: some hundred roundings of the vector's size.
void expect_close(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  std::vector<float> difference(actual.size());
  for (size_t i = 0; i < actual.size(); ++i) difference[i] = actual[i] - expected[i];
  const double relative = products_are_fp32() ? 300 * kEps : 60 * product_eps(device_options().precision);
  const double error = norm(difference), allowed = relative * (norm(expected) + 1e-3);
  EXPECT_TRUE(error <= allowed) << what << ": differs by " << error << ", allowed " << allowed;
}

/// A projection of a block, its parameters' names, and the sites that it leads from and to.
struct Projection {
  const char* name;
  Site from, to;
  int64_t in, out;
};

class BranchTest : public ::testing::Test {
 protected:
  BranchTest()
      : context_(device_options(2)),
        config_(tiny_config()),
        owned_(random_parameters(context_, config_, 5)),
        model_(config_, as_constant(owned_->views, config_), owned_) {
    for (unsigned i = 0; i < 2; ++i) tokens_.push_back(random_tokens(9 - i, config_.vocabulary, 20 + i));
  }

  std::vector<Projection> projections() const {
    const int64_t d = config_.width, ff = config_.mlp_width;
    return {{"attn.c_attn", Site::attn_in, Site::qkv, d, 3 * d},
            {"attn.c_proj", Site::attn_heads, Site::attn_out, d, d},
            {"mlp.c_fc", Site::mlp_in, Site::mlp_pre, d, ff},
            {"mlp.c_proj", Site::mlp_key, Site::mlp_out, ff, d}};
  }
  Plan plain_plan() const {
    Plan plan;
    for (const auto& tokens : tokens_) plan.sequences.emplace_back().tokens = tokens;
    for (int64_t s = 0; s < std::ssize(tokens_); ++s) plan.wanted.push_back({s, std::ssize(tokens_[s]) - 1});
    return plan;
  }
  /// Both sequences with the same branch.
  Plan branched_plan(Branch branch) const {
    Plan plan = plain_plan();
    for (branch.sequence = 0; branch.sequence < std::ssize(tokens_); ++branch.sequence) plan.branches.push_back(branch);
    return plan;
  }
  std::vector<float> logits(const Model& model, const Plan& plan) {
    return Executor(context_, model).run(plan).logits.to_host();
  }
  /// The model with `change` added to one weight.
  Model with_weight(const std::string& name, ConstView change) {
    auto owned = random_parameters(context_, config_, 5);
    visit_parameters(owned->views, config_, [&](const Parameter& parameter, View& view) {
      if (parameter.name == name) add(context_, change, view);
    });
    return Model(config_, as_constant(owned->views, config_), owned);
  }
  /// The backward pass of the loss sum_w 0.5 |logits_w|^2 / 100, whose logit gradients are the logits / 100.
  RowGradients backward(const Model& model, const Plan& plan, const Parameters<float>* parameters = nullptr) {
    Executor executor(context_, model);
    loci::Run run = executor.run(plan, Keep::activations);
    scale(context_, 0.01f, run.logits.view());
    return executor.backward(run, run.logits.view(), parameters);
  }

  Context context_;
  Architecture config_;
  std::shared_ptr<OwnedParameters> owned_;
  Model model_;
  std::vector<std::vector<int32_t>> tokens_;
};

std::string full_name(int64_t layer, const char* projection, const char* which) {
  return "h." + std::to_string(layer) + "." + projection + "." + which;
}

TEST_F(BranchTest, LinearBranchesEqualEditedWeightsAtEveryProjection) {
  for (const Projection& p : projections()) {
    for (const int64_t layer : {int64_t{0}, config_.layers - 1}) {
      for (const int64_t rank : {1, 4}) {
        const Tensor keys = pattern(context_, p.in, rank, 0.2f, 1), values = pattern(context_, rank, p.out, 0.2f, 2);
        Plan plan = plain_plan();
        const std::vector<float> original = logits(model_, plan);
        plan.branches = {
            {.sequence = 1, .layer = layer, .keys = keys.view(), .values = values.view(), .from = p.from, .to = p.to}};
        const std::vector<float> branched = logits(model_, plan);
        Tensor change(context_, p.in, p.out);
        gemm(context_, Transpose::no, keys.view(), Transpose::no, values.view(), change.view());
        const std::vector<float> edited =
            logits(with_weight(full_name(layer, p.name, "weight"), change.view()), plain_plan());
        const auto V = static_cast<ptrdiff_t>(config_.vocabulary);
        const std::string what = full_name(layer, p.name, "rank ") + std::to_string(rank);
        expect_close({branched.begin(), branched.begin() + V}, {original.begin(), original.begin() + V}, what);
        expect_close({branched.begin() + V, branched.end()}, {edited.begin() + V, edited.end()}, what);
        EXPECT_GT(std::abs(edited[V] - original[V]), 1e-3) << what;
      }
    }
  }
}

TEST_F(BranchTest, PartsOfASiteAreChangedByColumn) {
  const Tensor keys = pattern(context_, config_.width, 2, 0.3f, 1),
               values = pattern(context_, 2, config_.width, 0.3f, 2);
  std::vector<float> change(static_cast<size_t>(config_.width * 3 * config_.width), 0.0f);
  Tensor product(context_, config_.width, config_.width);
  gemm(context_, Transpose::no, keys.view(), Transpose::no, values.view(), product.view());
  const std::vector<float> host = product.to_host();
  for (int64_t i = 0; i < config_.width; ++i)
    for (int64_t j = 0; j < config_.width; ++j)
      change[i * 3 * config_.width + 2 * config_.width + j] = host[i * config_.width + j];
  const Tensor device = Tensor::from_host(context_, change, config_.width, 3 * config_.width);
  const Plan plan = branched_plan({.sequence = 0,
                                   .layer = 1,
                                   .keys = keys.view(),
                                   .values = values.view(),
                                   .from = Site::attn_in,
                                   .to = Site::qkv,
                                   .first_column = 2 * config_.width});
  expect_close(logits(model_, plan), logits(with_weight("h.1.attn.c_attn.weight", device.view()), plain_plan()),
               "values alone");
}

/// Neurons beside the MLP are the same as a wider MLP, forward and backward.
TEST_F(BranchTest, NeuronsEqualAWiderMlp) {
  const int64_t d = config_.width, ff = config_.mlp_width, n = 5, layer = 1;
  const Tensor keys = pattern(context_, d, n, 0.3f, 1), values = pattern(context_, n, d, 0.3f, 2),
               bias = pattern(context_, 1, n, 0.3f, 3);
  Architecture wide_config = config_;
  wide_config.mlp_width = ff + n;
  auto wide = zero_parameters(context_, wide_config);
  std::map<std::string, View> from;
  visit_parameters(owned_->views, config_,
                   [&](const Parameter& parameter, View& view) { from[parameter.name] = view; });
  visit_parameters(wide->views, wide_config, [&](const Parameter& parameter, View& view) {
    const std::string& name = parameter.name;
    const View source = from.at(name);
    const bool here = name.starts_with("h.1.mlp.");
    if (name.ends_with("c_fc.weight") || name.ends_with("c_fc.bias")) {
      add(context_, source, view.cols_slice(0, ff));
      if (here) add(context_, name.ends_with("bias") ? bias.view() : keys.view(), view.cols_slice(ff, n));
    } else if (name.ends_with("mlp.c_proj.weight")) {
      add(context_, source, view.rows_slice(0, ff));
      if (here) add(context_, values.view(), view.rows_slice(ff, n));
    } else {
      add(context_, source, view);
    }
  });
  const Model wide_model(wide_config, as_constant(wide->views, wide_config), wide);

  Tensor dkeys = Tensor::zeros(context_, d, n), dvalues = Tensor::zeros(context_, n, d),
         dbias = Tensor::zeros(context_, 1, n);
  const Plan plan = branched_plan({.sequence = 0,
                                   .layer = layer,
                                   .keys = keys.view(),
                                   .values = values.view(),
                                   .from = Site::mlp_in,
                                   .to = Site::mlp_out,
                                   .activation = config_.activation,
                                   .bias = bias.view(),
                                   .keys_gradient = dkeys.view(),
                                   .values_gradient = dvalues.view(),
                                   .bias_gradient = dbias.view()});
  expect_close(logits(model_, plan), logits(wide_model, plain_plan()), "logits");

  ParameterBuffer buffer(context_, config_), wide_buffer(context_, wide_config);
  const auto joined = backward(model_, plan, &buffer.parameters()).joined.to_host();
  expect_close(joined, backward(wide_model, plain_plan(), &wide_buffer.parameters()).joined.to_host(), "joined");
  const BlockParameters<float>& g = wide_buffer.parameters().blocks[layer];
  expect_close(dkeys.to_host(), to_host(context_, g.up_weight.cols_slice(ff, n)), "keys");
  expect_close(dbias.to_host(), to_host(context_, g.up_bias.cols_slice(ff, n)), "bias");
  expect_close(dvalues.to_host(), to_host(context_, g.down_weight.rows_slice(ff, n)), "values");
  expect_close(to_host(context_, buffer.parameters().blocks[0].qkv_weight),
               to_host(context_, wide_buffer.parameters().blocks[0].qkv_weight), "a weight below");
}

/// With K = 0 nothing changes, and dK = dW V^T for the projection's gradient dW.
TEST_F(BranchTest, GradientsOfLinearBranchesFollowFromThoseOfWeights) {
  for (const Projection& p : projections()) {
    const int64_t rank = 3, layer = config_.layers - 1;
    const Tensor keys = Tensor::zeros(context_, p.in, rank), values = pattern(context_, rank, p.out, 0.5f, 4);
    Tensor dkeys = Tensor::zeros(context_, p.in, rank);
    const Plan plan = branched_plan({.sequence = 0,
                                     .layer = layer,
                                     .keys = keys.view(),
                                     .values = values.view(),
                                     .from = p.from,
                                     .to = p.to,
                                     .keys_gradient = dkeys.view()});
    ParameterBuffer buffer(context_, config_);
    backward(model_, plan, &buffer.parameters());
    Tensor expected(context_, p.in, rank);
    visit_parameters(buffer.parameters(), config_, [&](const Parameter& parameter, const View& weight) {
      if (parameter.name == full_name(layer, p.name, "weight"))
        gemm(context_, Transpose::no, weight, Transpose::yes, values.view(), expected.view());
    });
    expect_close(dkeys.to_host(), expected.to_host(), p.name);
  }
}

/// A lane's branches act as in a whole run: in its first block, above it, in the last one, and below its first block.
TEST_F(BranchTest, LanesTakeBranches) {
  Plan recorded = plain_plan();
  recorded.sequences[0].record = true;
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    for (const Site site : {Site::mlp_in, Site::mlp_key}) recorded.recorded.push_back({site, layer});
  const RecordingPtr base = Executor(context_, model_).run(recorded).recordings[0];
  const int64_t rank = 2;
  std::vector<Projection> changes = projections();
  changes.push_back({"neurons", Site::mlp_in, Site::mlp_out, config_.width, config_.width});
  changes.push_back({"across", Site::attn_in, Site::mlp_out, config_.width, config_.width});
  for (const Projection& p : changes) {
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const Tensor keys = pattern(context_, p.in, rank, 0.2f, 1), values = pattern(context_, rank, p.out, 0.2f, 2);
      const auto branch = [&](int64_t sequence) {
        return Branch{.sequence = sequence,
                      .layer = layer,
                      .keys = keys.view(),
                      .values = values.view(),
                      .from = p.from,
                      .to = p.to};
      };
      Plan whole = plain_plan();
      whole.branches = {branch(0)};
      whole.wanted = {{0, 8}};
      const std::vector<float> expected = logits(model_, whole);
      for (const int64_t first_layer : {layer, layer + 1}) {
        if (first_layer == 0 || (first_layer > layer && (p.to != Site::mlp_out || p.from == Site::attn_in))) continue;
        Plan plan;
        Sequence lane;
        lane.base = base;
        lane.first_layer = first_layer;
        lane.rows = 9;
        plan.sequences = {lane};
        plan.branches = {branch(0)};
        plan.wanted = {{0, 8}};
        expect_close(logits(model_, plan), expected,
                     std::string(p.name) + " at " + std::to_string(layer) + " from " + std::to_string(first_layer));
      }
    }
  }
}

/// Sums of the gradients of rows are the gradients of the biases added there.
TEST_F(BranchTest, GradientTapsSumToGradientsOfBiases) {
  struct Case {
    const char* bias;
    Site site;
  };
  const std::vector<Case> cases = {{"attn.c_attn.bias", Site::qkv},  {"attn.c_proj.bias", Site::attn_out},
                                   {"mlp.c_fc.bias", Site::mlp_pre}, {"mlp.c_proj.bias", Site::mlp_out},
                                   {"ln_1.bias", Site::attn_in},     {"ln_2.bias", Site::mlp_in}};
  ParameterBuffer buffer(context_, config_);
  backward(model_, plain_plan(), &buffer.parameters());
  std::map<std::string, std::vector<float>> gradients = buffer.to_host(context_);
  const int64_t rows = std::ssize(tokens_[0]) + std::ssize(tokens_[1]);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    for (const Case& c : cases) {
      Plan plan = plain_plan();
      Tensor taps(context_, rows, site_width(config_, c.site)), sum = Tensor::zeros(context_, 1, taps.cols());
      for (int64_t s = 0; s < 2; ++s)
        for (int64_t position = 0; position < std::ssize(tokens_[s]); ++position)
          plan.gradient_taps.push_back({s, position, c.site, layer, std::ssize(plan.gradient_taps)});
      plan.gradient_output = taps.view();
      backward(model_, plan);
      add_column_sums(context_, taps.view(), sum.view());
      const std::string name = "h." + std::to_string(layer) + "." + c.bias;
      expect_close(sum.to_host(), gradients.at(name), name);
    }
  }
}

/// The gradient at a site is the slope of the loss along an addition to its row. Another row of the site is replaced:
/// what lies before it must not count.
TEST_F(BranchTest, GradientsSeePatches) {
  if (!products_are_fp32()) GTEST_SKIP() << "differences of losses need fp32 products";
  const std::vector<BlockSite> sites = {{Site::embed, 0},      {Site::attn_in, 1},  {Site::qkv, 1},
                                        {Site::attn_heads, 1}, {Site::attn_out, 1}, {Site::mlp_in, 1},
                                        {Site::mlp_pre, 1},    {Site::mlp_key, 1},  {Site::mlp_out, 1},
                                        {Site::resid, 1},      {Site::resid, 2},    {Site::mlp_out, 2}};
  for (const BlockSite& replaced : sites) {
    for (const BlockSite& at : {BlockSite{Site::resid, 0}, replaced}) {
      if (replaced.site == Site::embed && at.site == Site::resid) continue;
      const int64_t width = site_width(config_, at.site);
      const Tensor constant = pattern(context_, 1, site_width(config_, replaced.site), 0.5f, 7);
      Tensor tap(context_, 1, width);
      const auto plan_with = [&](const Tensor* addition) {
        Plan plan = plain_plan();
        plan.patches.push_back({0, 5, replaced.site, replaced.layer, PatchMode::replace, constant.data()});
        if (addition) plan.patches.push_back({0, 3, at.site, at.layer, PatchMode::add, addition->data()});
        return plan;
      };
      Plan plan = plan_with(nullptr);
      plan.gradient_taps = {{0, 3, at.site, at.layer, 0}};
      plan.gradient_output = tap.view();
      backward(model_, plan);
      const std::vector<float> gradient = tap.to_host();
      const double size = norm(gradient);
      const auto loss = [&](double step) {
        std::vector<float> values(gradient.size());
        for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(step * gradient[i] / size);
        const Tensor addition = Tensor::from_host(context_, values, 1, width);
        double sum = 0;
        for (const float logit : logits(model_, plan_with(&addition)))
          sum += 0.005 * static_cast<double>(logit) * logit;
        return sum;
      };
      if (at.layer == config_.layers - 1) {
        EXPECT_EQ(size, 0) << "a row of the last block that no logit sees";
        continue;
      }
      const double h = 0.02;
      EXPECT_NEAR((loss(h) - loss(-h)) / (2 * h), size, 0.01 * size + 2e-4)
          << "replaced at site " << static_cast<int>(replaced.site) << ", gradient at " << static_cast<int>(at.site);
    }
  }
}

TEST_F(BranchTest, ContradictionsAreRefused) {
  const Tensor keys = pattern(context_, config_.width, 2, 0.1f, 1),
               values = pattern(context_, 2, config_.width, 0.1f, 2);
  const Branch good{.sequence = 0,
                    .layer = 1,
                    .keys = keys.view(),
                    .values = values.view(),
                    .from = Site::mlp_in,
                    .to = Site::mlp_out};
  const auto expect_refused = [&](const std::function<void(Branch&)>& change) {
    Plan plan = plain_plan();
    plan.branches = {good};
    change(plan.branches[0]);
    EXPECT_THROW(Executor(context_, model_).run(plan), ShapeError);
  };
  expect_refused([](Branch& b) { b.sequence = 2; });
  expect_refused([&](Branch& b) { b.layer = config_.layers; });
  expect_refused([](Branch& b) { b.from = Site::mlp_key; });  // keys of another width
  expect_refused([](Branch& b) { b.to = Site::attn_out; });   // an earlier site
  expect_refused([](Branch& b) { b.first_column = 1; });      // beyond the site
  expect_refused([&](Branch& b) { b.bias = keys.view(); });
  Plan plan = plain_plan();
  plan.branches = {good};
  EXPECT_NO_THROW(Executor(context_, model_).run(plan));
}

}  // namespace
}  // namespace loci::test
