#include "tests/support/compare.h"

#include <gtest/gtest.h>

#include <vector>

namespace loci::test {
namespace {

const float kNotANumber = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

using Floats = std::vector<float>;

TEST(Compare, PassesWithinAndFailsBeyondTheTolerance) {
  EXPECT_TRUE(near(Floats{1, 2}, Floats{1, 2.5f}, 0.5));
  EXPECT_FALSE(near(Floats{1, 2}, Floats{1, 2.5f}, 0.49));
  EXPECT_TRUE(near(Floats{}, Floats{}, 0));
  EXPECT_TRUE(near_relative(Floats{100}, Floats{101}, 0.01));
  EXPECT_FALSE(near_relative(Floats{1}, Floats{1.02f}, 0.01));
}

TEST(Compare, NanFailsOnEitherSideAndInTheTolerance) {
  EXPECT_FALSE(near(Floats{kNotANumber}, Floats{1}, 1e30));
  EXPECT_FALSE(near(Floats{1}, Floats{kNotANumber}, 1e30));
  EXPECT_FALSE(near(Floats{kNotANumber}, Floats{kNotANumber}, 1e30));
  EXPECT_FALSE(near(Floats{1}, Floats{1}, static_cast<double>(kNotANumber)));
  EXPECT_FALSE(near(Floats{kInfinity}, Floats{kInfinity}, 1e30));
  EXPECT_FALSE(near_relative(Floats{kNotANumber}, Floats{1}, 1e30));
}

TEST(Compare, NamesTheWorstElement) {
  const auto result = near(Floats{1, 5, kNotANumber, 2}, Floats{1, 1, 1, 1}, 0.1);
  EXPECT_NE(std::string(result.message()).find("3 of 4 values differ; the worst is [2]"), std::string::npos)
      << result.message();
}

TEST(Compare, LengthsMustAgree) {
  EXPECT_FALSE(near(Floats{1}, Floats{1, 2}, 1));
  EXPECT_FALSE(identical(Floats{1}, Floats{1, 2}));
}

TEST(Compare, IdenticalLooksAtBits) {
  EXPECT_TRUE(identical(Floats{1, kNotANumber}, Floats{1, kNotANumber}));
  EXPECT_FALSE(identical(Floats{0.0f}, Floats{-0.0f}));
  EXPECT_FALSE(identical(Floats{1}, Floats{std::nextafter(1.0f, 2.0f)}));
}

}  // namespace
}  // namespace loci::test
