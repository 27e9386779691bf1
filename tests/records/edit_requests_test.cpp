// Edit requests: every accepted form, and what is refused.
#include "records/edit_requests.h"

#include <gtest/gtest.h>

#include "tests/support/byte_tokenizer.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

LoadedRequests parse(const std::string& text, OnInvalid invalid = OnInvalid::refuse) {
  return parse_requests(text, "r.json", byte_tokenizer(), tiny_config(4, 3, 7, 50, 256, 64), invalid);
}

TEST(Requests, RewriteObject) {
  const auto loaded = parse(R"([{"prompt": "{}, the", "subject": "Toko", "relation_id": "P1",
                                 "target_new": {"str": "piano", "id": "Q1"}, "target_true": {"str": "guitar"}}])");
  EXPECT_EQ(loaded.requests, (std::vector<EditRequest>{{0, "{}, the", "Toko", "piano", "guitar"}}));
  EXPECT_EQ(loaded.sha256.size(), 64u);
}

TEST(Requests, WholeCounterFactRecord) {
  const auto loaded = parse(R"([{"case_id": 7, "pararel_idx": 3, "paraphrase_prompts": ["a"],
      "requested_rewrite": {"prompt": "Of {} the", "subject": "Rome", "target_new": {"str": "x"},
                            "target_true": {"str": "y"}}}])");
  EXPECT_EQ(loaded.requests, (std::vector<EditRequest>{{7, "Of {} the", "Rome", "x", "y"}}));
}

TEST(Requests, EasyEditPromptHoldsTheSubject) {
  const auto loaded = parse(R"({"case_id": 2, "prompt": "Toko Yasuda, the", "target_new": "piano",
                                "subject": "Toko Yasuda", "ground_truth": "guitar", "rephrase_prompt": "p"})");
  EXPECT_EQ(loaded.requests, (std::vector<EditRequest>{{2, "{}, the", "Toko Yasuda", "piano", "guitar"}}));
}

TEST(Requests, ZsreGoesTowardsTheFirstAnswer) {
  const auto loaded = parse(R"([{"subject": "UniFirst", "src": "What does UniFirst make?", "pred": "u",
                                 "alt": "drone", "answers": ["uniform", "cloth"]}])");
  EXPECT_EQ(loaded.requests, (std::vector<EditRequest>{{0, "What does {} make?", "UniFirst", "uniform", ""}}));
}

TEST(Requests, BadInputIsRefusedInOneSentence) {
  const std::string rest = R"(, "subject": "Rome", "target_new": {"str": "x"})";
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"", {"r.json"}},
      {"[", {"r.json"}},
      {"3", {"r.json", "list"}},
      {"{\"subject\": \"a\"}\nx", {"r.json: line 1: field \"prompt\""}},
      {"\nx", {"r.json: line 2"}},
      {"[]", {"no edit request"}},
      {"[3]", {"record 0", "object"}},
      {"[null]", {"record 0", "object"}},
      {"[{}]", {"record 0", "\"subject\""}},
      {R"([{"prompt": "{} is"}])", {"record 0", "\"subject\"", "missing"}},
      {R"([{"prompt": "{} is", "subject": 3}])", {"\"subject\"", "3"}},
      {R"([{"prompt": "{} is", "subject": ""}])", {"\"subject\"", "empty"}},
      {R"([{"prompt": "{} is", "subject": "  ", "target_new": "x"}])", {"\"subject\"", "empty"}},
      {R"([{"prompt": "{} is", "subject": "Rome"}])", {"\"target_new\"", "missing"}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": null}])", {"\"target_new\""}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": {}}])", {"target_new", "\"str\""}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": {"str": ""}}])", {"\"str\"", "empty"}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": " "}])", {"\"target_new\"", "empty"}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": []}])", {"\"target_new\"", "empty"}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": [1]}])", {"\"target_new\"", "1"}},
      {R"([{"prompt": "{} is", "subject": "Rome", "target_new": "\u00a0\u2003"}])", {"\"target_new\"", "empty"}},
      {R"([{"prompt": " ", "subject": "Rome", "target_new": "x"}])", {"\"prompt\"", "empty"}},
      {R"([{"prompt": "Bob is", "subject": "Bo b", "target_new": "x"}])", {"\"Bo b\"", "\"Bob is\""}},
      {R"([{"prompt": "Zürich is", "subject": "Zu\u0308rich", "target_new": "x"}])",
       {"Zu\\u0308rich", "\"Zürich is\""}},
      {R"([{"prompt": "{} of {}")" + rest + "}]", {"\"prompt\"", "exactly one {}", "got 2"}},
      {R"([{"prompt": "It is")" + rest + "}]", {"\"prompt\"", "neither {} nor the subject", "Rome"}},
      {R"([{"prompt": "Rome is Rome")" + rest + "}]", {"\"prompt\"", "2 times"}},
      {R"([{"prompt": "")" + rest + "}]", {"\"prompt\"", "empty"}},
      {R"([{"prompt": 1)" + rest + "}]", {"\"prompt\""}},
      {R"([{"case_id": 1.5, "prompt": "{} is")" + rest + "}]", {"\"case_id\"", "1.5"}},
      {R"([{"case_id": "a", "prompt": "{} is")" + rest + "}]", {"\"case_id\""}},
      {R"([{"case_id": 4, "prompt": "{} is")" + rest + R"(}, {"case_id": 4, "prompt": "{} is")" + rest + "}]",
       {"record 1 (case_id 4)", "repeats that of record 0"}},
      {R"([{"requested_rewrite": 3}])", {"\"requested_rewrite\""}},
      {R"([{"requested_rewrite": {"prompt": "{}"}}])", {"requested_rewrite", "\"subject\""}},
      {R"([{"src": "Who?", "subject": "Rome", "answers": ["x"]}])", {"\"src\"", "Rome"}},
      {R"([{"src": "Rome?", "subject": "Rome", "answers": []}])", {"\"answers\"", "is empty"}},
      {R"([{"src": "Rome?", "subject": "Rome", "answers": "x"}])", {"\"answers\""}},
      {R"([{"src": "Rome?", "subject": "Rome"}])", {"\"answers\"", "missing"}},
      {R"([{"prompt": "{} )" + std::string(64, 'a') + "\"" + rest + "}]", {"tokens", "reads 64", "shorten"}},
  };
  for (const auto& [text, parts] : cases) {
    SCOPED_TRACE(text);
    expect_message(error_of<InputError>([&text = text] { parse(text); }), parts);
  }
}

TEST(Requests, TargetsMayBeListsOrObjects) {
  for (const char* target : {R"("x")", R"(["x", "y"])", R"({"str": "x"})", R"([{"str": "x"}])"}) {
    const std::string text(target);
    const auto loaded = parse(
        R"([{"prompt": "{} is", "subject": "Rome", "target_new": )" + text + R"(, "ground_truth": )" + text +
        R"(}, {"prompt": "{} is", "subject": "Rome", "target_new": )" + text + R"(, "target_true": )" + text + "}]");
    ASSERT_EQ(loaded.requests.size(), 2u) << target;
    EXPECT_EQ(loaded.requests[0], (EditRequest{0, "{} is", "Rome", "x", "x"})) << target;
    EXPECT_EQ(loaded.requests[1], (EditRequest{1, "{} is", "Rome", "x", "x"})) << target;
  }
  const std::string rest = R"(, "prompt": "{} is", "subject": "Rome", "target_new": "x"})";
  for (const char* absent : {"null", "[]", "\"\"", "\" \""})
    EXPECT_EQ(parse(R"({"ground_truth": )" + std::string(absent) + rest).requests[0].target_true, "") << absent;
  expect_message(error_of<InputError>([&] { parse(R"({"ground_truth": 3)" + rest); }), {"ground_truth", "3"});
}

TEST(Requests, WhiteSpaceAtTheEndsOfTextsIsLeftOut) {
  const EditRequest clean{0, "Of {}, the", "Rome", "x y", "z"};
  EXPECT_EQ(parse(R"({"prompt": "Of {}, the", "subject": "Rome", "target_new": "x y", "target_true": "z"})").trimmed,
            "");
  const auto loaded = parse(R"({"prompt": "Of {}, the \n", "subject": "\u00a0Rome ", "target_new": "\tx y ",
                                "target_true": {"str": " z"}})");
  EXPECT_EQ(loaded.requests, std::vector<EditRequest>{clean});
  expect_message(loaded.trimmed, {"r.json", "4 texts", "record 0"});
  EXPECT_EQ(parse(R"({"prompt": "Of Rome, the ", "subject": "Rome ", "target_new": " x y", "ground_truth": ["z "]})")
                .requests,
            std::vector<EditRequest>{clean});
  EXPECT_EQ(parse(R"({"prompt": "Of {}and", "subject": "Rome ", "target_new": "x"})").requests[0].prompt, "Of {} and");
  EXPECT_EQ(parse(R"({"src": "Of Rome ", "subject": " Rome", "answers": [" x"]})").requests,
            (std::vector<EditRequest>{{0, "Of {}", "Rome", "x", ""}}));
}

TEST(Requests, AWholeWordIsTheSubject) {
  const auto loaded = parse(R"([{"prompt": "Arthur admires Art as", "subject": "Art", "target_new": "x"},
                                {"prompt": "Art is", "subject": "Art", "target_new": "x"}])");
  EXPECT_EQ(loaded.requests[0].prompt, "Arthur admires {} as");
  EXPECT_TRUE(loaded.warnings.empty());
  const auto inside = parse(R"([{"case_id": 4, "prompt": "Arthur admires", "subject": "Art", "target_new": "x"}])");
  EXPECT_EQ(inside.requests[0].prompt, "{}hur admires");
  ASSERT_EQ(inside.warnings.size(), 1u);
  expect_message(inside.warnings[0], {"r.json: record 0 (case_id 4)", "inside another word", "\"[Art]hur admires\""});
  expect_message(
      error_of<InputError>([] { parse(R"({"prompt": "Arthur and Arty", "subject": "Art", "target_new": "x"})"); }),
      {"\"Art\" 2 times"});
}

TEST(Requests, JsonLines) {
  const auto loaded = parse(
      "{\"prompt\": \"{} is\", \"subject\": \"Rome\", \"target_new\": \"x\"}\n"
      "{\"prompt\": \"{} is\", \"subject\": \"Bonn\", \"target_new\": \"y\"}\n");
  EXPECT_EQ(loaded.requests, (std::vector<EditRequest>{{0, "{} is", "Rome", "x", ""}, {1, "{} is", "Bonn", "y", ""}}));
}

TEST(Requests, InvalidOnesCanBeSkipped) {
  const auto loaded = parse(R"([{"prompt": "no place", "subject": "Rome", "target_new": "x"},
                                {"prompt": "{} is", "subject": "Rome", "target_new": "x"}])",
                            OnInvalid::skip);
  ASSERT_EQ(loaded.requests.size(), 1u);
  EXPECT_EQ(loaded.requests[0].case_id, 1);
  ASSERT_EQ(loaded.skipped.size(), 1u);
  expect_message(loaded.skipped[0], {"r.json", "record 0"});
  expect_message(error_of<InputError>([] { parse("[{}]", OnInvalid::skip); }), {"no edit request"});
}

}  // namespace
}  // namespace loci::test
