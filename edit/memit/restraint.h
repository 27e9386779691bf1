#pragma once

#include <cstdint>
#include <span>

#include "runtime/context.h"

namespace loci {

/// The largest singular value of `matrix` [rows, cols], in fp64. Throws NumericalError where an entry is not finite.
double largest_singular_value(Context& context, std::span<const double> matrix, int64_t rows, int64_t cols);

/// PRUNE's restraint (Ma et al. 2024, equation 8, with the natural logarithm of the published code): each singular
/// value s of `change` [rows, cols] above `limit` becomes log(s) - log(limit) + limit. Returns whether there was one;
/// else `change` stays as it is. Throws NumericalError where an entry is not finite.
bool restrain_singular_values(Context& context, std::span<double> change, int64_t rows, int64_t cols, double limit);

}  // namespace loci
