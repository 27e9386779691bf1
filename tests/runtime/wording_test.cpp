#include "runtime/wording.h"

#include <gtest/gtest.h>

#include <limits>

namespace loci::test {
namespace {

TEST(Wording, OneIsSingularAllElsePlural) {
  EXPECT_EQ(count(0, "fact"), "0 facts");
  EXPECT_EQ(count(1, "fact"), "1 fact");
  EXPECT_EQ(count(2, "fact"), "2 facts");
  EXPECT_EQ(count(1, "entry", "entries"), "1 entry");
  EXPECT_EQ(count(3, "entry", "entries"), "3 entries");
}

TEST(Wording, WhatRoundsToZeroHasNoSign) {
  EXPECT_EQ(fixed(-0.00001, 4), "0.0000");
  EXPECT_EQ(fixed(-0.0, 1), "0.0");
  EXPECT_EQ(fixed(-0.4, 0), "0");
  EXPECT_EQ(fixed(-0.00006, 4), "-0.0001");
  EXPECT_EQ(fixed(-10, 2), "-10.00");
  EXPECT_EQ(fixed(0.25, 2), "0.25");
  EXPECT_EQ(fixed(-std::numeric_limits<double>::infinity(), 2), "-inf");
}

}  // namespace
}  // namespace loci::test
