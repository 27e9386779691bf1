#include "runtime/error.h"

#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(Error, AMessageIsOneLineThatATerminalShows) {
  EXPECT_STREQ(InputError("a.json: the name \"東京 x\" is unknown").what(), "a.json: the name \"東京 x\" is unknown");
  EXPECT_STREQ(InputError("a.json: \"a\nb\tc\r\x1b[2J\x7f\" is unknown").what(),
               "a.json: \"a\\nb\\tc\\r\\x1b[2J\\x7f\" is unknown");
  EXPECT_STREQ(SystemError("a library says so\n").what(), "a library says so");
  EXPECT_EQ(on_one_line(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(on_one_line("\n"), "");
}

}  // namespace
}  // namespace loci
