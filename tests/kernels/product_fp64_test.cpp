#include "kernels/product_fp64.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "runtime/error.h"

namespace loci {
namespace {

std::vector<double> random_values(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = normal(random);
  return values;
}

TEST(ProductFp64, EqualsPlainSumsWhateverTheNumberOfThreads) {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 7}, {129, 33, 65}, {64, 1, 200}, {2, 3, 0}}) {
    const std::vector<double> a = random_values(m * k, 1), b = random_values(k * n, 2);
    std::vector<double> turned(b.size());
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < n; ++j) turned[j * k + i] = b[i * n + j];
    std::vector<double> first;
    for (const int threads : {1, 2, 5}) {
      Context context({.threads = threads});
      std::vector<double> c(static_cast<size_t>(m * n), std::nan("")), from_turned = c;
      product_fp64(context, a, Transpose::no, b, c, m, n, k);
      product_fp64(context, a, Transpose::yes, turned, from_turned, m, n, k);
      for (int64_t r = 0; r < m; ++r)
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (int64_t i = 0; i < k; ++i) sum += a[r * k + i] * b[i * n + j];
          EXPECT_NEAR(c[r * n + j], sum, 1e-12);
          EXPECT_NEAR(from_turned[r * n + j], sum, 1e-12);
        }
      if (first.empty()) first = c;
      EXPECT_EQ(c, first) << threads;
    }
  }
}

TEST(ProductFp64, ShapesThatDoNotFitAreRefused) {
  Context context({.threads = 1});
  std::vector<double> a(6), b(6), c(4);
  EXPECT_THROW(product_fp64(context, a, Transpose::no, b, c, 2, 2, 2), ShapeError);
  EXPECT_NO_THROW(product_fp64(context, a, Transpose::no, b, c, 2, 2, 3));
}

}  // namespace
}  // namespace loci
