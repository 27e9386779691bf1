#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/host_copy.h"

namespace loci {

/// The stream, library handles and staging memory of a CUDA device: runtime/cuda_handles.h, for *_cuda.cu only.
struct CudaHandles;

/// One CUDA device under a Context. No CUDA type shows here, so that everything above compiles without the toolkit.
/// One of three implementations is linked: cuda_device.cu; cuda_device_absent.cpp, which a build without CUDA gets;
/// runtime/emulation/device.cpp, on host memory. Errors of the driver are thrown as SystemError.
class CudaDevice {
 public:
  /// How many devices this build can use on this machine; 0 without CUDA or without a driver.
  static int count();
  /// Why count() is 0, as the end of a sentence: "this build has no CUDA backend".
  static std::string why_none();
  /// Whether kernels may be built for the device: compute capability 8.0 or higher. Does not open it.
  static bool supported(int index);
  /// What tells a device from all others in the world (its UUID); indices are a process's own.
  using Identity = std::array<std::byte, 16>;
  static Identity identity(int index);

  explicit CudaDevice(int index);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  /// Product name, such as "NVIDIA H200".
  std::string product() const;
  /// Product, driver, CUDA and cuBLAS with their versions, for result files.
  std::vector<std::string> libraries() const;
  /// Shared memory that one block may take.
  size_t shared_bytes_per_block() const;
  int64_t free_bytes() const;

  /// Device memory, 256-byte aligned; null where there is none left.
  void* allocate(size_t bytes);
  /// Waits for the device, then gives the block back to it.
  void free(void* block) noexcept;

  /// Copies are issued on the device's one stream, in order with kernels. The source of copy_to_device may be changed
  /// as soon as the call returns; copy_to_host waits for the data. `row_bytes` bytes are copied of each of `rows` rows,
  /// which start `stride` bytes apart in the source and lie close together in the destination.
  void copy_to_device(void* destination, const void* source, size_t bytes);
  void copy_to_host(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows);
  /// The same without the wait, of bytes that lie together; they may be overwritten by what is issued later.
  std::unique_ptr<HostCopy> start_copy_to_host(const void* source, size_t bytes);
  void copy_on_device(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows);
  void fill_zero(void* destination, size_t bytes);
  /// Waits for all issued work. An error of an earlier kernel is thrown here.
  void synchronize();

  CudaHandles& handles() { return *handles_; }

 private:
  std::unique_ptr<CudaHandles> handles_;
};

}  // namespace loci
