#include "kernels/token_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>

#include "kernels/gemm.h"
#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

struct ScoreShape {
  int64_t rows, tokens, width;
};

// Tests are listed by it.
void PrintTo(const ScoreShape& shape, std::ostream* out) {
  *out << shape.rows << "x" << shape.tokens << "x" << shape.width;
}

// Small integers over eight: their products and sums are exact in every precision, and many logits are equal.
Values eighths(std::mt19937& random, int64_t count) {
  Values values;
  for (int64_t i = 0; i < count; ++i) values.push_back((static_cast<float>(random() % 7) - 3) / 8);
  return values;
}

class TokenScoring : public ::testing::TestWithParam<ScoreShape> {
 protected:
  TokenScoring() {
    std::mt19937 random(1);
    hidden_ = eighths(random, s_.rows * s_.width);
    unembedding_ = eighths(random, s_.tokens * s_.width);
    for (int64_t i = 0; i < 2 * s_.rows; ++i)  // in no order; some rows are asked twice or more, some never
      questions_.push_back({static_cast<int64_t>(random() % static_cast<unsigned>(s_.rows)),
                            static_cast<int32_t>(random() % static_cast<unsigned>(s_.tokens))});
    for (int64_t r = 0; r < s_.rows; ++r) take_row(r);
  }

  void take_row(int64_t r) {
    Doubles logits;
    for (int64_t t = 0; t < s_.tokens; ++t) {
      double logit = bias_.empty() ? 0 : static_cast<double>(bias_[t]);
      for (int64_t k = 0; k < s_.width; ++k)
        logit += static_cast<double>(hidden_[r * s_.width + k]) * static_cast<double>(unembedding_[t * s_.width + k]);
      logits.push_back(logit);
    }
    const auto best = std::max_element(logits.begin(), logits.end());
    best_.push_back(static_cast<int32_t>(best - logits.begin()));
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - *best);
    for (const double logit : logits) log_probabilities_.push_back(logit - *best - std::log(sum));
  }

  Doubles expected() const {
    Doubles values;
    for (const TokenQuestion& q : questions_) values.push_back(log_probabilities_[q.row * s_.tokens + q.token]);
    return values;
  }

  TokenScores score(const ContextOptions& options, bool constant = false) const {
    Context context(options);
    Padded hidden(context, s_.rows, s_.width, hidden_), unembedding(context, s_.tokens, s_.width, unembedding_);
    const ConstView matrix = unembedding.read();
    const ConstantOperands promise(context, std::span(&matrix, constant ? 1 : 0));
    return score_tokens(context, hidden.read(), WeightView::out_in(matrix), {}, questions_);
  }

  void check(const TokenScores& scores) const {
    // As in softmax: exponentials good to 4 kEps and one rounding of the result.
    EXPECT_TRUE(near_relative(scores.log_probabilities, expected(), 1.01 * kEps, 5 * kEps));
    EXPECT_EQ(scores.best, best_);
  }

  ScoreShape s_ = GetParam();
  Values hidden_, unembedding_, bias_;
  std::vector<TokenQuestion> questions_;
  Doubles log_probabilities_;
  std::vector<int32_t> best_;
};

TEST_P(TokenScoring, AgreesWithTheSoftmaxInDouble) { check(score(device_options())); }

// Eighths are the same numbers in all types.
TEST_P(TokenScoring, SoDoUnembeddingsOfAnyTypeWithABias) {
  std::mt19937 random(3);
  bias_ = eighths(random, s_.tokens);
  best_.clear();
  log_probabilities_.clear();
  for (int64_t r = 0; r < s_.rows; ++r) take_row(r);
  Values turned(unembedding_.size());
  for (int64_t t = 0; t < s_.tokens; ++t)
    for (int64_t k = 0; k < s_.width; ++k) turned[k * s_.tokens + t] = unembedding_[t * s_.width + k];
  Context context(device_options());
  Padded hidden(context, s_.rows, s_.width, hidden_), bias(context, 1, s_.tokens, bias_);
  for (const StoredType type : kStoredTypes) {
    const StoredMatrix out_in(context, type, s_.tokens, s_.width, unembedding_),
        in_out(context, type, s_.width, s_.tokens, turned);
    check(score_tokens(context, hidden.read(), WeightView::out_in(out_in.view()), bias.read(), questions_));
    check(score_tokens(context, hidden.read(), WeightView::in_out(in_out.view()), bias.read(), questions_));
    const StoredView constant = out_in.view();
    const ConstantOperands promise(context, {&constant, 1});
    check(score_tokens(context, hidden.read(), WeightView::out_in(constant), bias.read(), questions_));
  }
}

TEST_P(TokenScoring, SoDoesAConstantUnembedding) { check(score(device_options(), true)); }

TEST_P(TokenScoring, SoDoTheLogitsOfFewRowsAtATime) {
  ContextOptions options = device_options();
  options.memory_budget = 1 << 19;
  check(score(options));
}

TEST_P(TokenScoring, TheLowestOfEqualLogitsIsBestWithAnyNumberOfThreads) {
  for (const int threads : {2, 3, 5})
    for (int repeat = 0; repeat < 5; ++repeat) check(score(device_options(threads)));
}

TEST_P(TokenScoring, AnyNumberOfThreadsGivesTheSameBits) {
  std::mt19937 random(2);
  hidden_ = normal_values(random, std::ssize(hidden_));  // the order of their sums shows
  unembedding_ = normal_values(random, std::ssize(unembedding_));
  for (const bool constant : {false, true}) {
    const TokenScores one = score(device_options(1), constant);
    for (const int threads : {2, 3, 5}) {
      const TokenScores more = score(device_options(threads), constant);
      EXPECT_TRUE(identical(more.log_probabilities, one.log_probabilities)) << threads;
      EXPECT_EQ(more.best, one.best) << threads;
    }
  }
}

// The CPU computes tiles of 256 x 512; it transposes the unembedding for 512 rows or more, and where it is constant for
// more than 16.
INSTANTIATE_TEST_SUITE_P(Shapes, TokenScoring,
                         ::testing::Values(ScoreShape{1, 1, 1}, ScoreShape{1, 3, 2}, ScoreShape{16, 513, 5},
                                           ScoreShape{17, 512, 8}, ScoreShape{300, 1100, 12}, ScoreShape{520, 700, 16}),
                         ::testing::PrintToStringParamName());

// The logits of a row of width one are the unembedding itself.
TokenScores score_logits(const Values& logits, const std::vector<int32_t>& tokens) {
  Context context(device_options());
  const Tensor hidden = Tensor::from_host(context, Values{1}, 1, 1);
  const Tensor unembedding = Tensor::from_host(context, logits, std::ssize(logits), 1);
  std::vector<TokenQuestion> questions;
  for (const int32_t token : tokens) questions.push_back({0, token});
  return score_tokens(context, hidden.view(), WeightView::out_in(unembedding.view()), {}, questions);
}

TEST(TokenScoringNumbers, LogitsOfMinusInfinityHaveNoProbability) {
  const float none = -std::numeric_limits<float>::infinity();
  Values logits(1100, none);
  for (const size_t token : {700u, 1000u}) logits[token] = 7;
  const TokenScores scores = score_logits(logits, {3, 700, 1000});
  EXPECT_EQ(scores.log_probabilities[0], none);
  for (const size_t q : {1u, 2u}) EXPECT_NEAR(static_cast<double>(scores.log_probabilities[q]), -std::log(2), kEps);
  EXPECT_EQ(scores.best, std::vector<int32_t>{700});
  const TokenScores nothing = score_logits(Values(600, none), {5});
  EXPECT_TRUE(std::isnan(nothing.log_probabilities[0]));
  EXPECT_EQ(nothing.best, std::vector<int32_t>{0});
}

TEST(TokenScoringNumbers, HugeLogitsAndNan) {
  Values logits(1100, 0);
  logits[600] = logits[20] = 0x1p100f;
  const TokenScores huge = score_logits(logits, {20, 600, 1});
  EXPECT_NEAR(static_cast<double>(huge.log_probabilities[0]), -std::log(2), kEps);
  EXPECT_EQ(huge.log_probabilities[1], huge.log_probabilities[0]);
  EXPECT_EQ(huge.log_probabilities[2], -0x1p100f);
  EXPECT_EQ(huge.best, std::vector<int32_t>{20});
  logits[800] = kNan;
  EXPECT_TRUE(std::isnan(score_logits(logits, {20}).log_probabilities[0]));
}

// An unembedding too large to be transposed as a whole where there is little memory.
TEST(TokenScoringNumbers, TheBitsOfALargeUnembeddingDoNotFollowTheMemory) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a GPU reads matrices as they lie";
  const int64_t rows = 17, tokens = 40000, width = 431;
  std::mt19937 random(3);
  const Values hidden_values = normal_values(random, rows * width), values = normal_values(random, tokens * width);
  std::vector<TokenScores> scores;
  for (const int64_t budget : {int64_t{1} << 30, int64_t{1} << 26}) {
    ContextOptions options = device_options();
    options.memory_budget = budget;
    Context context(options);
    const Tensor hidden = Tensor::from_host(context, hidden_values, rows, width);
    const Tensor unembedding = Tensor::from_host(context, values, tokens, width);
    const ConstView constant = unembedding.view();
    const ConstantOperands promise(context, {&constant, 1});
    const std::vector<TokenQuestion> questions{{0, 5}, {16, 39999}};
    scores.push_back(score_tokens(context, hidden.view(), WeightView::out_in(unembedding.view()), {}, questions));
  }
  EXPECT_TRUE(identical(scores[0].log_probabilities, scores[1].log_probabilities));
  EXPECT_EQ(scores[0].best, scores[1].best);
}

// Many terms of like size, far below the maximum: what rounds them in one direction would show in their sum.
TEST(TokenScoringNumbers, WideRowsOfUnlikelyTokens) {
  std::mt19937 random(4);
  Values logits = normal_values(random, 50257, 1);
  for (float& logit : logits) logit -= 60;
  logits[17] = -52;
  double sum = 0, mean = 0;
  for (const float logit : logits) {
    const double distance = static_cast<double>(logit) + 52;
    sum += std::exp(distance);
    mean -= distance * std::exp(distance);
  }
  const TokenScores scores = score_logits(logits, {17, 4000});
  ASSERT_GT(mean / sum, 4);
  const double bound = (6 + 2.3 * mean / sum) * kEps;
  for (const size_t q : {0u, 1u}) {
    const double logit = static_cast<double>(logits[q == 0 ? 17 : 4000]);
    const double expected = logit + 52 - std::log(sum);
    EXPECT_NEAR(static_cast<double>(scores.log_probabilities[q]), expected, bound + kEps * std::abs(expected));
  }
}

TEST(TokenScoringNumbers, ArithmeticIsCounted) {
  Context context(device_options());
  const Tensor hidden = Tensor::from_host(context, Values(6, 1), 2, 3);
  const Tensor unembedding = Tensor::from_host(context, Values(15, 1), 5, 3);
  score_tokens(context, hidden.view(), WeightView::out_in(unembedding.view()), {}, {});
  EXPECT_EQ(context.matrix_flop(), 2 * 2 * 5 * 3);
}

TEST(TokenScoringErrors, QuestionsAndShapes) {
  Context context(device_options());
  const Tensor hidden = Tensor::from_host(context, Values(6, 1), 2, 3);
  const Tensor unembedding = Tensor::from_host(context, Values(15, 1), 5, 3);
  for (const TokenQuestion& wrong :
       {TokenQuestion{2, 0}, TokenQuestion{-1, 0}, TokenQuestion{0, 5}, TokenQuestion{0, -1}})
    EXPECT_THROW(score_tokens(context, hidden.view(), WeightView::out_in(unembedding.view()), {}, std::span(&wrong, 1)),
                 ShapeError);
  EXPECT_THROW(score_tokens(context, unembedding.view(), WeightView::out_in(hidden.view().cols_slice(0, 2)), {}, {}),
               ShapeError);
  EXPECT_THROW(score_tokens(context, hidden.view(), WeightView::out_in(unembedding.view().rows_slice(0, 0)), {}, {}),
               ShapeError);
  const Tensor bias = Tensor::from_host(context, Values(3, 1), 1, 3);
  EXPECT_THROW(score_tokens(context, hidden.view(), WeightView::out_in(unembedding.view()), bias.view(), {}),
               ShapeError);
  const TokenScores none =
      score_tokens(context, hidden.view().rows_slice(0, 0), WeightView::out_in(unembedding.view()), {}, {});
  EXPECT_TRUE(none.best.empty() && none.log_probabilities.empty());
}

}  // namespace
}  // namespace loci
