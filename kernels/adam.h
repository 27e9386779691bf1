#pragma once

#include <cstdint>

#include "runtime/context.h"
#include "runtime/view.h"

namespace loci {

/// Adam and AdamW (Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2).
struct AdamOptions {
  double learning_rate = 1e-3;
  double beta_1 = 0.9;
  double beta_2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;  ///< decoupled: x -= learning_rate * weight_decay * x
};

/// One step (`step` counts from 1) on x [rows, cols] with its gradient; `first` and `second` are the moments, zero
/// before the first step. gradient_scale multiplies the gradient first (clipping). Arithmetic as PyTorch's: the bias
/// corrections in fp64, x -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
void adam_step(Context& context, const AdamOptions& options, int64_t step, ConstView gradient, float gradient_scale,
               View x, View first, View second);

/// Sum of squares of x, in fp64, in a fixed order.
double sum_of_squares(Context& context, ConstView x);

/// Scales each row of x that is longer than its limit, after an optimiser's step: |x[r]| = limits[r] where it was more.
/// limits [rows, 1].
void clamp_row_norms(Context& context, ConstView limits, View x);

}  // namespace loci
