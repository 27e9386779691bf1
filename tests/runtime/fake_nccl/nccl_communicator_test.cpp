// runtime/ranks/device_communicator_nccl.cpp between ranks in threads, on an NCCL that is fake_nccl.cpp.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>

#include "runtime/error.h"
#include "runtime/ranks/communicator_threads.h"
#include "runtime/ranks/device_communicator.h"
#include "runtime/ranks/device_communicator_nccl.h"
#include "tests/runtime/device_collective_checks.h"
#include "tests/runtime/fake_nccl/fake_nccl.h"
#include "tests/support/errors.h"

namespace loci {
namespace {

using fake_nccl::Fault;
using test::error_of;
using test::expect_message;

class Nccl : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_nccl::set_fault(Fault::none);
    fake_nccl::reset_counts();
  }
};

Context context_on(int device) {
  ContextOptions options;
  options.device = {DeviceType::cuda, device};
  options.threads = 1;
  return Context(options);
}

/// Runs `body` as ranks with a GPU each.
void on_gpus(int ranks, const std::function<void(DeviceCommunicator&, Context&)>& body) {
  ThreadRankOptions options;
  options.communicator.time_limit = std::chrono::milliseconds(300);
  run_threads(ranks, options, [&](Communicator& communicator) {
    Context context = context_on(communicator.rank());
    const std::unique_ptr<DeviceCommunicator> device = make_device_communicator(communicator, context);
    body(*device, context);
  });
}

TEST_F(Nccl, MovesDeviceMemory) {
  for (int ranks = 2; ranks <= 4; ++ranks) {
    fake_nccl::reset_counts();
    on_gpus(ranks, [](DeviceCommunicator& device, Context& context) {
      EXPECT_EQ(device.kind(), "nccl");
      test::check_device_collectives(device, context);
    });
    EXPECT_EQ(fake_nccl::counts().destroyed, ranks);
    EXPECT_EQ(fake_nccl::counts().aborted, 0);
  }
}

TEST_F(Nccl, IsNotChosenForOneRankOrASharedGpu) {
  on_gpus(1, [](DeviceCommunicator& device, Context&) { EXPECT_EQ(device.kind(), "host"); });
  run_threads(2, {}, [](Communicator& ranks) {
    Context context = context_on(0);
    EXPECT_EQ(make_device_communicator(ranks, context)->kind(), "host");
  });
  run_threads(2, {}, [](Communicator& ranks) {
    Context context = ranks.is_root() ? Context() : context_on(0);
    EXPECT_EQ(make_device_communicator(ranks, context)->kind(), "host");
  });
}

TEST_F(Nccl, ThatStallsIsGivenUpAndAborted) {
  const std::string message = error_of<LostRankError>([] {
    on_gpus(2, [](DeviceCommunicator& device, Context& context) {
      device.ranks().barrier("the start");
      fake_nccl::set_fault(Fault::stalls);
      test::check_device_all_gather(device, context, 100);
    });
  });
  expect_message(message, {"the all-gather of bytes did not end within 0.3 s on the GPUs"});
  EXPECT_EQ(fake_nccl::counts().aborted, 2);
  EXPECT_EQ(fake_nccl::counts().destroyed, 0);
}

TEST_F(Nccl, ThatDoesNotStartIsGivenUpAndAborted) {
  fake_nccl::set_fault(Fault::never_starts);
  const std::string message = error_of<LostRankError>([] { on_gpus(2, [](DeviceCommunicator&, Context&) {}); });
  expect_message(message, {"the start of NCCL did not end within 0.3 s"});
  EXPECT_EQ(fake_nccl::counts().aborted, 2);
}

TEST_F(Nccl, ThatBreaksSaysWhy) {
  const std::string message = error_of<SystemError>([] {
    on_gpus(2, [](DeviceCommunicator& device, Context& context) {
      device.ranks().barrier("the start");
      fake_nccl::set_fault(Fault::breaks);
      test::check_device_all_to_all(device, context, 100);
    });
  });
  expect_message(message, {"the exchange of bytes: NCCL says remote error (the fake's fault)"});
  EXPECT_EQ(fake_nccl::counts().aborted, 2);
}

TEST_F(Nccl, NamesARankThatDoesNotCome) {
  std::atomic<bool> over = false;
  const std::string message = error_of<LostRankError>([&] {
    on_gpus(2, [&](DeviceCommunicator& device, Context& context) {
      if (device.ranks().rank() == 1) {
        while (!over) std::this_thread::yield();
        return;
      }
      try {
        test::check_device_all_to_all(device, context, 100);
      } catch (const LostRankError&) {
        over = true;
        throw;
      }
    });
  });
  expect_message(message, {"rank 1 of 2 did not come to the exchange of bytes within 0.3 s"});
}

TEST_F(Nccl, RefusesRanksOutOfStep) {
  const std::string message = error_of<ShapeError>([] {
    on_gpus(2, [](DeviceCommunicator& device, Context&) {
      char data[8] = {};
      device.broadcast(data, device.ranks().is_root() ? 8 : 4, 0, "the broadcast of the weights");
    });
  });
  expect_message(message, {"out of step at the broadcast of the weights: rank 0 makes the broadcast of 8 bytes with "
                           "root 0, rank 1 the broadcast of 4 bytes with root 0"});
  EXPECT_THROW(on_gpus(2, [](DeviceCommunicator& device, Context&) { device.broadcast(nullptr, 0, 2, "x"); }),
               ShapeError);
}

TEST_F(Nccl, IsOfNoUseAfterAnError) {
  EXPECT_THROW(on_gpus(2,
                       [](DeviceCommunicator& device, Context& context) {
                         device.ranks().barrier("the start");
                         fake_nccl::set_fault(Fault::breaks);
                         EXPECT_ANY_THROW(test::check_device_all_gather(device, context, 8));
                         test::check_device_all_gather(device, context, 8);
                       }),
               SystemError);
}

}  // namespace
}  // namespace loci
