#include "runtime/emulation/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "runtime/cuda_device.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {

struct CudaHandles {};

namespace emulation {
namespace {

constexpr size_t kRegionBytes = size_t{8} << 30;
constexpr size_t kAlignment = 256;
constexpr size_t kPage = size_t{2} << 20;  // of the largest size: opening and closing the region costs by the page

/// One range of addresses from which device memory is taken, closed to everybody except inside DeviceMemoryAccess.
/// First fit over a list of free ranges: the Context above caches blocks, so it is asked rarely.
class Region {
 public:
  Region() {
    void* mapped = mmap(nullptr, kRegionBytes + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require<SystemError>(mapped != MAP_FAILED, "no address space for the emulated device's memory");
    base_ = static_cast<unsigned char*>(mapped) + (kPage - reinterpret_cast<uintptr_t>(mapped) % kPage);
    madvise(base_, kRegionBytes, MADV_HUGEPAGE);
    free_.emplace(0, kRegionBytes);
  }

  void* allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t size = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      const auto [begin, room] = *range;
      if (room < size) continue;
      free_.erase(range);
      if (room > size) free_.emplace(begin + size, room - size);
      taken_.emplace(begin, size);
      grow_to(begin + size);
      return base_ + begin;
    }
    return nullptr;
  }

  void free(void* block) {
    const std::lock_guard lock(mutex_);
    const auto taken = taken_.find(static_cast<size_t>(static_cast<unsigned char*>(block) - base_));
    if (taken == taken_.end()) std::abort();
    auto range = free_.emplace(taken->first, taken->second).first;
    taken_.erase(taken);
    if (const auto next = std::next(range); next != free_.end() && range->first + range->second == next->first) {
      range->second += next->second;
      free_.erase(next);
    }
    if (range == free_.begin()) return;
    if (const auto before = std::prev(range); before->first + before->second == range->first) {
      before->second += range->second;
      free_.erase(range);
    }
  }

  void open() {
    const std::lock_guard lock(mutex_);
    if (openings_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--openings_ == 0) protect(PROT_NONE);
  }

 private:
  void grow_to(size_t end) {
    used_ = std::max(used_, (end + kPage - 1) / kPage * kPage);
    if (openings_ > 0) protect(PROT_READ | PROT_WRITE);
  }
  void protect(int access) {
    if (used_ > 0 && mprotect(base_, used_, access) != 0) std::abort();
  }

  std::mutex mutex_;
  unsigned char* base_ = nullptr;
  size_t used_ = 0;  // the part of the region that was ever handed out
  int openings_ = 0;
  std::map<size_t, size_t> free_, taken_;  // first byte -> size
};

#ifndef LOCI_SANITIZED
Region& region() {
  static Region only;
  return only;
}
#endif

}  // namespace

#ifdef LOCI_SANITIZED
DeviceMemoryAccess::DeviceMemoryAccess() {}
DeviceMemoryAccess::~DeviceMemoryAccess() {}
#else
DeviceMemoryAccess::DeviceMemoryAccess() { region().open(); }
DeviceMemoryAccess::~DeviceMemoryAccess() { region().close(); }
#endif

}  // namespace emulation

using emulation::DeviceMemoryAccess;

int CudaDevice::count() { return 1; }
std::string CudaDevice::why_none() { return "the emulated device is always there"; }
bool CudaDevice::supported(int) { return true; }
CudaDevice::Identity CudaDevice::identity(int index) { return {std::byte{'e'}, static_cast<std::byte>(index)}; }
CudaDevice::CudaDevice(int index) : handles_(std::make_unique<CudaHandles>()) {
  require<InputError>(index == 0, "{} cuda:{}: there is one emulated device, cuda:0", option("device"), index);
}
CudaDevice::~CudaDevice() = default;
std::string CudaDevice::product() const { return "host emulation"; }
std::vector<std::string> CudaDevice::libraries() const { return {product()}; }
// As on a Hopper card, or as the tests of smaller cards say.
size_t CudaDevice::shared_bytes_per_block() const {
  const char* kib = std::getenv("LOCI_EMULATED_SHARED_KIB");
  return size_t{1024} * (kib ? static_cast<size_t>(std::atoi(kib)) : 227);
}
int64_t CudaDevice::free_bytes() const { return int64_t{1} << 30; }

// Fresh memory is filled with NaN, so that a read before the first write shows.
void* CudaDevice::allocate(size_t bytes) {
  const DeviceMemoryAccess access;
#ifdef LOCI_SANITIZED
  void* block = nullptr;
  if (posix_memalign(&block, emulation::kAlignment, bytes) != 0) return nullptr;
#else
  void* block = emulation::region().allocate(bytes);
#endif
  if (block) std::memset(block, 0xff, bytes);
  return block;
}
void CudaDevice::free(void* block) noexcept {
#ifdef LOCI_SANITIZED
  std::free(block);
#else
  emulation::region().free(block);
#endif
}
void CudaDevice::copy_to_device(void* destination, const void* source, size_t bytes) {
  const DeviceMemoryAccess access;
  std::memcpy(destination, source, bytes);
}
void CudaDevice::copy_to_host(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  const DeviceMemoryAccess access;
  for (size_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<char*>(destination) + r * row_bytes, static_cast<const char*>(source) + r * stride,
                row_bytes);
}
std::unique_ptr<HostCopy> CudaDevice::start_copy_to_host(const void* source, size_t bytes) {
  const DeviceMemoryAccess access;
  return std::make_unique<ImmediateCopy>(source, bytes);
}
void CudaDevice::copy_on_device(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  copy_to_host(destination, source, row_bytes, stride, rows);
}
void CudaDevice::fill_zero(void* destination, size_t bytes) {
  const DeviceMemoryAccess access;
  std::memset(destination, 0, bytes);
}
void CudaDevice::synchronize() {}

}  // namespace loci
