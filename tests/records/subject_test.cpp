// White space at the ends of texts, the place of a subject in its prompt, and its tokens.
#include "records/subject.h"

#include <gtest/gtest.h>

namespace loci::test {
namespace {

Encoding encoding_of(const std::vector<int64_t>& ends) {
  Encoding encoding;
  int64_t begin = 0;
  for (const int64_t end : ends) {
    encoding.ids.push_back(0);
    encoding.offsets.push_back({begin, end});
    begin = end;
  }
  return encoding;
}

/// The bytes of the first `part`.
ByteRange bytes_of(std::string_view text, std::string_view part) {
  const auto begin = static_cast<int64_t>(text.find(part));
  return {begin, begin + std::ssize(part)};
}

TEST(Strip, RemovesUnicodeSpaceAtBothEnds) {
  EXPECT_EQ(strip("  Seattle\t\n"), "Seattle");
  EXPECT_EQ(strip("\u00A0new york\u3000"), "new york");
  EXPECT_EQ(strip("\u2009\u202F\u2028x y\u1680\u0085"), "x y");
  EXPECT_EQ(strip(" \x1f\v\f\r"), "");
  EXPECT_EQ(strip(""), "");
  EXPECT_EQ(strip("\xE6\x9D"), "\xE6\x9D");  // a cut character is not white space
  EXPECT_EQ(strip("\u200Bx"), "\u200Bx");    // nor is a character without width
  EXPECT_EQ(strip_end(" a \u00A0\t"), " a");
  EXPECT_EQ(strip_end("\n "), "");
}

TEST(TokenRange, HoldsEveryByteOfThePart) {
  // The| Spa|ce Nee|dle| is
  const std::string text = "The Space Needle is";
  const Encoding encoding = encoding_of({3, 7, 13, 16, 19});
  const auto range = [&](std::string_view part) { return token_range(encoding, bytes_of(text, part)); };
  EXPECT_EQ(range("Space Needle"), (TokenRange{1, 4}));
  EXPECT_EQ(range("The Space Needle"), (TokenRange{0, 4}));
  EXPECT_EQ(range("ace"), (TokenRange{1, 3}));
  EXPECT_EQ(range("ce"), (TokenRange{2, 3}));
  EXPECT_EQ(range(" is"), (TokenRange{4, 5}));
  EXPECT_EQ(range("s"), (TokenRange{4, 5}));
  EXPECT_EQ(range("T"), (TokenRange{0, 1}));
}

TEST(TokenRange, CharactersThatAreCutIntoTokens) {
  const std::string text = "\xE6\x9D\xB1\xE4\xBA\xAC is";  // two characters of three bytes
  const Encoding encoding = encoding_of({2, 4, 6, 9});     // cut inside both
  const auto range = [&](std::string_view part) { return token_range(encoding, bytes_of(text, part)); };
  EXPECT_EQ(range("\xE6\x9D\xB1"), (TokenRange{0, 2}));
  EXPECT_EQ(range("\xE4\xBA\xAC"), (TokenRange{1, 3}));
  EXPECT_EQ(range("\xE6\x9D\xB1\xE4\xBA\xAC"), (TokenRange{0, 3}));
}

/// The prompt with brackets around the place that is taken, and how many there were to choose from.
std::string found(std::string_view prompt, std::string_view subject, SubjectChoice choice = SubjectChoice::whole_word) {
  const SubjectPlace place = find_subject(prompt, subject, choice);
  if (place.candidates == 0) return "none";
  std::string text(prompt);
  text.insert(static_cast<size_t>(place.bytes.end), "]").insert(static_cast<size_t>(place.bytes.begin), "[");
  return text + (place.whole_word ? " word " : " part ") + std::to_string(place.candidates);
}

TEST(FindSubject, AWholeWordGoesFirst) {
  EXPECT_EQ(found("Arthur admires Art", "Art"), "Arthur admires [Art] word 1");
  EXPECT_EQ(found("Bart and Art's friend", "Art"), "Bart and [Art]'s friend word 1");
  EXPECT_EQ(found("The iPhone4 follows the iPhone", "iPhone"), "The iPhone4 follows the [iPhone] word 1");
  EXPECT_EQ(found("in_Rome, Rome", "Rome"), "in_Rome, [Rome] word 1");
  EXPECT_EQ(found("Arthur admires", "Art"), "[Art]hur admires part 1");
  EXPECT_EQ(found("Arthur and Arty", "Art"), "[Art]hur and Arty part 2");
  EXPECT_EQ(found("Ann and Ann live", "Ann"), "[Ann] and Ann live word 2");
  EXPECT_EQ(found("Ann", "Ann"), "[Ann] word 1");
  EXPECT_EQ(found("Ann", "Bob"), "none");
  EXPECT_EQ(found("", "Bob"), "none");
}

TEST(FindSubject, LettersOfOtherAlphabetsAndAccentsGoOnWithAWord) {
  EXPECT_EQ(found("Köln, Kö", "Kö"), "Köln, [Kö] word 1");
  EXPECT_EQ(found("éArt Art", "Art"), "éArt [Art] word 1");
  EXPECT_EQ(found("Cafe\u0301 Cafe", "Cafe"), "Cafe\u0301 [Cafe] word 1");  // the accent is a character of its own
  EXPECT_EQ(found("Мария, Мари", "Мари"), "Мария, [Мари] word 1");
  EXPECT_EQ(found("(Art)", "Art"), "([Art]) word 1");
  EXPECT_EQ(found("the U.S.-born", "U.S."), "the [U.S.]-born word 1");
}

TEST(FindSubject, ScriptsWithoutSpacesBetweenWords) {
  EXPECT_EQ(found("東京は日本の", "東京"), "[東京]は日本の word 1");
  EXPECT_EQ(found("서울은 도시", "서울"), "[서울]은 도시 word 1");
  EXPECT_EQ(found("กรุงเทพเป็น", "กรุงเทพ"), "[กรุงเทพ]เป็น word 1");
}

TEST(FindSubject, ThePublishedCodeTakesTheFirstOccurrence) {
  EXPECT_EQ(found("Arthur admires Art", "Art", SubjectChoice::first_occurrence), "[Art]hur admires Art part 1");
  EXPECT_EQ(found("Ann and Ann", "Ann", SubjectChoice::first_occurrence), "[Ann] and Ann word 2");
  EXPECT_EQ(found("Ann is", "Ann", SubjectChoice::first_occurrence), "[Ann] is word 1");
}

TEST(KeepWordsApart, WhiteSpaceOfASubjectMaySeparateWords) {
  EXPECT_EQ(keep_words_apart("{} is", "Rome "), "{} is");
  EXPECT_EQ(keep_words_apart("{}is", "Rome "), "{} is");
  EXPECT_EQ(keep_words_apart("{}, the", "Rome "), "{}, the");
  EXPECT_EQ(keep_words_apart("in{}is", "  Rome "), "in  {} is");
  EXPECT_EQ(keep_words_apart("in{}", "Rome "), "in{}");  // as the file has it
  EXPECT_EQ(keep_words_apart("no mark", " Rome"), "no mark");
}

TEST(ShowPlace, BracketsThePlace) {
  EXPECT_EQ(show_place("Arthur", {0, 3}), "\"[Art]hur\"");
  const std::string lead(300, 'x');
  EXPECT_EQ(show_place(lead + "é Art", {303, 306}), "...\"" + std::string(37, 'x') + "é [Art]\"");
}

}  // namespace
}  // namespace loci::test
