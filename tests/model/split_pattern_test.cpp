#include "model/text/split_pattern.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "model/text/pretokenizer.h"
#include "model/text/unicode.h"
#include "runtime/error.h"
#include "runtime/utf8.h"
#include "tests/model/tokenizer_support.h"
#include "tests/support/errors.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using Texts = std::vector<std::string>;

constexpr std::string_view kPlace = "m/tokenizer.json: pattern";

Texts split(const SplitPattern& pattern, std::string_view text) {
  Texts parts;
  SplitPattern::Pieces pieces(pattern, text);
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = pieces.next();
    parts.emplace_back(text.substr(begin, end - begin));
  }
  return parts;
}

Texts split(std::string_view pattern, std::string_view text) {
  return split(SplitPattern(pattern, std::string(kPlace)), text);
}

Texts split_by_hand(std::string_view text) {
  Texts parts;
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = piece_end(text, begin);
    parts.emplace_back(text.substr(begin, end - begin));
  }
  return parts;
}

// ---- published patterns; the splits are those of Hugging Face's tokenizers 0.21 ----

/// Where the patterns of both families split alike.
void expect_common_splits(std::string_view pattern) {
  EXPECT_EQ(split(pattern, "Hello, world's  END'S we'VE"),
            (Texts{"Hello", ",", " world", "'s", " ", " END", "'S", " we", "'VE"}));
  EXPECT_EQ(split(pattern, "a\r\n\n b \n c"), (Texts{"a", "\r\n\n", " b", " \n", " c"})) << "back to the last line end";
  EXPECT_EQ(split(pattern, "it'\u017F"), (Texts{"it", "'\u017F"})) << "the long s is an s whatever the case";
  EXPECT_EQ(split(pattern, "\tfoo \u00A0bar"), (Texts{"\tfoo", " ", "\u00A0bar"})) << "a word takes a space or a tab";
  EXPECT_EQ(split(pattern, "(foo)!!\n\nbar"), (Texts{"(foo", ")!!\n\n", "bar"}));
  EXPECT_EQ(split(pattern, "  \n  x   "), (Texts{"  \n", " ", " x", "   "}));
  EXPECT_EQ(split(pattern, " \u00E9t\u00E9 e\u0301"), (Texts{" \u00E9t\u00E9", " e", "\u0301"}));
  EXPECT_EQ(split(pattern, "a\u180Eb\u200Bc\u0085d"), (Texts{"a", "\u180Eb", "\u200Bc", "\u0085d"}));
  EXPECT_EQ(split(pattern, ""), Texts{});
}

TEST(SplitPattern, SplitsAsLlama3Does) {
  expect_common_splits(test::kLlama3Pattern);
  EXPECT_EQ(split(test::kLlama3Pattern, "x1234567 \u0661\u0662"), (Texts{"x", "123", "456", "7", " ", "\u0661\u0662"}));
  EXPECT_EQ(split(test::kLlama3Pattern, "\u65E5\u672C\u8A9E 12"), (Texts{"\u65E5\u672C\u8A9E", " ", "12"}));
}

TEST(SplitPattern, SplitsAsQwen2Does) {
  expect_common_splits(test::kQwen2Pattern);
  EXPECT_EQ(split(test::kQwen2Pattern, "x123 \u0661\u0662"), (Texts{"x", "1", "2", "3", " ", "\u0661", "\u0662"}));
  EXPECT_EQ(split(test::kQwen2Pattern, "\u65E5\u672C\u8A9E 12"), (Texts{"\u65E5\u672C\u8A9E", " ", "1", "2"}));
}

/// Any characters and any bytes: the two engines have one idea of letters, numbers and spaces.
TEST(SplitPattern, SplitsByGpt2sPatternAsTheSplitterByHandDoes) {
  const SplitPattern pattern(kGpt2Pattern, std::string(kPlace));
  test::RandomText random(7);
  for (int i = 0; i < 30000; ++i) {
    std::string text = random(24);
    for (int damage = random.below(3); damage > 0 && !text.empty(); --damage)
      if (i % 2) text[random.below(static_cast<int>(text.size()))] = static_cast<char>(random.below(256));
    ASSERT_EQ(split(pattern, text), split_by_hand(text)) << text;
  }
}

// ---- what the pattern means ----

TEST(SplitPattern, ClassesAreThoseOfUnicode16ToTheLastCodePoint) {
  std::string text;
  for (char32_t code = 0; code < 0x110000; ++code)
    if (code < 0xD800 || code > 0xDFFF) utf8::append(text, code);
  // In brackets and outside of them, and their complements.
  for (const std::string_view pattern :
       {R"(\p{L}+|\p{N}+|\s+|[^\p{L}\p{N}\s]+)", R"((?:(?!\P{L}).)+|(?:(?!\P{N}).)+|(?:(?!\S)(?:.|\n))+)"}) {
    std::size_t at = 0;
    unicode::CharClass before = unicode::CharClass::other;
    for (const std::string& piece : split(pattern, text)) {
      const unicode::CharClass own = unicode::char_class(utf8::decode(piece, 0).code_point);
      ASSERT_TRUE(at == 0 || own != before) << at;
      for (std::size_t i = 0; i < piece.size();) {
        const utf8::Step step = utf8::decode(piece, i);
        ASSERT_EQ(unicode::char_class(step.code_point), own) << std::hex << static_cast<unsigned>(step.code_point);
        i += step.length;
      }
      before = own;
      at += piece.size();
    }
    ASSERT_EQ(at, text.size());
  }
}

TEST(SplitPattern, WhatLiesBetweenMatchesIsAPiece) {
  EXPECT_EQ(split("b+", "aabba"), (Texts{"aa", "bb", "a"}));
  EXPECT_EQ(split("b+", "bba"), (Texts{"bb", "a"}));
  EXPECT_EQ(split("b+", "aaa"), Texts{"aaa"});
  EXPECT_EQ(split("b", "bb"), (Texts{"b", "b"}));
  EXPECT_EQ(split("(?<=a)b", "abcb"), (Texts{"a", "b", "cb"})) << "a match sees what stands before it";
  EXPECT_EQ(split(R"([]\-x])", "a]-xb"), (Texts{"a", "]", "-", "x", "b"}));
}

TEST(SplitPattern, LineStartsAndEndsAreRubys) {
  EXPECT_EQ(split("^.", "ab\ncd"), (Texts{"a", "b\n", "c", "d"}));
  EXPECT_EQ(split(".$", "ab\r\nc"), (Texts{"ab", "\r", "\n", "c"}));
}

TEST(SplitPattern, BytesThatAreNoUtf8AreOfNoClass) {
  EXPECT_EQ(split(R"(\p{L}+|\p{N}+|\s+|[^\p{L}\p{N}\s]+)", "a\xFF\xE2\x82 1"), (Texts{"a", "\xFF\xE2\x82", " ", "1"}));
  EXPECT_EQ(split(R"(\s+(?!\S)|\s+)", "  \xFF"), (Texts{" ", " ", "\xFF"})) << "they are not the end of the text";
}

TEST(SplitPattern, LongRunsNeedNoStack) {
  const SplitPattern pattern(test::kLlama3Pattern, std::string(kPlace));
  for (const char* character : {"a", " ", "\n", "!", "\u00E9", " \n"}) {
    std::string run;
    for (int i = 0; i < 1000000; ++i) run += character;
    std::string joined;
    for (const std::string& piece : split(pattern, run)) joined += piece;
    EXPECT_EQ(joined, run);
  }
}

TEST(SplitPattern, ManyThreadsShareOne) {
  const SplitPattern pattern(test::kLlama3Pattern, std::string(kPlace));
  const std::string text = "There are 12345 things; isn't it?  \n\n Yes.";
  const Texts expected = split(pattern, text);
  std::vector<int> right(4, 0);
  std::vector<std::thread> threads;
  for (int& count : right)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += split(pattern, text) == expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(4, 200));
}

// ---- refusals ----

TEST(SplitPattern, RefusesWhatItCannotRunAsTheOriginal) {
  struct Case {
    const char* pattern;
    const char* says;
  };
  for (const Case& bad : {Case{"(a", "no regular expression"},
                          Case{"[a", "no regular expression"},
                          Case{"a\\", "\\"},
                          Case{"*a", "no regular expression"},
                          Case{"\\p{Nonsense}", "no regular expression"},
                          Case{"\\p{L", "\\\\p{"},
                          Case{"\\pL", "\\\\pL"},
                          Case{"[\\P{L}a]", "\\\\P{L}"},
                          Case{"\\w+", "\\\\w"},
                          Case{"\\ba", "\\\\b"},
                          Case{"\\h", "\\\\h"},
                          Case{"\\x41", "\\\\x"},
                          Case{"(a)\\1", "\\\\1"},
                          Case{"\\Ka", "\\\\K"},
                          Case{"[[:alpha:]]", "\"[\""},
                          Case{"[a&&b]", "\"&&\""},
                          Case{"(?m:a)", "(?m:"},
                          Case{"(?R)a", "(?R)"},
                          Case{"(*ACCEPT)a", "(*"},
                          Case{"a{,3}", "{,"},
                          Case{"a{1,2}+", "}+"},
                          Case{"a*", "empty"},
                          Case{"", "empty"},
                          Case{"(?=a)", "empty"}}) {
    SCOPED_TRACE(bad.pattern);
    expect_message(error_of<InputError>([&] { SplitPattern(bad.pattern, std::string(kPlace)); }),
                   {std::string(kPlace), bad.says});
  }
}

TEST(SplitPattern, RefusesATextThatTakesTooManySteps) {
  const SplitPattern pattern("(?:a+)+b", std::string(kPlace));
  EXPECT_EQ(split(pattern, "aab"), Texts{"aab"});
  const std::string text = std::string(60, 'a') + "cb";
  expect_message(error_of<InputError>([&] { split(pattern, text); }), {std::string(kPlace), "62 bytes", "limit"});
}

}  // namespace
}  // namespace loci
