#pragma once

#include <cstdint>

#include "runtime/context.h"

/// What the device can do at best, measured in the same run as what is compared with it. In operations and bytes a
/// second.
namespace loci::bench {

/// Products [n, n] x [n, n] in the context's precision, on random data: on a GPU by the vendor's library, on operands
/// of that precision, with nothing of loci around it; on the CPU gemm().
double square_product_flops(Context& context, int64_t n);

/// A copy on the device of `bytes` bytes: bytes read and bytes written.
double copied_bytes(Context& context, int64_t bytes);

}  // namespace loci::bench
