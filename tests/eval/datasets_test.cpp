#include "eval/datasets.h"

#include <gtest/gtest.h>

#include "runtime/io/atomic_file.h"
#include "tests/eval/support.h"
#include "tests/support/paths.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

Json nested() {
  return Json::parse(R"({"case_id": 4, "requested_rewrite": {"prompt": "{} lives in", "relation_id": "P1",
    "subject": "Ann", "target_new": {"str": "Rome", "id": "Q2"}, "target_true": {"str": "Bonn", "id": "Q3"}},
    "paraphrase_prompts": ["Ann is in", "Where is Ann? In"], "neighborhood_prompts": ["Bob lives in"],
    "attribute_prompts": ["Eve lives in"], "generation_prompts": ["Ann"]})");
}
Json flat() {
  return Json::parse(R"({"case_id": 4, "prompt": "Ann lives in", "subject": "Ann", "target_new": "Rome",
    "ground_truth": "Bonn", "rephrase_prompt": "Ann is in", "locality_prompt": "Bob lives in",
    "locality_ground_truth": "Kiel"})");
}
Json mend() {
  return Json::parse(R"({"subject": "Ann", "src": "Where does Ann live?", "pred": "x", "rephrase": "Ann lives where?",
    "alt": "Rome", "answers": ["Bonn", "Kiel"], "loc": "nq question: who was it", "loc_ans": "Bob", "cond": ""})");
}

class DatasetsTest : public ::testing::Test {
 protected:
  DatasetsTest() : tokenizer_(byte_tokenizer()), config_(tiny_config()) {
    config_.vocabulary = 256;
    config_.positions = 60;
  }
  LoadedRecords read(const std::string& text, RecordOptions options = {}) {
    write_file_atomically(dir_.file("r.json"), text);
    return read_records(dir_.file("r.json"), options, tokenizer_, config_);
  }
  LoadedRecords read(const Json& json, RecordOptions options = {}) { return read(json.dump(), options); }

  /// Both that it is refused and that the sentence says where.
  void expect_refused(const Json& record, const std::string& part, RecordOptions options = {}) {
    SCOPED_TRACE(part);
    try {
      read(Json::array({record}), options);
      ADD_FAILURE() << "accepted";
    } catch (const InputError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("r.json: record 0"), message.npos) << message;
      EXPECT_NE(message.find(part), message.npos) << message;
      EXPECT_EQ(message.find('\n'), message.npos) << message;
    }
  }

  TemporaryDir dir_;
  Tokenizer tokenizer_;
  Architecture config_;
};

TEST_F(DatasetsTest, NestedCounterFact) {
  const auto loaded = read(Json::array({nested()}));
  ASSERT_EQ(loaded.records.size(), 1u);
  const EvalRecord& record = loaded.records[0];
  EXPECT_EQ(record.edit.case_id, 4);
  EXPECT_EQ(record.edit.subject, "Ann");
  EXPECT_EQ(record.request, nested()["requested_rewrite"]);
  ASSERT_EQ(record.prompts.size(), 5u);
  EXPECT_EQ(record.prompts[0].text, "Ann lives in");
  EXPECT_EQ(record.prompts[0].kind, PromptKind::rewrite);
  EXPECT_EQ(record.prompts[2].text, "Where is Ann? In");
  EXPECT_EQ(record.prompts[3].kind, PromptKind::neighborhood);
  EXPECT_EQ(record.prompts[4].kind, PromptKind::attribute);
  for (const auto& prompt : record.prompts) EXPECT_EQ(prompt.targets, (std::vector<std::string>{"Rome", "Bonn"}));
}

TEST_F(DatasetsTest, FlatCounterFactMarksTheSubject) {
  const auto loaded = read(Json::array({flat()}));
  const EvalRecord& record = loaded.records[0];
  EXPECT_EQ(record.edit.prompt, "{} lives in");
  EXPECT_EQ(record.request["prompt"], "{} lives in");
  EXPECT_EQ(record.request["target_true"]["str"], "Bonn");
  ASSERT_EQ(record.prompts.size(), 3u);
  EXPECT_EQ(record.prompts[0].text, "Ann lives in");
  EXPECT_EQ(record.prompts[2].targets, (std::vector<std::string>{"Rome", "Kiel"}));  // the neighbour's own answer
}

TEST_F(DatasetsTest, ZsreTowardsTheAnswerOrTheAlternative) {
  RecordOptions options{.dataset = Dataset::zsre};
  EvalRecord record = read(Json::array({mend(), mend()}), options).records[1];
  EXPECT_EQ(record.edit.case_id, 1);  // its place in the file
  EXPECT_EQ(record.edit.prompt, "Where does {} live?");
  EXPECT_EQ(record.edit.target_new, "Bonn");
  EXPECT_EQ(record.edit.target_true, "<|endoftext|>");
  EXPECT_EQ(record.prompts[2].text, "nq question: who was it?");
  EXPECT_EQ(record.prompts[2].targets, std::vector<std::string>{"Bob"});
  options.zsre_target = ZsreTarget::alternative;
  EXPECT_EQ(read(Json::array({mend()}), options).records[0].prompts[1].targets, std::vector<std::string>{"Rome"});
  record = read(Json::array({flat()}), options).records[0];  // EasyEdit's fields
  EXPECT_EQ(record.prompts[0].targets, std::vector<std::string>{"Rome"});
  EXPECT_EQ(record.prompts[2].targets, std::vector<std::string>{"Kiel"});
}

TEST_F(DatasetsTest, EveryMissingOrWrongFieldIsNamed) {
  for (const char* field : {"prompt", "subject", "target_new", "ground_truth", "rephrase_prompt", "locality_prompt",
                            "locality_ground_truth"}) {
    Json record = flat();
    record.erase(field);
    expect_refused(record, field);
    for (const Json& wrong : {Json(1.5), Json::array(), Json(nullptr), Json(true), Json(""), Json(" \u00A0")}) {
      record[field] = wrong;
      expect_refused(record, field);
    }
  }
  for (const Json& wrong : {Json(1.5), Json::array(), Json("4"), Json(true)}) {
    Json record = flat();
    record["case_id"] = wrong;
    expect_refused(record, "case_id");
  }
  for (const char* field : {"subject", "src", "rephrase", "answers", "loc", "loc_ans"}) {
    Json record = mend();
    if (std::string(field) == "src")
      record["src"] = 3;
    else
      record.erase(field);
    expect_refused(record, field, {.dataset = Dataset::zsre});
  }
  for (const char* field : {"prompt", "subject", "target_new", "target_true"}) {
    Json record = nested();
    record["requested_rewrite"].erase(field);
    expect_refused(record, field);
    record["requested_rewrite"][field] = Json::array({1});
    expect_refused(record, field);
  }
  for (const char* field : {"paraphrase_prompts", "neighborhood_prompts"}) {
    Json record = nested();
    record.erase(field);
    expect_refused(record, field);
    for (const char* blank : {"", " \n"}) {
      record[field] = Json::array({blank});
      expect_refused(record, field);
    }
  }
}

TEST_F(DatasetsTest, ThePromptHoldsItsSubjectOnce) {
  Json record = flat();
  record["prompt"] = "Bob lives in";
  expect_refused(record, "\"prompt\" holds neither {} nor the subject \"Ann\"");
  record["prompt"] = "Ann and Ann live in";
  expect_refused(record, "2 times");
  record = nested();
  record["requested_rewrite"]["prompt"] = "Bob lives in";
  expect_refused(record, "holds neither {} nor the subject");
  record["requested_rewrite"]["prompt"] = "{} and {}";
  expect_refused(record, "exactly one {}");
  record = mend();
  record["src"] = "Where does she live?";
  expect_refused(record, "\"src\" holds neither {} nor the subject", {.dataset = Dataset::zsre});
  record = mend();
  record["answers"] = Json::array();
  expect_refused(record, "\"answers\" is empty", {.dataset = Dataset::zsre});
}

TEST_F(DatasetsTest, EitherFormOfPromptIsTakenAsByEdit) {
  Json marked = flat(), filled = nested();
  marked["prompt"] = "{} lives in";
  filled["requested_rewrite"]["prompt"] = "Ann lives in";
  for (const Json& record : {marked, filled}) {
    const EvalRecord read_back = read(Json::array({record})).records[0];
    EXPECT_EQ(read_back.edit.prompt, "{} lives in");
    EXPECT_EQ(read_back.prompts[0].text, "Ann lives in");
  }
}

TEST_F(DatasetsTest, RecordsWithoutACaseAreNumberedByTheirPlace) {
  Json first = flat(), second = nested();
  first.erase("case_id");
  second.erase("case_id");
  const auto loaded = read(Json::array({first, second}));
  EXPECT_EQ(loaded.records[0].edit.case_id, 0);
  EXPECT_EQ(loaded.records[1].edit.case_id, 1);
}

TEST_F(DatasetsTest, JsonLinesGiveTheSameRecords) {
  Json other = flat();
  other["case_id"] = 5;
  const auto lines = read(nested().dump() + "\n" + other.dump() + "\n");
  const auto list = read(Json::array({nested(), other}));
  ASSERT_EQ(lines.records.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(lines.records[i].edit, list.records[i].edit);
    EXPECT_EQ(lines.records[i].request, list.records[i].request);
  }
  EXPECT_EQ(lines.sha256.size(), 64u);
}

TEST_F(DatasetsTest, WhiteSpaceAtTheEndsOfTextsIsLeftOut) {
  Json padded = nested();
  padded["requested_rewrite"]["prompt"] = "{} lives in ";
  padded["requested_rewrite"]["subject"] = " Ann";
  padded["requested_rewrite"]["target_new"]["str"] = " Rome\u00A0";
  padded["paraphrase_prompts"][0] = "Ann is in \t";
  padded["neighborhood_prompts"][0] = "Bob lives in\n";
  const auto loaded = read(Json::array({padded}));
  const EvalRecord clean = read(Json::array({nested()})).records[0];
  EXPECT_EQ(loaded.records[0].edit, clean.edit);
  EXPECT_EQ(loaded.records[0].request, clean.request);
  for (size_t p = 0; p < clean.prompts.size(); ++p) {
    EXPECT_EQ(loaded.records[0].prompts[p].text, clean.prompts[p].text);
    EXPECT_EQ(loaded.records[0].prompts[p].targets, clean.prompts[p].targets);
  }
  EXPECT_NE(loaded.trimmed.find("5 texts"), std::string::npos) << loaded.trimmed;

  Json question = mend();
  question["loc"] = "nq question: who was it ";
  question["loc_ans"] = " Bob";
  EXPECT_EQ(read(question, {.dataset = Dataset::zsre}).records[0].prompts[2].text, "nq question: who was it?");
  EXPECT_EQ(read(question, {.dataset = Dataset::zsre}).records[0].prompts[2].targets, std::vector<std::string>{"Bob"});
}

TEST_F(DatasetsTest, AnswersMayBeLists) {
  Json record = flat();
  record["ground_truth"] = Json::array({"Bonn", "Kiel"});
  record["target_new"] = Json::array({"Rome"});
  record["locality_ground_truth"] = Json::array({"Kiel"});
  const auto made = read(Json::array({record})).records[0], plain = read(Json::array({flat()})).records[0];
  EXPECT_EQ(made.edit, plain.edit);
  EXPECT_EQ(made.request, plain.request);
  EXPECT_EQ(made.prompts[2].targets, plain.prompts[2].targets);
}

TEST_F(DatasetsTest, PublishedRecordsHaveNoWhiteSpaceToLeaveOut) {
  const auto shared = shared_dir();
  if (!shared) GTEST_SKIP() << "no published records";
  config_.positions = 2000;  // bytes
  for (const auto& [name, dataset] : {std::pair{"counterfact", Dataset::counterfact}, {"zsre", Dataset::zsre}}) {
    const auto loaded =
        read_records(*shared / "data" / (std::string(name) + ".json"), {.dataset = dataset}, tokenizer_, config_);
    EXPECT_GE(loaded.records.size(), 500u);
    EXPECT_EQ(loaded.trimmed, "") << name;
    EXPECT_TRUE(loaded.warnings.empty()) << name;
  }
}

TEST_F(DatasetsTest, RefusedRecordsNameTheFlagThatLeavesThemOut) {
  Json record = flat();
  record.erase("subject");
  expect_refused(record, "skip-invalid");
}

TEST_F(DatasetsTest, RecordsThatAreNoneAreRefused) {
  for (const Json& record : {Json(1), Json("x"), Json::array(), Json(nullptr)}) expect_refused(record, "object");
  expect_refused(Json::object(), "subject");
  EXPECT_THROW(read(Json::object()), InputError);
  EXPECT_THROW(read(Json::array()), InputError);
  EXPECT_THROW(read(std::string("[{]")), InputError);
  EXPECT_THROW(read(std::string("")), InputError);
  EXPECT_THROW(read_records(dir_.file("absent.json"), {}, tokenizer_, config_), InputError);
}

TEST_F(DatasetsTest, DoubledCaseIsRefused) {
  try {
    read(Json::array({nested(), flat()}));
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("record 1 (case_id 4): field \"case_id\" repeats that of record 0"),
              std::string::npos)
        << error.what();
  }
}

TEST_F(DatasetsTest, TooLongPromptIsRefused) {
  Json record = flat();
  record["locality_prompt"] = std::string(56, 'x');  // + " Rome" = 61 > 60
  expect_refused(record, "the neighborhood prompt");
  record["locality_prompt"] = std::string(55, 'x');
  EXPECT_NO_THROW(read(Json::array({record})));
}

TEST_F(DatasetsTest, SkipInvalidKeepsTheRestAndSaysWhy) {
  Json bad = flat();
  bad.erase("subject");
  Json other = flat();
  other["case_id"] = 5;
  const auto loaded = read(Json::array({bad, flat(), flat(), other, 7}), {.on_invalid = OnInvalid::skip});
  ASSERT_EQ(loaded.records.size(), 2u);
  EXPECT_EQ(loaded.records[1].edit.case_id, 5);
  ASSERT_EQ(loaded.skipped.size(), 3u);
  EXPECT_NE(loaded.skipped[0].find("subject"), std::string::npos);
  EXPECT_THROW(read(Json::array({bad}), {.on_invalid = OnInvalid::skip}), InputError);  // nothing is left
}

TEST_F(DatasetsTest, LimitKeepsTheFirstRecordsButChecksAll) {
  Json other = flat();
  other["case_id"] = 5;
  EXPECT_EQ(read(Json::array({flat(), other}), {.limit = 1}).records.size(), 1u);
  other.erase("subject");
  EXPECT_THROW(read(Json::array({flat(), other}), {.limit = 1}), InputError);
}

TEST_F(DatasetsTest, TargetsFollowWithOneSpace) {
  const EvalPrompt prompt{PromptKind::rewrite, "a b", {"cd", " ef"}};
  const PreparedPrompt prepared = prepare_prompt(prompt, tokenizer_, TeacherForcing::tokens);
  EXPECT_EQ(prepared.parts[0].tokens, bytes_of("a b"));
  EXPECT_EQ(prepared.target_tokens, (std::vector{bytes_of(" cd"), bytes_of(" ef")}));
}

TEST_F(DatasetsTest, TextForcingSplitsWhereATokenEndsInsideACharacter) {
  const EvalPrompt plain{PromptKind::rewrite, "q", {"ab"}};
  EXPECT_EQ(prepare_prompt(plain, tokenizer_, TeacherForcing::text).parts.size(), 1u);
  const EvalPrompt accent{PromptKind::rewrite, "q", {"\u00e9"}};  // C3 A9: two tokens of this tokenizer
  const PreparedPrompt prepared = prepare_prompt(accent, tokenizer_, TeacherForcing::text);
  ASSERT_EQ(prepared.parts.size(), 3u);
  EXPECT_EQ(prepared.parts[1].tokens, bytes_of("q "));
  EXPECT_EQ(prepared.parts[2].tokens, bytes_of("q \ufffd"));  // what the lossy decoder makes of half a character
  EXPECT_EQ(prepared.target_tokens[0], (std::vector<int32_t>{' ', 0xEF, 0xEF}));
  const PromptScore joined = prepared.join(std::vector<PromptScore>{{{{-1}, {4}}}, {{{-2}, {5}}}, {{{-3}, {6}}}});
  EXPECT_EQ(joined[0].log_probabilities, (std::vector<float>{-1, -2, -3}));
  EXPECT_EQ(joined[0].best, (std::vector<int32_t>{4, 5, 6}));
  EXPECT_EQ(prepare_prompt(accent, tokenizer_, TeacherForcing::tokens).parts.size(), 1u);
}

}  // namespace
}  // namespace loci::test
