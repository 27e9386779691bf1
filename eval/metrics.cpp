#include "eval/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr double kNormal95 = 1.96;
constexpr Estimate kNoEstimate{kNone, kNone, 0};

const PromptScore& score_of(const PromptResult& prompt, Phase phase) {
  return phase == Phase::before ? prompt.before : prompt.after;
}

using PromptMetric = std::function<double(const PromptResult&, Phase)>;

/// Mean over the record's prompts of a kind; NaN where it has none.
double record_mean(const RecordResult& record, PromptKind kind, Phase phase, const PromptMetric& metric) {
  double sum = 0;
  int64_t count = 0;
  for (const PromptResult& prompt : record.prompts) {
    if (prompt.kind != kind) continue;
    sum += metric(prompt, phase);
    ++count;
  }
  return count ? sum / static_cast<double>(count) : kNone;
}

/// NLL(true) - NLL(new): positive where the model prefers the new target.
double preference(const PromptResult& prompt, Phase phase) {
  const PromptScore& score = score_of(prompt, phase);
  return mean_nll(score.at(1)) - mean_nll(score.at(0));
}

double prefers_new(const PromptResult& prompt, Phase phase) { return preference(prompt, phase) > 0 ? 1 : 0; }
double prefers_true(const PromptResult& prompt, Phase phase) { return preference(prompt, phase) < 0 ? 1 : 0; }

double magnitude_new(const PromptResult& prompt, Phase phase) {
  const PromptScore& score = score_of(prompt, phase);
  return std::exp(-mean_nll(score.at(0))) - std::exp(-mean_nll(score.at(1)));
}
double magnitude_true(const PromptResult& prompt, Phase phase) { return -magnitude_new(prompt, phase); }

double token_accuracy(const PromptResult& prompt, Phase phase, size_t target) {
  double right = 0;
  const auto correct = correct_tokens(score_of(prompt, phase).at(target), prompt.target_tokens.at(target));
  for (const bool token : correct) right += token;
  return right / static_cast<double>(correct.size());
}

PromptMetric all_tokens(size_t target) {
  return [target](const PromptResult& prompt, Phase phase) {
    return token_accuracy(prompt, phase, target) >= 1 ? 1.0 : 0.0;
  };
}
PromptMetric share_of_tokens(size_t target) {
  return [target](const PromptResult& prompt, Phase phase) { return token_accuracy(prompt, phase, target); };
}

/// Share of the target's positions whose most probable token is still that of the unedited model.
PromptMetric unchanged(size_t target) {
  return [target](const PromptResult& prompt, Phase phase) {
    const std::vector<int32_t>& before = prompt.before.at(target).best;
    const std::vector<int32_t>& now = score_of(prompt, phase).at(target).best;
    double same = 0;
    for (size_t i = 0; i < before.size(); ++i) same += before[i] == now.at(i);
    return same / static_cast<double>(before.size());
  };
}

struct MetricSpec {
  const char* name;
  const char* long_name;
  PromptKind kind;
  PromptMetric metric;
};

std::vector<MetricSpec> counterfact_metrics() {
  using enum PromptKind;
  return {
      {"ES", "efficacy: rewrite prompts with p(new) > p(true)", rewrite, prefers_new},
      {"PS", "paraphrase: prompts with p(new) > p(true)", paraphrase, prefers_new},
      {"NS", "neighborhood: prompts with p(true) > p(new)", neighborhood, prefers_true},
      {"EM", "efficacy magnitude: p(new) - p(true)", rewrite, magnitude_new},
      {"PM", "paraphrase magnitude: p(new) - p(true)", paraphrase, magnitude_new},
      {"NM", "neighborhood magnitude: p(true) - p(new)", neighborhood, magnitude_true},
      {"EA", "efficacy accuracy: every new token is the arg max", rewrite, all_tokens(0)},
      {"PA", "paraphrase accuracy: every new token is the arg max", paraphrase, all_tokens(0)},
      {"NA", "neighborhood accuracy: every true token is the arg max", neighborhood, all_tokens(1)},
      {"reliability", "new tokens that are the arg max, rewrite prompts", rewrite, share_of_tokens(0)},
      {"generalization", "new tokens that are the arg max, paraphrases", paraphrase, share_of_tokens(0)},
      {"locality", "neighborhood positions whose arg max stays", neighborhood, unchanged(1)},
  };
}

std::vector<MetricSpec> zsre_metrics() {
  using enum PromptKind;
  return {
      {"EA", "efficacy: answer tokens that are the arg max, question", rewrite, share_of_tokens(0)},
      {"PA", "paraphrase: answer tokens that are the arg max, rephrasing", paraphrase, share_of_tokens(0)},
      {"NA", "neighborhood: answer tokens that are the arg max, unrelated question", neighborhood, share_of_tokens(0)},
      {"locality", "positions of the unrelated question whose arg max stays", neighborhood, unchanged(0)},
  };
}

std::vector<MetricSpec> metrics_of(Dataset dataset) {
  return dataset == Dataset::counterfact ? counterfact_metrics() : zsre_metrics();
}

bool compares_models(const MetricSpec& spec) { return std::string_view(spec.name) == "locality"; }

std::vector<double> column_of(const MetricSpec& spec, std::span<const RecordResult> records, Phase phase) {
  std::vector<double> column;
  for (const RecordResult& record : records) column.push_back(record_mean(record, spec.kind, phase, spec.metric));
  return column;
}

std::string percent(const Estimate& one) {
  if (one.records == 0) return "          -";
  return fmt::format("{:>6} ±{:>5}", percent_text(one.mean), percent_text(one.interval));
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

Estimate estimate(std::span<const double> values) {
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (const double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  if (count == 0) return {kNone, kNone, 0};
  const double mean = sum / static_cast<double>(count);
  for (const double value : values) {
    if (!std::isnan(value)) squares += (value - mean) * (value - mean);
  }
  const double variance = squares / static_cast<double>(count);
  return {mean, kNormal95 * std::sqrt(variance / static_cast<double>(count)), count};
}

/// Harmonic mean of three metrics' means. Its interval is that of the linearised score: record i moves it by
/// sum_k dS/dm_k (x_ki - m_k), which keeps the correlation of the three within a record.
Estimate harmonic_mean(std::span<const std::span<const double>, 3> values) {
  std::array<double, 3> means{};
  double reciprocal = 0;
  int64_t records = std::numeric_limits<int64_t>::max();
  for (size_t k = 0; k < 3; ++k) {
    const Estimate one = estimate(values[k]);
    means[k] = one.mean;
    records = std::min(records, one.records);
    reciprocal += 1 / one.mean;
  }
  if (records == 0) return {kNone, kNone, 0};
  if (!(means[0] > 0 && means[1] > 0 && means[2] > 0)) return {0, 0, records};
  const double score = 3 / reciprocal;
  std::vector<double> moves;
  for (size_t i = 0; i < values[0].size(); ++i) {
    double move = 0;
    for (size_t k = 0; k < 3; ++k) move += score * score / (3 * means[k] * means[k]) * (values[k][i] - means[k]);
    moves.push_back(move);  // NaN where the record lacks a metric
  }
  return {score, estimate(moves).interval, records};
}

double mean_nll(const TargetScore& score) {
  double sum = 0;
  for (const float log_probability : score.log_probabilities) sum -= log_probability;
  return sum / static_cast<double>(score.log_probabilities.size());
}

std::vector<bool> correct_tokens(const TargetScore& score, std::span<const int32_t> target) {
  require<ShapeError>(score.best.size() == target.size(), "{} scored tokens for a target of {}", score.best.size(),
                      target.size());
  std::vector<bool> correct(target.size());
  for (size_t i = 0; i < target.size(); ++i) correct[i] = score.best[i] == target[i];
  return correct;
}

bool scored_after(std::span<const RecordResult> records) {
  return std::ranges::any_of(records, [](const RecordResult& record) {
    return std::ranges::any_of(record.prompts, [](const PromptResult& prompt) { return !prompt.after.empty(); });
  });
}

RecordValues record_values(Dataset dataset, std::span<const RecordResult> records, Phase phase) {
  RecordValues values;
  for (const MetricSpec& spec : metrics_of(dataset)) {
    if (compares_models(spec)) continue;
    values.names.emplace_back(spec.name);
    values.long_names.emplace_back(spec.long_name);
    values.columns.push_back(column_of(spec, records, phase));
  }
  return values;
}

std::vector<MetricSummary> summarize(Dataset dataset, std::span<const RecordResult> records) {
  std::vector<MetricSpec> specs = metrics_of(dataset);
  std::vector<Phase> phases = {Phase::before};
  if (scored_after(records))
    phases.push_back(Phase::after);
  else
    std::erase_if(specs, compares_models);
  std::vector<MetricSummary> summary;
  std::array<std::vector<std::vector<double>>, 2> values;  // [phase][metric][record]
  for (const MetricSpec& spec : specs) {
    MetricSummary row{spec.name, spec.long_name, {}, kNoEstimate};
    for (const Phase phase : phases) {
      std::vector<double> column = column_of(spec, records, phase);
      (phase == Phase::before ? row.before : row.after) = estimate(column);
      values[phase == Phase::before ? 0 : 1].push_back(std::move(column));
    }
    summary.push_back(std::move(row));
  }
  MetricSummary score{"score", "harmonic mean of efficacy, paraphrase and neighborhood", {}, kNoEstimate};
  const auto harmonic = [](const std::vector<std::vector<double>>& columns) {
    return harmonic_mean(std::array<std::span<const double>, 3>{columns[0], columns[1], columns[2]});
  };
  score.before = harmonic(values[0]);
  if (phases.size() > 1) score.after = harmonic(values[1]);
  summary.push_back(std::move(score));
  return summary;
}

int64_t edits_that_did_not_take(std::span<const RecordResult> records) {
  const PromptMetric took = all_tokens(0);
  return std::ranges::count_if(records, [&](const RecordResult& record) {
    return record_mean(record, PromptKind::rewrite, Phase::after, took) < 1;
  });
}

bool has_after(std::span<const MetricSummary> summary) {
  return std::ranges::any_of(summary, [](const MetricSummary& row) { return row.after.records > 0; });
}

std::string format_summary(std::span<const MetricSummary> summary) {
  const bool after = has_after(summary);
  const auto line = [&](const std::string& name, const std::string& before_text, const std::string& after_text,
                        const std::string& records, const std::string& long_name) {
    return fmt::format("{:<15} {:>14} {}{:>8}  {}\n", name, before_text,
                       after ? fmt::format("{:>14} ", after_text) : std::string(), records, long_name);
  };
  std::string table = line("metric", after ? "before [%]" : "model [%]", "after [%]", "records", "");
  for (const MetricSummary& row : summary)
    table += line(row.name, percent(row.before), percent(row.after), std::to_string(row.before.records), row.long_name);
  return table;
}

std::string percent_text(double share) { return fixed(100 * share, 2); }

Json summary_to_json(std::span<const MetricSummary> summary) {
  Json object = Json::object();
  for (const MetricSummary& row : summary) {
    Json& entry = object[row.name];
    entry = {{"long_name", row.long_name},
             {"before", number(row.before.mean)},
             {"before_interval", number(row.before.interval)},
             {"records", row.before.records}};
    if (has_after(summary)) {
      entry["after"] = number(row.after.mean);
      entry["after_interval"] = number(row.after.interval);
    }
  }
  return object;
}

}  // namespace loci
