#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <ostream>

#include <numbers>

#include "kernels/simd_math.h"
#include "tests/kernels/reference.h"

namespace loci {

namespace {

const char* activation_title(Activation kind) {
  switch (kind) {
    case Activation::gelu_new:
      return "gelu_new";
    case Activation::gelu:
      return "gelu";
    case Activation::relu:
      return "relu";
    case Activation::silu:
      return "silu";
  }
  return "";
}

}  // namespace

// Tests are listed by it.
void PrintTo(Activation kind, std::ostream* out) { *out << activation_title(kind); }

namespace {

using namespace test;

double value_of(Activation kind, double x) {
  switch (kind) {
    case Activation::gelu_new:
      // x / (1 + exp(-2 z)) is 0.5 x (1 + tanh z) without its cancellation.
      return x / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::gelu:
      return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

double derivative_of(Activation kind, double x) {
  if (kind == Activation::relu) return x > 0 ? 1 : 0;
  // Central differences at fourth order: the error is h^4 f''''' / 30 + eps / h.
  const double h = 1e-3;
  const auto f = [&](double at) { return value_of(kind, at); };
  return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h);
}

Values sample_points() {
  Values x{0.0f, -0.0f, 1e-30f, -1e-30f, 30, -30, 1e4f, -1e4f};
  std::mt19937 random(1);
  for (const float value : normal_values(random, 1021, 3)) x.push_back(value);
  return x;
}

class ActivationTest : public ::testing::TestWithParam<Activation> {};

TEST_P(ActivationTest, AgreesWithTheFormulaInDouble) {
  Context context(device_options());
  const Values x_values = sample_points();
  const int64_t cols = 49, rows = std::ssize(x_values) / cols;
  ASSERT_EQ(rows * cols, std::ssize(x_values));
  Padded x(context, rows, cols, x_values), y(context, rows, cols);
  activation(context, GetParam(), x.read(), y.view());
  Doubles expected;
  for (const float value : x_values) expected.push_back(value_of(GetParam(), static_cast<double>(value)));
  // One rounding to fp32; below the smallest normal number its absolute spacing.
  EXPECT_TRUE(near_relative(y.values(), expected, 2 * kEps, 1e-44));
  EXPECT_TRUE(y.guarded());
  activation(context, GetParam(), x.read(), x.view());
  EXPECT_TRUE(identical(x.values(), y.values()));
}

TEST_P(ActivationTest, BackwardAgreesWithCentralDifferences) {
  Context context(device_options());
  Values x_values;
  for (const float value : sample_points())
    if (std::abs(value) < 30 && std::abs(value) > 1e-20f) x_values.push_back(value);
  const auto count = std::ssize(x_values);
  std::mt19937 random(2);
  const Values dy_values = normal_values(random, count);
  Padded x(context, 1, count, x_values), dy(context, 1, count, dy_values), dx(context, 1, count);
  activation_backward(context, GetParam(), x.read(), dy.read(), dx.view());
  Doubles expected;
  for (size_t i = 0; i < x_values.size(); ++i)
    expected.push_back(static_cast<double>(dy_values[i]) * derivative_of(GetParam(), static_cast<double>(x_values[i])));
  // The differences are good to about 1e-11; kinks of relu are not sampled.
  EXPECT_TRUE(near_relative(dx.values(), expected, 4 * kEps, 4e-10));
  EXPECT_TRUE(dx.guarded());
  activation_backward(context, GetParam(), x.read(), dy.read(), dy.view());
  EXPECT_TRUE(identical(dy.values(), dx.values()));
}

TEST_P(ActivationTest, EmptyNanAndWrongShapes) {
  Context context(device_options());
  Padded none(context, 0, 4), x(context, 1, 3, {1, kNan, 2}), y(context, 1, 3), other(context, 3, 1, {7, 7, 7});
  activation(context, GetParam(), none.read(), none.view());
  activation(context, GetParam(), x.read(), y.view());
  const Values values = y.values();
  EXPECT_TRUE(std::isfinite(values[0]) && std::isnan(values[1]) && std::isfinite(values[2]));
  EXPECT_THROW(activation(context, GetParam(), x.read(), other.view()), ShapeError);
  EXPECT_THROW(activation_backward(context, GetParam(), x.read(), x.read(), other.view()), ShapeError);
  EXPECT_EQ(other.values(), Values(3, 7));
}

INSTANTIATE_TEST_SUITE_P(Kinds, ActivationTest,
                         ::testing::Values(Activation::gelu_new, Activation::gelu, Activation::relu, Activation::silu),
                         [](const auto& named) { return std::string(activation_title(named.param)); });

TEST(SimdMath, ExpInSingleIsWithinTwoUlps) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-105, 90);
  for (int i = 0; i < 200000; ++i) {
    const float x = uniform(random);
    const double expected = std::exp(static_cast<double>(x));
    const double got = static_cast<double>(simd::exp(x));
    if (expected > static_cast<double>(std::numeric_limits<float>::max())) {
      ASSERT_EQ(got, std::numeric_limits<double>::infinity()) << x;
      continue;
    }
    // An ulp is 2 kEps relative; below the smallest normal number it is 2^-149.
    ASSERT_LE(std::abs(got - expected), std::max(2 * 2 * kEps * expected, 2 * 0x1p-149)) << x;
  }
}

TEST(SimdMath, ExpAtTheEdges) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(simd::exp(0.0f), 1.0f);
  EXPECT_EQ(simd::exp(-inf), 0.0f);
  EXPECT_EQ(simd::exp(inf), inf);
  EXPECT_EQ(simd::exp(-200.0f), 0.0f);
  EXPECT_EQ(simd::exp(1000.0f), inf);
  EXPECT_TRUE(std::isnan(simd::exp(kNan)));
  EXPECT_EQ(simd::exp(0.0), 1.0);
  EXPECT_LT(simd::exp(-1e300), 1e-300);
  EXPECT_GT(simd::exp(1e300), 1e300);
  EXPECT_TRUE(std::isnan(simd::exp(std::numeric_limits<double>::quiet_NaN())));
}

TEST(SimdMath, ExpOfNonpositiveIsGoodAndHeldBelow) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-87, 0);
  for (int i = 0; i < 200000; ++i) {
    const float x = uniform(random);
    const double expected = std::exp(static_cast<double>(x));
    const double bound = (4 + 1.3 * std::abs(static_cast<double>(x))) * kEps * expected;
    ASSERT_LE(std::abs(static_cast<double>(simd::exp_of_nonpositive(x)) - expected), bound) << x;
  }
  const float lowest = simd::exp_of_nonpositive(-87.0f), inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(simd::exp_of_nonpositive(0.0f), 1.0f);
  EXPECT_EQ(simd::exp_of_nonpositive(-0.0f), 1.0f);
  EXPECT_GT(lowest, 0.0f);
  EXPECT_EQ(simd::exp_of_nonpositive(-88.0f), lowest);
  EXPECT_EQ(simd::exp_of_nonpositive(-inf), lowest);
  EXPECT_TRUE(std::isnan(simd::exp_of_nonpositive(kNan)));
}

TEST(SimdMath, ExpToSingleCostsATwentiethOfARounding) {
  std::mt19937 random(6);
  std::uniform_real_distribution<double> uniform(-700, 700);
  for (int i = 0; i < 200000; ++i) {
    const double x = uniform(random);
    ASSERT_LE(std::abs(simd::exp_to_single(x) / std::exp(x) - 1), 3e-9) << x;
  }
  EXPECT_LT(simd::exp_to_single(-1e300), 1e-300);
  EXPECT_GT(simd::exp_to_single(1e300), 1e300);
  EXPECT_TRUE(std::isnan(simd::exp_to_single(std::numeric_limits<double>::quiet_NaN())));
}

TEST(SimdMath, ExpInDoubleIsGoodToFourteenDigits) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> uniform(-700, 700);
  for (int i = 0; i < 200000; ++i) {
    const double x = uniform(random);
    ASSERT_LE(std::abs(simd::exp(x) / std::exp(x) - 1), 1e-14) << x;
  }
}

}  // namespace
}  // namespace loci
