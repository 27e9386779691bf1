#include "kernels/token_scores.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/gemm.h"
#include "kernels/softmax.h"

namespace loci {
namespace {

// The logits of a GPU take no more than this at a time: enough rows for products at full speed.
int64_t logit_bytes(const Context& context) { return std::min(int64_t{256} << 20, context.memory_budget() / 8); }

// Numbers of the questions by row, then as asked.
std::vector<size_t> by_row(std::span<const TokenQuestion> questions) {
  std::vector<size_t> order(questions.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return questions[a].row < questions[b].row; });
  return order;
}

// What is asked of some rows, on its way to the host.
struct Part {
  ArrayInFlight<float> log_probabilities;
  ArrayInFlight<int32_t> best;
};

// The rows of each question and their tokens, sorted by row.
Part score_part(Context& context, View logits, const std::vector<int64_t>& rows, const std::vector<int32_t>& tokens) {
  Tensor log_probabilities(context, std::ssize(rows), 1);
  DeviceArray<int32_t> best(context, logits.rows);
  argmax_rows(context, logits, best);
  target_log_probabilities(context, logits, {context, std::span<const int64_t>(rows)},
                           {context, std::span<const int32_t>(tokens)}, log_probabilities.view());
  return {log_probabilities.start_to_host(), best.start_to_host()};
}

TokenScores collect(std::vector<Part>& parts, const std::vector<size_t>& order) {
  TokenScores scores;
  scores.log_probabilities.resize(order.size());
  size_t next = 0;
  for (Part& part : parts) {
    for (const float value : part.log_probabilities.wait()) scores.log_probabilities[order[next++]] = value;
    const std::span<const int32_t> best = part.best.wait();
    scores.best.insert(scores.best.end(), best.begin(), best.end());
  }
  return scores;
}

// Through the logits of some rows at a time.
ScoresInFlight score_by_logits(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
                               std::span<const TokenQuestion> questions) {
  const int64_t row_bytes =
      static_cast<int64_t>(sizeof(float)) * std::max<int64_t>(1, Tensor::padded_stride(unembedding.out));
  const int64_t most = std::max<int64_t>(1, logit_bytes(context) / row_bytes);
  std::vector<size_t> order = by_row(questions);
  const auto parts = std::make_shared<std::vector<Part>>();
  for (int64_t first = 0, next = 0; first < hidden.rows; first += most) {
    const int64_t count = std::min(most, hidden.rows - first);
    std::vector<int64_t> rows;
    std::vector<int32_t> tokens;
    for (; next < std::ssize(order); ++next) {
      const TokenQuestion& question = questions[order[next]];
      if (question.row >= first + count) break;
      rows.push_back(question.row - first);
      tokens.push_back(question.token);
    }
    Tensor logits = Tensor::padded(context, count, unembedding.out);
    linear(context, hidden.rows_slice(first, count), unembedding, bias, logits.view());
    parts->push_back(score_part(context, logits.view(), rows, tokens));
  }
  return ScoresInFlight([parts, order = std::move(order)] { return collect(*parts, order); });
}

}  // namespace

ScoresInFlight start_scoring_tokens(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
                                    std::span<const TokenQuestion> questions) {
  require_stored("score_tokens", "unembedding", unembedding.stored());
  require_shape("score_tokens", "hidden", hidden, hidden.rows, unembedding.in);
  if (!bias.empty()) require_shape("score_tokens", "bias", bias, 1, unembedding.out);
  require<ShapeError>(hidden.rows == 0 || unembedding.out > 0, "score_tokens: unembedding has no tokens");
  for (const TokenQuestion& question : questions)
    require<ShapeError>(
        question.row >= 0 && question.row < hidden.rows && question.token >= 0 && question.token < unembedding.out,
        "score_tokens: token {} of row {} is asked of [{}, {}] logits", question.token, question.row, hidden.rows,
        unembedding.out);
  if (!context.on_cpu()) return score_by_logits(context, hidden, unembedding, bias, questions);
  context.count_matrix_flop(gemm_flop(static_cast<double>(hidden.rows), static_cast<double>(unembedding.out),
                                      static_cast<double>(hidden.cols)));
  return cpu::score_tokens(context, hidden, unembedding, bias, questions);
}

TokenScores score_tokens(Context& context, ConstView hidden, const WeightView& unembedding, ConstView bias,
                         std::span<const TokenQuestion> questions) {
  return start_scoring_tokens(context, hidden, unembedding, bias, questions).collect();
}

}  // namespace loci
