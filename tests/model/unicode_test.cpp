#include "model/text/unicode.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>

#include "runtime/io/sha256.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

using unicode::CharClass;
using unicode::NfcText;

// ---- classes ----

/// The classes of all code points, as made from the files of the Unicode Character Database, version 16.0.
TEST(CharClass, HoldsUnicode16ToTheLastCodePoint) {
  std::string classes;
  for (char32_t code = 0; code < 0x110000; ++code) classes.push_back(static_cast<char>(unicode::char_class(code)));
  EXPECT_EQ(std::ranges::count(classes, static_cast<char>(CharClass::letter)), 141028);
  EXPECT_EQ(std::ranges::count(classes, static_cast<char>(CharClass::number)), 1911);
  EXPECT_EQ(std::ranges::count(classes, static_cast<char>(CharClass::space)), 25);
  EXPECT_EQ(Sha256().update(classes).hex(), "ba830e7f669dd0fcc40141409e2c8be621eead74b1d0d659dc89185f117d69c8");
}

TEST(CharClass, TellsWhatTheDigestCannot) {
  for (const char32_t code : {U'e', U'\u00E9', U'\u4E00', U'\u1C89', U'\uA7CB', U'\U00010D4A', U'\U00013460'})
    EXPECT_EQ(unicode::char_class(code), CharClass::letter) << std::hex << static_cast<unsigned>(code);
  for (const char32_t code : {U'7', U'\u00B2', U'\u2160', U'\U00010D40'})
    EXPECT_EQ(unicode::char_class(code), CharClass::number) << std::hex << static_cast<unsigned>(code);
  for (const char32_t code : {U' ', U'\t', U'\u0085', U'\u00A0', U'\u2028', U'\u3000'})
    EXPECT_EQ(unicode::char_class(code), CharClass::space) << std::hex << static_cast<unsigned>(code);
  for (const char32_t code : {char32_t{0}, U'!', U'\u0301', U'\u180E', U'\u200B', char32_t{0x1C8B}, char32_t{0xD800},
                              char32_t{0x110000}, char32_t{0xFFFFFFFF}})
    EXPECT_EQ(unicode::char_class(code), CharClass::other) << std::hex << static_cast<unsigned>(code);
}

TEST(CharClass, WhatCameSinceUnicode14RisesAndHasItsClass) {
  char32_t before = 0;
  for (const unicode::ClassRange& range : unicode::added_since_unicode_14()) {
    EXPECT_LT(before, range.first);
    EXPECT_LE(range.first, range.last);
    before = range.last;
    for (char32_t code = range.first; code <= range.last; ++code)
      ASSERT_EQ(unicode::char_class(code), range.char_class) << std::hex << static_cast<unsigned>(code);
  }
}

TEST(CharClass, WordsGoOnWithLettersMarksDigitsConnectorsAndJoiners) {
  for (const char32_t code : {U'a', U'\u00E9', U'7', U'\u0661', U'\u2160', U'_', U'\u203F', U'\u0301', U'\u0903',
                              U'\u20DD', U'\u200D', U'\u24B6', U'\U0001F170', U'\u4E00'})
    EXPECT_TRUE(unicode::is_of_word(code)) << std::hex << static_cast<unsigned>(code);
  for (const char32_t code : {U' ', U'-', U'.', U'\u00B2', U'\u00BD', U'\u2460', U'\u00A0', U'\u2014', U'\u200B', U'$'})
    EXPECT_FALSE(unicode::is_of_word(code)) << std::hex << static_cast<unsigned>(code);
}

// ---- NFC ----

std::string nfc(std::string_view text) { return NfcText(text).text(); }

/// The original's range for each character of the text in NFC.
std::vector<ByteRange> sources(std::string_view original) {
  const NfcText text(original);
  std::vector<ByteRange> ranges;
  for (std::size_t at = 0; at < text.text().size();) {
    const std::size_t end = at + utf8::decode(text.text(), at).length;
    ranges.push_back(text.original({static_cast<std::int64_t>(at), static_cast<std::int64_t>(end)}));
    at = end;
  }
  return ranges;
}

using Ranges = std::vector<ByteRange>;

TEST(Nfc, LeavesWhatIsInThisForm) {
  for (const char* text : {"", "a", "Paris 12", "caf\u00E9 na\u00EFve", "\u6771\u4EAC", "\uAC01\uAC00", "\u0301a",
                           "q\u0301", "\U0001F600"})
    EXPECT_EQ(nfc(text), text);
  EXPECT_EQ(NfcText("Paris").original({1, 3}), (ByteRange{1, 3}));
  EXPECT_EQ(NfcText("\u00E9").original({1, 2}), (ByteRange{1, 2})) << "bytes are kept apart where nothing changed";
}

TEST(Nfc, ComposesLatin) {
  EXPECT_EQ(nfc("cafe\u0301!"), "caf\u00E9!");
  EXPECT_EQ(sources("cafe\u0301!"), (Ranges{{0, 1}, {1, 2}, {2, 3}, {3, 6}, {6, 7}}));
  const NfcText text("e\u0301e\u0301");
  EXPECT_EQ(text.original({0, 1}), (ByteRange{0, 3})) << "half of a made character stands for all of its bytes";
  EXPECT_EQ(text.original({1, 3}), (ByteRange{0, 6}));
  EXPECT_EQ(text.original({0, 4}), (ByteRange{0, 6}));
}

TEST(Nfc, PutsMarksInOrderAndComposesThroughThem) {
  // A dot below goes before an acute accent: first in order, it joins the letter, and nothing has both.
  EXPECT_EQ(nfc("e\u0301\u0323"), "\u1EB9\u0301");
  EXPECT_EQ(sources("e\u0301\u0323"), (Ranges{{0, 5}, {1, 3}}));
  EXPECT_EQ(nfc("\u00E9\u0323"), "\u1EB9\u0301") << "a composed letter is taken apart first";
  EXPECT_EQ(sources("\u00E9\u0323"), (Ranges{{0, 4}, {0, 2}}));
  EXPECT_EQ(nfc("a\u0323\u0302"), "\u1EAD") << "two marks join one after the other";
  EXPECT_EQ(sources("a\u0323\u0302x"), (Ranges{{0, 5}, {5, 6}}));
  EXPECT_EQ(nfc("q\u0301\u0323"), "q\u0323\u0301") << "only their order changes";
  EXPECT_EQ(sources("q\u0301\u0323"), (Ranges{{0, 1}, {3, 5}, {1, 3}}));
  EXPECT_EQ(nfc("a\u0305\u0301"), "a\u0305\u0301") << "a mark of the same class is in the way";
}

TEST(Nfc, TakesApartWhatStaysApart) {
  // DEVANAGARI LETTER QA is excluded from composition.
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093C");
  EXPECT_EQ(sources("a\u0958"), (Ranges{{0, 1}, {1, 4}, {1, 4}}));
  EXPECT_EQ(nfc("\u212B"), "\u00C5") << "the angstrom sign is the letter";
  EXPECT_EQ(sources("\u212B"), (Ranges{{0, 3}}));
  EXPECT_EQ(nfc("\u0344"), "\u0308\u0301");
}

TEST(Nfc, ComposesHangul) {
  EXPECT_EQ(nfc("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(sources("\u1100\u1161\u11A8"), (Ranges{{0, 9}}));
  EXPECT_EQ(nfc("\u1100\u1161\u1100\u1161"), "\uAC00\uAC00");
  EXPECT_EQ(sources("\u1100\u1161\u1100\u1161"), (Ranges{{0, 6}, {6, 12}}));
  EXPECT_EQ(nfc("\uAC00\u11A8"), "\uAC01");
  EXPECT_EQ(nfc("\uAC01\u11A8"), "\uAC01\u11A8") << "it has its last consonant already";
  EXPECT_EQ(nfc("\u1100a\u1161"), "\u1100a\u1161");
}

TEST(Nfc, LeavesIllFormedBytesAndJoinsNothingAcrossThem) {
  EXPECT_EQ(nfc("e\xFF\u0301"), "e\xFF\u0301");
  EXPECT_EQ(nfc("\xC3"), "\xC3");
  EXPECT_EQ(nfc("e\xE2\x82"
                "e\u0301"),
            "e\xE2\x82\u00E9");
  EXPECT_EQ(sources("\xFF"
                    "e\u0301\xFF"),
            (Ranges{{0, 1}, {1, 4}, {4, 5}}));
}

/// Any code points, so often neighbours that joining and reordering happen.
std::string random_text(std::mt19937& random) {
  static const std::u32string kJoining =
      U"aeq \u00E9\u1EB9\u0301\u0323\u0302\u0345\u05B0\u093C\u0915\u0958\u09C7\u09BE\u1100\u1161\u11A8\uAC00"
      U"\u212B\u0344\uFB1D\U0001D15E\U0001D165\U000114B9\U000114BA";
  std::string text;
  for (int length = static_cast<int>(random() % 12); length > 0; --length) {
    char32_t code = random() % 4 ? kJoining[random() % kJoining.size()] : static_cast<char32_t>(random() % 0x110000);
    if (code >= 0xD800 && code < 0xE000) code = 'x';
    if (code == 0) code = 'y';
    utf8::append(text, code);
  }
  return text;
}

TEST(Nfc, IsTheFormThatTheLibraryGivesAWholeText) {
  std::mt19937 random(17);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = random_text(random);
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> expected(
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str())), &std::free);
    ASSERT_NE(expected, nullptr);
    ASSERT_EQ(nfc(text), reinterpret_cast<const char*>(expected.get())) << text;
  }
}

TEST(Nfc, EveryByteOfTheOriginalGoesIntoSomeCharacter) {
  std::mt19937 random(18);
  for (int i = 0; i < 5000; ++i) {
    std::string original = random_text(random);
    if (random() % 2 && !original.empty()) original[random() % original.size()] = static_cast<char>(random());
    std::vector<int> uses(original.size());
    for (const ByteRange& range : sources(original)) {
      ASSERT_LT(range.begin, range.end);
      ASSERT_LE(range.end, std::ssize(original));
      for (std::int64_t at = range.begin; at < range.end; ++at) ++uses[at];
    }
    ASSERT_EQ(std::ranges::count(uses, 0), 0) << original;
    const NfcText text(original);
    if (!original.empty()) {
      ASSERT_EQ(text.original({0, std::ssize(text.text())}), (ByteRange{0, std::ssize(original)})) << original;
    }
    ASSERT_EQ(nfc(text.text()), text.text()) << original;
  }
}

}  // namespace
}  // namespace loci
