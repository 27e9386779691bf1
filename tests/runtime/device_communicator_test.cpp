#include "runtime/ranks/device_communicator.h"

#include <gtest/gtest.h>

#include <memory>

#include "runtime/ranks/communicator_threads.h"
#include "runtime/ranks/device_communicator_nccl.h"
#include "tests/runtime/device_collective_checks.h"
#include "tests/support/device.h"

namespace loci {
namespace {

using test::check_device_collectives;
using test::device_options;

TEST(DeviceCommunicator, MovesDeviceMemoryThroughTheHost) {
  for (int ranks = 1; ranks <= 3; ++ranks)
    run_threads(ranks, {}, [](Communicator& communicator) {
      Context context(device_options(1));
      // Pieces of one byte would be slow, of a few hundred they do not fit the blocks.
      for (const size_t staging : {size_t{700}, HostStagedDeviceCommunicator::kStagingBytes}) {
        HostStagedDeviceCommunicator device(communicator, context, staging);
        EXPECT_EQ(device.kind(), "host");
        check_device_collectives(device, context);
      }
      HostStagedDeviceCommunicator device(communicator, context, 1);
      test::check_device_all_to_all(device, context, 5);
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
      check_device_collectives(*device, context);
    });
}

TEST(DeviceCommunicator, NcclOfOneRankSpeaksToItself) {
  if (!nccl::available()) GTEST_SKIP() << "this build has no NCCL";
  if (device_options().device.type != DeviceType::cuda) GTEST_SKIP() << "NCCL needs a GPU";
  SelfCommunicator self;
  Context context(device_options(1));
  const std::unique_ptr<DeviceCommunicator> device = nccl::make_communicator(self, context);
  EXPECT_EQ(device->kind(), "nccl");
  check_device_collectives(*device, context);
}

}  // namespace
}  // namespace loci
