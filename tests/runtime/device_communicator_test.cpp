#include "runtime/device_communicator.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "runtime/communicator_threads.h"
#include "runtime/device_communicator_nccl.h"
#include "tests/mpi/collective_checks.h"
#include "tests/support/device.h"

namespace loci {
namespace {

using test::blocks_of;
using test::Bytes;
using test::device_options;
using test::expect_same;
using test::sent_byte;

/// Bytes in the memory of a context.
class DeviceBytes {
 public:
  DeviceBytes(Context& context, const Bytes& values)
      : context_(context), size_(values.size()), data_(context.allocate(std::max<size_t>(1, size_))) {
    context_.copy_to_device(data_, values.data(), size_);
  }
  ~DeviceBytes() { context_.release(data_, std::max<size_t>(1, size_)); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* data() { return data_; }
  Bytes to_host() const {
    Bytes values(size_);
    context_.copy_to_host(values.data(), data_, size_);
    return values;
  }

 private:
  Context& context_;
  size_t size_;
  void* data_;
};

void check_broadcasts(DeviceCommunicator& device, Context& context, size_t bytes) {
  const Communicator& ranks = device.ranks();
  for (int root = 0; root < ranks.size(); ++root) {
    const Bytes expected = blocks_of(1, bytes, [&](int, size_t i) { return sent_byte(root, 0, i); });
    DeviceBytes data(context, ranks.rank() == root ? expected : Bytes(bytes, std::byte{0xEE}));
    device.broadcast(data.data(), bytes, root, "the broadcast of bytes");
    expect_same(data.to_host(), expected, ranks, "broadcast");
  }
}

void check_all_gather(DeviceCommunicator& device, Context& context, size_t bytes) {
  const Communicator& ranks = device.ranks();
  const Bytes expected = blocks_of(ranks.size(), bytes, [](int from, size_t i) { return sent_byte(from, 0, i); });
  DeviceBytes own(context, blocks_of(1, bytes, [&](int, size_t i) { return sent_byte(ranks.rank(), 0, i); }));
  DeviceBytes all(context, Bytes(expected.size(), std::byte{0xEE}));
  device.all_gather(own.data(), all.data(), bytes, "the all-gather of bytes");
  expect_same(all.to_host(), expected, ranks, "all-gather");
}

void check_all_to_all(DeviceCommunicator& device, Context& context, size_t bytes) {
  const Communicator& ranks = device.ranks();
  const int rank = ranks.rank();
  const Bytes expected = blocks_of(ranks.size(), bytes, [&](int from, size_t i) { return sent_byte(from, rank, i); });
  DeviceBytes own(context, blocks_of(ranks.size(), bytes, [&](int to, size_t i) { return sent_byte(rank, to, i); }));
  DeviceBytes received(context, Bytes(expected.size(), std::byte{0xEE}));
  device.all_to_all(own.data(), received.data(), bytes, "the exchange of bytes");
  expect_same(received.to_host(), expected, ranks, "all-to-all");
}

void check_collectives(DeviceCommunicator& device, Context& context) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{7}, size_t{1000}, size_t{40001}}) {
    check_broadcasts(device, context, bytes);
    check_all_gather(device, context, bytes);
    check_all_to_all(device, context, bytes);
  }
}

TEST(DeviceCommunicator, MovesDeviceMemoryThroughTheHost) {
  for (int ranks = 1; ranks <= 3; ++ranks)
    run_threads(ranks, {}, [](Communicator& communicator) {
      Context context(device_options(1));
      // Pieces of one byte would be slow, of a few hundred they do not fit the blocks.
      for (const size_t staging : {size_t{700}, HostStagedDeviceCommunicator::kStagingBytes}) {
        HostStagedDeviceCommunicator device(communicator, context, staging);
        EXPECT_EQ(device.kind(), "host");
        check_collectives(device, context);
      }
      HostStagedDeviceCommunicator device(communicator, context, 1);
      check_all_to_all(device, context, 5);
    });
}

// Threads of one process share the first GPU here, so NCCL is never chosen.
TEST(DeviceCommunicator, IsMadeForTheRanksAtHand) {
  for (int ranks = 1; ranks <= 2; ++ranks)
    run_threads(ranks, {}, [](Communicator& communicator) {
      Context context(device_options(1));
      const std::unique_ptr<DeviceCommunicator> device = make_device_communicator(communicator, context);
      EXPECT_EQ(device->kind(), "host");
      EXPECT_EQ(&device->ranks(), &communicator);
      check_collectives(*device, context);
    });
}

TEST(DeviceCommunicator, NcclOfOneRankSpeaksToItself) {
  if (!nccl::available()) GTEST_SKIP() << "this build has no NCCL";
  if (device_options().device.type != DeviceType::cuda) GTEST_SKIP() << "NCCL needs a GPU";
  SelfCommunicator self;
  Context context(device_options(1));
  EXPECT_NE(nccl::identity(context), nccl::DeviceIdentity{});
  const std::unique_ptr<DeviceCommunicator> device = nccl::make_communicator(self, context);
  EXPECT_EQ(device->kind(), "nccl");
  check_collectives(*device, context);
}

}  // namespace
}  // namespace loci
