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

TEST(Wording, ProgramsDecideHowOptionsAreWritten) {
  EXPECT_EQ(option("samples"), "samples");
  set_option_style(OptionStyle::dashes);
  EXPECT_EQ(option("samples"), "--samples");
  set_option_style(OptionStyle::plain);
  EXPECT_EQ(option("samples"), "samples");
}

TEST(Wording, TheNearestWordIsProposed) {
  const std::vector<std::string> words = {"facts", "samples", "window"};
  EXPECT_EQ(did_you_mean("sampels", words), "; did you mean samples?");
  EXPECT_EQ(did_you_mean("wi", words, "--"), "; did you mean --window?");
  EXPECT_EQ(did_you_mean("fact", words, "\"", "\""), "; did you mean \"facts\"?");
  EXPECT_EQ(did_you_mean("learning", words), "");
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("weigth", "weight"), 1u);
  EXPECT_EQ(edit_distance("abc", "abc"), 0u);
}

}  // namespace
}  // namespace loci::test
