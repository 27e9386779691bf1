// The backward pass against central differences of a plain fp64 implementation, and against the reference's gradients.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <random>

#include "kernels/softmax.h"
#include "model/executor/executor.h"
#include "model/train/parameter_buffer.h"
#include "runtime/io/npz.h"
#include "tests/support/device.h"
#include "tests/support/family_models.h"
#include "tests/support/paths.h"
#include "tests/support/plain_gpt.h"
#include "tests/support/tiny_model.h"
#include "tests/support/toy_family.h"

namespace loci::test {
namespace {

struct Gradients {
  double loss = 0;
  std::map<std::string, std::vector<float>> parameters;
  std::vector<float> joined;
  std::vector<int64_t> first_row;
};

/// Mean next-token loss over the positions of a plan's sequences that have a next token in `tokens`, and its gradients.
/// Parameters have gradients where no sequence starts from a base.
Gradients gradients_of(Context& context, const Model& model, Plan plan,
                       const std::vector<std::vector<int32_t>>& tokens) {
  std::vector<int32_t> targets;
  for (size_t s = 0; s < tokens.size(); ++s) {
    const Sequence& sequence = plan.sequences[s];
    for (int64_t r = 0; r < sequence.row_count(); ++r) {
      const int64_t position = sequence.first_position + r;
      if (position + 1 >= std::ssize(tokens[s])) continue;
      plan.wanted.push_back({static_cast<int64_t>(s), position});
      targets.push_back(tokens[s][position + 1]);
    }
  }
  Executor executor(context, model);
  Run run = executor.run(plan, Keep::activations);
  const std::vector<float> weights(targets.size(), 1.0f / static_cast<float>(targets.size()));
  Tensor losses(context, std::ssize(targets), 1);
  cross_entropy(context, run.logits.view(), {context, std::span<const int32_t>(targets)},
                {context, std::span<const float>(weights)}, losses.view(), run.logits.view(), Write::assign);
  ParameterBuffer buffer(context, model.config());
  const bool lanes = std::any_of(plan.sequences.begin(), plan.sequences.end(), [](const auto& s) { return s.base; });
  const RowGradients rows = executor.backward(run, run.logits.view(), lanes ? nullptr : &buffer.parameters());
  Gradients made{
      .loss = 0, .parameters = buffer.to_host(context), .joined = rows.joined.to_host(), .first_row = rows.first_row};
  for (const float loss : losses.to_host()) made.loss += loss;
  return made;
}

double norm_of(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

/// fp32 gradients carry the roundings of the forward pass and of sums along rows and width: a few hundred eps of the
/// whole parameter's norm. Rounded inputs of products err at random, so fewer of their roundings add up.
double gradient_tolerance(double norm) {
  const double relative = products_are_fp32() ? 300 * kEps : 40 * product_eps(device_options().precision);
  return relative * (norm + 1e-3);
}

/// Of a mean loss of about 4.
double loss_tolerance() { return products_are_fp32() ? 1e-5 : 40 * product_eps(device_options().precision); }

Plan plain_plan(const std::vector<std::vector<int32_t>>& sequences) {
  Plan plan;
  for (const auto& tokens : sequences) plan.sequences.emplace_back().tokens = tokens;
  return plan;
}

struct GradientCase {
  const char* name;
  Architecture config;
};

// Tests are listed by it.
void PrintTo(const GradientCase& value, std::ostream* out) { *out << value.name; }

std::vector<GradientCase> gradient_cases() {
  Architecture untied = tiny_config(2, 5, 4, 33, 31, 16);  // width 20, no multiple of 64
  untied.tied = false;
  Architecture gelu = tiny_config(2, 1, 13, 21, 29, 16);
  gelu.activation = Activation::gelu;
  gelu.layer_scale = LayerScale::by_inverse_index;
  std::vector<GradientCase> cases = {{"tied", tiny_config(3, 3, 7, 30, 37, 16)},
                                     {"five_heads_untied", untied},
                                     {"one_head_gelu", gelu},
                                     {"toy_family", toy_config(2)}};
  for (const FamilyCase& family : family_cases()) cases.push_back({family.name, family.config});
  return cases;
}

class GradientShapes : public ::testing::TestWithParam<GradientCase> {};

/// Central differences of an fp64 loss with h = 1e-5 are good to about 1e-9.
template <typename Set>
double central_difference(const Set& loss_at, double value) {
  const double h = 1e-5;
  return (loss_at(value + h) - loss_at(value - h)) / (2 * h);
}

TEST_P(GradientShapes, EveryParameterMatchesFiniteDifferences) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 11);
  PlainGpt plain(context, model);
  const std::vector<std::vector<int32_t>> sequences = {random_tokens(9, config.vocabulary, 1),
                                                       random_tokens(2, config.vocabulary, 2),
                                                       random_tokens(6, config.vocabulary, 3)};
  const Gradients ours = gradients_of(context, model, plain_plan(sequences), sequences);
  EXPECT_NEAR(ours.loss, plain.loss(sequences), loss_tolerance());
  std::mt19937 random(5);
  for (auto& [name, values] : plain.parameters) {
    const std::vector<float>& gradient = ours.parameters.at(name);
    ASSERT_EQ(gradient.size(), values.size()) << name;
    const double tolerance = gradient_tolerance(norm_of(gradient));
    for (int sample = 0; sample < 12; ++sample) {
      const size_t i = random() % values.size();
      const double value = values[i];
      const double expected = central_difference(
          [&, &values = values](double at) {
            values[i] = at;
            return plain.loss(sequences);
          },
          value);
      values[i] = value;
      if (!(std::abs(gradient[i] - expected) <= tolerance)) {
        FAIL() << name << "[" << i << "]: " << gradient[i] << ", expected " << expected << " to " << tolerance;
      }
    }
  }
}

/// Along the gradient itself every element counts: d loss(theta + t g) / dt = |g|^2.
TEST_P(GradientShapes, DirectionalDerivativeSeesEveryElement) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 12);
  PlainGpt plain(context, model);
  const std::vector<std::vector<int32_t>> sequences = {random_tokens(16, config.vocabulary, 4),
                                                       random_tokens(5, config.vocabulary, 5)};
  const Gradients ours = gradients_of(context, model, plain_plan(sequences), sequences);
  for (auto& [name, values] : plain.parameters) {
    const std::vector<float>& gradient = ours.parameters.at(name);
    const double norm = norm_of(gradient);
    const std::vector<double> start = values;
    const double slope = central_difference(
        [&, &values = values](double t) {
          for (size_t i = 0; i < values.size(); ++i) values[i] = start[i] + t * gradient[i] / (norm + 1e-30);
          return plain.loss(sequences);
        },
        0.0);
    values = start;
    EXPECT_NEAR(slope, norm, gradient_tolerance(norm)) << name;
  }
}

/// Lanes from bases: rows that join at resid(l) behind a recorded prefix. The base is constant, and so are the rows
/// that nothing changes: every second one here.
TEST_P(GradientShapes, ChangedRowsOfLanesMatchFiniteDifferences) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 13);
  PlainGpt plain(context, model);
  const auto tokens = random_tokens(12, config.vocabulary, 6);
  Plan base_plan = plain_plan({tokens});
  base_plan.sequences[0].record = true;
  const RecordingPtr base = Executor(context, model).run(base_plan).recordings[0];

  const int64_t first_position = 5, layer = 0;
  Plan plan;
  Sequence& lane = plan.sequences.emplace_back();
  lane.base = base;
  lane.first_position = first_position;
  lane.first_layer = layer + 1;
  lane.rows = std::ssize(tokens) - first_position;
  const Tensor nothing = Tensor::zeros(context, 1, config.width);
  for (int64_t position = first_position; position < std::ssize(tokens); position += 2)
    plan.patches.push_back({0, position, Site::resid, layer, PatchMode::add, nothing.data()});
  const Gradients ours = gradients_of(context, model, plan, {tokens});
  EXPECT_NEAR(ours.loss, plain.loss({tokens}, static_cast<size_t>(first_position)), loss_tolerance());

  const auto d = static_cast<size_t>(config.width);
  for (int64_t position = first_position; position < std::ssize(tokens); position += 2) {
    const auto row = ours.joined.begin() + (ours.first_row[0] + position - first_position) * config.width;
    const double tolerance = gradient_tolerance(norm_of({row, row + config.width}));
    std::vector<double>& shift = plain.shifts[{layer, position}];
    shift.assign(d, 0.0);
    for (const size_t c : {size_t{0}, d / 2, d - 1}) {
      const double expected = central_difference(
          [&](double value) {
            shift[c] = value;
            return plain.loss({tokens}, static_cast<size_t>(first_position));
          },
          0.0);
      shift[c] = 0;
      const float got = row[static_cast<std::ptrdiff_t>(c)];
      if (!(std::abs(got - expected) <= tolerance)) {
        FAIL() << "position " << position << ", element " << c << ": " << got << ", expected " << expected;
      }
    }
  }
}

TEST_P(GradientShapes, ParametersHaveNoneBehindBases) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 13);
  const auto tokens = random_tokens(6, config.vocabulary, 6);
  Plan plan = plain_plan({tokens});
  plan.sequences[0].record = true;
  Executor executor(context, model);
  const RecordingPtr base = executor.run(plan).recordings[0];
  plan.sequences[0] = {.tokens = {}, .rows = 3, .first_position = 3, .first_layer = 1, .base = base};
  plan.wanted = {{0, 5}};
  const auto run = executor.run(plan, Keep::activations);
  ParameterBuffer buffer(context, config);
  EXPECT_THROW(executor.backward(run, run.logits.view(), &buffer.parameters()), ShapeError);
}

TEST_P(GradientShapes, DroppedMlpOutputs) {
  Context context(device_options(2));
  const Architecture& config = GetParam().config;
  const Model model = random_model(context, config, 14);
  PlainGpt plain(context, model);
  plain.mlp_factors[config.layers - 1] = 0.5;
  const std::vector<std::vector<int32_t>> sequences = {random_tokens(8, config.vocabulary, 7)};
  Plan plan = plain_plan(sequences);
  plan.regularisers.mlp_scales = {{0, config.layers - 1, 0.5f}};
  const Gradients ours = gradients_of(context, model, plan, sequences);
  for (const Role role : {Role::down_weight, Role::down_bias, Role::up_weight, Role::norm_2_gain}) {
    const auto parameters = parameters_of(config);
    if (std::ranges::find(parameters, role, &Parameter::role) == parameters.end()) continue;
    const std::string full = parameter_name(config, role, config.layers - 1);
    std::vector<double>& values = plain.parameters.at(full);
    const std::vector<float>& gradient = ours.parameters.at(full);
    for (const size_t i : {size_t{0}, values.size() / 2, values.size() - 1}) {
      const double value = values[i];
      const double expected = central_difference(
          [&, &values = values](double at) {
            values[i] = at;
            return plain.loss(sequences);
          },
          value);
      values[i] = value;
      EXPECT_NEAR(gradient[i], expected, gradient_tolerance(norm_of(gradient))) << full;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GradientShapes, ::testing::ValuesIn(gradient_cases()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Gradients, AddUpOverCalls) {
  Context context(device_options(2));
  const Architecture config = tiny_config();
  const Model model = random_model(context, config, 15);
  const std::vector<std::vector<int32_t>> a = {random_tokens(7, config.vocabulary, 8)};
  Plan plan = plain_plan(a);
  for (int64_t t = 0; t < 6; ++t) plan.wanted.push_back({0, t});
  Executor executor(context, model);
  ParameterBuffer once(context, config), twice(context, config);
  const loci::Run run = executor.run(plan, Keep::activations);
  executor.backward(run, run.logits.view(), &once.parameters());
  executor.backward(run, run.logits.view(), &twice.parameters());
  executor.backward(run, run.logits.view(), &twice.parameters());
  const auto single = once.to_host(context), both = twice.to_host(context);
  for (const auto& [name, values] : single)
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(both.at(name)[i], 2 * values[i], gradient_tolerance(norm_of(values))) << name;
}

TEST(GoldenGradients, AgreeWithTheReference) {
  if (!shared_dir()) GTEST_SKIP() << "no reference outputs (LOCI_TEST_DATA)";
  if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  const auto golden = *shared_dir() / "golden/tiny-a";
  const auto path = golden / "gradients.npz";
  const auto arrays = read_npz(path);
  Context context(device_options(2));
  const Model model = Model::load(context, golden / "model");
  const auto ids = npz_at(arrays, "ids", path).as<int64_t>();
  const std::vector<std::vector<int32_t>> sequences = {{ids.begin(), ids.end()}};
  const Gradients ours = gradients_of(context, model, plain_plan(sequences), sequences);
  EXPECT_NEAR(ours.loss, PlainGpt(context, model).loss(sequences), 1e-6);
  // The reference sums V exponentials in fp32: V roundings, of random sign.
  const double softmax_error = std::sqrt(static_cast<double>(model.config().vocabulary)) * std::pow(2.0, -24);
  EXPECT_NEAR(ours.loss, npz_at(arrays, "loss", path).scalar<double>(), softmax_error);

  int compared = 0;
  for (const auto& [name, gradient] : ours.parameters) {
    const double norm = npz_at(arrays, "norm:transformer." + name, path).scalar<double>();
    // Each row's gradient carries that error; rows cancel in part where they are added up, their errors do not.
    const double tolerance = gradient_tolerance(norm) + 4 * softmax_error * norm;
    EXPECT_NEAR(norm_of(gradient), norm, tolerance) << name;
    const auto found = arrays.find("grad:transformer." + name);
    if (found == arrays.end()) continue;
    ++compared;
    const auto expected = found->second.as<float>();
    ASSERT_EQ(expected.size(), gradient.size()) << name;
    double sum = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = static_cast<double>(gradient[i]) - expected[i];
      if (!(std::abs(error) <= tolerance)) FAIL() << name << "[" << i << "] differs by " << error;
      sum += error * error;
    }
    if (!(std::sqrt(sum) <= tolerance)) FAIL() << name << " differs by " << std::sqrt(sum);
  }
  EXPECT_EQ(compared, 75);
}

}  // namespace
}  // namespace loci::test
