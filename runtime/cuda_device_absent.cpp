#include "runtime/cuda_device.h"
#include "runtime/error.h"

// A build without CUDA: no device can be made, so the other members are never reached.
namespace loci {

struct CudaHandles {};

namespace {

[[noreturn]] void absent() { throw_error<SystemError>("{}", CudaDevice::why_none()); }

}  // namespace

int CudaDevice::count() { return 0; }
std::string CudaDevice::why_none() { return "this build has no CUDA backend"; }
bool CudaDevice::supported(int) { return false; }
CudaDevice::Identity CudaDevice::identity(int) { absent(); }
CudaDevice::CudaDevice(int) { absent(); }
CudaDevice::~CudaDevice() = default;
std::string CudaDevice::product() const { absent(); }
std::vector<std::string> CudaDevice::libraries() const { absent(); }
size_t CudaDevice::shared_bytes_per_block() const { absent(); }
int64_t CudaDevice::free_bytes() const { absent(); }
void* CudaDevice::allocate(size_t) { absent(); }
void CudaDevice::free(void*) noexcept {}
void CudaDevice::copy_to_device(void*, const void*, size_t) { absent(); }
void CudaDevice::copy_to_host(void*, const void*, size_t, size_t, size_t) { absent(); }
std::unique_ptr<HostCopy> CudaDevice::start_copy_to_host(const void*, size_t) { absent(); }
void CudaDevice::copy_on_device(void*, const void*, size_t, size_t, size_t) { absent(); }
void CudaDevice::fill_zero(void*, size_t) { absent(); }
void CudaDevice::synchronize() { absent(); }

}  // namespace loci
