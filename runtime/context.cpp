#include "runtime/context.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr size_t kAlignment = 64;

int64_t available_bytes() { return int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

int64_t to_mib(int64_t bytes) { return (bytes + (int64_t{1} << 20) - 1) >> 20; }

// A budget that does not change with every few MiB that another process takes: waves, and with them the last bits of
// results, follow it.
int64_t rounded_budget(int64_t bytes) {
  int64_t step = 1;
  while (step * 8 <= bytes) step *= 2;
  return bytes / step * step;
}

// Where sanitizers look on, every block is as large as it was asked for and goes back when it is released: a cached one
// would hide what is used after its release, a rounded one what is written past its end.
bool caches_blocks() {
#ifdef LOCI_SANITIZED
  return false;
#else
  const char* wish = std::getenv("LOCI_MEMORY_CACHE");
  return !(wish && std::string_view(wish) == "off");
#endif
}

// Blocks come in few sizes, so that a released one fits the next request of about the same size.
size_t rounded_size(size_t bytes) {
  size_t granule = kAlignment;
  while (granule * 8 < bytes) granule *= 2;
  return (std::max<size_t>(bytes, 1) + granule - 1) / granule * granule;
}

/// Rows that start `stride` bytes apart, close together.
void copy_rows(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  if (stride == row_bytes) {
    std::memcpy(destination, source, row_bytes * rows);
    return;
  }
  for (size_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<char*>(destination) + r * row_bytes, static_cast<const char*>(source) + r * stride,
                row_bytes);
}

}  // namespace

Device Device::parse(const std::string& text) {
  if (text == "cpu") return {};
  int index = 0;
  bool is_known = text == "cuda";
  if (text.starts_with("cuda:")) {
    const char* end = text.data() + text.size();
    const auto [stop, failed] = std::from_chars(text.data() + 5, end, index);
    is_known = failed == std::errc() && stop == end && index >= 0;
  }
  require<InputError>(is_known, "{} {}: unknown device; use cpu, cuda or cuda:INDEX", option("device"), text);
  const int count = CudaDevice::count();
  require<InputError>(count > 0, "{0} {1}: {2}; use {0} cpu", option("device"), text, CudaDevice::why_none());
  require<InputError>(index < count, "{} {}: this machine has {} CUDA devices, the last is cuda:{}", option("device"),
                      text, count, count - 1);
  return {DeviceType::cuda, index};
}

Device Device::best() {
  const int count = CudaDevice::count();
  for (int index = 0; index < count; ++index)
    if (CudaDevice::supported(index)) return {DeviceType::cuda, index};
  if (count > 0) spdlog::warn("computing on the CPU: this machine's GPUs are older than compute capability 8.0");
  return {};
}

std::string Device::name() const { return type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", index); }

Precision parse_precision(const std::string& text) {
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16})
    if (text == precision_name(precision)) return precision;
  throw_error<InputError>("{} {}: unknown precision; use fp32, tf32 or bf16", option("precision"), text);
}

std::string precision_name(Precision precision) {
  return precision == Precision::fp32 ? "fp32" : precision == Precision::tf32 ? "tf32" : "bf16";
}

Context::Context(const ContextOptions& options)
    : device_(options.device),
      precision_(options.precision),
      threads_(options.threads),
      caches_blocks_(caches_blocks()) {
  require<InputError>(!on_cpu() || precision_ == Precision::fp32, "{} {} needs a GPU; the CPU computes in fp32",
                      option("precision"), precision_name(precision_));
  if (!on_cpu()) cuda_ = std::make_unique<CudaDevice>(device_.index);
  const int64_t available = on_cpu() ? available_bytes() : cuda_->free_bytes();
  memory_budget_ = options.memory_budget > 0 ? options.memory_budget : rounded_budget(available / 2 / options.sharers);
}

Context::~Context() { give_back_free_blocks(); }

void Context::give_back_free_blocks() noexcept {
  for (auto& [size, block] : free_blocks_) give_back(block);
  free_blocks_.clear();
}

void Context::give_back(void* block) noexcept { on_cpu() ? std::free(block) : cuda_->free(block); }

/// Memory from the system or the device; cached blocks of other sizes are given back before it is refused.
void* Context::take_block(size_t size) {
  const auto take = [&]() -> void* {
    if (!on_cpu()) return cuda_->allocate(size);
    void* taken = nullptr;
    return posix_memalign(&taken, kAlignment, size) == 0 ? taken : nullptr;
  };
  void* block = take();
  if (block || free_blocks_.empty()) return block;
  give_back_free_blocks();
  return take();
}

size_t Context::block_size(size_t bytes) const {
  return caches_blocks_ ? rounded_size(bytes) : std::max<size_t>(bytes, 1);
}

void* Context::allocate(size_t bytes) {
  const size_t size = block_size(bytes);
  if (auto found = free_blocks_.find(size); found != free_blocks_.end()) {
    void* block = found->second;
    free_blocks_.erase(found);
    count_live(static_cast<int64_t>(size));
    return block;
  }
  void* block = take_block(size);
  require<SystemError>(block != nullptr, "out of memory on {}: {} MiB wanted beside {} MiB in use; set {} below {} MiB",
                       device_.name(), to_mib(static_cast<int64_t>(size)), to_mib(live_bytes_), option("memory"),
                       to_mib(memory_budget_));
  count_live(static_cast<int64_t>(size));
  return block;
}

void Context::count_live(int64_t change) noexcept {
  live_bytes_ += change;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
}

void Context::release(void* block, size_t bytes) noexcept {
  if (!block) return;
  const size_t size = block_size(bytes);
  count_live(-static_cast<int64_t>(size));
  if (caches_blocks_)
    free_blocks_.emplace(size, block);
  else
    give_back(block);
}

void Context::copy_to_device(void* destination, const void* source, size_t bytes) {
  if (bytes == 0) return;
  if (on_cpu())
    std::memcpy(destination, source, bytes);
  else
    cuda_->copy_to_device(destination, source, bytes);
}

void Context::copy_to_host(void* destination, const void* source, size_t bytes) {
  copy_rows_to_host(destination, source, bytes, bytes, 1);
}

void Context::copy_rows_to_host(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  if (!on_cpu()) return cuda_->copy_to_host(destination, source, row_bytes, stride, rows);
  copy_rows(destination, source, row_bytes, stride, rows);
}

std::unique_ptr<HostCopy> Context::start_copy_to_host(const void* source, size_t bytes) {
  if (on_cpu() || bytes == 0) return std::make_unique<ImmediateCopy>(source, bytes);
  return cuda_->start_copy_to_host(source, bytes);
}

void Context::copy_on_device(void* destination, const void* source, size_t bytes) {
  copy_rows_on_device(destination, source, bytes, bytes, 1);
}

void Context::copy_rows_on_device(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  if (!on_cpu()) return cuda_->copy_on_device(destination, source, row_bytes, stride, rows);
  copy_rows(destination, source, row_bytes, stride, rows);
}

void Context::fill_zero(void* destination, size_t bytes) {
  if (bytes == 0) return;
  if (!on_cpu()) return cuda_->fill_zero(destination, bytes);
  constexpr size_t kGrain = size_t{1} << 20;  // fresh memory comes page by page, which threads can share
  threads_.parallel_for(static_cast<int64_t>(bytes), kGrain, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(destination) + begin, 0, static_cast<size_t>(end - begin));
  });
}

void Context::synchronize() {
  if (!on_cpu()) cuda_->synchronize();
}

}  // namespace loci
