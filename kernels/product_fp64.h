#pragma once

#include <cstdint>
#include <span>

#include "kernels/gemm.h"
#include "runtime/context.h"

namespace loci {

/// c = a op(b) in fp64 on the host: a [m, k], op(b) [k, n], c [m, n], all row-major and contiguous; c aliases neither.
/// For the small systems of editing methods. Equal inputs give equal bits with any number of threads. Throws ShapeError
/// before any write.
void product_fp64(Context& context, std::span<const double> a, Transpose transpose_b, std::span<const double> b,
                  std::span<double> c, int64_t m, int64_t n, int64_t k);

}  // namespace loci
