#include "runtime/ranks/rank_context.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "runtime/ranks/communicator_threads.h"

namespace loci {
namespace {

TEST(RankMemory, IsSharedByThoseOnOneGpuWhateverItsNumber) {
  using Identity = CudaDevice::Identity;
  const std::vector<std::optional<Identity>> gpus{Identity{std::byte{1}}, Identity{std::byte{2}},
                                                  Identity{std::byte{1}}, std::nullopt, Identity{}};
  std::vector<int> sharers(gpus.size());
  run_threads(static_cast<int>(gpus.size()), {}, [&](Communicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    sharers[rank] = count_sharers(communicator, gpus[rank]);
  });
  EXPECT_EQ(sharers, (std::vector<int>{2, 1, 2, 1, 1}));
}

TEST(RankMemory, OfTheMachineIsSharedByAllWithoutAGpu) {
  run_threads(3, {}, [](Communicator& communicator) { EXPECT_EQ(count_sharers(communicator, std::nullopt), 3); });
}

}  // namespace
}  // namespace loci
