#pragma once

#include "kernels/cuda_vendor.h"
#include "runtime/tensor.h"

/// What the products of *_cuda.cu share.
namespace loci::cuda {

/// A matrix as the library reads it in the context's precision: the view itself, or a copy in bf16 whose rows start 16
/// bytes aligned.
struct Operand {
  const void* data = nullptr;
  int64_t stride = 0;
  DeviceArray<uint16_t> copy;
};
Operand make_operand(Context& context, ConstView view);

}  // namespace loci::cuda
