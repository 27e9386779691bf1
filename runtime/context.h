#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "runtime/cuda_device.h"
#include "runtime/thread_pool.h"

namespace loci {

class ConstantOperands;  // kernels/gemm.h

enum class DeviceType { cpu, cuda };

/// Where ops run. `cpu`, `cuda` or `cuda:1` on the command line.
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  /// Throws InputError for anything else, and for a device that this build or machine does not have.
  static Device parse(const std::string& text);
  /// The first GPU of compute capability 8.0 or higher where there is one, else the CPU; a warning tells of older ones.
  static Device best();
  std::string name() const;
};

/// The arithmetic of matrix products and attention. Sums, the residual stream, normalisation and softmax are fp32 in
/// each; the CPU has fp32 only.
enum class Precision {
  fp32,
  tf32,  ///< inputs of products rounded to 10 bits of mantissa
  bf16,  ///< inputs of products rounded to 7 bits of mantissa
};

/// fp32, tf32 or bf16; throws InputError for anything else.
Precision parse_precision(const std::string& text);
std::string precision_name(Precision precision);

struct ContextOptions {
  Device device = {};
  Precision precision = Precision::fp32;
  int threads = 0;            ///< CPU threads; 0: as many as the process may use
  int64_t memory_budget = 0;  ///< bytes that one wave may use; 0: half of what is free, shared among `sharers`
  int sharers = 1;            ///< ranks that use this device
};

/// Everything an op needs: device, threads, memory. One per process and device; ops take it first. Not thread-safe: one
/// thread issues ops. On a GPU ops are issued in order and run later; copies to the host wait for them.
class Context {
 public:
  /// Throws InputError for a precision that the device does not have and for a GPU that this build has no code for,
  /// SystemError where the device cannot be opened.
  explicit Context(const ContextOptions& options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Device& device() const { return device_; }
  bool on_cpu() const { return device_.type == DeviceType::cpu; }
  Precision precision() const { return precision_; }
  /// The GPU of a context that is not on the CPU.
  CudaDevice& cuda() const { return *cuda_; }
  /// The device's product name, such as "NVIDIA H200"; "cpu" on the CPU.
  std::string device_product() const { return cuda_ ? cuda_->product() : device_.name(); }
  ThreadPool& threads() { return threads_; }

  /// Uninitialised device memory, 64-byte aligned, from a cache of released blocks (none with LOCI_MEMORY_CACHE=off in
  /// the environment, for tools that watch memory). Throws SystemError, naming the flag to set, when there is none.
  void* allocate(size_t bytes);
  void release(void* block, size_t bytes) noexcept;

  void copy_to_device(void* destination, const void* source, size_t bytes);
  void copy_to_host(void* destination, const void* source, size_t bytes);
  /// Rows of `row_bytes` bytes that start `stride` bytes apart on the device, close together on the host.
  void copy_rows_to_host(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows);
  /// A copy to the host that is not waited for. What is issued later may overwrite the source.
  std::unique_ptr<HostCopy> start_copy_to_host(const void* source, size_t bytes);
  void copy_on_device(void* destination, const void* source, size_t bytes);
  /// The same, close together on the device.
  void copy_rows_on_device(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows);
  void fill_zero(void* destination, size_t bytes);
  /// Returns when all issued ops are done. An error of one of them is thrown here, as SystemError.
  void synchronize();

  /// The promises that are alive; they enter and leave by themselves.
  std::vector<ConstantOperands*>& constant_operands() { return constant_operands_; }

  /// Operations in matrix products so far, attention's own not counted: what a job spent, for its report.
  double matrix_flop() const { return matrix_flop_; }
  void count_matrix_flop(double flop) { matrix_flop_ += flop; }

  /// Bytes one wave of the executor may use.
  int64_t memory_budget() const { return memory_budget_; }
  /// The most bytes that were allocated at one time.
  int64_t peak_bytes() const { return peak_bytes_; }
  void reset_peak() { peak_bytes_ = live_bytes_; }

 private:
  size_t block_size(size_t bytes) const;
  void* take_block(size_t size);
  void give_back(void* block) noexcept;
  void give_back_free_blocks() noexcept;
  void count_live(int64_t change) noexcept;

  Device device_;
  Precision precision_;
  ThreadPool threads_;
  std::unique_ptr<CudaDevice> cuda_;  // null on the CPU
  bool caches_blocks_;
  int64_t memory_budget_ = 0;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
  double matrix_flop_ = 0;
  std::multimap<size_t, void*> free_blocks_;
  std::vector<ConstantOperands*> constant_operands_;
};

}  // namespace loci
