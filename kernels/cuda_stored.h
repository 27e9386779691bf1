#pragma once

#include "kernels/cuda_reduce.h"
#include "runtime/stored.h"

/// Stored elements in kernels. For *_cuda.cu only.
namespace loci::cuda {

/// In fp32, exactly; as loci::to_float(), which is the host's.
__device__ inline float in_fp32(float value) { return value; }
__device__ inline float in_fp32(Bfloat value) { return __uint_as_float(unsigned{value.bits} << 16); }
__device__ inline float in_fp32(Half value) {
  const unsigned magnitude = value.bits & 0x7fffu, sign = (value.bits & 0x8000u) << 16;
  if (magnitude < 0x400u)  // a multiple of 2^-24
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-24f));
  const unsigned normal = (magnitude << 13) + (112u << 23), special = magnitude << 13 | 0x7f800000u;
  return __uint_as_float(sign | (magnitude >= 0x7c00u ? special : normal));
}

/// The first element as its type, for a matrix of that type.
template <typename Element>
MatrixView<const Element> elements_of(const StoredView& view) {
  return {static_cast<const Element*>(view.data), view.rows, view.cols, std::max(view.stride, view.cols)};
}

/// Calls visit(the matrix as a view of float, Half or Bfloat).
template <typename Visit>
decltype(auto) visit_matrix(const StoredView& view, const Visit& visit) {
  if (view.type == StoredType::fp16) return visit(elements_of<Half>(view));
  if (view.type == StoredType::bf16) return visit(elements_of<Bfloat>(view));
  return visit(elements_of<float>(view));
}

}  // namespace loci::cuda
