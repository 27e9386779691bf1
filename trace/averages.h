#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "records/facts.h"

namespace loci {

/// The kinds of tokens that effects are averaged over. With the subject [f, a) and the last token z of the prompt.
enum class TokenRow {
  first_subject,   ///< f
  middle_subject,  ///< f + 1 .. a - 2
  last_subject,    ///< a - 1
  first_after,     ///< a
  further_after,   ///< a + 1 .. z - 1
  last,            ///< z
};
inline constexpr size_t kTokenRows = 6;
std::string_view token_row_name(TokenRow row);

/// Which row a token counts in where several fit.
enum class RowRule {
  /// Every token once: the last token before the last subject token before the first one and the first one after it.
  /// So a one-token subject counts as last subject token, z counts as last token where it is also a (or a - 1).
  each_token_once,
  /// The published code: a one-token subject is both first and last, z is also a where they fall together. Where the
  /// subject ends the prompt the published code fails; there a does not exist and a - 1 is also z.
  as_published,
};

/// The scores of one correctly answered fact.
struct AveragedCase {
  std::span<const float> scores;  ///< [tokens, layers]
  int64_t tokens = 0;
  TokenRange subject;
  double low_score = 0;
  double high_score = 0;
};

/// One row of averages. Middle and further rows pool the tokens of all cases, so long prompts weigh more, as published.
struct AveragedRow {
  int64_t tokens = 0;              ///< pooled
  int64_t cases = 0;               ///< that have such a token
  std::vector<double> mean;        ///< [layers]; NaN where there are none
  std::vector<double> deviation;   ///< [layers], over the pooled tokens (n in the denominator)
  std::vector<double> confidence;  ///< [layers], 1.96 deviation / sqrt(cases): half of the 95 % interval
};

/// A maximum over layers of a row.
struct BestLayer {
  double mean_of_maxima = 0;  ///< each case's best layer
  double best_mean = 0;       ///< of the averaged scores
  int64_t layer = -1;         ///< where `best_mean` is; -1 where no case has such a token
};

/// Averages over the correctly answered facts (Meng et al. 2022, section 2.2 and appendix B).
struct Averages {
  int64_t cases = 0;
  int64_t layers = 0;
  double mean_low = 0, mean_high = 0;
  double total_effect = 0;  ///< mean high - mean low
  double mean_maximum = 0;  ///< mean over cases of the largest score
  std::array<AveragedRow, kTokenRows> rows;
  BestLayer last_subject, last_token;

  const AveragedRow& row(TokenRow which) const { return rows[static_cast<size_t>(which)]; }
  /// Average indirect effect [layers]: row mean - mean low.
  std::vector<double> indirect_effect(TokenRow which) const;
};

/// Averages over cases of `layers` columns; with no cases everything is NaN.
Averages average(std::span<const AveragedCase> cases, int64_t layers, RowRule rule);

/// One cell of a fact's scores.
struct EffectCell {
  int64_t token = 0;
  int64_t layer = 0;
  double effect = 0;  ///< indirect effect: score - low score
};
/// The cells of `scores` [tokens, layers] with the largest indirect effects, at most `count`, the largest first; of
/// equal ones the one that comes first in `scores`.
std::vector<EffectCell> strongest_cells(std::span<const float> scores, int64_t layers, double low_score, size_t count);

}  // namespace loci
