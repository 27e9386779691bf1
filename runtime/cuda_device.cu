#include "runtime/cuda_device.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <new>

#include "runtime/cuda_launch.h"
#include "runtime/wording.h"

namespace loci {
namespace {

using cuda::check;

constexpr const char* kOpening = "opening the CUDA device";

// Pageable memory above this size, such as weights, is copied directly, which waits. Less, such as the indices of a
// wave, goes through the staging halves, and waits for the device only where both are under way.
constexpr size_t kStagedBytes = 8 * CudaHandles::Staging::kHalfBytes;

// The longest stride of a two-dimensional copy; CUDA refuses more.
constexpr size_t kLongestPitch = INT_MAX;

// Rows that start `stride` bytes apart, close together.
cudaError_t copy_rows(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows,
                      cudaMemcpyKind kind, cudaStream_t stream) {
  if (rows == 1 || stride == row_bytes) return cudaMemcpyAsync(destination, source, row_bytes * rows, kind, stream);
  if (stride <= kLongestPitch)
    return cudaMemcpy2DAsync(destination, row_bytes, source, stride, row_bytes, rows, kind, stream);
  cudaError_t status = cudaSuccess;
  for (size_t r = 0; r < rows && status == cudaSuccess; ++r)
    status = cudaMemcpyAsync(static_cast<char*>(destination) + r * row_bytes,
                             static_cast<const char*>(source) + r * stride, row_bytes, kind, stream);
  return status;
}

constexpr int kLeastCapability = 8;  // asynchronous copies to shared memory, tf32

// Compiled as all kernels are: whether the device can run it tells whether it can run them.
__global__ void any_kernel() {}

void require_code_for(int index) {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, any_kernel);
  if (status == cudaSuccess) return;
  cudaGetLastError();
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), kOpening);
  throw_error<InputError>(
      "cuda:{} ({}, compute capability {}.{}) cannot run this build ({}): it needs {}.0 or higher, and a build for it "
      "(-DCMAKE_CUDA_ARCHITECTURES); use {} cpu",
      index, properties.name, properties.major, properties.minor, cudaGetErrorString(status), kLeastCapability,
      option("device"));
}

// A copy into pinned memory, with an event after it.
class PinnedCopy final : public HostCopy {
 public:
  PinnedCopy(CudaHandles& handles, const void* source, size_t bytes)
      : handles_(handles), size_(std::bit_ceil(std::max<size_t>(bytes, 4096))) {
    if (const auto found = handles.free_landings.find(size_); found != handles.free_landings.end()) {
      landing_ = found->second;
      handles.free_landings.erase(found);
    } else {
      check(cudaMallocHost(&landing_.memory, size_), kCopying);
      check(cudaEventCreateWithFlags(&landing_.arrived, cudaEventDisableTiming), kCopying);
    }
    check(cudaMemcpyAsync(landing_.memory, source, bytes, cudaMemcpyDeviceToHost, handles.stream), kCopying);
    check(cudaEventRecord(landing_.arrived, handles.stream), kCopying);
  }
  ~PinnedCopy() override {
    cudaEventSynchronize(landing_.arrived);  // where nobody has waited
    try {
      handles_.free_landings.emplace(size_, landing_);
    } catch (const std::bad_alloc&) {
      release(landing_);
    }
  }
  static void release(const CudaHandles::Landing& landing) {
    cudaEventDestroy(landing.arrived);
    cudaFreeHost(landing.memory);
  }
  const std::byte* wait() override {
    check(cudaEventSynchronize(landing_.arrived), kCopying);
    return static_cast<const std::byte*>(landing_.memory);
  }

 private:
  static constexpr const char* kCopying = "copy to the host";

  CudaHandles& handles_;
  size_t size_;
  CudaHandles::Landing landing_;
};

}  // namespace

CudaHandles::CudaHandles(int index) : device(index) {
  check(cudaSetDevice(index), kOpening);
  require_code_for(index);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index), kOpening);
  check(cudaDeviceGetAttribute(&shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, index), kOpening);
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), kOpening);
  check(cudaMallocHost(reinterpret_cast<void**>(&staging.memory), 2 * Staging::kHalfBytes), kOpening);
  for (cudaEvent_t& event : staging.copied) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), kOpening);
}

CudaHandles::~CudaHandles() {
  cudaSetDevice(device);
  cudaStreamSynchronize(stream);
  gemm_plans.reset();
  if (cusolver_) cusolverDnDestroy(cusolver_);
  if (cublas_lt_) cublasLtDestroy(cublas_lt_);
  if (cublas_) cublasDestroy(cublas_);
  cudaFree(workspace_);
  for (cudaEvent_t event : staging.copied) cudaEventDestroy(event);
  cudaFreeHost(staging.memory);
  for (const auto& [size, landing] : free_landings) PinnedCopy::release(landing);
  cudaStreamDestroy(stream);
}

CudaHandles::Staging::Piece CudaHandles::Staging::take(size_t bytes, cudaStream_t stream) {
  if (used == kHalfBytes) {
    check(cudaEventRecord(copied[half], stream), "copy to the device");
    half = 1 - half;
    used = 0;
    check(cudaEventSynchronize(copied[half]), "copy to the device");
  }
  const Piece piece{memory + half * kHalfBytes + used, std::min(bytes, kHalfBytes - used)};
  used = std::min(kHalfBytes, used + (piece.bytes + 63) / 64 * 64);
  return piece;
}

cublasHandle_t CudaHandles::cublas() {
  if (!cublas_) {
    require<SystemError>(cublasCreate(&cublas_) == CUBLAS_STATUS_SUCCESS, "cuBLAS cannot be set up on cuda:{}", device);
    // In this order: setting the stream resets the workspace.
    require<SystemError>(cublasSetStream(cublas_, stream) == CUBLAS_STATUS_SUCCESS &&
                             cublasSetWorkspace(cublas_, workspace(), kWorkspaceBytes) == CUBLAS_STATUS_SUCCESS,
                         "cuBLAS cannot be set up on cuda:{}", device);
  }
  return cublas_;
}

cublasLtHandle_t CudaHandles::cublas_lt() {
  if (!cublas_lt_)
    require<SystemError>(cublasLtCreate(&cublas_lt_) == CUBLAS_STATUS_SUCCESS, "cuBLASLt cannot be set up on cuda:{}",
                         device);
  return cublas_lt_;
}

cusolverDnHandle_t CudaHandles::cusolver() {
  if (!cusolver_)
    require<SystemError>(cusolverDnCreate(&cusolver_) == CUSOLVER_STATUS_SUCCESS &&
                             cusolverDnSetStream(cusolver_, stream) == CUSOLVER_STATUS_SUCCESS,
                         "cuSOLVER cannot be set up on cuda:{}", device);
  return cusolver_;
}

void* CudaHandles::workspace() {
  if (!workspace_) check(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of cuBLAS");
  return workspace_;
}

int CudaDevice::count() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess ? devices : 0;
}

std::string CudaDevice::why_none() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  return fmt::format("no CUDA device is usable here ({})", cudaGetErrorString(status));
}

bool CudaDevice::supported(int index) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) == cudaSuccess &&
         major >= kLeastCapability;
}

CudaDevice::Identity CudaDevice::identity(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), kOpening);
  Identity identity{};
  static_assert(sizeof(properties.uuid) == sizeof(identity));
  std::memcpy(identity.data(), &properties.uuid, sizeof(identity));
  return identity;
}

CudaDevice::CudaDevice(int index) : handles_(std::make_unique<CudaHandles>(index)) {}
CudaDevice::~CudaDevice() = default;

std::string CudaDevice::product() const {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, handles_->device), kOpening);
  return properties.name;
}

std::vector<std::string> CudaDevice::libraries() const {
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), kOpening);
  check(cudaRuntimeGetVersion(&runtime), kOpening);
  return {product(), fmt::format("CUDA driver {}.{}", driver / 1000, driver % 1000 / 10),
          fmt::format("CUDA runtime {}.{}", runtime / 1000, runtime % 1000 / 10),
          fmt::format("cuBLAS {}", cublasLtGetVersion())};
}

size_t CudaDevice::shared_bytes_per_block() const { return static_cast<size_t>(handles_->shared_bytes_per_block); }

int64_t CudaDevice::free_bytes() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), kOpening);
  return static_cast<int64_t>(free);
}

void* CudaDevice::allocate(size_t bytes) {
  void* block = nullptr;
  const cudaError_t status = cudaMalloc(&block, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the next launch must not report it
    return nullptr;
  }
  check(status, "allocation");
  return block;
}

void CudaDevice::free(void* block) noexcept {
  cudaStreamSynchronize(handles_->stream);
  cudaFree(block);
}

void CudaDevice::copy_to_device(void* destination, const void* source, size_t bytes) {
  if (bytes > kStagedBytes) {
    check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, handles_->stream), "copy to the device");
    // A pageable source is read before the call returns in part only.
    check(cudaStreamSynchronize(handles_->stream), "copy to the device");
    return;
  }
  for (size_t done = 0; done < bytes;) {
    const CudaHandles::Staging::Piece piece = handles_->staging.take(bytes - done, handles_->stream);
    std::memcpy(piece.memory, static_cast<const std::byte*>(source) + done, piece.bytes);
    check(cudaMemcpyAsync(static_cast<std::byte*>(destination) + done, piece.memory, piece.bytes,
                          cudaMemcpyHostToDevice, handles_->stream),
          "copy to the device");
    done += piece.bytes;
  }
}

void CudaDevice::copy_to_host(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  check(copy_rows(destination, source, row_bytes, stride, rows, cudaMemcpyDeviceToHost, handles_->stream),
        "copy to the host");
  check(cudaStreamSynchronize(handles_->stream), "copy to the host");
}

std::unique_ptr<HostCopy> CudaDevice::start_copy_to_host(const void* source, size_t bytes) {
  return std::make_unique<PinnedCopy>(*handles_, source, bytes);
}

void CudaDevice::copy_on_device(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  check(copy_rows(destination, source, row_bytes, stride, rows, cudaMemcpyDeviceToDevice, handles_->stream),
        "copy on the device");
}

void CudaDevice::fill_zero(void* destination, size_t bytes) {
  check(cudaMemsetAsync(destination, 0, bytes, handles_->stream), "filling with zeros");
}

void CudaDevice::synchronize() { check(cudaStreamSynchronize(handles_->stream), "waiting for the device"); }

}  // namespace loci
