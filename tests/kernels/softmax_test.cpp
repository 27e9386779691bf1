#include "kernels/softmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

Doubles reference_log_softmax(const Values& logits, int64_t cols) {
  Doubles out;
  for (size_t first = 0; first < logits.size(); first += static_cast<size_t>(cols)) {
    const auto begin = logits.begin() + static_cast<int64_t>(first);
    const double maximum = static_cast<double>(*std::max_element(begin, begin + cols));
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c) sum += std::exp(static_cast<double>(begin[c]) - maximum);
    for (int64_t c = 0; c < cols; ++c) out.push_back(static_cast<double>(begin[c]) - maximum - std::log(sum));
  }
  return out;
}

struct Shape {
  int64_t rows, cols;
};

// Tests are listed by it.
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.rows << "x" << shape.cols; }

class Softmax : public ::testing::TestWithParam<Shape> {
 protected:
  Softmax()
      : random_(1),
        logits_(normal_values(random_, s_.rows * s_.cols, 5)),
        expected_(reference_log_softmax(logits_, s_.cols)) {
    for (int64_t r = 0; r < s_.rows; ++r) {
      targets_.push_back(static_cast<int32_t>(random_() % static_cast<unsigned>(s_.cols)));
      weights_.push_back(std::normal_distribution<float>()(random_));
    }
  }
  double expected(int64_t r, int64_t c) const { return expected_[r * s_.cols + c]; }

  Shape s_ = GetParam();
  std::mt19937 random_;
  Values logits_;
  Doubles expected_;
  std::vector<int32_t> targets_;
  Values weights_;
};

// An exponential is good to 2 ulp (4 kEps); then come the factor 1 / sum, itself rounded, and the product.
constexpr double kFew = 8 * kEps;
// The logarithm of a sum, and with it a log probability, is off by (6 + 2.3 E|x - max|) kEps at most, if the errors of
// all terms have one sign; those of these rows have both, and 5 kEps hold. Then it is rounded once.
constexpr double kLog = 5 * kEps;
constexpr double kOnce = 1.01 * kEps;

TEST_P(Softmax, ProbabilitiesLogsAndSums) {
  Context context(device_options());
  Padded x(context, s_.rows, s_.cols, logits_), p(context, s_.rows, s_.cols), log_p(context, s_.rows, s_.cols),
      sums(context, s_.rows, 1);
  softmax(context, x.read(), p.view());
  log_softmax(context, x.read(), log_p.view());
  log_sum_exp(context, x.read(), sums.view());
  Doubles probabilities, log_sums;
  for (const double value : expected_) probabilities.push_back(std::exp(value));
  for (int64_t r = 0; r < s_.rows; ++r) log_sums.push_back(static_cast<double>(logits_[r * s_.cols]) - expected(r, 0));
  EXPECT_TRUE(near_relative(p.values(), probabilities, kFew, 1e-44));
  EXPECT_TRUE(near_relative(log_p.values(), expected_, kOnce, kLog));
  EXPECT_TRUE(near_relative(sums.values(), log_sums, kOnce, kLog));
  EXPECT_TRUE(p.guarded() && log_p.guarded() && sums.guarded());
  Padded in_place(context, s_.rows, s_.cols, logits_);
  softmax(context, in_place.read(), in_place.view());
  EXPECT_TRUE(identical(in_place.values(), p.values()));
  log_softmax(context, x.read(), x.view());
  EXPECT_TRUE(identical(x.values(), log_p.values()));
}

TEST_P(Softmax, TargetsAndBest) {
  Context context(device_options());
  Padded x(context, s_.rows, s_.cols, logits_);
  std::vector<int64_t> rows;
  std::vector<int32_t> targets;
  Doubles log_p;
  for (int64_t i = 0; s_.rows > 0 && i < 3 * s_.rows; ++i) {
    rows.push_back((s_.rows - 1) - i / 3);
    targets.push_back(static_cast<int32_t>((i * 7) % s_.cols));
    log_p.push_back(expected(rows.back(), targets.back()));
  }
  Padded out(context, std::ssize(rows), 1);
  target_log_probabilities(context, x.read(), device(context, rows), device(context, targets), out.view());
  EXPECT_TRUE(near_relative(out.values(), log_p, kOnce, kLog));
  DeviceArray<int32_t> best(context, s_.rows);
  argmax_rows(context, x.read(), best);
  for (int64_t r = 0; r < s_.rows; ++r) {
    const auto begin = logits_.begin() + r * s_.cols;
    EXPECT_EQ(best.to_host()[r], std::max_element(begin, begin + s_.cols) - begin);
  }
}

TEST_P(Softmax, CrossEntropy) {
  Context context(device_options());
  if (s_.rows > 1) targets_[1] = -1;
  Doubles losses, gradients;
  for (int64_t r = 0; r < s_.rows; ++r) {
    const double weight = targets_[r] < 0 ? 0 : static_cast<double>(weights_[r]);
    losses.push_back(weight == 0 ? 0 : -weight * expected(r, targets_[r]));
    for (int64_t c = 0; c < s_.cols; ++c)
      gradients.push_back(weight * (c == targets_[r] ? std::expm1(expected(r, c)) : std::exp(expected(r, c))));
  }
  Padded x(context, s_.rows, s_.cols, logits_), loss(context, s_.rows, 1), dx(context, s_.rows, s_.cols);
  const auto targets = device(context, targets_);
  const auto weights = device(context, weights_);
  cross_entropy(context, x.read(), targets, weights, loss.view(), dx.view(), Write::assign);
  EXPECT_TRUE(near_relative(loss.values(), losses, kOnce, 4 * kLog));
  EXPECT_TRUE(near_relative(dx.values(), gradients, kFew, 4 * kLog));
  EXPECT_TRUE(dx.guarded() && loss.guarded());
  Padded sum(context, s_.rows, s_.cols, Values(logits_.size(), 1));
  cross_entropy(context, x.read(), targets, weights, loss.view(), sum.view(), Write::accumulate);
  for (double& value : gradients) value += 1;
  EXPECT_TRUE(near_relative(sum.values(), gradients, kFew, 4 * kLog));
  cross_entropy(context, x.read(), targets, weights, loss.view(), x.view(), Write::assign);
  EXPECT_TRUE(identical(x.values(), dx.values()));
}

TEST_P(Softmax, SmoothedCrossEntropy) {
  if (s_.cols < 2) GTEST_SKIP() << "smoothing needs a second token";
  Context context(device_options());
  constexpr double kSmoothing = 0.125;
  if (s_.rows > 1) targets_[1] = -1;
  Doubles losses, gradients;
  for (int64_t r = 0; r < s_.rows; ++r) {
    const double weight = targets_[r] < 0 ? 0 : static_cast<double>(weights_[r]);
    double loss = 0;
    for (int64_t c = 0; c < s_.cols; ++c) {
      const double wanted = c == targets_[r] ? 1 - kSmoothing : kSmoothing / static_cast<double>(s_.cols - 1);
      loss -= wanted * expected(r, c);
      gradients.push_back(weight * (std::exp(expected(r, c)) - wanted));
    }
    losses.push_back(weight * loss);
  }
  Padded x(context, s_.rows, s_.cols, logits_), loss(context, s_.rows, 1), dx(context, s_.rows, s_.cols);
  const auto targets = device(context, targets_);
  const auto weights = device(context, weights_);
  cross_entropy(context, x.read(), targets, weights, loss.view(), dx.view(), Write::assign, kSmoothing);
  EXPECT_TRUE(near_relative(loss.values(), losses, kOnce, 4 * kLog));
  EXPECT_TRUE(near_relative(dx.values(), gradients, kFew, 4 * kLog));
  EXPECT_TRUE(dx.guarded() && loss.guarded());
  Padded sum(context, s_.rows, s_.cols, Values(logits_.size(), 1));
  cross_entropy(context, x.read(), targets, weights, loss.view(), sum.view(), Write::accumulate, kSmoothing);
  for (double& value : gradients) value += 1;
  EXPECT_TRUE(near_relative(sum.values(), gradients, kFew, 4 * kLog));
  cross_entropy(context, x.read(), targets, weights, loss.view(), x.view(), Write::assign, kSmoothing);
  EXPECT_TRUE(identical(x.values(), dx.values()));
}

TEST_P(Softmax, KlDivergence) {
  Context context(device_options());
  const Values other = normal_values(random_, s_.rows * s_.cols, 5);
  const Doubles log_q_doubles = reference_log_softmax(other, s_.cols);
  const Values log_q(log_q_doubles.begin(), log_q_doubles.end());
  Doubles losses, gradients;
  for (int64_t r = 0; r < s_.rows; ++r) {
    const double weight = static_cast<double>(weights_[r]);
    const auto ratio = [&](int64_t c) { return expected(r, c) - static_cast<double>(log_q[r * s_.cols + c]); };
    double divergence = 0;
    for (int64_t c = 0; c < s_.cols; ++c) divergence += std::exp(expected(r, c)) * ratio(c);
    losses.push_back(weight * divergence);
    for (int64_t c = 0; c < s_.cols; ++c)
      gradients.push_back(weight * std::exp(expected(r, c)) * (ratio(c) - divergence));
  }
  Padded x(context, s_.rows, s_.cols, logits_), q(context, s_.rows, s_.cols, log_q), loss(context, s_.rows, 1),
      dx(context, s_.rows, s_.cols);
  const auto weights = device(context, weights_);
  kl_divergence(context, x.read(), q.read(), weights, loss.view(), dx.view(), Write::assign);
  // |log p - log q| is below 60 here and |weight| below 4: an error of log p moves a term by as much.
  EXPECT_TRUE(near_relative(loss.values(), losses, kOnce, 64 * 4 * kLog));
  EXPECT_TRUE(near_relative(dx.values(), gradients, kFew, 64 * 4 * kLog));
  kl_divergence(context, x.read(), q.read(), weights, loss.view(), dx.view(), Write::accumulate);
  for (double& value : gradients) value *= 2;
  EXPECT_TRUE(near_relative(dx.values(), gradients, kFew, 2 * 64 * 4 * kLog));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Softmax,
                         ::testing::Values(Shape{0, 3}, Shape{1, 1}, Shape{2, 31}, Shape{31, 32}, Shape{33, 33},
                                           Shape{5, 129}, Shape{3, 50257}),
                         [](const auto& named) { return fmt::format("{}x{}", named.param.rows, named.param.cols); });

// The analytic gradients above against central differences of the losses, both in fp64 (hand-written formulas held to
// the definition).
TEST(SoftmaxGradient, LossesFallAlongTheirGradient) {
  Context context(device_options());
  std::mt19937 random(9);
  const Values logits = normal_values(random, 7), other = normal_values(random, 7);
  const Doubles log_q_doubles = reference_log_softmax(other, 7);
  const Values log_q(log_q_doubles.begin(), log_q_doubles.end());
  const auto losses = [&](const Values& x) {
    const Doubles log_p = reference_log_softmax(x, 7);
    double divergence = 0;
    for (size_t c = 0; c < 7; ++c) divergence += std::exp(log_p[c]) * (log_p[c] - static_cast<double>(log_q[c]));
    return std::pair(-log_p[3], divergence);
  };
  Padded x(context, 1, 7, logits), q(context, 1, 7, log_q), loss(context, 1, 1), nll(context, 1, 7), kl(context, 1, 7);
  const auto one = device<float>(context, {1});
  cross_entropy(context, x.read(), device<int32_t>(context, {3}), one, loss.view(), nll.view(), Write::assign);
  kl_divergence(context, x.read(), q.read(), one, loss.view(), kl.view(), Write::assign);
  for (size_t c = 0; c < 7; ++c) {
    Values above = logits, below = logits;
    above[c] += 1.0f / 512;
    below[c] -= 1.0f / 512;
    const double step = static_cast<double>(above[c]) - static_cast<double>(below[c]);
    const auto [nll_above, kl_above] = losses(above);
    const auto [nll_below, kl_below] = losses(below);
    // Third derivatives of both losses are below 10 here.
    EXPECT_NEAR(static_cast<double>(nll.values()[c]), (nll_above - nll_below) / step, 10 * step * step / 24 + kFew);
    EXPECT_NEAR(static_cast<double>(kl.values()[c]), (kl_above - kl_below) / step, 10 * step * step / 24 + kFew);
  }
}

TEST(SoftmaxNumbers, HugeLogitsTiesAndNan) {
  Context context(device_options());
  Padded x(context, 3, 3, {1e30f, 1e30f, -1e30f, 5, 5, 5, 1, kNan, 2}), p(context, 3, 3);
  softmax(context, x.read(), p.view());
  const Values values = p.values();
  EXPECT_EQ(Values(values.begin(), values.begin() + 3), (Values{0.5f, 0.5f, 0}));
  EXPECT_EQ(values[3], 1.0f / 3);
  for (size_t i = 6; i < 9; ++i) EXPECT_TRUE(std::isnan(values[i]));
  DeviceArray<int32_t> best(context, 3);
  argmax_rows(context, x.read(), best);
  EXPECT_EQ(best.to_host()[0], 0);
  EXPECT_EQ(best.to_host()[1], 0);
}

TEST(SoftmaxNumbers, LogitsOfMinusInfinityHaveNoProbability) {
  Context context(device_options());
  const float none = -std::numeric_limits<float>::infinity();
  Values logits(2 * 130, none);
  for (const size_t c : {3u, 64u, 129u}) logits[c] = 7;
  Padded x(context, 2, 130, logits), p(context, 2, 130), sums(context, 2, 1);
  softmax(context, x.read(), p.view());
  log_sum_exp(context, x.read(), sums.view());
  const Values values = p.values();
  for (size_t c = 0; c < 130; ++c) EXPECT_EQ(values[c], logits[c] == 7 ? 1.0f / 3 : 0);
  EXPECT_NEAR(static_cast<double>(sums.values()[0]), 7 + std::log(3.0), 8 * kEps);
  // Where every logit is -inf there are no probabilities.
  for (size_t c = 130; c < 260; ++c) EXPECT_TRUE(std::isnan(values[c]));
  EXPECT_TRUE(std::isnan(sums.values()[1]));
  DeviceArray<int32_t> best(context, 2);
  argmax_rows(context, x.read(), best);
  EXPECT_EQ(best.to_host(), (std::vector<int32_t>{3, 0}));
}

// A device reads four elements at a time where rows share their alignment; here they do not, or in part.
TEST(SoftmaxNumbers, AlignmentChangesLittle) {
  Context context(device_options());
  std::mt19937 random(5);
  const int64_t rows = 5, cols = 1027;
  const Values logits = normal_values(random, rows * cols, 5);
  const Tensor tight = Tensor::from_host(context, logits, rows, cols);
  Padded padded(context, rows, cols, logits), mixed(context, rows, cols), alike(context, rows, cols);
  Tensor dlogits(context, rows, cols), losses(context, rows, 1);
  Doubles expected;
  for (const double value : reference_log_softmax(logits, cols)) expected.push_back(std::exp(value));
  softmax(context, tight.view(), mixed.view());
  softmax(context, padded.read(), alike.view());
  EXPECT_TRUE(near_relative(mixed.values(), expected, kFew, 1e-44));
  EXPECT_TRUE(near_relative(alike.values(), expected, kFew, 1e-44));
  EXPECT_TRUE(mixed.guarded() && alike.guarded());
  const auto targets = device(context, std::vector<int32_t>(rows, 0));
  cross_entropy(context, padded.read(), targets, device(context, Values(rows, 1)), losses.view(), dlogits.view(),
                Write::assign);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    const size_t first = r * static_cast<size_t>(cols);
    expected[first] -= 1;
  }
  EXPECT_TRUE(near_relative(dlogits.to_host(), expected, kFew, kLog));
}

TEST(SoftmaxErrors, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  Padded x(context, 2, 3, Values(6, 1)), y(context, 3, 2, Values(6, 7)), loss(context, 2, 1, {7, 7});
  DeviceArray<int32_t> three(context, 3);
  EXPECT_THROW(softmax(context, x.read(), y.view()), ShapeError);
  EXPECT_THROW(log_softmax(context, x.read(), y.view()), ShapeError);
  EXPECT_THROW(log_sum_exp(context, x.read(), y.view()), ShapeError);
  EXPECT_THROW(argmax_rows(context, x.read(), three), ShapeError);
  EXPECT_THROW(
      cross_entropy(context, x.read(), three, device<float>(context, {1, 1}), loss.view(), x.view(), Write::assign),
      ShapeError);
  EXPECT_THROW(
      kl_divergence(context, x.read(), y.read(), device<float>(context, {1, 1}), loss.view(), x.view(), Write::assign),
      ShapeError);
  EXPECT_THROW(target_log_probabilities(context, x.read(), device<int64_t>(context, {0, 1}), three, loss.view()),
               ShapeError);
  EXPECT_EQ(y.values(), Values(6, 7));
  EXPECT_EQ(loss.values(), Values(2, 7));
}

}  // namespace
}  // namespace loci
