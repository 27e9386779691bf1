#include "kernels/cholesky.h"

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/error.h"
#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

constexpr double kDoubleEps = std::numeric_limits<double>::epsilon() / 2;

// Q diag(spectrum) Q^T with Q = product of Householder reflections: a matrix whose condition is known.
Doubles planted(int64_t n, const Doubles& spectrum, std::mt19937& random) {
  const auto size = static_cast<size_t>(n);
  Doubles matrix(size * size);
  for (size_t i = 0; i < size; ++i) matrix[i * size + i] = spectrum[i];
  for (int reflection = 0; reflection < 3; ++reflection) {
    Doubles v(size);
    for (double& value : v) value = std::normal_distribution<double>()(random);
    const double norm = std::inner_product(v.begin(), v.end(), v.begin(), 0.0);
    // A := (I - 2 v v^T / |v|^2) A (I - 2 v v^T / |v|^2)
    for (const bool from_left : {true, false})
      for (size_t j = 0; j < size; ++j) {
        const auto at = [&](size_t i) -> double& { return from_left ? matrix[i * size + j] : matrix[j * size + i]; };
        double dot = 0;
        for (size_t i = 0; i < size; ++i) dot += v[i] * at(i);
        for (size_t i = 0; i < size; ++i) at(i) -= 2 * dot / norm * v[i];
      }
  }
  for (size_t i = 0; i < size; ++i)
    for (size_t j = 0; j < i; ++j) matrix[j * size + i] = matrix[i * size + j];
  return matrix;
}

Doubles geometric_spectrum(int64_t n, double condition) {
  Doubles spectrum;
  for (int64_t i = 0; i < n; ++i)
    spectrum.push_back(std::pow(condition, -static_cast<double>(i) / static_cast<double>(std::max<int64_t>(1, n - 1))));
  return spectrum;
}

class CholeskyTest : public ::testing::TestWithParam<std::pair<int64_t, double>> {};

TEST_P(CholeskyTest, SolvesToASmallResidual) {
  const auto [n, condition] = GetParam();
  std::mt19937 random(1);
  Context context(device_options(2));
  const Doubles matrix = planted(n, geometric_spectrum(n, condition), random);
  Doubles lower = matrix;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i + 1; j < n; ++j) lower[i * n + j] = std::nan("");  // must not be read
  const Cholesky factor(context, lower, n, "C");
  EXPECT_EQ(factor.size(), n);
  const int64_t count = 3;
  Doubles b(static_cast<size_t>(n * count));
  for (double& value : b) value = std::normal_distribution<double>()(random);
  Doubles x = b;
  factor.solve(x);
  for (int64_t r = 0; r < count; ++r)
    for (int64_t i = 0; i < n; ++i) {
      double residual = -b[r * n + i], magnitude = 0;
      for (int64_t j = 0; j < n; ++j) {
        const double term = matrix[i * n + j] * x[r * n + j];
        residual += term;
        magnitude += std::abs(term);
      }
      double x_norm = 0;
      for (int64_t j = 0; j < n; ++j) x_norm += std::abs(x[r * n + j]);
      // Backward stable: |b - C x| <= (3 n + 1) eps |L| |L^T| |x|, and |L| |L^T| <= the largest eigenvalue, 1 (Higham
      // 2002, theorem 10.4); plus the rounding of the residual itself.
      EXPECT_LE(std::abs(residual), kDoubleEps * static_cast<double>(3 * n + 8) * (magnitude + x_norm));
    }
}

TEST_P(CholeskyTest, ForwardSolveGivesTheQuadraticForm) {
  const auto [n, condition] = GetParam();
  std::mt19937 random(2);
  Context context(device_options(2));
  const Cholesky factor(context, planted(n, geometric_spectrum(n, condition), random), n, "C");
  Doubles b(static_cast<size_t>(2 * n));
  for (double& value : b) value = std::normal_distribution<double>()(random);
  Doubles z = b, x = b;
  factor.forward_solve(z);
  factor.solve(x);
  const auto dot = [&, n = n](const Doubles& p, int64_t first, const Doubles& q, int64_t second) {
    return std::inner_product(p.begin() + first, p.begin() + first + n, q.begin() + second, 0.0);
  };
  // b_0^T C^-1 b_1 both ways; each is good to the condition number times eps, relative to the norms.
  const double scale = std::sqrt(dot(z, 0, z, 0) * dot(z, n, z, n));
  EXPECT_NEAR(dot(z, 0, z, n), dot(b, 0, x, n), scale * condition * kDoubleEps * static_cast<double>(4 * n + 4));
}

TEST_P(CholeskyTest, ConditionNumberIsFound) {
  const auto [n, condition] = GetParam();
  std::mt19937 random(3);
  Context context(device_options(2));
  const Cholesky factor(context, planted(n, geometric_spectrum(n, condition), random), n, "C");
  // The 1-norm condition lies within a factor n of the spectral one; dpocon's estimate within 3 of it in practice.
  EXPECT_GT(factor.condition_number(), condition / 3 * 0.99);
  EXPECT_LT(factor.condition_number(), condition * static_cast<double>(n) * 1.01);
}

INSTANTIATE_TEST_SUITE_P(Spectra, CholeskyTest,
                         ::testing::Values(std::pair<int64_t, double>{1, 1.0}, std::pair<int64_t, double>{2, 10.0},
                                           std::pair<int64_t, double>{33, 1e3}, std::pair<int64_t, double>{129, 1e8},
                                           std::pair<int64_t, double>{300, 1e6}, std::pair<int64_t, double>{557, 1e6}));

/// Results must not follow how many ranks share a machine's cores.
TEST(CholeskyNumbers, BitsDoNotFollowTheNumberOfThreads) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a GPU's blocks do not follow the CPU's threads";
  const int64_t n = 600;
  std::mt19937 random(3);
  const Doubles matrix = planted(n, geometric_spectrum(n, 1e4), random);
  Doubles right_sides(static_cast<size_t>(20 * n));
  for (double& value : right_sides) value = std::normal_distribution<double>()(random);
  std::vector<Doubles> solutions;
  for (const int threads : {1, 2, 5}) {
    Context context(device_options(threads));
    const Cholesky factor(context, matrix, n, "C");
    solutions.push_back(right_sides);
    factor.solve(solutions.back());
    factor.forward_solve(solutions.back());
  }
  EXPECT_EQ(solutions[1], solutions[0]);
  EXPECT_EQ(solutions[2], solutions[0]);
}

TEST(CholeskyErrors, NameTheRowInALaterTile) {
  Context context(device_options(2));
  const int64_t n = 530;
  Doubles matrix(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) matrix[i * n + i] = i == 517 ? -1 : 2;
  try {
    const Cholesky factor(context, matrix, n, "C");
    FAIL() << "an indefinite matrix was factored";
  } catch (const NumericalError& error) {
    EXPECT_NE(std::string(error.what()).find("517"), std::string::npos) << error.what();
  }
}

TEST(CholeskyByHand, TwoByTwo) {
  Context context(device_options(2));
  // C = [4 2; 2 5] = L L^T with L = [2 0; 1 2].
  const Cholesky factor(context, {4, 2, 2, 5}, 2, "C");
  Doubles z{2, 5}, x{8, 9};
  factor.forward_solve(z);
  factor.solve(x);
  EXPECT_TRUE(near(z, Doubles{1, 2}, 4 * kDoubleEps));
  EXPECT_TRUE(near(x, Doubles{22.0 / 16, 20.0 / 16}, 8 * kDoubleEps));
  EXPECT_NEAR(factor.condition_number(), 7.0 * 7 / 16, 1e-14);
}

std::string failure(Doubles matrix, int64_t n) {
  Context context(device_options(2));
  try {
    const Cholesky factor(context, std::move(matrix), n, "second moments of layer 3");
  } catch (const NumericalError& error) {
    return error.what();
  }
  return "";
}

TEST(CholeskyErrors, NameTheRowTheDeadNeuronsAndTheRidge) {
  const std::string message = failure({2, 0, 0, 0, 0, 0, 0, 0, 4}, 3);
  EXPECT_NE(message.find("second moments of layer 3 is not positive definite"), std::string::npos) << message;
  EXPECT_NE(message.find("row 1"), std::string::npos) << message;
  EXPECT_NE(message.find("rows with a zero diagonal, dead neurons, 1 in all: 1"), std::string::npos) << message;
  EXPECT_NE(message.find("ridge, for example 0.0002"), std::string::npos) << message;
  EXPECT_NE(failure({1, 2, 2, 1}, 2).find("fails at row 1"), std::string::npos);
  EXPECT_NE(failure({1, 0, kNan, 1}, 2).find("not finite"), std::string::npos);
  EXPECT_EQ(failure({}, 0), "");
}

TEST(CholeskyErrors, Shapes) {
  Context context(device_options(2));
  EXPECT_THROW(Cholesky(context, {1, 2, 3}, 2, "C"), ShapeError);
  const Cholesky factor(context, {1, 0, 0, 1}, 2, "C");
  Doubles three{1, 2, 3};
  EXPECT_THROW(factor.solve(three), ShapeError);
  EXPECT_THROW(factor.forward_solve(three), ShapeError);
}

}  // namespace
}  // namespace loci
