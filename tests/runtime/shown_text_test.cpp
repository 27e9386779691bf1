#include "runtime/shown_text.h"

#include <gtest/gtest.h>

#include <string>

namespace loci {
namespace {

TEST(ShownText, IsQuotedAndOnOneLine) {
  EXPECT_EQ(shown(""), R"("")");
  EXPECT_EQ(shown("The Space Needle"), R"("The Space Needle")");
  EXPECT_EQ(shown("a \"b\" \\ c\n\r\t\x01\x7f"), R"("a \"b\" \\ c\n\r\t\u0001\u007f")");
  EXPECT_EQ(shown(std::string("a\0b", 3)), R"("a\u0000b")");
}

TEST(ShownText, ReadableCharactersStayAsTheyAre) {
  for (const std::string text : {"Škoda", "東京", "Ελλάδα", "Россия", "עברית", "한국", "🙂 café"})
    EXPECT_EQ(shown(text), '"' + text + '"');
}

TEST(ShownText, TextsThatLookAlikeAreShownApart) {
  EXPECT_EQ(shown("caf\u00e9"), "\"caf\u00e9\"");
  EXPECT_EQ(shown("cafe\u0301"), R"("cafe\u0301")");
  EXPECT_EQ(shown("\u1112\u1161\u11ab"), R"("\u1112\u1161\u11ab")") << "Hangul in form NFD";
  EXPECT_EQ(shown("New\u00a0York"), R"("New\u00a0York")");
  EXPECT_EQ(shown("a\u200bb\ufeff\u3000\u2009\u00ad"), R"("a\u200bb\ufeff\u3000\u2009\u00ad")");
  EXPECT_EQ(shown("L\u2019Aquila \u2013 \u201cx\u201d"), R"("L\u2019Aquila \u2013 \u201cx\u201d")");
  EXPECT_EQ(shown("P\u0430ris"), R"("P\u0430ris")") << "a Cyrillic letter in a Latin word";
  EXPECT_EQ(shown("\uff21"), R"("\uff21")");
  EXPECT_EQ(shown("\U000e0041"), R"("\U000e0041")");
}

TEST(ShownText, BytesThatAreNotUtf8AreEscaped) {
  EXPECT_EQ(shown("a\xff\xc3(\xe2\x82"), R"("a\xff\xc3(\xe2\x82")");
  EXPECT_EQ(shown("\ufffd"), R"("\ufffd")") << "the character itself is told from a byte that it replaces";
}

TEST(ShownText, LongTextsAreCutBetweenCharacters) {
  EXPECT_EQ(shown("abcdef", 3), R"("abc"...)");
  EXPECT_EQ(shown("abc", 3), R"("abc")");
  EXPECT_EQ(shown("äöü", 3), "\"äö\"...");
  EXPECT_EQ(shown(std::string(kShownBytes, 'x')), '"' + std::string(kShownBytes, 'x') + '"');
}

}  // namespace
}  // namespace loci
