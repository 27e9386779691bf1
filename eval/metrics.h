#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "eval/datasets.h"

/// The numbers that papers report about edits, from the token scores of single prompts. (Meng et al. 2022, section 3.4;
/// Wang et al. 2024, EasyEdit, for reliability, generalization and locality)
namespace loci {

/// A number that does not exist.
inline constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// A scored prompt. `before` and `after` follow target_tokens; `after` is empty where the model was scored as it is.
struct PromptResult {
  PromptKind kind;
  std::string text;
  std::vector<std::string> targets;
  std::vector<std::vector<int32_t>> target_tokens;
  PromptScore before;
  PromptScore after;
};

/// A scored record.
struct RecordResult {
  int64_t case_id = 0;
  Json request;
  double update_norm = 0;  ///< Frobenius norm of the weight update
  double edit_seconds = 0;
  double score_seconds = 0;
  std::vector<PromptResult> prompts;
};

/// Whether the records were scored after an edit as well, and not only with the model as it is.
bool scored_after(std::span<const RecordResult> records);

enum class Phase { before, after };

/// Mean over the target's tokens of -log p.
double mean_nll(const TargetScore& score);
/// Per token: whether it is the most probable one.
std::vector<bool> correct_tokens(const TargetScore& score, std::span<const int32_t> target);

/// A metric's mean over records (each record is the mean over its prompts) with the half width of its 95 % confidence
/// interval, 1.96 sigma / sqrt(n); NaN where no record has it.
struct Estimate {
  double mean = 0;
  double interval = 0;
  int64_t records = 0;
};

struct MetricSummary {
  std::string name;       ///< "ES"
  std::string long_name;  ///< "efficacy: share of rewrite prompts with p(new) > p(true)"
  Estimate before;
  Estimate after;
};

/// CounterFact: success (ES, PS, NS), magnitude (EM, PM, NM), accuracy (EA, PA, NA: every target token is the arg max),
/// the harmonic mean of the three successes (score), and EasyEdit's reliability, generalization (share of the new
/// target's tokens that are the arg max) and locality (share of neighborhood positions whose arg max stays). zsRE:
/// token accuracies EA, PA, NA, their harmonic mean, and locality. Of a model scored as it is, `after` has no records,
/// and there is no locality.
std::vector<MetricSummary> summarize(Dataset dataset, std::span<const RecordResult> records);

/// The values behind a summary: what each record has of each metric.
struct RecordValues {
  std::vector<std::string> names, long_names;  ///< [metrics]
  std::vector<std::vector<double>> columns;    ///< [metrics][records], NaN where a record has no such prompts
};
/// Of the metrics that need one model alone, which are all but locality; efficacy, paraphrase and neighborhood come
/// first.
RecordValues record_values(Dataset dataset, std::span<const RecordResult> records, Phase phase);
/// The mean of a column; the harmonic mean of the first three, "score".
Estimate estimate(std::span<const double> values);
Estimate harmonic_mean(std::span<const std::span<const double>, 3> values);

/// Records whose edit did not take: on the rewrite prompt, some token of the new target is not the most likely one.
int64_t edits_that_did_not_take(std::span<const RecordResult> records);

/// Whether it holds scores after an edit.
bool has_after(std::span<const MetricSummary> summary);

/// The summary as a table for people.
std::string format_summary(std::span<const MetricSummary> summary);

/// A mean or an interval in per cent with two decimals, never "-0.00".
std::string percent_text(double share);

/// {"ES": {"before": .., "before_interval": .., "after": .., ...}}; null for what is not a number.
Json summary_to_json(std::span<const MetricSummary> summary);

}  // namespace loci
