#include "runtime/context.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "runtime/error.h"

namespace loci {
namespace {

constexpr size_t kAlignment = 64;

int64_t available_bytes() { return int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

// Blocks come in few sizes, so that a released one fits the next request of about the same size.
size_t block_size(size_t bytes) {
  size_t granule = kAlignment;
  while (granule * 8 < bytes) granule *= 2;
  return (std::max<size_t>(bytes, 1) + granule - 1) / granule * granule;
}

}  // namespace

Device Device::parse(const std::string& text) {
  if (text == "cpu") return {};
  if (text == "cuda" || text.starts_with("cuda:"))
    throw_error<InputError>("--device {}: this build has no CUDA backend; use --device cpu", text);
  throw_error<InputError>("--device {}: unknown device; use cpu, cuda or cuda:INDEX", text);
}

std::string Device::name() const { return type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", index); }

Context::Context(const ContextOptions& options)
    : device_(options.device),
      threads_(options.threads),
      memory_budget_(options.memory_budget > 0 ? options.memory_budget : available_bytes() / 2) {}

Context::~Context() {
  for (auto& [size, block] : free_blocks_) std::free(block);
}

void* Context::allocate(size_t bytes) {
  const size_t size = block_size(bytes);
  live_bytes_ += static_cast<int64_t>(size);
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  if (auto found = free_blocks_.find(size); found != free_blocks_.end()) {
    void* block = found->second;
    free_blocks_.erase(found);
    return block;
  }
  void* block = std::aligned_alloc(kAlignment, size);
  if (!block) {
    live_bytes_ -= static_cast<int64_t>(size);
    throw_error<SystemError>("out of memory: {} bytes wanted beside {} in use; set a smaller --memory", size,
                             live_bytes_);
  }
  return block;
}

void Context::release(void* block, size_t bytes) noexcept {
  if (!block) return;
  const size_t size = block_size(bytes);
  live_bytes_ -= static_cast<int64_t>(size);
#ifdef LOCI_SANITIZED
  std::free(block);  // a cached block would hide a use after release
#else
  free_blocks_.emplace(size, block);
#endif
}

void Context::copy_to_device(void* destination, const void* source, size_t bytes) {
  if (bytes) std::memcpy(destination, source, bytes);
}
void Context::copy_to_host(void* destination, const void* source, size_t bytes) {
  if (bytes) std::memcpy(destination, source, bytes);
}
void Context::copy_on_device(void* destination, const void* source, size_t bytes) {
  if (bytes) std::memcpy(destination, source, bytes);
}
void Context::fill_zero(void* destination, size_t bytes) {
  if (bytes) std::memset(destination, 0, bytes);
}

}  // namespace loci
