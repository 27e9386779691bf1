#include "runtime/shape.h"

#include <gtest/gtest.h>

#include <array>

namespace loci {
namespace {

TEST(Shape, ProductsThatDoNotFitAreNone) {
  constexpr int64_t kLarge = int64_t{1} << 40;
  EXPECT_EQ(product_of({}), 1);
  EXPECT_EQ(product_of(std::array<int64_t, 2>{3, 4}), 12);
  EXPECT_EQ(product_of(std::array<int64_t, 2>{kLarge, kLarge}), std::nullopt);
  EXPECT_EQ(product_of(std::array<int64_t, 3>{kLarge, kLarge, 0}), 0);
  EXPECT_EQ(product_of(std::array<int64_t, 3>{0, kLarge, kLarge}), 0);
  EXPECT_EQ(product_of(std::array<int64_t, 2>{0, -1}), std::nullopt);
  EXPECT_EQ(shape_text(std::array<int64_t, 2>{3, 4}), "[3, 4]");
  EXPECT_EQ(shape_text({}), "[]");
}

}  // namespace
}  // namespace loci
