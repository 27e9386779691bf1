// Noise rules and the laws they draw from.
#include "trace/noise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/symmetric_eigen.h"
#include "runtime/error.h"
#include "runtime/random.h"
#include "tests/support/compare.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

TEST(NoiseRule, Forms) {
  using Kind = NoiseRule::Kind;
  const auto check = [](const char* text, Kind kind, double value) {
    const NoiseRule rule = NoiseRule::parse(text);
    EXPECT_EQ(rule.kind, kind) << text;
    if (kind != Kind::multivariate) {
      EXPECT_EQ(rule.value, value) << text;
    }
  };
  check("0.1", Kind::fixed, 0.1);
  check("0", Kind::fixed, 0);
  check("1e-2", Kind::fixed, 0.01);
  check("0.2992212027311325", Kind::fixed, 0.2992212027311325);
  check("s3", Kind::subjects, 3);
  check("s", Kind::subjects, 1);
  check("s2.5", Kind::subjects, 2.5);
  check("u3", Kind::uniform, 3);
  check("m", Kind::multivariate, 0);
  check("t3", Kind::student, 3);
}

TEST(NoiseRule, OtherTextIsRefused) {
  for (const char* text : {"", "x", "-1", "s-1", "3s", "u", "t", "t2", "t0", "m3", "nan", "inf", "sinf", "0.1 ", " 0.1",
                           "0,1", "s3x", "1e999"})
    expect_message(error_of<InputError>([&] { NoiseRule::parse(text); }), {"noise"});
}

Noise fixed(double level) {
  Noise noise;
  noise.rule = {NoiseRule::Kind::fixed, level};
  noise.level = level;
  return noise;
}

TEST(Noise, IsSeededAnewAtEveryCallAndContinuesInLaterDraws) {
  const Noise noise = fixed(0.5);
  const auto once = noise.draw(1, 2, 3, 5);
  const auto twice = noise.draw(2, 2, 3, 5);
  EXPECT_TRUE(identical(once[0], twice[0]));
  LegacyRandom random(1);
  for (const auto& draw : twice)
    for (const double value : draw) EXPECT_EQ(value, 0.5 * random.normal());
}

TEST(Noise, UniformStaysWithinItsLevel) {
  Noise noise = fixed(2);
  noise.rule.kind = NoiseRule::Kind::uniform;
  double largest = 0;
  const auto values = noise.draw(1, 10, 10, 10)[0];
  for (const double value : values) largest = std::max(largest, std::abs(value));
  EXPECT_LE(largest, 2);
  EXPECT_GT(largest, 1.9);
}

class NoiseOfModel : public ::testing::Test {
 protected:
  NoiseOfModel() : context_({.threads = 1}), config_(tiny_config()), model_(random_model(context_, config_, 3)) {}
  double embedding(int32_t token, int64_t j) const {
    return static_cast<double>(model_.parameters().token_embedding.fp32().row(token)[j]);
  }
  Context context_;
  Architecture config_;
  Model model_;
};

TEST_F(NoiseOfModel, DeviationIsOverAllScalarsOfAllTokens) {
  const std::vector<std::vector<int32_t>> texts = {{3, 4, 3}, {7}};
  double sum = 0, squares = 0;
  const int32_t tokens[] = {3, 4, 3, 7};
  const double n = 4.0 * static_cast<double>(config_.width);
  for (const int32_t token : tokens)
    for (int64_t j = 0; j < config_.width; ++j) sum += embedding(token, j);
  for (const int32_t token : tokens)
    for (int64_t j = 0; j < config_.width; ++j) squares += std::pow(embedding(token, j) - sum / n, 2);
  const double expected = std::sqrt(squares / (n - 1));
  EXPECT_NEAR(embedding_deviation(context_, model_, texts), expected, 2 * kEps * expected);
  EXPECT_THROW(embedding_deviation(context_, model_, std::vector<std::vector<int32_t>>{}), InputError);
}

TEST_F(NoiseOfModel, LawHasMeanAndCovarianceOfTheText) {
  std::vector<int64_t> counts(static_cast<size_t>(config_.vocabulary));
  for (size_t id = 0; id < counts.size(); ++id) counts[id] = static_cast<int64_t>(id % 4);
  const EmbeddingLaw law = embedding_law(context_, model_, counts);
  const auto width = static_cast<size_t>(config_.width);
  double total = 0;
  std::vector<double> mean(width);
  for (size_t id = 0; id < counts.size(); ++id) {
    total += static_cast<double>(counts[id]);
    for (size_t j = 0; j < width; ++j)
      mean[j] += static_cast<double>(counts[id]) * embedding(static_cast<int32_t>(id), static_cast<int64_t>(j));
  }
  for (double& value : mean) value /= total;
  EXPECT_TRUE(near(law.mean, mean, 1e-12));
  std::vector<double> covariance(width * width), from_root(width * width);
  for (size_t id = 0; id < counts.size(); ++id)
    for (size_t i = 0; i < width; ++i)
      for (size_t j = 0; j < width; ++j)
        covariance[i * width + j] += static_cast<double>(counts[id]) / (total - 1) *
                                     (embedding(static_cast<int32_t>(id), static_cast<int64_t>(i)) - mean[i]) *
                                     (embedding(static_cast<int32_t>(id), static_cast<int64_t>(j)) - mean[j]);
  for (size_t i = 0; i < width; ++i)
    for (size_t j = 0; j < width; ++j)
      for (size_t k = 0; k < width; ++k) from_root[i * width + j] += law.root[i * width + k] * law.root[j * width + k];
  // Products in fp32, at most 61 of them a sum.
  double largest = 0;
  for (const double value : covariance) largest = std::max(largest, std::abs(value));
  EXPECT_TRUE(near(from_root, covariance, 64 * kEps * largest));
}

TEST_F(NoiseOfModel, StudentScalesEachVectorByItsOwnDraw) {
  std::vector<int64_t> counts(static_cast<size_t>(config_.vocabulary), 1);
  Noise gauss = fixed(1);
  gauss.rule = {NoiseRule::Kind::multivariate, 0};
  gauss.law = embedding_law(context_, model_, counts);
  Noise student = gauss;
  student.rule = {NoiseRule::Kind::student, 3};
  const auto plain = gauss.draw(1, 2, 3, config_.width)[0], scaled = student.draw(1, 2, 3, config_.width)[0];
  LegacyRandom chi(2);
  for (size_t row = 0; row < 6; ++row) {
    const double factor = std::sqrt(1 / chi.chi_square(3));
    for (size_t j = 0; j < static_cast<size_t>(config_.width); ++j) {
      const size_t at = row * static_cast<size_t>(config_.width) + j;
      EXPECT_EQ(scaled[at], plain[at] * factor);
    }
  }
}

TEST_F(NoiseOfModel, ALawNeedsAText) {
  const std::vector<int64_t> counts(static_cast<size_t>(config_.vocabulary));
  expect_message(error_of<InputError>([&] { embedding_law(context_, model_, counts); }), {"noise-text"});
}

TEST(SymmetricEigen, PlantedSpectrum) {
  Context context({.threads = 1});
  // Reflection of diag(1, 4, 9): V = I - 2 w w^T with |w| = 1.
  const double w[3] = {1.0 / 3, 2.0 / 3, 2.0 / 3};
  const double spectrum[3] = {1, 4, 9};
  std::vector<double> matrix(9);
  const auto v = [&](size_t i, size_t j) { return (i == j ? 1.0 : 0.0) - 2 * w[i] * w[j]; };
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < 3; ++j)
      for (size_t k = 0; k < 3; ++k) matrix[i * 3 + j] += v(i, k) * spectrum[k] * v(j, k);
  const SymmetricEigen eigen = symmetric_eigen(context, matrix, 3, "test");
  EXPECT_TRUE(near(eigen.values, std::vector<double>{1, 4, 9}, 1e-14));
  for (size_t j = 0; j < 3; ++j) {
    double dot = 0;
    for (size_t i = 0; i < 3; ++i) dot += eigen.vectors[i * 3 + j] * v(i, j);
    EXPECT_NEAR(std::abs(dot), 1, 1e-14);
  }
  EXPECT_THROW(symmetric_eigen(context, {1, 2}, 2, "test"), ShapeError);
  EXPECT_THROW(symmetric_eigen(context, {std::nan("")}, 1, "test"), NumericalError);
}

}  // namespace
}  // namespace loci::test
