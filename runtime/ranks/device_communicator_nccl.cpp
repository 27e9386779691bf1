#include "runtime/ranks/device_communicator_nccl.h"

#include <cuda_runtime.h>
#include <fmt/format.h>
#include <nccl.h>
#include <spdlog/spdlog.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "runtime/clock.h"
#include "runtime/cuda_handles.h"
#include "runtime/error.h"

namespace loci::nccl {
namespace {

using std::chrono::microseconds;

void check_cuda(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // CUDA keeps it for whoever asks next
  throw_error<SystemError>("{}: CUDA says {}", what, cudaGetErrorString(status));
}

/// NCCL between GPUs of their own. No call waits bare: NCCL's are non-blocking, and the stream is polled, so that an
/// error of NCCL, the end of another rank and the time limit end the wait.
class NcclDeviceCommunicator final : public DeviceCommunicator {
 public:
  NcclDeviceCommunicator(Communicator& ranks, Context& context);
  ~NcclDeviceCommunicator() override;

  std::string_view kind() const override { return "nccl"; }
  void broadcast(void* data, size_t bytes, int root, std::string_view what) override;
  void all_gather(const void* own, void* all, size_t bytes, std::string_view what) override;
  void all_to_all(const void* own, void* received, size_t bytes, std::string_view what) override;

 private:
  enum class Operation { broadcast, all_gather, all_to_all };

  template <typename Issue>
  void run(Operation operation, size_t bytes, int root, std::string_view what, const Issue& issue);
  void expect_same_calls(Operation operation, size_t bytes, int root, std::string_view what);
  void check(ncclResult_t status, std::string_view what);
  ncclResult_t state() const;
  template <typename Done>
  void poll(std::string_view what, const Done& done);
  void abort() noexcept;
  bool finalize() noexcept;
  cudaStream_t stream() const { return context().cuda().handles().stream; }

  ncclComm_t comm_ = nullptr;
};

NcclDeviceCommunicator::NcclDeviceCommunicator(Communicator& ranks, Context& context)
    : DeviceCommunicator(ranks, context) {
  constexpr std::string_view kStart = "the start of NCCL";
  ncclUniqueId id{};
  if (ranks.is_root()) check(ncclGetUniqueId(&id), kStart);
  ranks.broadcast_value(id, 0, kStart);
  check_cuda(cudaSetDevice(context.cuda().handles().device), kStart);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  try {
    check(ncclCommInitRankConfig(&comm_, ranks.size(), id, ranks.rank(), &config), kStart);
    poll(kStart, [&] { return state() == ncclSuccess; });
  } catch (...) {
    abort();
    throw;
  }
}

NcclDeviceCommunicator::~NcclDeviceCommunicator() {
  if (!comm_) return;
  if (finalize())
    ncclCommDestroy(comm_);
  else
    abort();
}

void NcclDeviceCommunicator::broadcast(void* data, size_t bytes, int root, std::string_view what) {
  require<ShapeError>(root >= 0 && root < ranks().size(), "{}: rank {} is its root, but there are {} ranks", what, root,
                      ranks().size());
  run(Operation::broadcast, bytes, root, what,
      [&] { return ncclBroadcast(data, data, bytes, ncclUint8, root, comm_, stream()); });
}

void NcclDeviceCommunicator::all_gather(const void* own, void* all, size_t bytes, std::string_view what) {
  run(Operation::all_gather, bytes, 0, what,
      [&] { return ncclAllGather(own, all, bytes, ncclUint8, comm_, stream()); });
}

void NcclDeviceCommunicator::all_to_all(const void* own, void* received, size_t bytes, std::string_view what) {
  run(Operation::all_to_all, bytes, 0, what, [&] {
    check(ncclGroupStart(), what);
    for (int rank = 0; rank < ranks().size(); ++rank) {
      const size_t offset = static_cast<size_t>(rank) * bytes;
      check(ncclSend(static_cast<const std::byte*>(own) + offset, bytes, ncclUint8, rank, comm_, stream()), what);
      check(ncclRecv(static_cast<std::byte*>(received) + offset, bytes, ncclUint8, rank, comm_, stream()), what);
    }
    return ncclGroupEnd();
  });
}

template <typename Issue>
void NcclDeviceCommunicator::run(Operation operation, size_t bytes, int root, std::string_view what,
                                 const Issue& issue) {
  require<SystemError>(comm_ != nullptr, "{}: an earlier collective of this job failed", what);
  try {
    expect_same_calls(operation, bytes, root, what);
    if (bytes == 0) return;
    check(issue(), what);
    poll(what, [&] { return state() == ncclSuccess; });
    poll(what, [&] {
      const cudaError_t status = cudaStreamQuery(stream());
      if (status != cudaErrorNotReady) check_cuda(status, what);
      return status == cudaSuccess;
    });
  } catch (...) {
    abort();
    throw;
  }
}

// All ranks meet on the host first: those that do not come are named there.
void NcclDeviceCommunicator::expect_same_calls(Operation operation, size_t bytes, int root, std::string_view what) {
  struct Call {
    size_t bytes;
    Operation operation;
    int root;
    bool operator==(const Call&) const = default;
    std::string text() const {
      constexpr std::array kNames{"broadcast", "all-gather", "all-to-all"};
      return fmt::format("{} of {} bytes with root {}", kNames[static_cast<size_t>(operation)], bytes, root);
    }
  };
  const std::vector<Call> calls = ranks().all_gather_value(Call{bytes, operation, root}, what);
  for (size_t rank = 1; rank < calls.size(); ++rank)
    require<ShapeError>(calls[rank] == calls[0], "the ranks are out of step at {}: rank 0 makes the {}, rank {} the {}",
                        what, calls[0].text(), rank, calls[rank].text());
}

void NcclDeviceCommunicator::check(ncclResult_t status, std::string_view what) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  throw_error<SystemError>("{}: NCCL says {} ({})", what, ncclGetErrorString(status), ncclGetLastError(comm_));
}

ncclResult_t NcclDeviceCommunicator::state() const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t status = ncclCommGetAsyncError(comm_, &state);
  return status == ncclSuccess ? state : status;
}

/// Returns when `done`; throws where NCCL or another rank of this process failed, or the time is over.
template <typename Done>
void NcclDeviceCommunicator::poll(std::string_view what, const Done& done) {
  const Clock::time_point start = Clock::now();
  while (!done()) {
    check(state(), what);
    const auto waited = Clock::now() - start;
    if (waited < microseconds(200)) continue;
    ranks().check_peers();
    if (waited > ranks().time_limit())
      throw_error<LostRankError>(
          "{} did not end within {:g} s on the GPUs: a rank or the network hangs, see the ranks' "
          "logs, then run the same command again to continue",
          what, std::chrono::duration<double>(ranks().time_limit()).count());
    std::this_thread::sleep_for(microseconds(50));
  }
}

void NcclDeviceCommunicator::abort() noexcept {
  if (comm_) ncclCommAbort(comm_);
  comm_ = nullptr;
}

/// Whether all ranks are done with NCCL; they are given a short time, since the job may be ending with an error.
bool NcclDeviceCommunicator::finalize() noexcept {
  const ncclResult_t begun = ncclCommFinalize(comm_);
  if (begun != ncclSuccess && begun != ncclInProgress) return false;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  while (state() == ncclInProgress && Clock::now() < end) std::this_thread::sleep_for(microseconds(100));
  return state() == ncclSuccess;
}

}  // namespace

bool available() { return true; }

std::unique_ptr<DeviceCommunicator> make_communicator(Communicator& ranks, Context& context) {
  return std::make_unique<NcclDeviceCommunicator>(ranks, context);
}

}  // namespace loci::nccl
