#pragma once

#include <cstdint>

namespace loci::cpu {

/// max x[i]. NaN is not found here; it comes out of the sum of exponentials.
float row_maximum(const float* x, int64_t count);

/// sum exp(x[i] - maximum) for a maximum that is not below any x[i], to the accuracy that its logarithm needs; what is
/// smaller than exp(-87) counts as exp(-87).
double sum_of_exponentials(const float* x, int64_t count, float maximum);

}  // namespace loci::cpu
