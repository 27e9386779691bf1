#include "kernels/adam.h"

#include <gtest/gtest.h>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

struct State {
  Doubles x, first, second;
};

// The published algorithm in fp64.
void reference_step(const AdamOptions& o, int64_t t, const Values& gradient, double scale, State& s) {
  for (size_t i = 0; i < gradient.size(); ++i) {
    const double g = scale * static_cast<double>(gradient[i]);
    s.first[i] = o.beta_1 * s.first[i] + (1 - o.beta_1) * g;
    s.second[i] = o.beta_2 * s.second[i] + (1 - o.beta_2) * g * g;
    const double m = s.first[i] / (1 - std::pow(o.beta_1, t));
    const double v = s.second[i] / (1 - std::pow(o.beta_2, t));
    s.x[i] -= o.learning_rate * (m / (std::sqrt(v) + o.epsilon) + o.weight_decay * s.x[i]);
  }
}

TEST(Adam, FollowsTheAlgorithmInDouble) {
  AdamOptions options;
  options.learning_rate = 0.01;
  options.weight_decay = 0.1;
  std::mt19937 random(1);
  const int64_t rows = 33, cols = 31;
  const Values start = normal_values(random, rows * cols);
  for (const int threads : thread_counts({1, 3})) {
    Context context(device_options(threads));
    Padded x(context, rows, cols, start), first(context, rows, cols, Values(start.size(), 0)),
        second(context, rows, cols, Values(start.size(), 0));
    State expected{Doubles(start.begin(), start.end()), Doubles(start.size()), Doubles(start.size())};
    const int64_t steps = 20;
    for (int64_t t = 1; t <= steps; ++t) {
      const Values gradient_values = normal_values(random, rows * cols);
      Padded gradient(context, rows, cols, gradient_values);
      adam_step(context, options, t, gradient.read(), 0.5f, x.view(), first.view(), second.view());
      reference_step(options, t, gradient_values, 0.5, expected);
    }
    // Per step a handful of roundings of the moments, which move the step (at most about 10 learning rates) by as many
    // eps, and one rounding of x itself.
    const double n = static_cast<double>(steps);
    EXPECT_TRUE(near_relative(x.values(), expected.x, 3 * n * kEps, n * 10 * 8 * n * kEps * options.learning_rate));
    EXPECT_TRUE(near_relative(first.values(), expected.first, 4 * n * kEps, 4 * n * kEps));
    EXPECT_TRUE(near_relative(second.values(), expected.second, 4 * n * kEps));
    EXPECT_TRUE(x.guarded() && first.guarded() && second.guarded());
  }
}

TEST(Adam, FirstStepByHand) {
  // m = 0.1 g, v = 0.001 g^2; corrected they are g and g^2, so the step is the learning rate times the sign.
  Context context(device_options());
  AdamOptions options;
  options.learning_rate = 0.5;
  Padded x(context, 1, 3, {1, 1, 1}), gradient(context, 1, 3, {4, -0.25f, 0}), first(context, 1, 3, {0, 0, 0}),
      second(context, 1, 3, {0, 0, 0});
  adam_step(context, options, 1, gradient.read(), 1, x.view(), first.view(), second.view());
  EXPECT_TRUE(near(x.values(), Doubles{0.5, 1.5, 1}, 8 * kEps));
}

TEST(Adam, NanReachesTheParameter) {
  Context context(device_options());
  Padded x(context, 1, 2, {1, 1}), gradient(context, 1, 2, {kNan, 1}), first(context, 1, 2, {0, 0}),
      second(context, 1, 2, {0, 0});
  adam_step(context, {}, 1, gradient.read(), 1, x.view(), first.view(), second.view());
  EXPECT_TRUE(std::isnan(x.values()[0]));
  EXPECT_TRUE(std::isfinite(x.values()[1]));
}

TEST(Adam, SumOfSquaresDoesNotDependOnThreads) {
  std::mt19937 random(2);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{0, 3}, {1, 1}, {33, 129}, {2000, 31}}) {
    const Values values = normal_values(random, rows * cols);
    double expected = 0;
    for (const float value : values) expected += static_cast<double>(value) * static_cast<double>(value);
    Doubles sums;
    for (const int threads : {1, 2, 3}) {
      Context context(device_options(threads));
      Padded x(context, rows, cols, values);
      sums.push_back(sum_of_squares(context, x.read()));
    }
    EXPECT_NEAR(sums[0], expected, 1e-12 * expected);
    EXPECT_EQ(sums[1], sums[0]);
    EXPECT_EQ(sums[2], sums[0]);
  }
}

TEST(Adam, RowsAreClampedToTheirLimits) {
  Context context(device_options());
  Padded x(context, 4, 2, {3, 4, 3, 4, 0, 0, kNan, 1}), limits(context, 4, 1, {10, 2.5f, 1, 1});
  clamp_row_norms(context, limits.read(), x.view());
  const Values got = x.values();
  EXPECT_EQ(Values(got.begin(), got.begin() + 6), (Values{3, 4, 1.5f, 2, 0, 0}));
  EXPECT_TRUE(std::isnan(got[6]));
  EXPECT_TRUE(x.guarded());
}

TEST(Adam, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  Padded x(context, 2, 3, Values(6, 7)), other(context, 3, 2, Values(6, 7));
  EXPECT_THROW(adam_step(context, {}, 1, other.read(), 1, x.view(), x.view(), x.view()), ShapeError);
  EXPECT_THROW(adam_step(context, {}, 1, x.read(), 1, x.view(), x.view(), other.view()), ShapeError);
  EXPECT_THROW(adam_step(context, {}, 0, x.read(), 1, x.view(), x.view(), x.view()), ShapeError);
  EXPECT_THROW(clamp_row_norms(context, other.read(), x.view()), ShapeError);
  EXPECT_EQ(x.values(), Values(6, 7));
}

}  // namespace
}  // namespace loci
