#pragma once

#include "kernels/cuda_vendor.h"
#include "runtime/tensor.h"

/// What the products of *_cuda.cu share.
namespace loci::cuda {

/// A matrix as the library reads it in the context's precision: the view itself, or a copy whose rows start 16 bytes
/// aligned.
struct Operand {
  const void* data = nullptr;
  int64_t stride = 0;
  DeviceArray<uint16_t> bf16;  ///< the copy, where there is one
  DeviceArray<float> fp32;     ///< likewise
};
Operand make_operand(Context& context, const StoredView& view);

}  // namespace loci::cuda
