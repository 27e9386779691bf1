#include "kernels/symmetric_eigen.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

/// ThreadSanitizer does not see how OpenBLAS orders its threads.
ContextOptions one_thread() { return device_options(1); }

constexpr double kDoubleEps = std::numeric_limits<double>::epsilon() / 2;

/// Symmetric, with entries of the order of 1.
Doubles random_symmetric(int64_t n) {
  std::mt19937 random(1);
  Doubles matrix(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) matrix[i * n + j] = matrix[j * n + i] = std::normal_distribution<double>()(random);
  return matrix;
}

/// a b^T for a, b [n, n].
Doubles times_transposed(const Doubles& a, const Doubles& b, int64_t n) {
  Doubles out(a.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < n; ++k) out[i * n + j] += a[i * n + k] * b[j * n + k];
  return out;
}

class SymmetricEigenTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(SymmetricEigenTest, DecomposesTheMatrix) {
  const int64_t n = GetParam();
  Context context(one_thread());
  const Doubles matrix = random_symmetric(n);
  const SymmetricEigen eigen = symmetric_eigen(context, matrix, n, "test");
  EXPECT_TRUE(std::is_sorted(eigen.values.begin(), eigen.values.end()));
  Doubles scaled = eigen.vectors, identity(matrix.size());
  for (int64_t i = 0; i < n; ++i) {
    identity[i * n + i] = 1;
    for (int64_t j = 0; j < n; ++j) scaled[i * n + j] *= eigen.values[j];
  }
  // Backward stable: errors of a modest multiple of n eps |A|, and |A| < 3 sqrt(n) here.
  const double size = static_cast<double>(n);
  const double tolerance = 8 * size * kDoubleEps;
  const auto within = [](double bound) { return [bound](size_t) { return bound; }; };
  EXPECT_TRUE(near_by(std::span<const double>(times_transposed(eigen.vectors, eigen.vectors, n)),
                      std::span<const double>(identity), within(tolerance)));
  EXPECT_TRUE(near_by(std::span<const double>(times_transposed(scaled, eigen.vectors, n)),
                      std::span<const double>(matrix), within(tolerance * 3 * std::sqrt(size))));
}

TEST_P(SymmetricEigenTest, TheLargestEntryOfAVectorIsPositive) {
  const int64_t n = GetParam();
  Context context(one_thread());
  const SymmetricEigen eigen = symmetric_eigen(context, random_symmetric(n), n, "test");
  for (int64_t j = 0; j < n; ++j) {
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double entry = eigen.vectors[i * n + j];
      if (std::abs(entry) > std::abs(largest)) largest = entry;
    }
    EXPECT_GT(largest, 0) << j;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SymmetricEigenTest, ::testing::Values(1, 2, 33, 129));

TEST(SymmetricEigenByHand, TwoByTwo) {
  Context context(one_thread());
  // [2 1; 1 2] has eigenvalues 1 and 3 with vectors (1, -1) and (1, 1) over sqrt(2). The upper triangle is not read.
  const SymmetricEigen eigen = symmetric_eigen(context, {2, 7, 1, 2}, 2, "test");
  EXPECT_TRUE(near(eigen.values, Doubles{1, 3}, 8 * kDoubleEps));
  const double root = std::sqrt(0.5);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(std::abs(eigen.vectors[i]), root, 8 * kDoubleEps);
  EXPECT_GT(eigen.vectors[1] * eigen.vectors[3], 0);
  EXPECT_LT(eigen.vectors[0] * eigen.vectors[2], 0);
  EXPECT_TRUE(symmetric_eigen(context, {}, 0, "test").values.empty());
}

}  // namespace
}  // namespace loci
