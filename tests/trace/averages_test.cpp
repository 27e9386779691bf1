// Averaged effects on cases worked out by hand.
#include "trace/averages.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "runtime/error.h"
#include "tests/support/compare.h"

namespace loci::test {
namespace {

// One layer; token t scores values[t].
AveragedCase one_layer(const std::vector<float>& values, TokenRange subject, double low = 0, double high = 1) {
  return {values, std::ssize(values), subject, low, high};
}

double mean_of(const Averages& averages, TokenRow row) { return averages.row(row).mean.at(0); }

TEST(Averages, SixRowsAndEffects) {
  // Subject [1, 5): f = 1, middle 2 3, a - 1 = 4, a = 5, further 6 7, z = 8.
  const std::vector<float> scores = {9, 1, 2, 4, 5, 6, 7, 8, 10};
  const std::vector<AveragedCase> cases = {one_layer(scores, {1, 5}, 0.25, 0.75)};
  for (const RowRule rule : {RowRule::each_token_once, RowRule::as_published}) {
    const Averages averages = average(cases, 1, rule);
    EXPECT_EQ(mean_of(averages, TokenRow::first_subject), 1);
    EXPECT_EQ(mean_of(averages, TokenRow::middle_subject), 3);
    EXPECT_EQ(mean_of(averages, TokenRow::last_subject), 5);
    EXPECT_EQ(mean_of(averages, TokenRow::first_after), 6);
    EXPECT_EQ(mean_of(averages, TokenRow::further_after), 7.5);
    EXPECT_EQ(mean_of(averages, TokenRow::last), 10);
    EXPECT_EQ(averages.row(TokenRow::middle_subject).deviation.at(0), 1);
    EXPECT_EQ(averages.row(TokenRow::middle_subject).tokens, 2);
    EXPECT_EQ(averages.row(TokenRow::middle_subject).cases, 1);
    EXPECT_EQ(averages.row(TokenRow::middle_subject).confidence.at(0), 1.96);
    EXPECT_EQ(averages.total_effect, 0.5);
    EXPECT_EQ(averages.mean_maximum, 10);
    EXPECT_EQ(averages.indirect_effect(TokenRow::last_subject).at(0), 4.75);
  }
}

TEST(Averages, MiddleRowsWeightTokens) {
  const std::vector<float> a = {1, 3, 5, 1, 1, 1}, b = {1, 7, 1, 1};
  const std::vector<AveragedCase> cases = {one_layer(a, {0, 4}), one_layer(b, {0, 3})};
  const Averages averages = average(cases, 1, RowRule::each_token_once);
  EXPECT_EQ(mean_of(averages, TokenRow::middle_subject), 5);  // (3 + 5 + 7) / 3
  EXPECT_EQ(averages.row(TokenRow::middle_subject).tokens, 3);
  EXPECT_EQ(averages.row(TokenRow::middle_subject).cases, 2);
}

TEST(Averages, BestLayers) {
  // Two tokens, three layers; subject is token 0, token 1 is z.
  const std::vector<float> a = {1, 5, 0, 2, 2, 9}, b = {4, 1, 0, 2, 2, 1};
  const std::vector<AveragedCase> cases = {{a, 2, {0, 1}, 0, 1}, {b, 2, {0, 1}, 0, 1}};
  const Averages averages = average(cases, 3, RowRule::each_token_once);
  EXPECT_EQ(averages.last_subject.mean_of_maxima, 4.5);
  EXPECT_EQ(averages.last_subject.best_mean, 3);
  EXPECT_EQ(averages.last_subject.layer, 1);
  EXPECT_EQ(averages.last_token.mean_of_maxima, 5.5);
  EXPECT_EQ(averages.last_token.best_mean, 5);
  EXPECT_EQ(averages.last_token.layer, 2);
}

TEST(Averages, OneTokenSubjectCountsOnce) {
  const std::vector<float> scores = {3, 1, 1, 7};
  const std::vector<AveragedCase> cases = {one_layer(scores, {0, 1})};
  const Averages once = average(cases, 1, RowRule::each_token_once);
  EXPECT_EQ(once.row(TokenRow::first_subject).cases, 0);
  EXPECT_TRUE(std::isnan(mean_of(once, TokenRow::first_subject)));
  EXPECT_EQ(mean_of(once, TokenRow::last_subject), 3);
  const Averages published = average(cases, 1, RowRule::as_published);
  EXPECT_EQ(mean_of(published, TokenRow::first_subject), 3);
  EXPECT_EQ(mean_of(published, TokenRow::last_subject), 3);
}

TEST(Averages, FirstTokenAfterThatIsTheLastCountsOnce) {
  const std::vector<float> scores = {3, 4, 7};
  const std::vector<AveragedCase> cases = {one_layer(scores, {0, 2})};
  const Averages once = average(cases, 1, RowRule::each_token_once);
  EXPECT_EQ(once.row(TokenRow::first_after).cases, 0);
  EXPECT_EQ(mean_of(once, TokenRow::last), 7);
  const Averages published = average(cases, 1, RowRule::as_published);
  EXPECT_EQ(mean_of(published, TokenRow::first_after), 7);
  EXPECT_EQ(mean_of(published, TokenRow::last), 7);
}

TEST(Averages, SubjectThatEndsThePrompt) {
  const std::vector<float> scores = {1, 3, 4, 7};
  const std::vector<AveragedCase> cases = {one_layer(scores, {1, 4})};
  const Averages once = average(cases, 1, RowRule::each_token_once);
  EXPECT_EQ(mean_of(once, TokenRow::first_subject), 3);
  EXPECT_EQ(mean_of(once, TokenRow::middle_subject), 4);
  EXPECT_EQ(once.row(TokenRow::last_subject).cases, 0);
  EXPECT_EQ(once.last_subject.layer, -1);
  EXPECT_EQ(mean_of(once, TokenRow::last), 7);
  const Averages published = average(cases, 1, RowRule::as_published);
  EXPECT_EQ(mean_of(published, TokenRow::last_subject), 7);
  EXPECT_EQ(published.row(TokenRow::first_after).cases, 0);
  EXPECT_EQ(mean_of(published, TokenRow::last), 7);
}

TEST(Averages, NoCases) {
  const Averages averages = average({}, 4, RowRule::each_token_once);
  EXPECT_EQ(averages.cases, 0);
  EXPECT_TRUE(std::isnan(averages.total_effect));
  EXPECT_EQ(averages.row(TokenRow::last).mean.size(), 4u);
}

TEST(StrongestCells, TheLargestComeFirstAndOfEqualOnesTheFirst) {
  // Three tokens, two layers.
  const std::vector<float> scores = {0.5F, 0.25F, 0.75F, 0.5F, 0.0F, 0.125F};
  const auto cells = strongest_cells(scores, 2, 0.25, 4);
  ASSERT_EQ(cells.size(), 4u);
  const std::vector<std::array<int64_t, 2>> places = {{1, 0}, {0, 0}, {1, 1}, {0, 1}};
  const std::vector<double> effects = {0.5, 0.25, 0.25, 0};
  for (size_t i = 0; i < cells.size(); ++i) {
    EXPECT_EQ((std::array{cells[i].token, cells[i].layer}), places[i]) << i;
    EXPECT_EQ(cells[i].effect, effects[i]) << i;
  }
  EXPECT_EQ(strongest_cells(scores, 2, 0.25, 100).size(), 6u);
  EXPECT_THROW(strongest_cells(scores, 4, 0, 1), ShapeError);
}

TEST(Averages, ShapesThatContradictAreRefused) {
  const std::vector<float> scores = {1, 2, 3};
  EXPECT_THROW(average(std::vector{AveragedCase{scores, 2, {0, 1}, 0, 1}}, 1, RowRule::as_published), ShapeError);
  EXPECT_THROW(average(std::vector{AveragedCase{scores, 3, {2, 2}, 0, 1}}, 1, RowRule::as_published), ShapeError);
  EXPECT_THROW(average(std::vector{AveragedCase{scores, 3, {2, 4}, 0, 1}}, 1, RowRule::as_published), ShapeError);
}

}  // namespace
}  // namespace loci::test
