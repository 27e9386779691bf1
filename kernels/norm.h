#pragma once

#include "kernels/gemm.h"

namespace loci {

/// How rows are normalised. The sums are fp64.
enum class Norm {
  layer,  ///< (x - mean) rstd gain + bias, rstd = 1 / sqrt(variance + epsilon)  (Ba et al. 2016, eq. 4)
  rms,    ///< x rstd gain + bias, rstd = 1 / sqrt(mean(x^2) + epsilon)  (Zhang and Sennrich 2019, eq. 4)
};

/// y[r] = x[r] normalised, for each row r. x, y [rows, width], may alias; gain, bias [1, width]; an empty bias is none.
/// statistics [rows, 2] = (mean, rstd), the mean 0 for rms, saved for the backward pass, may be an empty view. Throws
/// ShapeError before any write.
void normalise(Context& context, Norm norm, ConstView x, ConstView gain, ConstView bias, float epsilon, View y,
               View statistics);

/// x += update, and y, statistics = the new x normalised: the two ops in one pass. update [rows, width]; y may alias
/// update.
void add_normalise(Context& context, Norm norm, ConstView update, View x, ConstView gain, ConstView bias, float epsilon,
                   View y, View statistics);

/// dx = or += the gradient with regard to x; dgain, dbias [1, width] += where they are not empty.
/// x and statistics are those of the forward pass; dx may alias dy where it is assigned.
void normalise_backward(Context& context, Norm norm, ConstView x, ConstView gain, ConstView statistics, ConstView dy,
                        View dx, Write write, View dgain, View dbias);

}  // namespace loci
