#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "runtime/thread_pool.h"

namespace loci {

enum class DeviceType { cpu, cuda };

/// Where ops run. `cpu`, `cuda` or `cuda:1` on the command line.
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  /// Throws InputError for anything else, and for a device that this build or machine does not have.
  static Device parse(const std::string& text);
  std::string name() const;
};

struct ContextOptions {
  Device device = {};
  int threads = 0;            ///< CPU threads; 0: as many as the process may use
  int64_t memory_budget = 0;  ///< bytes that one wave may use; 0: half of what is free
};

/// Everything an op needs: device, threads, memory. One per process and device; ops take it first. Not thread-safe: one
/// thread issues ops.
class Context {
 public:
  explicit Context(const ContextOptions& options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Device& device() const { return device_; }
  ThreadPool& threads() { return threads_; }

  /// Uninitialised device memory, 64-byte aligned, from a cache of released blocks. Throws SystemError when there is none.
  void* allocate(size_t bytes);
  void release(void* block, size_t bytes) noexcept;

  void copy_to_device(void* destination, const void* source, size_t bytes);
  void copy_to_host(void* destination, const void* source, size_t bytes);
  void copy_on_device(void* destination, const void* source, size_t bytes);
  void fill_zero(void* destination, size_t bytes);
  /// Returns when all issued ops are done.
  void synchronize() {}

  /// Bytes one wave of the executor may use.
  int64_t memory_budget() const { return memory_budget_; }
  /// The most bytes that were allocated at one time.
  int64_t peak_bytes() const { return peak_bytes_; }
  void reset_peak() { peak_bytes_ = live_bytes_; }

 private:
  Device device_;
  ThreadPool threads_;
  int64_t memory_budget_;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
  std::multimap<size_t, void*> free_blocks_;
};

}  // namespace loci
