#include "tests/runtime/fake_nccl/fake_nccl.h"

#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/cuda_device.h"
#include "runtime/cuda_handles.h"

using loci::fake_nccl::Counts;
using loci::fake_nccl::Fault;

/// One rank's part in an operation: what it sends to each rank and receives from each. Null: nothing.
struct Part {
  std::vector<const void*> sent;
  std::vector<void*> received;
  size_t bytes = 0;
};

/// The communicators of one id. An operation takes place when each rank has given its part.
struct Clique {
  int members = 0;
  std::vector<Part> parts;
  int given = 0;
  int finished = 0;  // operations
};

struct FakeComm {
  std::shared_ptr<Clique> clique;
  int rank = 0;
  int size = 0;
  int begun = 0;  // operations of this rank
  int busy = 0;   // for how many more questions the answer is "in progress"
  bool finalized = false;
};

struct FakeStream {
  FakeComm* comm = nullptr;  // of the last operation
};

namespace {

constexpr int kBusyAnswers = 3;

/// All state of the fake. One mutex guards it.
struct World {
  std::mutex mutex;
  Fault fault = Fault::none;
  Counts counts;
  int next_id = 1;
  std::map<int, std::shared_ptr<Clique>> cliques;
};

World& world() {
  static World instance;
  return instance;
}

void take_place(Clique& clique) {
  for (size_t to = 0; to < clique.parts.size(); ++to)
    for (size_t from = 0; from < clique.parts.size(); ++from) {
      void* const received = clique.parts[to].received[from];
      const void* const sent = clique.parts[from].sent[to];
      if (received && received != sent) std::memcpy(received, sent, clique.parts[to].bytes);
    }
  clique.given = 0;
  ++clique.finished;
}

ncclResult_t give(FakeComm* comm, cudaStream_t stream, Part part) {
  const std::lock_guard lock(world().mutex);
  Clique& clique = *comm->clique;
  clique.parts[comm->rank] = std::move(part);
  ++comm->begun;
  comm->busy = kBusyAnswers;
  stream->comm = comm;
  if (world().fault != Fault::stalls && world().fault != Fault::breaks && ++clique.given == comm->size)
    take_place(clique);
  return ncclInProgress;
}

/// The sends and receives between ncclGroupStart and ncclGroupEnd. One thread is one rank.
struct Group {
  bool open = false;
  FakeComm* comm = nullptr;
  cudaStream_t stream = nullptr;
  Part part;
};
thread_local Group group;

template <typename Pointer>
ncclResult_t add_to_group(std::vector<Pointer> Part::*list, Pointer data, size_t count, int peer, FakeComm* comm,
                          cudaStream_t stream) {
  if (!group.open) return ncclInvalidUsage;
  group.comm = comm;
  group.stream = stream;
  group.part.sent.resize(static_cast<size_t>(comm->size));
  group.part.received.resize(static_cast<size_t>(comm->size));
  (group.part.*list)[peer] = data;
  group.part.bytes = count;
  return ncclSuccess;
}

}  // namespace

namespace loci::fake_nccl {

void set_fault(Fault fault) {
  const std::lock_guard lock(world().mutex);
  world().fault = fault;
}

Counts counts() {
  const std::lock_guard lock(world().mutex);
  return world().counts;
}

void reset_counts() {
  const std::lock_guard lock(world().mutex);
  world().counts = {};
}

}  // namespace loci::fake_nccl

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(world().mutex);
  std::memcpy(id->internal, &world().next_id, sizeof(int));
  ++world().next_id;
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;
  const std::lock_guard lock(world().mutex);
  int number = 0;
  std::memcpy(&number, id.internal, sizeof(int));
  std::shared_ptr<Clique>& clique = world().cliques[number];
  if (!clique) clique = std::make_shared<Clique>();
  clique->parts.resize(static_cast<size_t>(ranks));
  ++clique->members;
  *comm = new FakeComm{clique, rank, ranks, 0, kBusyAnswers, false};
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::lock_guard lock(world().mutex);
  const bool starting = world().fault == Fault::never_starts || comm->clique->members < comm->size;
  if (starting || comm->busy-- > 0)
    *state = ncclInProgress;
  else
    *state = world().fault == Fault::breaks && comm->begun > 0 ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::lock_guard lock(world().mutex);
  comm->finalized = true;
  comm->busy = kBusyAnswers;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const std::lock_guard lock(world().mutex);
  if (!comm->finalized) return ncclInvalidUsage;
  ++world().counts.destroyed;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::lock_guard lock(world().mutex);
  ++world().counts.aborted;
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t status) { return status == ncclRemoteError ? "remote error" : "error"; }
const char* ncclGetLastError(ncclComm_t) { return "the fake's fault"; }

ncclResult_t ncclBroadcast(const void* own, void* received, size_t count, ncclDataType_t, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  const auto size = static_cast<size_t>(comm->size);
  Part part{std::vector<const void*>(size), std::vector<void*>(size), count};
  if (comm->rank == root) part.sent.assign(size, own);
  part.received[root] = received;
  return give(comm, stream, std::move(part));
}

ncclResult_t ncclAllGather(const void* own, void* received, size_t count, ncclDataType_t, ncclComm_t comm,
                           cudaStream_t stream) {
  Part part{std::vector<const void*>(static_cast<size_t>(comm->size), own), {}, count};
  for (int rank = 0; rank < comm->size; ++rank)
    part.received.push_back(static_cast<std::byte*>(received) + static_cast<size_t>(rank) * count);
  return give(comm, stream, std::move(part));
}

ncclResult_t ncclGroupStart() {
  group = {};
  group.open = true;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (!group.open || !group.comm) return ncclInvalidUsage;
  group.open = false;
  return give(group.comm, group.stream, std::move(group.part));
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add_to_group(&Part::sent, data, count, peer, comm, stream);
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add_to_group(&Part::received, data, count, peer, comm, stream);
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(world().mutex);
  if (!stream->comm) return cudaSuccess;
  return stream->comm->clique->finished < stream->comm->begun ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "error"; }

// GPUs of host memory, as many as one likes.
namespace loci {

CudaHandles::CudaHandles(int index) : device(index), stream(new FakeStream) {}
CudaHandles::~CudaHandles() { delete stream; }

CudaDevice::Identity CudaDevice::identity(int index) { return {static_cast<std::byte>(index + 1)}; }
int CudaDevice::count() { return 8; }
std::string CudaDevice::why_none() { return {}; }
bool CudaDevice::supported(int) { return true; }
CudaDevice::CudaDevice(int index) : handles_(std::make_unique<CudaHandles>(index)) {}
CudaDevice::~CudaDevice() = default;
std::string CudaDevice::product() const { return "host memory"; }
std::vector<std::string> CudaDevice::libraries() const { return {}; }
size_t CudaDevice::shared_bytes_per_block() const { return 0; }
int64_t CudaDevice::free_bytes() const { return int64_t{1} << 30; }
void* CudaDevice::allocate(size_t bytes) { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
void CudaDevice::free(void* block) noexcept { std::free(block); }
void CudaDevice::copy_to_device(void* destination, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(destination, source, bytes);
}
void CudaDevice::copy_to_host(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  for (size_t row = 0; row < rows && row_bytes > 0; ++row)
    std::memcpy(static_cast<std::byte*>(destination) + row * row_bytes,
                static_cast<const std::byte*>(source) + row * stride, row_bytes);
}
std::unique_ptr<HostCopy> CudaDevice::start_copy_to_host(const void* source, size_t bytes) {
  return std::make_unique<ImmediateCopy>(source, bytes);
}
void CudaDevice::copy_on_device(void* destination, const void* source, size_t row_bytes, size_t stride, size_t rows) {
  copy_to_host(destination, source, row_bytes, stride, rows);
}
void CudaDevice::fill_zero(void* destination, size_t bytes) { std::memset(destination, 0, bytes); }
void CudaDevice::synchronize() {}

}  // namespace loci
