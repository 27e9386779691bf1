// Metrics against numbers worked out by hand.
#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/eval/support.h"

namespace loci::test {
namespace {

const MetricSummary& find(const std::vector<MetricSummary>& summary, const std::string& name) {
  for (const MetricSummary& row : summary) {
    if (row.name == name) return row;
  }
  throw std::runtime_error("no metric " + name);
}

void expect_near(double actual, double expected, double tolerance = 1e-7) {
  if (!(std::abs(actual - expected) <= tolerance)) ADD_FAILURE() << actual << ", expected " << expected;
}

/// Two records. NLLs are fp32, so magnitudes carry about 1e-7.
std::vector<RecordResult> two_records() {
  using enum PromptKind;
  RecordResult first, second;
  first.prompts = {make_prompt(rewrite, {3, 1}, {0.5f, 2}), make_prompt(paraphrase, {3, 1}, {1, 2}),
                   make_prompt(paraphrase, {3, 1}, {2, 1}), make_prompt(neighborhood, {4, 1}, {4, 1}),
                   make_prompt(neighborhood, {4, 1}, {1, 4})};
  second.prompts = {make_prompt(rewrite, {1, 1}, {3, 1}), make_prompt(paraphrase, {1, 2}, {1, 2}),
                    make_prompt(neighborhood, {2, 2}, {3, 1})};
  return {first, second};
}

TEST(Metrics, SuccessCountsPromptsAndAveragesOverRecords) {
  const auto summary = summarize(Dataset::counterfact, two_records());
  expect_near(find(summary, "ES").before.mean, 0);  // equal likelihoods are no success
  expect_near(find(summary, "ES").after.mean, 0.5);
  expect_near(find(summary, "PS").before.mean, 0.5);
  expect_near(find(summary, "PS").after.mean, (0.5 + 1) / 2);  // not the pooled 2/3
  expect_near(find(summary, "NS").before.mean, 0.5);
  expect_near(find(summary, "NS").after.mean, (0.5 + 1) / 2);
  expect_near(find(summary, "score").after.mean, 3 / (1 / 0.5 + 1 / 0.75 + 1 / 0.75));
  expect_near(find(summary, "score").before.mean, 0);
}

TEST(Metrics, MagnitudeIsADifferenceOfProbabilities) {
  const auto summary = summarize(Dataset::counterfact, two_records());
  const auto p = [](double nll) { return std::exp(-nll); };
  expect_near(find(summary, "EM").after.mean, ((p(0.5) - p(2)) + (p(3) - p(1))) / 2);
  expect_near(find(summary, "NM").after.mean, (((p(1) - p(4)) + (p(4) - p(1))) / 2 + (p(1) - p(3))) / 2);
}

TEST(Metrics, IntervalIs196StandardErrors) {
  const auto summary = summarize(Dataset::counterfact, two_records());
  const Estimate& es = find(summary, "ES").after;
  EXPECT_EQ(es.records, 2);
  expect_near(es.interval, 1.96 * 0.5 / std::sqrt(2.0));  // values 1 and 0
  // The score's interval: gradients S^2 / (3 m^2) times deviations (0.5, -0.25, -0.25) and their negatives.
  const double s = find(summary, "score").after.mean;
  const double move = s * s / 3 * (0.5 / 0.25 - 0.25 / 0.5625 - 0.25 / 0.5625);
  expect_near(find(summary, "score").after.interval, 1.96 * std::abs(move) / std::sqrt(2.0));
}

TEST(Metrics, AccuracyNeedsEveryTokenAndReliabilityCountsThem) {
  RecordResult record;
  PromptResult prompt{PromptKind::rewrite, "text", {"new", "true"}, {{5, 6, 7}, {9}}, {}, {}};
  prompt.before = {{{-1, -1, -1}, {5, 0, 0}}, {{-1}, {9}}};
  prompt.after = {{{-1, -1, -1}, {5, 6, 0}}, {{-1}, {0}}};
  record.prompts = {prompt};
  prompt.kind = PromptKind::neighborhood;
  prompt.target_tokens = {{1}, {5, 6}};
  prompt.before = {{{-1}, {0}}, {{-1, -2}, {5, 6}}};
  prompt.after = {{{-1}, {0}}, {{-1, -2}, {5, 8}}};
  record.prompts.push_back(prompt);
  const auto summary = summarize(Dataset::counterfact, std::vector{record});
  expect_near(find(summary, "EA").after.mean, 0);
  expect_near(find(summary, "reliability").before.mean, 1.0 / 3);
  expect_near(find(summary, "reliability").after.mean, 2.0 / 3);
  expect_near(find(summary, "NA").before.mean, 1);
  expect_near(find(summary, "NA").after.mean, 0);
  expect_near(find(summary, "locality").before.mean, 1);
  expect_near(find(summary, "locality").after.mean, 0.5);
  EXPECT_TRUE(std::isnan(find(summary, "PS").after.mean));  // no paraphrases at all
  EXPECT_EQ(find(summary, "PS").after.records, 0);
  EXPECT_TRUE(summary_to_json(summary)["PS"]["after"].is_null());
}

TEST(Metrics, ZsreAveragesTokens) {
  RecordResult record;
  PromptResult question{PromptKind::rewrite, "q", {"a"}, {{1, 2, 3, 4}}, {}, {}};
  question.before = {{{-1, -1, -1, -1}, {0, 0, 0, 4}}};
  question.after = {{{-1, -1, -1, -1}, {1, 2, 3, 4}}};
  PromptResult rephrased = question, unrelated = question;
  rephrased.kind = PromptKind::paraphrase;
  unrelated.kind = PromptKind::neighborhood;
  unrelated.after = {{{-1, -1, -1, -1}, {0, 0, 3, 4}}};
  record.prompts = {question, rephrased, unrelated};
  const auto summary = summarize(Dataset::zsre, std::vector{record});
  expect_near(find(summary, "EA").before.mean, 0.25);
  expect_near(find(summary, "EA").after.mean, 1);
  expect_near(find(summary, "NA").after.mean, 0.5);
  expect_near(find(summary, "locality").after.mean, 0.75);
  expect_near(find(summary, "score").after.mean, 3 / (1 + 1 + 2.0));
}

TEST(Metrics, AModelScoredAsItIsHasNothingAfter) {
  std::vector<RecordResult> records = two_records();
  const auto edited = summarize(Dataset::counterfact, records);
  EXPECT_TRUE(scored_after(records));
  for (RecordResult& record : records)
    for (PromptResult& prompt : record.prompts) prompt.after.clear();
  EXPECT_FALSE(scored_after(records));
  const auto summary = summarize(Dataset::counterfact, records);
  EXPECT_TRUE(has_after(edited));
  EXPECT_FALSE(has_after(summary));
  EXPECT_EQ(summary.size() + 1, edited.size());
  EXPECT_THROW(find(summary, "locality"), std::runtime_error);  // nothing could have changed
  for (const MetricSummary& row : summary) {
    SCOPED_TRACE(row.name);
    EXPECT_EQ(row.before.mean, find(edited, row.name).before.mean);
    EXPECT_EQ(row.before.interval, find(edited, row.name).before.interval);
    EXPECT_EQ(row.after.records, 0);
  }
  const Json json = summary_to_json(summary);
  EXPECT_EQ(json["PS"]["before"], 0.5);
  EXPECT_EQ(json["PS"]["records"], 2);
  EXPECT_FALSE(json["PS"].contains("after"));
  const std::string table = format_summary(summary);
  EXPECT_EQ(table.find("after"), std::string::npos) << table;
  EXPECT_NE(format_summary(edited).find("after [%]"), std::string::npos);
}

TEST(Metrics, EditsThatDidNotTakeAreCounted) {
  using enum PromptKind;
  // Every arg max is token 0: the new target of the first record is that token, of the second it is not.
  RecordResult took, failed;
  took.prompts = {make_prompt(rewrite, {3, 1}, {0.5f, 2}, {0, 1}), make_prompt(paraphrase, {3, 1}, {0.5f, 2})};
  failed.prompts = {make_prompt(rewrite, {3, 1}, {0.5f, 2}), make_prompt(paraphrase, {3, 1}, {0.5f, 2}, {0, 1})};
  EXPECT_EQ(edits_that_did_not_take(std::vector{took, failed, failed}), 2);
  EXPECT_EQ(edits_that_did_not_take(std::vector{took}), 0);
}

TEST(Metrics, PercentHaveNoNegativeZero) {
  EXPECT_EQ(percent_text(-0.00001), "0.00");
  EXPECT_EQ(percent_text(-0.0001), "-0.01");
  EXPECT_EQ(percent_text(0.12345), "12.35");
  RecordResult record;
  record.prompts = {make_prompt(PromptKind::rewrite, {1.00001f, 1}, {1.00001f, 1})};
  const std::string table = format_summary(summarize(Dataset::counterfact, std::vector{record}));
  EXPECT_EQ(table.find("-0.00"), std::string::npos) << table;
}

TEST(Metrics, NllIsTheMeanOverTokens) { expect_near(mean_nll({{-1, -2, -6}, {0, 0, 0}}), 3); }

TEST(Metrics, ScoresOfAnotherLengthAreRefused) {
  EXPECT_THROW(correct_tokens({{-1}, {0}}, std::vector<int32_t>{1, 2}), ShapeError);
}

}  // namespace
}  // namespace loci::test
