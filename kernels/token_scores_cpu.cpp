#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/cpu.h"
#include "kernels/softmax_rows.h"

namespace loci::cpu {
namespace {

// Logits of a tile: half of a core's second-level cache. Measured (d of 96 and 768, 650 rows): products of such tiles
// are as fast as any others, and one is hot when its exponentials are taken.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileTokens = 512;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// What a row's softmax takes from the logits of one tile.
struct Part {
  float maximum;
  int32_t best;
  double sum;  // of exp(logit - maximum)
};

// `highest` is the row's highest logit in the tiles before this one that the same thread computed; an arg max is looked
// for only where it can be the row's.
Part part_of(const float* logits, int64_t first_token, int64_t count, float& highest) {
  const float maximum = row_maximum(logits, count);
  Part part{maximum, 0, 0};
  if (maximum > highest) {
    highest = maximum;
    part.best = static_cast<int32_t>(first_token + (std::find(logits, logits + count, maximum) - logits));
  }
  // Where all logits are -infinity, so is the maximum, and their difference would not be a number.
  part.sum = sum_of_exponentials(logits, count, maximum == kNothing ? 0.0f : maximum);
  return part;
}

void add_bias(const float* bias, int64_t count, float* logits) {
  for (int64_t i = 0; i < count; ++i) logits[i] += bias[i];
}

// Rows of a table [rows, chunks of the vocabulary], and which questions are about which row.
class TokenScorer {
 public:
  TokenScorer(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
              std::span<const TokenQuestion> questions)
      : context_(context),
        hidden_(hidden),
        bias_(bias),
        vocabulary_(unembedding.out),
        questions_(questions),
        operand_(second_operand(context, unembedding, hidden.rows)),
        tiles_((hidden.rows + kTileRows - 1) / kTileRows),
        chunks_((vocabulary_ + kTileTokens - 1) / kTileTokens),
        parts_(static_cast<size_t>(hidden.rows * chunks_)),
        asked_(static_cast<size_t>(hidden.rows)),
        logits_asked_(questions.size()) {
    for (size_t q = 0; q < questions.size(); ++q) asked_[questions[q].row].push_back(q);
  }

  TokenScores score() {
    context_.threads().parallel_tasks(tiles_ * chunks_, [&](TaskQueue& tasks) {
      const auto rows = static_cast<size_t>(std::min(kTileRows, hidden_.rows));
      const auto logits = std::make_unique_for_overwrite<float[]>(rows * kTileTokens);
      std::vector<float> highest(rows);
      std::vector<float> panel(static_cast<size_t>(operand_.in_place() ? 0 : hidden_.cols * kTileTokens));
      int64_t tile = -1;
      while (const auto task = tasks.take()) {
        if (tile != *task / chunks_) std::ranges::fill(highest, kNothing);
        tile = *task / chunks_;
        score_tile(tile, *task % chunks_, panel.data(), logits.get(), highest.data());
      }
    });
    TokenScores scores;
    scores.log_probabilities.resize(questions_.size());
    for (int64_t row = 0; row < hidden_.rows; ++row) join_row(row, scores);
    return scores;
  }

 private:
  // Tiles of nearly equal heights, so that the last one is not a sliver.
  void score_tile(int64_t tile, int64_t chunk, float* panel, float* logits, float* highest) {
    const int64_t first_row = hidden_.rows * tile / tiles_, rows = hidden_.rows * (tile + 1) / tiles_ - first_row;
    const int64_t first_token = chunk * kTileTokens, count = std::min(kTileTokens, vocabulary_ - first_token);
    const auto [transpose_b, b, ldb] = operand_.columns(first_token, count, panel);
    multiply({Transpose::no, transpose_b, rows, count, hidden_.cols, hidden_.row(first_row),
              std::max(hidden_.stride, hidden_.cols), b, ldb, 0, logits, count});
    for (int64_t r = 0; r < rows; ++r) {
      float* const row_logits = logits + r * count;
      if (!bias_.empty()) add_bias(bias_.data + first_token, count, row_logits);
      parts_[(first_row + r) * chunks_ + chunk] = part_of(row_logits, first_token, count, highest[r]);
      for (const size_t q : asked_[first_row + r]) {
        const int64_t token = questions_[q].token - first_token;
        if (token >= 0 && token < count) logits_asked_[q] = row_logits[token];
      }
    }
  }

  // log softmax = logit - maximum - log sum: the last two apart, so that huge logits do not swallow the sum.
  void join_row(int64_t row, TokenScores& scores) const {
    const std::span parts(parts_.data() + row * chunks_, static_cast<size_t>(chunks_));
    const Part* best = parts.data();
    for (const Part& part : parts)
      if (part.maximum > best->maximum) best = &part;
    scores.best.push_back(best->best);
    const double maximum = static_cast<double>(best->maximum);
    double sum = 0;
    for (const Part& part : parts) sum += part.sum * std::exp(static_cast<double>(part.maximum) - maximum);
    for (const size_t q : asked_[row])
      scores.log_probabilities[q] = static_cast<float>(static_cast<double>(logits_asked_[q]) - maximum - std::log(sum));
  }

  Context& context_;
  ConstView hidden_;
  ConstView bias_;
  int64_t vocabulary_;
  std::span<const TokenQuestion> questions_;
  SecondOperand operand_;
  int64_t tiles_, chunks_;
  std::vector<Part> parts_;
  std::vector<std::vector<size_t>> asked_;  // per row, numbers of questions
  std::vector<float> logits_asked_;         // per question
};

}  // namespace

TokenScores score_tokens(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
                         std::span<const TokenQuestion> questions) {
  return TokenScorer(context, hidden, unembedding, bias, questions).score();
}

}  // namespace loci::cpu
