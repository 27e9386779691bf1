#pragma once

#include <cmath>

#include "kernels/adam.h"

namespace loci {

/// The scalars of one step, in fp32 as PyTorch hands them to its loops.
struct AdamFactors {
  float gradient_scale;
  float keep;  ///< 1 - learning_rate weight_decay
  float one_minus_beta_1;
  float beta_2;
  float one_minus_beta_2;
  float root_correction_2;  ///< sqrt(1 - beta_2^t)
  float epsilon;
  float step_size;  ///< learning_rate / (1 - beta_1^t)
};

inline AdamFactors adam_factors(const AdamOptions& options, int64_t step, float gradient_scale) {
  const double correction_1 = 1 - std::pow(options.beta_1, static_cast<double>(step));
  const double correction_2 = 1 - std::pow(options.beta_2, static_cast<double>(step));
  return {gradient_scale,
          static_cast<float>(1 - options.learning_rate * options.weight_decay),
          static_cast<float>(1 - options.beta_1),
          static_cast<float>(options.beta_2),
          static_cast<float>(1 - options.beta_2),
          static_cast<float>(std::sqrt(correction_2)),
          static_cast<float>(options.epsilon),
          static_cast<float>(options.learning_rate / correction_1)};
}

}  // namespace loci
