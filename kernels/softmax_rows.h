#pragma once

#include <cstdint>

namespace loci::cpu {

/// max x[i]. NaN is not found here; it comes out of the sum of exponentials.
float row_maximum(const float* x, int64_t count);

/// sum exp(x[i] - maximum); the exponentials good to 2 ulp of fp32, their sum in fp64.
double sum_of_exponentials(const float* x, int64_t count, float maximum);

}  // namespace loci::cpu
