#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/context.h"
#include "runtime/ranks/communicator.h"

namespace loci {

/// Collectives on the device memory of each rank's Context, with the rules, the time limit and the errors of the
/// Communicator below it. They follow the ops issued before on the context and have ended when they return.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;
  DeviceCommunicator(const DeviceCommunicator&) = delete;
  DeviceCommunicator& operator=(const DeviceCommunicator&) = delete;

  Communicator& ranks() const { return ranks_; }
  /// "host": through host memory and ranks(); "nccl".
  virtual std::string_view kind() const = 0;

  /// `bytes` bytes of the root go to all.
  virtual void broadcast(void* data, size_t bytes, int root, std::string_view what) = 0;
  /// `all` becomes the ranks' `own`, of `bytes` bytes each, in the order of ranks. They do not overlap.
  virtual void all_gather(const void* own, void* all, size_t bytes, std::string_view what) = 0;
  /// Blocks of `bytes` bytes: block r of `own` goes to rank r, block r of `received` came from rank r. They do not
  /// overlap.
  virtual void all_to_all(const void* own, void* received, size_t bytes, std::string_view what) = 0;

 protected:
  DeviceCommunicator(Communicator& ranks, Context& context) : ranks_(ranks), context_(context) {}
  Context& context() const { return context_; }

 private:
  Communicator& ranks_;
  Context& context_;
};

/// Through host memory. On the CPU, where device memory is host memory, nothing is copied on the way.
class HostStagedDeviceCommunicator final : public DeviceCommunicator {
 public:
  /// Takes at most about `staging_bytes` of host memory, and one byte of each rank at the least.
  HostStagedDeviceCommunicator(Communicator& ranks, Context& context, size_t staging_bytes = kStagingBytes);

  std::string_view kind() const override { return "host"; }
  void broadcast(void* data, size_t bytes, int root, std::string_view what) override;
  void all_gather(const void* own, void* all, size_t bytes, std::string_view what) override;
  void all_to_all(const void* own, void* received, size_t bytes, std::string_view what) override;

  static constexpr size_t kStagingBytes = size_t{128} << 20;

 private:
  /// The longest piece of a block that is staged at once where `blocks` of them are.
  size_t piece_bytes(size_t blocks) const;
  std::span<std::byte> staging(size_t bytes);

  size_t staging_bytes_;
  std::vector<std::byte> staging_;
};

/// NCCL where this build has it and every rank has a GPU of its own, else through host memory. Collective. Both outlive
/// the result, which is used and destroyed by the thread that made the context.
std::unique_ptr<DeviceCommunicator> make_device_communicator(Communicator& ranks, Context& context);

}  // namespace loci
