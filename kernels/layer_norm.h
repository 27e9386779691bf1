#pragma once

#include "kernels/gemm.h"

namespace loci {

/// y[r] = (x[r] - mean[r]) rstd[r] * gain + bias for each row r; rstd = 1 / sqrt(variance + epsilon).  (Ba et al. 2016,
/// eq. 4) x, y [rows, width], may alias; gain, bias [1, width]. statistics [rows, 2] = (mean, rstd), saved for the
/// backward pass, may be an empty view. Throws ShapeError before any write.
void layer_norm(Context& context, ConstView x, ConstView gain, ConstView bias, float epsilon, View y, View statistics);

/// x += update, and y, statistics = layer_norm of the new x: the two ops in one pass. update [rows, width]; y may alias
/// update.
void add_layer_norm(Context& context, ConstView update, View x, ConstView gain, ConstView bias, float epsilon, View y,
                    View statistics);

/// dx = or += the gradient with regard to x; dgain, dbias [1, width] += where they are not empty.
/// x and statistics are those of the forward pass; dx may alias dy where it is assigned.
void layer_norm_backward(Context& context, ConstView x, ConstView gain, ConstView statistics, ConstView dy, View dx,
                         Write write, View dgain, View dbias);

}  // namespace loci
