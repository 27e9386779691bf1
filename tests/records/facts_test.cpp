// Fact files: what is read, the subject's place, and files that must be refused.
#include "records/facts.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "runtime/io/json.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

class FactFiles : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (const auto shared = shared_dir()) tokenizer_.emplace(Tokenizer::load(*shared / "golden/tiny-a/model"));
  }
  void SetUp() override {
    if (!tokenizer_) GTEST_SKIP() << "no reference outputs";
  }
  static FactFile parse(const std::string& text, OnInvalid invalid = OnInvalid::refuse, int64_t limit = 160) {
    return parse_facts(text, "facts.json", *tokenizer_, limit, invalid);
  }
  static Json record(int64_t id, const std::string& subject, const std::string& prompt) {
    return {{"known_id", id}, {"subject", subject}, {"attribute", "x"}, {"prompt", prompt}, {"relation_id", "P1"}};
  }
  static void expect_refused(const Json& list, const std::vector<std::string>& parts) {
    expect_message(error_of<InputError>([&] { parse(list.dump()); }), parts);
  }
  static inline std::optional<Tokenizer> tokenizer_;
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

TEST_F(FactFiles, OnlySubjectAndPromptAreNeeded) {
  const FactFile file = parse(R"([{"subject": "a", "prompt": "a b"},
                                  {"subject": "c", "prompt": "c d", "known_id": 7, "attribute": null}])");
  ASSERT_EQ(file.facts.size(), 2u);
  EXPECT_EQ(file.facts[0].known_id, 0);  // its place
  EXPECT_EQ(file.facts[1].known_id, 7);
  for (const Fact& fact : file.facts) EXPECT_EQ(fact.attribute, "");
  expect_refused(
      Json::parse(R"([{"subject": "a", "prompt": "a b", "known_id": 1}, {"subject": "a", "prompt": "a b"}])"),
      {"record 1", "without a field \"known_id\"", "record 0"});
}

TEST_F(FactFiles, JsonLinesAndASingleObject) {
  const FactFile lines = parse(record(3, "a", "a b").dump() + "\n\n" + record(5, "c", "c d").dump() + "\n");
  ASSERT_EQ(lines.facts.size(), 2u);
  EXPECT_EQ(lines.facts[1].known_id, 5);
  EXPECT_EQ(lines.facts[1].record, 1);
  EXPECT_EQ(parse(record(3, "a", "a b").dump()).facts.size(), 1u);
  expect_message(
      error_of<InputError>([&] { parse(record(3, "a", "a b").dump() + "\n" + record(5, "z", "a b").dump()); }),
      {"facts.json: line 2 (known_id 5)", "does not occur"});
}

TEST_F(FactFiles, BadRecordsAreNamed) {
  const Json good = record(1, "a", "a b");
  for (const char* field : {"subject", "prompt"}) {
    Json bad = record(2, "a", "a b");
    bad.erase(field);
    expect_refused(Json::array({good, bad}), {"facts.json", "record 1", field, "skip-invalid"});
    bad[field] = nullptr;
    expect_refused(Json::array({good, bad}), {"record 1", field});
  }
  for (const char* field : {"known_id", "subject", "attribute", "prompt"}) {
    Json bad = record(2, "a", "a b");
    bad[field] = Json::array();
    expect_refused(Json::array({good, bad}), {"record 1", field});
    if (std::string(field) == "known_id") continue;
    for (const char* blank : {"", " ", "\u00A0\t"}) {
      bad[field] = blank;
      expect_refused(Json::array({good, bad}), {"record 1", field, "empty"});
    }
  }
  expect_refused(Json::array({good, record(1, "a", "a c")}), {"record 1 (known_id 1)", "repeats that of record 0"});
  expect_refused(Json::array({good, record(3, "z", "a b")}), {"record 1", "subject", "\"z\"", "a b"});
  Json fraction = record(2, "a", "a b");
  fraction["known_id"] = 1.5;
  expect_refused(Json::array({fraction}), {"record 0", "known_id"});
  Json relation = record(2, "a", "a b");
  relation["relation_id"] = 5;
  expect_refused(Json::array({relation}), {"record 0", "relation_id"});
}

TEST_F(FactFiles, WhiteSpaceAtTheEndsOfTextsIsLeftOut) {
  Json padded = record(1, " Vietnam\u00A0", "In Vietnam they \n");
  padded["attribute"] = " x\t";
  padded["template"] = "In {} ";
  const FactFile file = parse(Json::array({padded}).dump());
  const Fact clean = parse(Json::array({record(1, "Vietnam", "In Vietnam they")}).dump()).facts[0];
  ASSERT_EQ(file.facts.size(), 1u);
  const Fact& fact = file.facts[0];
  EXPECT_EQ(fact.subject, clean.subject);
  EXPECT_EQ(fact.prompt, clean.prompt);
  EXPECT_EQ(fact.attribute, clean.attribute);
  EXPECT_EQ(fact.tokens, clean.tokens);
  EXPECT_EQ(fact.subject_range, clean.subject_range);
  EXPECT_EQ(file.subjects, std::vector<std::string>{"Vietnam"});
  expect_message(file.trimmed, {"facts.json", "4 texts", "record 0"});
  EXPECT_TRUE(file.warnings.empty());
}

TEST_F(FactFiles, TheTemplateSaysWhereTheSubjectIs) {
  const std::string prompt = "Arthur admires Art";
  const auto place_in = [&](const Json& fact, SubjectChoice choice, std::vector<std::string>& warnings) {
    FactFile file = parse_facts(fact.dump(), "facts.json", *tokenizer_, 160, OnInvalid::refuse, choice);
    warnings = std::move(file.warnings);
    const auto [begin, end] = file.facts[0].subject_range;
    const std::span<const int32_t> tokens(file.facts[0].tokens);
    return tokenizer_->decode(tokens.first(static_cast<size_t>(begin))).size();
  };
  std::vector<std::string> warnings;
  Json fact = record(1, "Art", prompt);
  EXPECT_EQ(place_in(fact, SubjectChoice::whole_word, warnings), std::string("Arthur admires").size());
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(place_in(fact, SubjectChoice::first_occurrence, warnings), 0u);
  ASSERT_EQ(warnings.size(), 1u);
  expect_message(warnings[0], {"facts.json: record 0 (known_id 1)", "\"[Art]hur admires Art\""});

  fact["template"] = "{}hur admires";  // the beginning of the prompt, as in published facts
  EXPECT_EQ(place_in(fact, SubjectChoice::whole_word, warnings), 0u);
  EXPECT_TRUE(warnings.empty());
  fact["template"] = "Arthur admires {}";
  EXPECT_EQ(place_in(fact, SubjectChoice::whole_word, warnings), std::string("Arthur admires").size());
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(place_in(fact, SubjectChoice::first_occurrence, warnings), 0u);
  ASSERT_EQ(warnings.size(), 1u);
  expect_message(warnings[0], {"published code", "\"[Art]hur admires Art\"", "\"Arthur admires [Art]\""});

  // A prompt may mark the place itself.
  EXPECT_EQ(parse(record(1, "Art", "Arthur admires {}").dump()).facts[0].prompt, prompt);
  EXPECT_EQ(parse(record(1, "Ann", "Ann meets {}").dump()).facts[0].prompt, "Ann meets Ann");
  EXPECT_EQ(parse(record(1, "Art", "{} {} Art").dump()).facts[0].prompt, "{} {} Art");
}

TEST_F(FactFiles, AnAmbiguousPlaceIsAWarning) {
  const auto warnings_of = [&](const std::string& subject, const std::string& prompt) {
    return parse(Json::array({record(1, "a", "a b"), record(2, subject, prompt)}).dump()).warnings;
  };
  EXPECT_TRUE(warnings_of("Ann", "Ann meets Anna").empty());
  ASSERT_EQ(warnings_of("Ann", "Ann meets Ann").size(), 1u);
  expect_message(warnings_of("Ann", "Ann meets Ann")[0],
                 {"facts.json: record 1 (known_id 2)", "2 times", "\"[Ann] meets Ann\"", "by {}"});
  ASSERT_EQ(warnings_of("Ann", "We meet Anna").size(), 1u);
  expect_message(warnings_of("Ann", "We meet Anna")[0], {"record 1", "inside another word", "\"We meet [Ann]a\""});
}

TEST_F(FactFiles, ATemplateOfAnotherPromptIsRefused) {
  Json fact = record(1, "Vietnam", "In Vietnam they");
  fact["template"] = "In {} we";
  expect_refused(Json::array({fact}), {"record 0", "\"template\"", "\"In Vietnam we\"", "\"In Vietnam they\""});
  fact["prompt"] = "In Vietnam " + std::string(100, 'x') + " they";
  fact["template"] = "In {} " + std::string(100, 'x') + " we";
  expect_refused(Json::array({fact}), {"...\"xxx", "x we\"", "x they\""});
  fact["template"] = "In Vietnam they";
  expect_refused(Json::array({fact}), {"record 0", "\"template\"", "exactly one {}", "got 0"});
  fact["template"] = "{} and {}";
  expect_refused(Json::array({fact}), {"\"template\"", "got 2"});
  fact["template"] = 3;
  expect_refused(Json::array({fact}), {"\"template\"", "3"});
}

TEST_F(FactFiles, TextsThatLookTheSameAreShownEscaped) {
  expect_refused(Json::array({record(1, "New\u00A0York", "In New York they")}),
                 {"record 0", "New\\u00a0York", "\"In New York they\""});
  expect_refused(Json::array({record(1, "Zu\u0308rich", "In Z\u00FCrich they")}),
                 {"Zu\\u0308rich", "\"In Zürich they\""});
  Json fact = record(1, "Rome", "In Rome we");
  fact["template"] = "In\u00A0{} we";
  expect_refused(Json::array({fact}), {"\"template\"", "In\\u00a0Rome we"});
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
       {"", "{}", "5", "[", "x\ny", "[1]", "[[]]", "[null]", "[{\"known_id\": 1, \"known_id\": 2}]", "[NaN]"})
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
    ASSERT_LE(fact.subject_range.end, std::ssize(fact.tokens)) << fact.prompt;
    const std::span<const int32_t> tokens(fact.tokens);
    const auto range = tokens.subspan(static_cast<size_t>(fact.subject_range.begin),
                                      static_cast<size_t>(fact.subject_range.end - fact.subject_range.begin));
    EXPECT_NE(tokenizer_->decode(range).find(fact.subject), std::string::npos) << fact.prompt;
  }
  // Templates and whole words choose what the published code takes.
  EXPECT_TRUE(file.warnings.empty());
  EXPECT_EQ(file.trimmed, "");
  const FactFile published = read_facts(path, *tokenizer_, 160, OnInvalid::skip, SubjectChoice::first_occurrence);
  EXPECT_TRUE(published.warnings.empty());
  ASSERT_EQ(published.facts.size(), file.facts.size());
  for (size_t i = 0; i < file.facts.size(); ++i)
    EXPECT_EQ(published.facts[i].subject_range, file.facts[i].subject_range) << file.facts[i].prompt;
}

}  // namespace
}  // namespace loci::test
