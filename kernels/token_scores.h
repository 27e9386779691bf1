#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/weight.h"
#include "runtime/tensor.h"

namespace loci {

/// Asks how probable `token` is as the next one behind hidden row `row`.
struct TokenQuestion {
  int64_t row;
  int32_t token;
};

/// What is asked of next-token distributions softmax(h U^T + bias), on the host.
struct TokenScores {
  std::vector<float> log_probabilities;  ///< of each question's token
  std::vector<int32_t> best;             ///< of each hidden row: arg max, the lowest index where several are equal
};

/// Scores that a GPU may still be computing. Nothing has been waited for.
class ScoresInFlight {
 public:
  /// Scores that are there already; none.
  ScoresInFlight(TokenScores scores = {}) : collect_([scores = std::move(scores)] { return scores; }) {}
  explicit ScoresInFlight(std::function<TokenScores()> collect) : collect_(std::move(collect)) {}

  /// Waits for them, but for nothing that was issued later. The context that computes them must be alive.
  TokenScores collect() const { return collect_(); }

 private:
  std::function<TokenScores()> collect_;
};

/// Answers questions about rows of `hidden` [n, d], with U^T = `unembedding` from d to V and an optional bias [1, V] of
/// the logits, without holding their n x V logits: the CPU computes them in tiles that stay in its caches, a GPU some
/// rows at a time. Throws ShapeError for a question outside [n, V]. Equal inputs and shapes give equal bits with any
/// number of threads.
ScoresInFlight start_scoring_tokens(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
                                    std::span<const TokenQuestion> questions);
/// The same, and waits for the answers.
TokenScores score_tokens(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
                         std::span<const TokenQuestion> questions);

}  // namespace loci
