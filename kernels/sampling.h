#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace loci {

/// Draws one index per row from the softmax of its k highest logits: with the candidates in order of falling logit
/// (equal ones by rising index) and p_j proportional to exp(logits[r, j] / temperature), chosen[r] is the first
/// candidate at which the running sum of p exceeds uniforms[r], in [0, 1). Sums in fp64. logits [rows, V]; uniforms,
/// chosen [rows]; 1 <= k <= V; temperature > 0. Throws ShapeError before any write.
void sample_top_k(Context& context, ConstView logits, int64_t k, double temperature,
                  const DeviceArray<double>& uniforms, DeviceArray<int32_t>& chosen);

}  // namespace loci
