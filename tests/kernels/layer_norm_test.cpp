#include "kernels/layer_norm.h"

#include <gtest/gtest.h>

#include <ostream>

#include "kernels/rows.h"
#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

constexpr float kEpsilon = 1e-5f;

struct Shape {
  int64_t rows, width;
};

// Tests are listed by it.
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.rows << "x" << shape.width; }

// In fp64: the normalised rows, the statistics, and the gradients of sum(dy * y).
struct Reference {
  Doubles y, statistics, dx, dgain, dbias;
};

Reference reference(const Shape& s, const Values& x, const Values& gain, const Values& bias, const Values& dy) {
  Reference out;
  out.dgain.resize(gain.size());
  out.dbias.resize(gain.size());
  const auto width = static_cast<size_t>(s.width);
  for (size_t r = 0; r < static_cast<size_t>(s.rows); ++r) {
    double mean = 0, variance = 0, g_mean = 0, gx_mean = 0;
    for (size_t c = 0; c < width; ++c) mean += static_cast<double>(x[r * width + c]) / static_cast<double>(width);
    for (size_t c = 0; c < width; ++c) {
      const double centred = static_cast<double>(x[r * width + c]) - mean;
      variance += centred * centred / static_cast<double>(width);
    }
    const double rstd = 1 / std::sqrt(variance + static_cast<double>(kEpsilon));
    out.statistics.insert(out.statistics.end(), {mean, rstd});
    const auto normalised = [&](size_t c) { return (static_cast<double>(x[r * width + c]) - mean) * rstd; };
    const auto g = [&](size_t c) { return static_cast<double>(dy[r * width + c]) * static_cast<double>(gain[c]); };
    for (size_t c = 0; c < width; ++c) {
      g_mean += g(c) / static_cast<double>(width);
      gx_mean += g(c) * normalised(c) / static_cast<double>(width);
      out.dgain[c] += static_cast<double>(dy[r * width + c]) * normalised(c);
      out.dbias[c] += static_cast<double>(dy[r * width + c]);
    }
    for (size_t c = 0; c < width; ++c) {
      out.y.push_back(normalised(c) * static_cast<double>(gain[c]) + static_cast<double>(bias[c]));
      out.dx.push_back(rstd * (g(c) - g_mean - normalised(c) * gx_mean));
    }
  }
  return out;
}

class LayerNorm : public ::testing::TestWithParam<Shape> {
 protected:
  LayerNorm() {
    std::mt19937 random(1);
    x_ = normal_values(random, shape_.rows * shape_.width, 3);
    for (float& value : x_) value += 2;
    gain_ = normal_values(random, shape_.width);
    bias_ = normal_values(random, shape_.width);
    dy_ = normal_values(random, shape_.rows * shape_.width);
    expected_ = reference(shape_, x_, gain_, bias_, dy_);
  }
  Shape shape_ = GetParam();
  Values x_, gain_, bias_, dy_;
  Reference expected_;
};

TEST_P(LayerNorm, AgreesWithTheFormulaInDouble) {
  Context context(device_options());
  Padded x(context, shape_.rows, shape_.width, x_), gain(context, 1, shape_.width, gain_),
      bias(context, 1, shape_.width, bias_);
  Padded y(context, shape_.rows, shape_.width), statistics(context, shape_.rows, 2);
  layer_norm(context, x.read(), gain.read(), bias.read(), kEpsilon, y.view(), statistics.view());
  // Normalised values are below sqrt(width) and, like the gains, O(1): three roundings of a result below 32.
  EXPECT_TRUE(near_relative(y.values(), expected_.y, 4 * kEps, 4 * kEps * 16));
  EXPECT_TRUE(near_relative(statistics.values(), expected_.statistics, 2 * kEps));
  EXPECT_TRUE(y.guarded() && statistics.guarded());
  layer_norm(context, x.read(), gain.read(), bias.read(), kEpsilon, x.view(), View());
  EXPECT_TRUE(identical(x.values(), y.values()));
}

TEST_P(LayerNorm, AddingFirstIsTheTwoOps) {
  Context context(device_options());
  Padded x(context, shape_.rows, shape_.width, x_), sum(context, shape_.rows, shape_.width, x_),
      update(context, shape_.rows, shape_.width, dy_), gain(context, 1, shape_.width, gain_),
      bias(context, 1, shape_.width, bias_);
  Padded y(context, shape_.rows, shape_.width), statistics(context, shape_.rows, 2);
  Padded expected(context, shape_.rows, shape_.width), expected_statistics(context, shape_.rows, 2);
  add(context, update.read(), sum.view());
  layer_norm(context, sum.read(), gain.read(), bias.read(), kEpsilon, expected.view(), expected_statistics.view());
  add_layer_norm(context, update.read(), x.view(), gain.read(), bias.read(), kEpsilon, y.view(), statistics.view());
  EXPECT_TRUE(identical(x.values(), sum.values()));
  EXPECT_TRUE(identical(y.values(), expected.values()));
  EXPECT_TRUE(identical(statistics.values(), expected_statistics.values()));
  EXPECT_TRUE(x.guarded() && y.guarded() && statistics.guarded());
}

TEST_P(LayerNorm, BackwardAgreesWithTheDerivativeInDouble) {
  Context context(device_options());
  Padded x(context, shape_.rows, shape_.width, x_), gain(context, 1, shape_.width, gain_),
      dy(context, shape_.rows, shape_.width, dy_);
  Values statistics_values(expected_.statistics.begin(), expected_.statistics.end());
  Padded statistics(context, shape_.rows, 2, statistics_values);
  Padded dx(context, shape_.rows, shape_.width);
  Padded dgain(context, 1, shape_.width, Values(gain_.size(), 1)),
      dbias(context, 1, shape_.width, Values(gain_.size(), 1));
  layer_norm_backward(context, x.read(), gain.read(), statistics.read(), dy.read(), dx.view(), Write::assign,
                      dgain.view(), dbias.view());
  // The statistics are rounded to fp32: the mean by kEps |mean|, which the unit-variance scale rstd makes O(kEps). A
  // row of one or two columns has rstd up to 1 / sqrt(epsilon).
  double rstd = 1;
  for (size_t r = 0; r < static_cast<size_t>(shape_.rows); ++r) rstd = std::max(rstd, expected_.statistics[2 * r + 1]);
  const double allowed = 32 * kEps * 16 * rstd * rstd;
  EXPECT_TRUE(near(dx.values(), expected_.dx, allowed));
  Doubles dgain_expected = expected_.dgain, dbias_expected = expected_.dbias;
  for (double& value : dgain_expected) value += 1;
  for (double& value : dbias_expected) value += 1;
  const double rows = static_cast<double>(shape_.rows);
  EXPECT_TRUE(near(dgain.values(), dgain_expected, 8 * kEps * 16 * rstd * (rows + 1)));
  EXPECT_TRUE(near(dbias.values(), dbias_expected, 4 * kEps * 4 * (rows + 1)));
  EXPECT_TRUE(dx.guarded() && dgain.guarded() && dbias.guarded());

  Padded sum(context, shape_.rows, shape_.width, dy_);
  layer_norm_backward(context, x.read(), gain.read(), statistics.read(), dy.read(), sum.view(), Write::accumulate,
                      View(), View());
  Values added = dx.values();
  for (size_t i = 0; i < added.size(); ++i) added[i] += dy_[i];
  EXPECT_TRUE(identical(sum.values(), added));
  layer_norm_backward(context, x.read(), gain.read(), statistics.read(), dy.read(), dy.view(), Write::assign, View(),
                      View());
  EXPECT_TRUE(identical(dy.values(), dx.values()));
}

TEST_P(LayerNorm, DoesNotDependOnThreads) {
  std::vector<Values> all;
  for (const int threads : {1, 3}) {
    Context context(device_options(threads));
    Padded x(context, shape_.rows, shape_.width, x_), gain(context, 1, shape_.width, gain_),
        bias(context, 1, shape_.width, bias_);
    Padded y(context, shape_.rows, shape_.width), statistics(context, shape_.rows, 2),
        dy(context, shape_.rows, shape_.width, dy_);
    Padded dgain(context, 1, shape_.width, Values(gain_.size(), 0)),
        dbias(context, 1, shape_.width, Values(gain_.size(), 0));
    layer_norm(context, x.read(), gain.read(), bias.read(), kEpsilon, y.view(), statistics.view());
    layer_norm_backward(context, x.read(), gain.read(), statistics.read(), dy.read(), y.view(), Write::accumulate,
                        dgain.view(), dbias.view());
    Values joined = y.values();
    for (Padded* one : {&dgain, &dbias}) {
      const Values values = one->values();
      joined.insert(joined.end(), values.begin(), values.end());
    }
    all.push_back(joined);
  }
  EXPECT_TRUE(identical(all[1], all[0]));
}

INSTANTIATE_TEST_SUITE_P(Sizes, LayerNorm,
                         ::testing::Values(Shape{0, 5}, Shape{1, 1}, Shape{3, 2}, Shape{31, 33}, Shape{33, 31},
                                           Shape{129, 129}, Shape{64, 768}, Shape{2, 1031}),
                         [](const auto& named) { return fmt::format("{}x{}", named.param.rows, named.param.width); });

// Rows on 16-byte boundaries, rows too long to be held in registers, more rows than a device sums at a time.
class LayerNormTight : public ::testing::TestWithParam<Shape> {};

TEST_P(LayerNormTight, AgreesWithTheFormulaInDouble) {
  const Shape s = GetParam();
  Context context(device_options());
  std::mt19937 random(3);
  const Values x = normal_values(random, s.rows * s.width, 2), gain = normal_values(random, s.width),
               bias = normal_values(random, s.width), dy = normal_values(random, s.rows * s.width);
  const Reference expected = reference(s, x, gain, bias, dy);
  const auto tensor = [&](const Values& values, int64_t rows) {
    return Tensor::from_host(context, values, rows, std::ssize(values) / rows);
  };
  const Tensor on_device = tensor(x, s.rows), gains = tensor(gain, 1), biases = tensor(bias, 1);
  Tensor y(context, s.rows, s.width), statistics(context, s.rows, 2);
  layer_norm(context, on_device.view(), gains.view(), biases.view(), kEpsilon, y.view(), statistics.view());
  EXPECT_TRUE(near_relative(y.to_host(), expected.y, 4 * kEps, 4 * kEps * 16));
  // The means lie near 0 here: their sums are fp64, of terms of order 2.
  EXPECT_TRUE(near_relative(statistics.to_host(), expected.statistics, 2 * kEps, 1e-14));

  Tensor gradients = tensor(dy, s.rows), sum = tensor(x, s.rows), dgain = Tensor::zeros(context, 1, s.width),
         dbias = Tensor::zeros(context, 1, s.width);
  const ConstView dy_view = gradients.view(), read_statistics = statistics.view();
  layer_norm_backward(context, on_device.view(), gains.view(), read_statistics, dy_view, sum.view(), Write::accumulate,
                      View(), dbias.view());
  layer_norm_backward(context, on_device.view(), gains.view(), read_statistics, dy_view, gradients.view(),
                      Write::assign, dgain.view(), View());
  const Values dx = gradients.to_host();
  Values added = x;
  for (size_t i = 0; i < added.size(); ++i) added[i] += dx[i];
  const double rows = static_cast<double>(s.rows);
  EXPECT_TRUE(near(dx, expected.dx, 32 * kEps * 16));
  EXPECT_TRUE(identical(sum.to_host(), added));
  EXPECT_TRUE(near(dgain.to_host(), expected.dgain, 8 * kEps * 16 * (rows + 1)));
  EXPECT_TRUE(near(dbias.to_host(), expected.dbias, 4 * kEps * 4 * (rows + 1)));
}

INSTANTIATE_TEST_SUITE_P(Sizes, LayerNormTight,
                         ::testing::Values(Shape{5, 768}, Shape{300, 132}, Shape{2, 1600}, Shape{2, 8192},
                                           Shape{2, 8196}, Shape{2, 9001}),
                         [](const auto& named) { return fmt::format("{}x{}", named.param.rows, named.param.width); });

// The reference's derivative against central differences of its value, in fp64: so the hand-written formula is held to
// the definition, not to itself.
TEST(LayerNormGradient, AgreesWithCentralDifferences) {
  const Shape s{3, 9};
  std::mt19937 random(5);
  const Values x = normal_values(random, 27), gain = normal_values(random, 9), bias = normal_values(random, 9),
               dy = normal_values(random, 27);
  const auto loss = [&](const Values& at) {
    const Reference out = reference(s, at, gain, bias, dy);
    double sum = 0;
    for (size_t i = 0; i < dy.size(); ++i) sum += static_cast<double>(dy[i]) * out.y[i];
    return sum;
  };
  const Reference expected = reference(s, x, gain, bias, dy);
  for (size_t i = 0; i < x.size(); ++i) {
    Values above = x, below = x;
    above[i] += 1.0f / 1024;
    below[i] -= 1.0f / 1024;
    const double step = static_cast<double>(above[i]) - static_cast<double>(below[i]);
    // Truncation: step^2 / 24 times a third derivative of order |dy| rstd^3 < 100.
    EXPECT_NEAR((loss(above) - loss(below)) / step, expected.dx[i], 100 * step * step / 24);
  }
}

TEST(LayerNormByHand, OneRow) {
  Context context(device_options());
  Padded x(context, 1, 2, {1, 3}), gain(context, 1, 2, {2, 5}), bias(context, 1, 2, {0, 1}), y(context, 1, 2);
  layer_norm(context, x.read(), gain.read(), bias.read(), 0, y.view(), View());
  EXPECT_EQ(y.values(), (Values{-2, 6}));
}

TEST(LayerNormErrors, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  Padded x(context, 2, 3, Values(6, 1)), gain(context, 1, 2, {1, 1}), bias(context, 1, 3, {1, 1, 1}),
      y(context, 2, 3, Values(6, 7));
  EXPECT_THROW(layer_norm(context, x.read(), gain.read(), bias.read(), 0, y.view(), View()), ShapeError);
  EXPECT_THROW(layer_norm(context, x.read(), bias.read(), bias.read(), 0, y.view(), x.view()), ShapeError);
  EXPECT_THROW(layer_norm_backward(context, x.read(), bias.read(), gain.read(), y.read(), y.view(), Write::assign,
                                   View(), View()),
               ShapeError);
  EXPECT_EQ(y.values(), Values(6, 7));
}

TEST(LayerNormNumbers, NanFillsItsRowOnly) {
  Context context(device_options());
  Padded x(context, 2, 3, {1, kNan, 2, 1, 2, 3}), gain(context, 1, 3, {1, 1, 1}), bias(context, 1, 3, {0, 0, 0}),
      y(context, 2, 3);
  layer_norm(context, x.read(), gain.read(), bias.read(), 0, y.view(), View());
  const Values values = y.values();
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(values[i]) && std::isfinite(values[3 + i]));
}

}  // namespace
}  // namespace loci
