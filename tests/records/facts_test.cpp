// Fact files: token ranges by byte offsets, and files that must be refused.
#include "records/facts.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "runtime/json.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

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

TEST(TokenRange, HoldsEveryByteOfThePart) {
  // The| Spa|ce Nee|dle| is
  const std::string text = "The Space Needle is";
  const Encoding encoding = encoding_of({3, 7, 13, 16, 19});
  EXPECT_EQ(token_range(encoding, text, "Space Needle", "x"), (TokenRange{1, 4}));
  EXPECT_EQ(token_range(encoding, text, "The Space Needle", "x"), (TokenRange{0, 4}));
  EXPECT_EQ(token_range(encoding, text, "ace", "x"), (TokenRange{1, 3}));
  EXPECT_EQ(token_range(encoding, text, "ce", "x"), (TokenRange{2, 3}));
  EXPECT_EQ(token_range(encoding, text, " is", "x"), (TokenRange{4, 5}));
}

TEST(TokenRange, CharactersThatAreCutIntoTokens) {
  const std::string text = "\xE6\x9D\xB1\xE4\xBA\xAC is";  // two characters of three bytes
  const Encoding encoding = encoding_of({2, 4, 6, 9});     // cut inside both
  EXPECT_EQ(token_range(encoding, text, "\xE6\x9D\xB1", "x"), (TokenRange{0, 2}));
  EXPECT_EQ(token_range(encoding, text, "\xE4\xBA\xAC", "x"), (TokenRange{1, 3}));
  EXPECT_EQ(token_range(encoding, text, "\xE6\x9D\xB1\xE4\xBA\xAC", "x"), (TokenRange{0, 3}));
}

TEST(TokenRange, TheFirstOccurrenceCounts) {
  EXPECT_EQ(token_range(encoding_of({1, 2, 3, 4}), "abab", "ab", "x"), (TokenRange{0, 2}));
}

TEST(TokenRange, AnAbsentPartIsRefused) {
  const auto message = error_of<InputError>([] { token_range(encoding_of({3}), "abc", "x", "f.json: record 3"); });
  expect_message(message, {"f.json: record 3", "\"x\"", "abc"});
}

TEST(Strip, RemovesUnicodeSpaceAtBothEnds) {
  EXPECT_EQ(strip("  Seattle\t\n"), "Seattle");
  EXPECT_EQ(strip("\xC2\xA0new york\xE3\x80\x80"), "new york");
  EXPECT_EQ(strip(" \x1f\v\f\r"), "");
  EXPECT_EQ(strip(""), "");
  EXPECT_EQ(strip("\xE6\x9D"), "\xE6\x9D");  // a cut character is no space
}

class FactFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto shared = shared_dir();
    if (!shared) GTEST_SKIP() << "no reference outputs";
    tokenizer_.emplace(Tokenizer::load(*shared / "golden/tiny-a/model"));
  }
  FactFile parse(const std::string& text, OnInvalid invalid = OnInvalid::refuse, int64_t limit = 160) {
    return parse_facts(text, "facts.json", *tokenizer_, limit, invalid);
  }
  static Json record(int64_t id, const std::string& subject, const std::string& prompt) {
    return {{"known_id", id}, {"subject", subject}, {"attribute", "x"}, {"prompt", prompt}, {"relation_id", "P1"}};
  }
  void expect_refused(const Json& list, const std::vector<std::string>& parts) {
    expect_message(error_of<InputError>([&] { parse(list.dump()); }), parts);
  }
  std::optional<Tokenizer> tokenizer_;
};

TEST_F(FactFiles, AreRead) {
  const FactFile file = parse(Json::array({record(7, "Vietnam", "In Vietnam they")}).dump());
  ASSERT_EQ(file.facts.size(), 1u);
  EXPECT_EQ(file.facts[0].known_id, 7);
  EXPECT_EQ(file.facts[0].relation_id, "P1");
  EXPECT_EQ(file.facts[0].subject_range, (TokenRange{1, 2}));
  EXPECT_EQ(file.subjects, std::vector<std::string>{"Vietnam"});
  EXPECT_EQ(file.sha256.size(), 64u);
}

TEST_F(FactFiles, BadRecordsAreNamed) {
  const Json good = record(1, "a", "a b");
  for (const char* field : {"known_id", "subject", "attribute", "prompt"}) {
    Json bad = record(2, "a", "a b");
    bad.erase(field);
    expect_refused(Json::array({good, bad}), {"facts.json", "record 1", field, "--skip-invalid"});
    bad[field] = Json::array();
    expect_refused(Json::array({good, bad}), {"record 1", field});
    bad[field] = nullptr;
    expect_refused(Json::array({good, bad}), {"record 1", field});
    if (std::string(field) == "known_id") continue;
    bad[field] = "";
    expect_refused(Json::array({good, bad}), {"record 1", field, "empty"});
  }
  expect_refused(Json::array({good, record(1, "a", "a c")}),
                 {"record 1", "known_id", "1 is already the id of record 0"});
  expect_refused(Json::array({good, record(3, "z", "a b")}), {"record 1", "subject", "\"z\"", "a b"});
  Json fraction = record(2, "a", "a b");
  fraction["known_id"] = 1.5;
  expect_refused(Json::array({fraction}), {"record 0", "known_id"});
  Json relation = record(2, "a", "a b");
  relation["relation_id"] = 5;
  expect_refused(Json::array({relation}), {"record 0", "relation_id"});
}

TEST_F(FactFiles, LongPromptsAreRefused) {
  std::string prompt = "a";
  for (int i = 0; i < 20; ++i) prompt += " b";
  const auto message =
      error_of<InputError>([&] { parse(Json::array({record(1, "a", prompt)}).dump(), OnInvalid::refuse, 20); });
  expect_message(message, {"facts.json", "record 0", "prompt", "21 tokens", "20"});
}

TEST_F(FactFiles, BadFilesAreRefusedEvenWhenRecordsMayBeSkipped) {
  for (const char* text :
       {"", "{}", "5", "[", "[1]", "[[]]", "[null]", "[{\"known_id\": 1, \"known_id\": 2}]", "[NaN]"})
    for (const auto invalid : {OnInvalid::refuse, OnInvalid::skip})
      expect_message(error_of<InputError>([&] { parse(text, invalid); }), {"facts.json"});
  Json zero = record(1, "a", "a b");
  zero["relation_id"] = std::string("P\0", 2);
  expect_message(error_of<InputError>([&] { parse(Json::array({zero}).dump()); }), {"relation_id", "U+0000"});
  expect_message(error_of<InputError>([&] { parse("[]", OnInvalid::skip); }), {"facts.json", "no fact"});
}

TEST_F(FactFiles, SkippedRecordsAreListedAndTheirSubjectsKept) {
  Json nameless = record(4, "q", "q r");
  nameless.erase("subject");
  const Json list = Json::array({record(1, "a", "a b"), record(1, "c", "c d"), record(3, "z", "a b"), nameless});
  const FactFile file = parse(list.dump(), OnInvalid::skip);
  ASSERT_EQ(file.facts.size(), 1u);
  EXPECT_EQ(file.skipped.size(), 3u);
  EXPECT_EQ(file.subjects, (std::vector<std::string>{"a", "c", "z"}));
}

TEST_F(FactFiles, EveryPublishedFactIsValidOrNamed) {
  const auto path = *shared_dir() / "data/known_facts.json";
  const FactFile file = read_facts(path, *tokenizer_, 160, OnInvalid::skip);
  EXPECT_GT(file.facts.size(), 600u);
  for (const Fact& fact : file.facts) {
    ASSERT_LT(fact.subject_range.begin, fact.subject_range.end) << fact.prompt;
    ASSERT_LE(fact.subject_range.end, static_cast<int64_t>(fact.tokens.size())) << fact.prompt;
    const std::span<const int32_t> tokens(fact.tokens);
    const auto range = tokens.subspan(static_cast<size_t>(fact.subject_range.begin),
                                      static_cast<size_t>(fact.subject_range.end - fact.subject_range.begin));
    EXPECT_NE(tokenizer_->decode(range).find(fact.subject), std::string::npos) << fact.prompt;
  }
}

}  // namespace
}  // namespace loci::test
