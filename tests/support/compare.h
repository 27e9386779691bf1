#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

/// The one comparator of the tests. Written so that NaN fails.
namespace loci::test {

/// Half a unit in the last place of fp32, relative: one rounding.
inline constexpr double kEps = std::numeric_limits<float>::epsilon() / 2;

/// Passes where |actual - expected| <= tolerance for every element; the message names the worst one.
/// `tolerance(i)` is the absolute tolerance of element i, derived from precision, reduction length and norms.
template <typename Actual, typename Expected, typename Tolerance>
::testing::AssertionResult near_by(std::span<const Actual> actual, std::span<const Expected> expected,
                                   const Tolerance& tolerance) {
  if (actual.size() != expected.size())
    return ::testing::AssertionFailure() << actual.size() << " values where " << expected.size() << " are expected";
  size_t failures = 0;
  size_t worst = 0;
  double worst_excess = -1;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    const double allowed = tolerance(i);
    if (error <= allowed) continue;
    ++failures;
    const double excess = std::isnan(error) ? std::numeric_limits<double>::infinity() : error - allowed;
    if (excess > worst_excess) {
      worst_excess = excess;
      worst = i;
    }
  }
  if (failures == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << failures << " of " << actual.size() << " values differ; the worst is ["
                                       << worst << "]: " << static_cast<double>(actual[worst]) << ", expected "
                                       << static_cast<double>(expected[worst]) << " +- " << tolerance(worst);
}

/// One absolute tolerance for all elements.
template <typename A, typename E>
::testing::AssertionResult near(const A& actual, const E& expected, double tolerance) {
  return near_by(std::span<const typename A::value_type>(actual), std::span<const typename E::value_type>(expected),
                 [&](size_t) { return tolerance; });
}

/// |actual - expected| <= relative |expected| + absolute.
template <typename A, typename E>
::testing::AssertionResult near_relative(const A& actual, const E& expected, double relative, double absolute = 0) {
  return near_by(std::span<const typename A::value_type>(actual), std::span<const typename E::value_type>(expected),
                 [&](size_t i) { return relative * std::abs(static_cast<double>(expected[i])) + absolute; });
}

/// Bit for bit, so that NaN equals NaN and 0 differs from -0.
template <typename A>
::testing::AssertionResult identical(const A& actual, const A& expected) {
  if (actual.size() != expected.size())
    return ::testing::AssertionFailure() << actual.size() << " values where " << expected.size() << " are expected";
  for (size_t i = 0; i < actual.size(); ++i)
    if (std::memcmp(&actual[i], &expected[i], sizeof(actual[i])) != 0)
      return ::testing::AssertionFailure() << "[" << i << "] is " << actual[i] << ", expected " << expected[i];
  return ::testing::AssertionSuccess();
}

}  // namespace loci::test
