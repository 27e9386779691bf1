#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <ostream>

#include "kernels/rows.h"
#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

constexpr float kEpsilon = 1e-5f;
constexpr Norm kNorms[] = {Norm::layer, Norm::rms};

enum class Bias { some, none };

struct NormCase {
  int64_t rows, width;
  Norm norm = Norm::layer;
  Bias bias = Bias::some;

  std::string name() const {
    return fmt::format("{}x{}_{}{}", rows, width, norm == Norm::layer ? "layer" : "rms",
                       bias == Bias::some ? "" : "_no_bias");
  }
  ConstView bias_of(ConstView view) const { return bias == Bias::some ? view : ConstView(); }
};

// Tests are listed by it.
void PrintTo(const NormCase& c, std::ostream* out) { *out << c.name(); }

// Each shape for both norms, with a bias and without.
std::vector<NormCase> cases(std::initializer_list<NormCase> shapes) {
  std::vector<NormCase> all;
  for (const NormCase& shape : shapes)
    for (const Norm norm : kNorms)
      for (const Bias bias : {Bias::some, Bias::none}) all.push_back({shape.rows, shape.width, norm, bias});
  return all;
}

// In fp64: the normalised rows, the statistics, and the gradients of sum(dy * y).
struct NormReference {
  Doubles y, statistics, dx, dgain, dbias;
};

NormReference reference(const NormCase& s, const Values& x, const Values& gain, const Values& bias, const Values& dy) {
  NormReference out;
  out.dgain.resize(gain.size());
  out.dbias.resize(gain.size());
  const auto width = static_cast<size_t>(s.width);
  const double centring = s.norm == Norm::layer ? 1 : 0;
  for (size_t r = 0; r < static_cast<size_t>(s.rows); ++r) {
    double mean = 0, variance = 0, g_mean = 0, gx_mean = 0;
    for (size_t c = 0; c < width; ++c)
      mean += centring * static_cast<double>(x[r * width + c]) / static_cast<double>(width);
    for (size_t c = 0; c < width; ++c) {
      const double centred = static_cast<double>(x[r * width + c]) - mean;
      variance += centred * centred / static_cast<double>(width);
    }
    const double rstd = 1 / std::sqrt(variance + static_cast<double>(kEpsilon));
    out.statistics.insert(out.statistics.end(), {mean, rstd});
    const auto normalised = [&](size_t c) { return (static_cast<double>(x[r * width + c]) - mean) * rstd; };
    const auto g = [&](size_t c) { return static_cast<double>(dy[r * width + c]) * static_cast<double>(gain[c]); };
    for (size_t c = 0; c < width; ++c) {
      g_mean += centring * g(c) / static_cast<double>(width);
      gx_mean += g(c) * normalised(c) / static_cast<double>(width);
      out.dgain[c] += static_cast<double>(dy[r * width + c]) * normalised(c);
      out.dbias[c] += static_cast<double>(dy[r * width + c]);
    }
    for (size_t c = 0; c < width; ++c) {
      const double shift = s.bias == Bias::some ? static_cast<double>(bias[c]) : 0;
      out.y.push_back(normalised(c) * static_cast<double>(gain[c]) + shift);
      out.dx.push_back(rstd * (g(c) - g_mean - normalised(c) * gx_mean));
    }
  }
  return out;
}

class Normalise : public ::testing::TestWithParam<NormCase> {
 protected:
  Normalise() {
    std::mt19937 random(1);
    x_ = normal_values(random, case_.rows * case_.width, 3);
    for (float& value : x_) value += 2;
    gain_ = normal_values(random, case_.width);
    bias_ = normal_values(random, case_.width);
    dy_ = normal_values(random, case_.rows * case_.width);
    expected_ = reference(case_, x_, gain_, bias_, dy_);
  }
  Padded rows(Context& context, const Values& values) { return {context, case_.rows, case_.width, values}; }
  Padded rows(Context& context) { return {context, case_.rows, case_.width}; }
  Padded columns(Context& context, const Values& values) { return {context, 1, case_.width, values}; }

  NormCase case_ = GetParam();
  Values x_, gain_, bias_, dy_;
  NormReference expected_;
};

TEST_P(Normalise, AgreesWithTheFormulaInDouble) {
  Context context(device_options());
  Padded x = rows(context, x_), gain = columns(context, gain_), bias = columns(context, bias_);
  Padded y = rows(context), statistics(context, case_.rows, 2);
  const auto run = [&](View to, View to_statistics) {
    normalise(context, case_.norm, x.read(), gain.read(), case_.bias_of(bias.read()), kEpsilon, to, to_statistics);
  };
  run(y.view(), statistics.view());
  // Normalised values are below sqrt(width) and, like the gains, O(1): three roundings of a result below 32.
  EXPECT_TRUE(near_relative(y.values(), expected_.y, 4 * kEps, 4 * kEps * 16));
  EXPECT_TRUE(near_relative(statistics.values(), expected_.statistics, 2 * kEps));
  EXPECT_TRUE(y.guarded() && statistics.guarded());
  run(x.view(), View());
  EXPECT_TRUE(identical(x.values(), y.values()));
}

TEST_P(Normalise, AddingFirstIsTheTwoOps) {
  Context context(device_options());
  Padded x = rows(context, x_), sum = rows(context, x_), update = rows(context, dy_), gain = columns(context, gain_),
         bias_values = columns(context, bias_);
  const ConstView bias = case_.bias_of(bias_values.read());
  Padded y = rows(context), statistics(context, case_.rows, 2);
  Padded expected = rows(context), expected_statistics(context, case_.rows, 2);
  add(context, update.read(), sum.view());
  normalise(context, case_.norm, sum.read(), gain.read(), bias, kEpsilon, expected.view(), expected_statistics.view());
  add_normalise(context, case_.norm, update.read(), x.view(), gain.read(), bias, kEpsilon, y.view(), statistics.view());
  EXPECT_TRUE(identical(x.values(), sum.values()));
  EXPECT_TRUE(identical(y.values(), expected.values()));
  EXPECT_TRUE(identical(statistics.values(), expected_statistics.values()));
  EXPECT_TRUE(x.guarded() && y.guarded() && statistics.guarded());
  Padded again = rows(context, x_);
  add_normalise(context, case_.norm, update.read(), again.view(), gain.read(), bias, kEpsilon, update.view(), View());
  EXPECT_TRUE(identical(again.values(), sum.values()));
  EXPECT_TRUE(identical(update.values(), expected.values()));
}

TEST_P(Normalise, BackwardAgreesWithTheDerivativeInDouble) {
  Context context(device_options());
  Padded x = rows(context, x_), gain = columns(context, gain_), dy = rows(context, dy_);
  Values statistics_values(expected_.statistics.begin(), expected_.statistics.end());
  Padded statistics(context, case_.rows, 2, statistics_values), dx = rows(context);
  Padded dgain = columns(context, Values(gain_.size(), 1)), dbias = columns(context, Values(gain_.size(), 1));
  const auto run = [&](View to, Write write, View to_gain, View to_bias) {
    normalise_backward(context, case_.norm, x.read(), gain.read(), statistics.read(), dy.read(), to, write, to_gain,
                       to_bias);
  };
  run(dx.view(), Write::assign, dgain.view(), dbias.view());
  // The statistics are rounded to fp32: the mean by kEps |mean|, which the unit-variance scale rstd makes O(kEps). A
  // row of one or two columns has rstd up to 1 / sqrt(epsilon).
  double rstd = 1;
  for (size_t r = 0; r < static_cast<size_t>(case_.rows); ++r) rstd = std::max(rstd, expected_.statistics[2 * r + 1]);
  const double allowed = 32 * kEps * 16 * rstd * rstd;
  EXPECT_TRUE(near(dx.values(), expected_.dx, allowed));
  Doubles dgain_expected = expected_.dgain, dbias_expected = expected_.dbias;
  for (double& value : dgain_expected) value += 1;
  for (double& value : dbias_expected) value += 1;
  const double count = static_cast<double>(case_.rows);
  EXPECT_TRUE(near(dgain.values(), dgain_expected, 8 * kEps * 16 * rstd * (count + 1)));
  EXPECT_TRUE(near(dbias.values(), dbias_expected, 4 * kEps * 4 * (count + 1)));
  EXPECT_TRUE(dx.guarded() && dgain.guarded() && dbias.guarded());

  Padded sum = rows(context, dy_);
  run(sum.view(), Write::accumulate, View(), View());
  Values added = dx.values();
  for (size_t i = 0; i < added.size(); ++i) added[i] += dy_[i];
  EXPECT_TRUE(identical(sum.values(), added));
  run(dy.view(), Write::assign, View(), View());
  EXPECT_TRUE(identical(dy.values(), dx.values()));
}

TEST_P(Normalise, DoesNotDependOnThreads) {
  std::vector<Values> all;
  for (const int threads : {1, 3}) {
    Context context(device_options(threads));
    Padded x = rows(context, x_), gain = columns(context, gain_), bias = columns(context, bias_);
    Padded y = rows(context), statistics(context, case_.rows, 2), dy = rows(context, dy_);
    Padded dgain = columns(context, Values(gain_.size(), 0)), dbias = columns(context, Values(gain_.size(), 0));
    normalise(context, case_.norm, x.read(), gain.read(), case_.bias_of(bias.read()), kEpsilon, y.view(),
              statistics.view());
    normalise_backward(context, case_.norm, x.read(), gain.read(), statistics.read(), dy.read(), y.view(),
                       Write::accumulate, dgain.view(), dbias.view());
    Values joined = y.values();
    for (Padded* one : {&dgain, &dbias}) {
      const Values values = one->values();
      joined.insert(joined.end(), values.begin(), values.end());
    }
    all.push_back(joined);
  }
  EXPECT_TRUE(identical(all[1], all[0]));
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, Normalise,
    ::testing::ValuesIn(cases({{0, 5}, {1, 1}, {3, 2}, {31, 33}, {33, 31}, {129, 129}, {64, 768}, {2, 1031}})),
    [](const auto& named) { return named.param.name(); });

// Rows on 16-byte boundaries, rows too long to be held in registers, more rows than a device sums at a time.
class NormaliseTight : public ::testing::TestWithParam<NormCase> {};

TEST_P(NormaliseTight, AgreesWithTheFormulaInDouble) {
  const NormCase s = GetParam();
  Context context(device_options());
  std::mt19937 random(3);
  const Values x = normal_values(random, s.rows * s.width, 2), gain = normal_values(random, s.width),
               bias = normal_values(random, s.width), dy = normal_values(random, s.rows * s.width);
  const NormReference expected = reference(s, x, gain, bias, dy);
  const auto tensor = [&](const Values& values, int64_t rows) {
    return Tensor::from_host(context, values, rows, std::ssize(values) / rows);
  };
  const Tensor on_device = tensor(x, s.rows), gains = tensor(gain, 1), biases = tensor(bias, 1);
  Tensor y(context, s.rows, s.width), statistics(context, s.rows, 2);
  normalise(context, s.norm, on_device.view(), gains.view(), s.bias_of(biases.view()), kEpsilon, y.view(),
            statistics.view());
  EXPECT_TRUE(near_relative(y.to_host(), expected.y, 4 * kEps, 4 * kEps * 16));
  // The means lie near 0 here: their sums are fp64, of terms of order 2.
  EXPECT_TRUE(near_relative(statistics.to_host(), expected.statistics, 2 * kEps, 1e-14));

  Tensor gradients = tensor(dy, s.rows), sum = tensor(x, s.rows), dgain = Tensor::zeros(context, 1, s.width),
         dbias = Tensor::zeros(context, 1, s.width);
  const ConstView dy_view = gradients.view(), read_statistics = statistics.view();
  const auto run = [&](View to, Write write, View to_gain, View to_bias) {
    normalise_backward(context, s.norm, on_device.view(), gains.view(), read_statistics, dy_view, to, write, to_gain,
                       to_bias);
  };
  run(sum.view(), Write::accumulate, View(), dbias.view());
  run(gradients.view(), Write::assign, dgain.view(), View());
  const Values dx = gradients.to_host();
  Values added = x;
  for (size_t i = 0; i < added.size(); ++i) added[i] += dx[i];
  const double rows = static_cast<double>(s.rows);
  EXPECT_TRUE(near(dx, expected.dx, 32 * kEps * 16));
  EXPECT_TRUE(identical(sum.to_host(), added));
  EXPECT_TRUE(near(dgain.to_host(), expected.dgain, 8 * kEps * 16 * (rows + 1)));
  EXPECT_TRUE(near(dbias.to_host(), expected.dbias, 4 * kEps * 4 * (rows + 1)));
}

INSTANTIATE_TEST_SUITE_P(Sizes, NormaliseTight,
                         ::testing::ValuesIn(cases({{5, 768}, {300, 132}, {2, 1600}, {2, 8192}, {2, 8196}, {2, 9001}})),
                         [](const auto& named) { return named.param.name(); });

// The reference's derivatives against central differences of its value, in fp64: so the hand-written formula is held to
// the definition, not to itself.
TEST(NormaliseGradient, AgreesWithCentralDifferences) {
  for (const Norm norm : kNorms) {
    const NormCase s{3, 9, norm};
    std::mt19937 random(5);
    Values x = normal_values(random, 27), gain = normal_values(random, 9), bias = normal_values(random, 9);
    const Values dy = normal_values(random, 27);
    const auto loss = [&] {
      const NormReference out = reference(s, x, gain, bias, dy);
      double sum = 0;
      for (size_t i = 0; i < dy.size(); ++i) sum += static_cast<double>(dy[i]) * out.y[i];
      return sum;
    };
    const NormReference expected = reference(s, x, gain, bias, dy);
    const auto check = [&](Values& values, const Doubles& gradient) {
      for (size_t i = 0; i < values.size(); ++i) {
        const float at = values[i], above = at + 1.0f / 1024, below = at - 1.0f / 1024;
        values[i] = above;
        const double loss_above = loss();
        values[i] = below;
        const double loss_below = loss();
        values[i] = at;
        const double step = static_cast<double>(above) - static_cast<double>(below);
        // Truncation: step^2 / 24 times a third derivative of order |dy| rstd^3 < 100.
        EXPECT_NEAR((loss_above - loss_below) / step, gradient[i], 100 * step * step / 24);
      }
    };
    check(x, expected.dx);
    check(gain, expected.dgain);
    check(bias, expected.dbias);
  }
}

TEST(NormaliseByHand, OneRow) {
  Context context(device_options());
  Padded x(context, 1, 2, {1, 3}), gain(context, 1, 2, {2, 5}), bias(context, 1, 2, {0, 1}), y(context, 1, 2);
  normalise(context, Norm::layer, x.read(), gain.read(), bias.read(), 0, y.view(), View());
  EXPECT_EQ(y.values(), (Values{-2, 6}));
  normalise(context, Norm::layer, x.read(), gain.read(), ConstView(), 0, y.view(), View());
  EXPECT_EQ(y.values(), (Values{-2, 5}));
  // The mean square is 25.
  Padded other(context, 1, 2, {1, 7}), fives(context, 1, 2, {5, 10}), statistics(context, 1, 2);
  normalise(context, Norm::rms, other.read(), fives.read(), bias.read(), 0, y.view(), statistics.view());
  EXPECT_EQ(y.values(), (Values{1, 15}));
  EXPECT_EQ(statistics.values(), (Values{0, 0.2f}));
}

TEST(NormaliseErrors, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  Padded x(context, 2, 3, Values(6, 1)), narrow(context, 1, 2, {1, 1}), gain(context, 1, 3, {1, 1, 1}),
      y(context, 2, 3, Values(6, 7));
  for (const Norm norm : kNorms) {
    const auto forward = [&](ConstView gains, ConstView biases, View statistics) {
      normalise(context, norm, x.read(), gains, biases, 0, y.view(), statistics);
    };
    EXPECT_THROW(forward(narrow.read(), gain.read(), View()), ShapeError);
    EXPECT_THROW(forward(gain.read(), narrow.read(), View()), ShapeError);
    EXPECT_THROW(forward(gain.read(), gain.read(), x.view()), ShapeError);
    EXPECT_THROW(add_normalise(context, norm, gain.read(), x.view(), gain.read(), ConstView(), 0, y.view(), View()),
                 ShapeError);
    EXPECT_THROW(normalise_backward(context, norm, x.read(), gain.read(), narrow.read(), y.read(), y.view(),
                                    Write::assign, View(), View()),
                 ShapeError);
  }
  EXPECT_EQ(x.values(), Values(6, 1));
  EXPECT_EQ(y.values(), Values(6, 7));
}

TEST(NormaliseNumbers, NanFillsItsRowOnly) {
  Context context(device_options());
  Padded x(context, 2, 3, {1, kNan, 2, 1, 2, 3}), gain(context, 1, 3, {1, 1, 1}), y(context, 2, 3);
  for (const Norm norm : kNorms) {
    normalise(context, norm, x.read(), gain.read(), ConstView(), 0, y.view(), View());
    const Values values = y.values();
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(values[i]) && std::isfinite(values[3 + i]));
  }
}

}  // namespace
}  // namespace loci
