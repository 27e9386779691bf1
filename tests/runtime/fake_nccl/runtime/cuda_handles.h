#pragma once

#include <cuda_runtime.h>

namespace loci {

/// In place of the handles of a real device.
struct CudaHandles {
  int device = 0;
  cudaStream_t stream = nullptr;

  explicit CudaHandles(int index);
  ~CudaHandles();
  CudaHandles(const CudaHandles&) = delete;
  CudaHandles& operator=(const CudaHandles&) = delete;
};

}  // namespace loci
