#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "edit/edit.h"
#include "runtime/context.h"

namespace loci {

/// Rows of one projection: its inputs h and the gradients g of the loss at its outputs.
struct ProjectionRows {
  std::span<const float> keys;       ///< h [rows, in]
  std::span<const float> gradients;  ///< g [rows, out]
};

/// Mean and spread of the rows [h; g] of all projections of one shape, over all passes so far. (Gu et al. 2025,
/// "lifelong normalization"; as the published code computes it)
class Normaliser {
 public:
  Normaliser(int64_t in, int64_t out);

  /// Adds the r rows of one pass and one projection:
  ///   N += r;  d = mean(x) - mu;  mu += r d / N;  S += r var(x) + N_before r d^2 / N
  /// with the variance over r - 1, which is 0 where r = 1. That r var stands where (r - 1) var would be exact is the
  /// published code's: S depends on how rows are cut into passes.
  void add(Context& context, const ProjectionRows& rows);

  /// How many rows were added.
  int64_t count() const { return count_; }
  /// V [rows, out] = -rate |h^|^2 g^, with [h^; g^] = ([h; g] - mu) / (sigma + eps) and sigma = sqrt(S / (N - 1 +
  /// eps)). Exactly 0 where count() is 1.
  std::vector<float> values(Context& context, const ProjectionRows& rows, double rate) const;

  /// "normaliser/{in}x{out}/n", "../mean" and "../sum_squares" [in + out].
  void add_to(std::vector<RecordedValues>& state) const;
  /// Takes over what add_to() gave. Throws InputError where it is missing, or of another shape.
  void restore(std::span<const RecordedValues> state);

 private:
  void add_columns(Context& context, std::span<const float> values, int64_t rows, int64_t first, int64_t width);
  std::string name(const char* what) const;

  int64_t in_, out_;
  int64_t count_ = 0;
  std::vector<double> mean_, squares_;  ///< mu and S [in + out]
};

}  // namespace loci
