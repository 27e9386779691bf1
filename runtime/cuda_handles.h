#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "runtime/error.h"

/// CUDA types, for *_cuda.cu and runtime/cuda_device.cu only.
namespace loci {

struct GemmPlans;  // cached cuBLASLt algorithms, kernels/cuda_vendor.cu

/// What a device holds for its whole life. All work goes to one stream, so whatever is issued later sees it done.
struct CudaHandles {
  int device = 0;
  int multiprocessors = 0;
  int shared_bytes_per_block = 0;
  cudaStream_t stream = nullptr;

  /// Library handles, made when they are first asked for and bound to the stream.
  cublasHandle_t cublas();
  cublasLtHandle_t cublas_lt();
  cusolverDnHandle_t cusolver();
  /// Scratch memory for cuBLAS, kWorkspaceBytes.
  void* workspace();
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  /// Pinned memory through which small host arrays reach the device without a wait: two halves, filled in turn; an
  /// event tells when the copies out of a half are done.
  struct Staging {
    static constexpr size_t kHalfBytes = size_t{4} << 20;
    unsigned char* memory = nullptr;
    std::array<cudaEvent_t, 2> copied{};
    int half = 0;
    size_t used = 0;

    /// Room for at most so many bytes, at least one; waits where all of it is under way.
    struct Piece {
      unsigned char* memory;
      size_t bytes;
    };
    Piece take(size_t bytes, cudaStream_t stream);
  } staging;

  /// Pinned memory that copies to the host arrive in, and the event that says so; kept for the next copies.
  struct Landing {
    void* memory = nullptr;
    cudaEvent_t arrived = nullptr;
  };
  std::multimap<size_t, Landing> free_landings;  // by their size

  std::shared_ptr<GemmPlans> gemm_plans;

  explicit CudaHandles(int index);
  ~CudaHandles();
  CudaHandles(const CudaHandles&) = delete;
  CudaHandles& operator=(const CudaHandles&) = delete;

 private:
  cublasHandle_t cublas_ = nullptr;
  cublasLtHandle_t cublas_lt_ = nullptr;
  cusolverDnHandle_t cusolver_ = nullptr;
  void* workspace_ = nullptr;
};

}  // namespace loci
