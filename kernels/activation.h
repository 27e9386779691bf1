#pragma once

#include "runtime/context.h"
#include "runtime/view.h"

namespace loci {

enum class Activation {
  gelu_new,  ///< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))   (Hendrycks & Gimpel 2016, section 2)
  gelu,      ///< x Phi(x) by erf
  relu,
  silu,  ///< x / (1 + exp(-x))   (Hendrycks & Gimpel 2016, section 2)
};

/// y = f(x) elementwise; x, y [rows, width], may alias. Relative error of y below 4 eps of fp32 away from y = 0.
void activation(Context& context, Activation kind, ConstView x, View y);

/// dx = f'(x) dy; dx may alias dy.
void activation_backward(Context& context, Activation kind, ConstView x, ConstView dy, View dx);

}  // namespace loci
