#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace loci {

/// How subjects are corrupted, as on the command line: `0.1` normal noise of that standard deviation; `s3` 3 times the
/// standard deviation of the subjects' token embeddings; `u3` uniform in (-3, 3); `m` normal with mean and covariance
/// of the embeddings over a text; `t3` Student-t with 3 degrees of freedom and that mean and covariance.
struct NoiseRule {
  enum class Kind { fixed, subjects, uniform, multivariate, student };
  Kind kind = Kind::subjects;
  double value = 3;  ///< level, factor or degrees of freedom; unused for `m`

  /// Throws InputError for anything else, degrees of freedom that are not above 2 (no covariance) included.
  static NoiseRule parse(const std::string& text);
  bool needs_text() const { return kind == Kind::multivariate || kind == Kind::student; }
};

/// Mean and covariance of token embeddings, and the map from standard normal to such vectors.
struct EmbeddingLaw {
  int64_t width = 0;
  std::vector<double> mean;  ///< [d]
  std::vector<double> root;  ///< R [d, d] = V sqrt(S) with covariance V S V^T; R x + mean has that law for normal x
};

/// A rule with its measured level: what draws corruption.
struct Noise {
  NoiseRule rule;
  double level = 0;  ///< factor of normal or uniform draws; for `m` and `t` the root mean square of the law
  std::optional<EmbeddingLaw> law;
  uint32_t seed = 1;  ///< published traces: 1

  /// The first `draws` draws of [samples, tokens, width] each, from a generator that is seeded again at every call, so
  /// that all interventions on a fact see the same noise. A second draw continues the stream.
  std::vector<std::vector<double>> draw(int64_t draws, int64_t samples, int64_t tokens, int64_t width) const;
};

/// Standard deviation (n - 1 in the denominator) over all scalars of the embeddings of these tokens, rounded to fp32 as
/// the published code's is. Throws InputError for fewer than two scalars.
double embedding_deviation(Context& context, const Model& model, std::span<const std::vector<int32_t>> texts);

/// Mean and covariance (n - 1) of the embeddings of a text whose tokens occur counts[id] times. Throws InputError for
/// fewer than two tokens.
EmbeddingLaw embedding_law(Context& context, const Model& model, std::span<const int64_t> counts);

}  // namespace loci
