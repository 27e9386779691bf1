#pragma once

/// The language that kernels are written in, and the one place that launches them. Included by *_cuda.cu alone. Under
/// nvcc it is CUDA; elsewhere runtime/emulation/simt.h stands in for the part of CUDA that the kernels use, so that the
/// same source compiles as host C++ and runs in the tests.

#include <cstdint>

#include "runtime/context.h"
#include "runtime/error.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include "runtime/cuda_handles.h"
#else
#include "runtime/emulation/simt.h"
#endif

namespace loci::cuda {

/// How a kernel is launched. `op` names it in errors.
struct Launch {
  const char* op;
  dim3 grid;                ///< blocks; an empty grid launches nothing
  int threads = 256;        ///< per block, a multiple of 32, at most 1024
  size_t shared_bytes = 0;  ///< of dynamic shared memory, as SharedMemory hands it out
};

/// Blocks needed for `count` items at `per_block` items a block.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

/// Hands out arrays in the dynamic shared memory of a block, each 16-byte aligned. Every thread of the block makes the
/// same calls in the same order. Kernels use no `__shared__` variables.
class SharedMemory {
 public:
  template <typename T>
  __device__ T* take(int64_t count) {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char loci_shared_memory[];
    T* taken = reinterpret_cast<T*>(loci_shared_memory + used_);
    used_ += bytes<T>(count);
    return taken;
#else
    return static_cast<T*>(emulation::take_shared(used_++, sizeof(T) * static_cast<size_t>(count)));
#endif
  }

  /// Bytes that take<T>(count) uses, for Launch::shared_bytes.
  template <typename T>
  __host__ __device__ static constexpr size_t bytes(int64_t count) {
    return (sizeof(T) * static_cast<size_t>(count) + 15) / 16 * 16;
  }

 private:
  size_t used_ = 0;
};

#ifdef __CUDACC__

/// Throws SystemError naming `op` where `status` is an error.
inline void check(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // CUDA keeps it for whoever asks next, who is told of what he has not done
  throw_error<SystemError>("{}: CUDA says {}", op, cudaGetErrorString(status));
}

/// Launches `kernel(arguments...)` on the context's stream. The only launch in the project.
template <typename... Parameters, typename... Arguments>
void launch(Context& context, const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  constexpr size_t kDefaultLimit = 48 * 1024;
  if (how.shared_bytes > kDefaultLimit)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(how.shared_bytes)),
          how.op);
  kernel<<<how.grid, how.threads, how.shared_bytes, context.cuda().handles().stream>>>(
      static_cast<Parameters>(arguments)...);
  check(cudaGetLastError(), how.op);
}

#else

template <typename... Parameters, typename... Arguments>
void launch(Context&, const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  emulation::run({how.op, how.grid, how.threads, how.shared_bytes},
                 [&] { kernel(static_cast<Parameters>(arguments)...); });
}

#endif

}  // namespace loci::cuda
