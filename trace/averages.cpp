#include "trace/averages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "runtime/error.h"

namespace loci {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

using RowTokens = std::array<std::vector<int64_t>, kTokenRows>;

std::vector<int64_t>& at(RowTokens& rows, TokenRow row) { return rows[static_cast<size_t>(row)]; }

RowTokens rows_each_token_once(int64_t tokens, TokenRange subject) {
  RowTokens rows;
  for (int64_t t = subject.begin; t < tokens; ++t) {
    if (t == tokens - 1)
      at(rows, TokenRow::last).push_back(t);
    else if (t == subject.end - 1)
      at(rows, TokenRow::last_subject).push_back(t);
    else if (t == subject.begin)
      at(rows, TokenRow::first_subject).push_back(t);
    else if (t < subject.end)
      at(rows, TokenRow::middle_subject).push_back(t);
    else if (t == subject.end)
      at(rows, TokenRow::first_after).push_back(t);
    else
      at(rows, TokenRow::further_after).push_back(t);
  }
  return rows;
}

RowTokens rows_as_published(int64_t tokens, TokenRange subject) {
  RowTokens rows;
  at(rows, TokenRow::first_subject).push_back(subject.begin);
  for (int64_t t = subject.begin + 1; t < subject.end - 1; ++t) at(rows, TokenRow::middle_subject).push_back(t);
  at(rows, TokenRow::last_subject).push_back(subject.end - 1);
  if (subject.end < tokens) at(rows, TokenRow::first_after).push_back(subject.end);
  for (int64_t t = subject.end + 1; t < tokens - 1; ++t) at(rows, TokenRow::further_after).push_back(t);
  at(rows, TokenRow::last).push_back(tokens - 1);
  return rows;
}

/// Sums of one row and of its squares about the first value seen, which keeps the difference of squares accurate.
class RowSums {
 public:
  explicit RowSums(int64_t layers) : sums_(static_cast<size_t>(layers)), squares_(sums_), shift_(sums_) {}

  void add_case(const AveragedCase& one, const std::vector<int64_t>& tokens) {
    if (tokens.empty()) return;
    ++row_.cases;
    for (const int64_t t : tokens) add(one.scores.subspan(static_cast<size_t>(t) * sums_.size(), sums_.size()));
  }

  AveragedRow finish() {
    const auto n = static_cast<double>(row_.tokens);
    for (size_t l = 0; l < sums_.size(); ++l) {
      const double shifted = sums_[l] / n;
      const double deviation = std::sqrt(std::max(0.0, squares_[l] / n - shifted * shifted));
      row_.mean.push_back(row_.tokens ? shift_[l] + shifted : kNone);
      row_.deviation.push_back(row_.tokens ? deviation : kNone);
      row_.confidence.push_back(row_.tokens ? 1.96 * deviation / std::sqrt(static_cast<double>(row_.cases)) : kNone);
    }
    return row_;
  }

 private:
  void add(std::span<const float> scores) {
    if (row_.tokens++ == 0) std::copy(scores.begin(), scores.end(), shift_.begin());
    for (size_t l = 0; l < sums_.size(); ++l) {
      const double value = static_cast<double>(scores[l]) - shift_[l];
      sums_[l] += value;
      squares_[l] += value * value;
    }
  }

  AveragedRow row_;
  std::vector<double> sums_, squares_, shift_;
};

double largest(std::span<const float> scores) {
  return static_cast<double>(*std::max_element(scores.begin(), scores.end()));
}

/// The best layer of a row that has at most one token a case.
class BestLayerSums {
 public:
  void add_case(const AveragedCase& one, const std::vector<int64_t>& tokens, size_t layers) {
    for (const int64_t t : tokens) {
      sum_ += largest(one.scores.subspan(static_cast<size_t>(t) * layers, layers));
      ++count_;
    }
  }
  BestLayer finish(const AveragedRow& row) const {
    if (count_ == 0) return {kNone, kNone, -1};
    const auto best = std::max_element(row.mean.begin(), row.mean.end());
    return {sum_ / static_cast<double>(count_), *best, best - row.mean.begin()};
  }

 private:
  double sum_ = 0;
  int64_t count_ = 0;
};

void check_case(const AveragedCase& one, int64_t layers) {
  require<ShapeError>(std::ssize(one.scores) == one.tokens * layers && one.tokens > 0,
                      "{} scores for {} tokens and {} layers", one.scores.size(), one.tokens, layers);
  require<ShapeError>(one.subject.begin >= 0 && one.subject.begin < one.subject.end && one.subject.end <= one.tokens,
                      "subject [{}, {}) of {} tokens", one.subject.begin, one.subject.end, one.tokens);
}

}  // namespace

std::string_view token_row_name(TokenRow row) {
  switch (row) {
    case TokenRow::first_subject:
      return "first subject token";
    case TokenRow::middle_subject:
      return "middle subject tokens";
    case TokenRow::last_subject:
      return "last subject token";
    case TokenRow::first_after:
      return "first subsequent token";
    case TokenRow::further_after:
      return "further tokens";
    case TokenRow::last:
      return "last token";
  }
  return "";
}

std::vector<double> Averages::indirect_effect(TokenRow which) const {
  std::vector<double> effect = row(which).mean;
  for (double& value : effect) value -= mean_low;
  return effect;
}

Averages average(std::span<const AveragedCase> cases, int64_t layers, RowRule rule) {
  Averages averages;
  averages.cases = std::ssize(cases);
  averages.layers = layers;
  std::vector<RowSums> sums(kTokenRows, RowSums(layers));
  BestLayerSums last_subject, last_token;
  for (const AveragedCase& one : cases) {
    check_case(one, layers);
    RowTokens rows = rule == RowRule::as_published ? rows_as_published(one.tokens, one.subject)
                                                   : rows_each_token_once(one.tokens, one.subject);
    for (size_t r = 0; r < kTokenRows; ++r) sums[r].add_case(one, rows[r]);
    last_subject.add_case(one, at(rows, TokenRow::last_subject), static_cast<size_t>(layers));
    last_token.add_case(one, at(rows, TokenRow::last), static_cast<size_t>(layers));
    averages.mean_low += one.low_score;
    averages.mean_high += one.high_score;
    averages.mean_maximum += largest(one.scores);
  }
  const double n = cases.empty() ? kNone : static_cast<double>(cases.size());
  averages.mean_low /= n;
  averages.mean_high /= n;
  averages.mean_maximum /= n;
  averages.total_effect = averages.mean_high - averages.mean_low;
  for (size_t r = 0; r < kTokenRows; ++r) averages.rows[r] = sums[r].finish();
  averages.last_subject = last_subject.finish(averages.row(TokenRow::last_subject));
  averages.last_token = last_token.finish(averages.row(TokenRow::last));
  return averages;
}

std::vector<EffectCell> strongest_cells(std::span<const float> scores, int64_t layers, double low_score, size_t count) {
  require<ShapeError>(layers > 0 && std::ssize(scores) % layers == 0, "{} scores are not rows of {} layers",
                      scores.size(), layers);
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(order.size(), count));
  std::vector<EffectCell> cells;
  for (const int64_t at : order) {
    const double effect = static_cast<double>(scores[at]) - low_score;
    cells.push_back(EffectCell{at / layers, at % layers, effect});
  }
  return cells;
}

}  // namespace loci
