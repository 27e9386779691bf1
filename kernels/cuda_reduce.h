#pragma once

#include <type_traits>

#include "runtime/cuda_launch.h"

/// Reductions and wide accesses that several kernels use. For *_cuda.cu only.
namespace loci::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/// The reduction over a warp, in each of its lanes; all lanes take part. The order is fixed, so equal inputs give equal
/// bits.
template <typename Op, typename T>
__device__ T warp_reduce(T value, Op op = {}) {
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value = op(value, __shfl_xor_sync(kAllLanes, value, bits));
  return value;
}
template <typename T>
__device__ T warp_sum(T value) {
  return warp_reduce<Sum>(value);
}

/// The reduction over a block of at most 1024 threads, in each of them. `scratch` is shared memory for
/// blockDim.x / 32 values, free for use again after the next barrier. `none` is the value that changes nothing.
template <typename Op, typename T>
__device__ T block_reduce(T value, T none, T* scratch, Op op = {}) {
  value = warp_reduce<Op>(value, op);
  const int lane = lane_index(), warp = warp_index();
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? scratch[lane] : none;
  return warp_reduce<Op>(value, op);
}
template <typename T>
__device__ T block_sum(T value, T* scratch) {
  return block_reduce<Sum>(value, T(0), scratch);
}

/// Row r of a view, as elements or as vectors of them.
template <typename V = float, typename T>
__device__ auto row_of(const MatrixView<T>& view, int64_t r) {
  using Element = std::conditional_t<std::is_const_v<T>, const V, V>;
  return reinterpret_cast<Element*>(view.data + r * view.stride);
}

/// Whether the rows of a view can be read and written 16 bytes at a time.
template <typename T>
bool wide(const MatrixView<T>& view) {
  constexpr int64_t kPer16Bytes = 16 / sizeof(T);
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.cols % kPer16Bytes == 0 &&
         (view.rows <= 1 || view.stride % kPer16Bytes == 0);
}

}  // namespace loci::cuda
