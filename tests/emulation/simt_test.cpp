// The emulated device itself: what CUDA documents of indices, shuffles, votes and barriers; what it refuses; and seeded
// faults, which show that the net under the kernels holds.
#include "runtime/emulation/simt.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/cuda_launch.h"
#include "runtime/error.h"
#include "tests/support/errors.h"

#ifdef LOCI_TSAN
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }
#endif

namespace loci::test {
namespace {

using cuda::SharedMemory;

constexpr unsigned kAll = 0xffffffffu;
constexpr int kWarp = 32;

template <typename Body>
void run(int threads, Body&& body, dim3 grid = 1, size_t shared_bytes = 0) {
  emulation::run({"test", grid, threads, shared_bytes}, std::forward<Body>(body));
}

/// What every lane of one warp gets from `ask`.
template <typename Ask>
auto of_each_lane(Ask&& ask, unsigned lanes = kAll) {
  std::array<decltype(ask(0)), kWarp> got = {};
  run(kWarp, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    if (lanes >> lane & 1) got[threadIdx.x] = ask(lane);
  });
  return got;
}

TEST(Simt, EveryThreadOfEveryBlockKnowsItsPlace) {
  constexpr unsigned kThreads = 96;
  const dim3 grid(5, 3, 2);
  std::vector<int> seen(5 * 3 * 2 * kThreads);
  run(
      kThreads,
      [&] {
        EXPECT_EQ(blockDim.x * blockDim.y * blockDim.z, kThreads);
        EXPECT_EQ(gridDim.x, 5u);
        EXPECT_EQ(gridDim.y, 3u);
        EXPECT_EQ(gridDim.z, 2u);
        EXPECT_EQ(threadIdx.y + threadIdx.z, 0u);
        ++seen[((blockIdx.z * 3 + blockIdx.y) * 5 + blockIdx.x) * kThreads + threadIdx.x];
      },
      grid);
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST(Simt, EmptyGridsRunNothing) {
  for (const dim3 grid : {dim3(0), dim3(3, 0), dim3(3, 3, 0)})
    run(
        32, [] { FAIL(); }, grid);
}

TEST(Simt, ShufflesFromALane) {
  for (const int width : {1, 2, 4, 8, 16, 32})
    for (const int source : {0, 1, 5, 31, 37, -1}) {
      const auto got = of_each_lane([&](int lane) { return __shfl_sync(kAll, 100 + lane, source, width); });
      // Sources outside the segment count modulo its width.
      const int within = (source % width + width) % width;
      for (int lane = 0; lane < kWarp; ++lane)
        EXPECT_EQ(got[lane], 100 + lane / width * width + within) << width << " " << source;
    }
}

TEST(Simt, ShufflesUpAndDownKeepTheOwnValueAtTheEdges) {
  for (const int width : {2, 8, 32})
    for (const unsigned delta : {0u, 1u, 3u, 31u}) {
      const auto up = of_each_lane([&](int lane) { return __shfl_up_sync(kAll, lane, delta, width); });
      const auto down = of_each_lane([&](int lane) { return __shfl_down_sync(kAll, lane, delta, width); });
      const int by = static_cast<int>(delta);
      for (int lane = 0; lane < kWarp; ++lane) {
        EXPECT_EQ(up[lane], lane % width >= by ? lane - by : lane);
        EXPECT_EQ(down[lane], lane % width + by < width ? lane + by : lane);
      }
    }
}

TEST(Simt, ShufflesByXorReachEarlierSegmentsOnly) {
  for (const int width : {4, 16, 32})
    for (const int bits : {1, 2, 16, 31}) {
      const auto got = of_each_lane([&](int lane) { return __shfl_xor_sync(kAll, lane, bits, width); });
      for (int lane = 0; lane < kWarp; ++lane) {
        const int source = lane ^ bits;
        EXPECT_EQ(got[lane], source / width <= lane / width ? source : lane) << width;
      }
    }
}

TEST(Simt, ShufflesCarryEveryType) {
  const auto floats = of_each_lane([](int lane) { return __shfl_sync(kAll, 0.5f * static_cast<float>(lane), 7); });
  const auto doubles = of_each_lane([](int lane) { return __shfl_sync(kAll, 1e-200 * lane, 9); });
  const auto wide = of_each_lane([](int lane) { return __shfl_sync(kAll, int64_t{1} << lane, 31); });
  const auto small = of_each_lane([](int lane) { return __shfl_sync(kAll, static_cast<uint16_t>(lane), 3); });
  EXPECT_EQ(floats[0], 3.5f);
  EXPECT_EQ(doubles[0], 9e-200);
  EXPECT_EQ(wide[0], int64_t{1} << 31);
  EXPECT_EQ(small[0], 3);
}

TEST(Simt, SomeLanesOfAWarpOnTheirOwn) {
  const unsigned low = 0xffffu;
  const auto half = of_each_lane([&](int lane) { return __shfl_xor_sync(low, lane, 5); }, low);
  for (int lane = 0; lane < 16; ++lane) EXPECT_EQ(half[lane], lane ^ 5);
  // A source that takes no part gives nothing that a kernel could use.
  const auto from_outside = of_each_lane([&](int) { return __shfl_sync(low, 1.0f, 20); }, low);
  EXPECT_TRUE(std::isnan(from_outside[0]));
  // Two groups at different operations at one time.
  const auto groups = of_each_lane([&](int lane) {
    if (lane < 16) return __shfl_sync(low, lane, 2);
    const int twice = __shfl_sync(~low, lane, 20) + __shfl_sync(~low, lane, 21);
    __syncwarp(~low);
    return twice;
  });
  EXPECT_EQ(groups[0], 2);
  EXPECT_EQ(groups[31], 41);
}

TEST(Simt, Votes) {
  const auto ballots = of_each_lane([](int lane) { return __ballot_sync(kAll, lane % 3 == 0); });
  for (const unsigned ballot : ballots) EXPECT_EQ(ballot, 0x49249249u);
  const auto some = of_each_lane([](int lane) { return __ballot_sync(0xf0u, lane != 5); }, 0xf0u);
  EXPECT_EQ(some[4], 0xd0u);
  for (const unsigned set : {0u, 1u << 17, kAll}) {
    EXPECT_EQ(of_each_lane([&](int lane) { return __any_sync(kAll, set >> lane & 1); })[9], set != 0);
    EXPECT_EQ(of_each_lane([&](int lane) { return __all_sync(kAll, set >> lane & 1); })[9], set == kAll);
  }
}

TEST(Simt, GatherGivesEveryLaneAllValues) {
  const auto sums = of_each_lane([](int lane) {
    uint64_t all[32];
    uint64_t sum = 0;
    for (uint64_t round = 0; round < 3; ++round) {
      emulation::gather(round + static_cast<uint64_t>(lane), all);
      for (uint64_t i = 0; i < 32; ++i) sum += (i + 1) * all[i];
    }
    return sum;
  });
  uint64_t expected = 0;
  for (uint64_t round = 0; round < 3; ++round)
    for (uint64_t i = 0; i < 32; ++i) expected += (i + 1) * (round + i);
  for (const uint64_t sum : sums) EXPECT_EQ(sum, expected);
}

TEST(Simt, BarriersOrderSharedMemory) {
  for (const int threads : {32, 64, 256, 1024}) {
    const auto count = static_cast<size_t>(threads);
    std::vector<int> got(3 * count);
    run(
        threads,
        [&] {
          SharedMemory shared;
          int* const values = shared.take<int>(threads);
          for (int round = 0; round < 4; ++round) {
            values[threadIdx.x] = static_cast<int>(threadIdx.x + blockIdx.x) + round;
            __syncthreads();
            got[blockIdx.x * count + threadIdx.x] = values[(threadIdx.x + 33) % blockDim.x];
            __syncthreads();
          }
        },
        3, SharedMemory::bytes<int>(threads));
    for (size_t b = 0; b < 3; ++b)
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(got[b * count + i], static_cast<int>((i + 33) % count + b) + 3);
  }
}

TEST(Simt, WarpBarriersOrderSharedMemory) {
  std::array<int, 64> got = {};
  run(
      64,
      [&] {
        SharedMemory shared;
        int* const values = shared.take<int>(64);
        values[threadIdx.x] = static_cast<int>(threadIdx.x);
        __syncwarp();
        got[threadIdx.x] = values[threadIdx.x ^ 3];
      },
      1, SharedMemory::bytes<int>(64));
  for (int i = 0; i < 64; ++i) EXPECT_EQ(got[i], i ^ 3);
}

TEST(Simt, SharedMemoryStartsAsNaNInEveryBlockAndIsAligned) {
  std::vector<float> first(4);
  run(
      32,
      [&] {
        SharedMemory shared;
        float* const odd = shared.take<float>(3);
        double* const after = shared.take<double>(2);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(odd) % 16, 0u);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(after) % 16, 0u);
        if (threadIdx.x != 0) return;
        first[blockIdx.x] = odd[2];
        EXPECT_TRUE(std::isnan(after[1]));
        odd[2] = 1;
      },
      4, SharedMemory::bytes<float>(3) + SharedMemory::bytes<double>(2));
  for (const float value : first) EXPECT_TRUE(std::isnan(value));
}

TEST(Simt, AtomicsCount) {
  int sum = 0, largest = -1;
  run(
      256,
      [&] {
        atomicAdd(&sum, static_cast<int>(threadIdx.x));
        atomicMax(&largest, static_cast<int>(threadIdx.x * blockIdx.x));
      },
      4);
  EXPECT_EQ(sum, 4 * 255 * 128);
  EXPECT_EQ(largest, 3 * 255);
}

TEST(Simt, ThousandThreadsWithManyBarriers) {
  std::vector<int> got(2048);
  run(
      1024,
      [&] {
        SharedMemory shared;
        int* const values = shared.take<int>(1024);
        values[threadIdx.x] = 1;
        for (unsigned step = 512; step > 0; step /= 2) {
          __syncthreads();
          if (threadIdx.x < step) values[threadIdx.x] += values[threadIdx.x + step];
        }
        __syncthreads();
        got[blockIdx.x * 1024 + threadIdx.x] = values[0];
      },
      2, SharedMemory::bytes<int>(1024));
  EXPECT_EQ(got, std::vector<int>(2048, 1024));
}

template <typename Body>
std::string refusal(Body&& body, int threads = 64, dim3 grid = 2, size_t shared_bytes = 64) {
  const std::string message = error_of<Error>([&] { run(threads, body, grid, shared_bytes); });
  EXPECT_TRUE(message.starts_with("test: ")) << message;
  // The next launch is as good as the first.
  int count = 0;
  run(
      threads > 0 && threads <= 1024 && threads % 32 == 0 ? threads : 64,
      [&] {
        __syncthreads();
        if (__shfl_sync(kAll, threadIdx.x, 3) % 32 == 3) atomicAdd(&count, 1);
        __syncthreads();
      },
      3);
  EXPECT_EQ(count % 192, 0) << message;
  EXPECT_GT(count, 0) << message;
  return message;
}

TEST(SimtErrors, TooMuchSharedMemory) {
  expect_message(refusal([] { SharedMemory().take<float>(17); }), {"takes 80 bytes", "launched with 64"});
  expect_message(refusal([] {}, 64, 1, 228 * 1024), {"bytes of shared memory; a block may have"});
}

TEST(SimtErrors, DifferentSharedMemoryInOneBlock) {
  expect_message(refusal([] { SharedMemory().take<float>(threadIdx.x == 40 ? 3 : 4); }), {"different shared memory"});
}

TEST(SimtErrors, BarriersThatSomeThreadsDoNotReach) {
  expect_message(refusal([] {
                   if (threadIdx.x != 33) __syncthreads();
                 }),
                 {"the block hangs", "63 threads wait at __syncthreads", "1 have returned"});
  expect_message(refusal([] {
                   if (threadIdx.x < 32)
                     __syncthreads();
                   else
                     __syncwarp(0x1);
                 }),
                 {"takes part in an operation of the lanes"});
  expect_message(refusal([] {
                   if (threadIdx.x < 32)
                     __syncthreads();
                   else if (threadIdx.x % 2)
                     __syncwarp();
                   else
                     __syncthreads();
                 }),
                 {"the block hangs", "48 threads wait at __syncthreads, 16 at a warp's barrier"});
}

TEST(SimtErrors, ShufflesThatALaneMisses) {
  expect_message(refusal([] {
                   if (threadIdx.x != 5) __shfl_xor_sync(kAll, 1, 1);
                 }),
                 {"the block hangs", "31 at a warp's barrier"});
  expect_message(refusal([] { __shfl_sync(threadIdx.x % 2 ? 0xaaaaaaaau : kAll, 1, 1); }), {"the block hangs"});
  expect_message(refusal([] { __shfl_sync(0xffffu, 1, 1); }), {"takes part in an operation of the lanes 0xffff"});
  // The same lanes at different operations are no meeting.
  expect_message(refusal([] {
                   if (threadIdx.x % 2)
                     __syncwarp();
                   else
                     __shfl_sync(kAll, 1, 1);
                 }),
                 {"the block hangs"});
}

TEST(SimtErrors, ExceptionsOfKernelsReachTheCaller) {
  expect_message(refusal([] {
                   __syncthreads();
                   if (blockIdx.x == 1 && threadIdx.x == 40) throw Error("test: thread 40 says no");
                   __syncthreads();
                 }),
                 {"thread 40 says no"});
}

TEST(SimtErrors, LaunchesThatNoGpuTakes) {
  for (const int threads : {0, -32, 33, 1056}) expect_message(refusal([] {}, threads), {"a block of"});
  expect_message(refusal([] {}, 64, dim3(1, 65536)), {"a grid of 1 x 65536 x 1"});
  expect_message(refusal([] { run(32, [] {}); }), {"a kernel launches a kernel"});
}

// Blocks run forwards and backwards in turn: what a missing barrier spoils shows in one of two launches.
#ifndef LOCI_TSAN
TEST(SeededFaults, AMissingBarrierSpoilsOneOfTwoLaunches) {
  int spoiled = 0;
  for (int launch = 0; launch < 2; ++launch) {
    std::array<float, 64> got = {};
    run(
        64,
        [&] {
          SharedMemory shared;
          float* const values = shared.take<float>(64);
          values[threadIdx.x] = 1;
          got[threadIdx.x] = values[63 - threadIdx.x];
        },
        1, SharedMemory::bytes<float>(64));
    spoiled += std::isnan(got[0]) || std::isnan(got[63]);
  }
  EXPECT_GT(spoiled, 0);
}
#endif

/// Every thread writes its own element and reads its neighbour's, three times.
template <typename Between, typename After>
void rotate(const Between& between, const After& after) {
  std::vector<int> got(3 * 256);
  run(
      256,
      [&] {
        SharedMemory shared;
        int* const values = shared.take<int>(256);
        for (int round = 0; round < 3; ++round) {
          values[threadIdx.x] = round;
          between();
          got[blockIdx.x * 256 + threadIdx.x] = values[(threadIdx.x + 1) % 256];
          after();
        }
      },
      3, SharedMemory::bytes<int>(256));
}

constexpr auto kBarrier = [] { __syncthreads(); };
[[maybe_unused]] constexpr auto kNothing = [] {};  // under ThreadSanitizer alone

TEST(SeededFaults, TheSameKernelsWithTheirBarriersAreClean) {
  for (int launch = 0; launch < 3; ++launch) rotate(kBarrier, kBarrier);
}

class SeededFaultsDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

#ifdef LOCI_TSAN

TEST_F(SeededFaultsDeathTest, AMissingBarrierIsARace) {
  EXPECT_DEATH(rotate(kNothing, kBarrier), "data race");
  EXPECT_DEATH(rotate(kBarrier, kNothing), "data race");
  EXPECT_DEATH(rotate([] { __syncwarp(); }, kBarrier), "data race");
}

// A shuffle moves values, but orders no memory.
TEST_F(SeededFaultsDeathTest, AShuffleIsNoBarrier) {
  const auto exchange = [](auto&& order) {
    run(
        32,
        [&] {
          SharedMemory shared;
          int* const values = shared.take<int>(32);
          values[threadIdx.x] = 1;
          order();
          if (values[threadIdx.x ^ 1] != 1) throw Error("unordered");
        },
        1, SharedMemory::bytes<int>(32));
  };
  exchange([] { __syncwarp(); });
  EXPECT_DEATH(exchange([] { __shfl_sync(kAll, 1, 0); }), "data race");
}

TEST_F(SeededFaultsDeathTest, TwoBlocksThatWriteOneElementAreARace) {
  std::vector<int> out(64);
  const auto write = [&](unsigned stride) { return [&, stride] { out[blockIdx.x * stride + threadIdx.x] = 1; }; };
  run(32, write(32), 2);
  EXPECT_DEATH(run(32, write(0), 2), "data race");
  EXPECT_DEATH(run(32, write(1), dim3(1, 1, 2)), "data race");
}

// One launch after another is ordered, as on a stream.
TEST_F(SeededFaultsDeathTest, LaunchesAreOrdered) {
  std::vector<int> out(64);
  for (int launch = 0; launch < 4; ++launch) run(64, [&] { out[63 - threadIdx.x] += out[threadIdx.x] * 0 + 1; });
}

#elif defined(LOCI_ASAN)

TEST_F(SeededFaultsDeathTest, OverrunsOfSharedMemoryAreFound) {
  const auto touch = [](unsigned beyond) {
    run(
        32,
        [&] {
          SharedMemory shared;
          float* const values = shared.take<float>(32);
          float* const others = shared.take<float>(32);
          values[threadIdx.x + beyond] = others[threadIdx.x] = 1;
        },
        1, 2 * SharedMemory::bytes<float>(32));
  };
  touch(0);
  EXPECT_DEATH(touch(1), "heap-buffer-overflow");
}

TEST_F(SeededFaultsDeathTest, OverrunsOfDeviceMemoryAreFound) {
  CudaDevice device(0);
  auto* const values = static_cast<float*>(device.allocate(33 * sizeof(float)));
  const auto touch = [&](unsigned beyond) { run(32, [&] { values[threadIdx.x + beyond] = 1; }); };
  touch(1);
  EXPECT_DEATH(touch(2), "heap-buffer-overflow");
  device.free(values);
  EXPECT_DEATH(touch(0), "heap-use-after-free");
}

#else

TEST_F(SeededFaultsDeathTest, HostsAreKeptOutOfDeviceMemory) {
  CudaDevice device(0);
  auto* const values = static_cast<volatile float*>(device.allocate(64 * sizeof(float)));
  const auto there = const_cast<float*>(values);
  run(32, [&] { values[threadIdx.x] = static_cast<float>(threadIdx.x); });
  float last = 0;
  device.copy_to_host(&last, there + 31, sizeof(float), sizeof(float), 1);
  EXPECT_EQ(last, 31);
  device.copy_to_host(&last, there + 32, sizeof(float), sizeof(float), 1);
  EXPECT_TRUE(std::isnan(last)) << "device memory is not NaN before it is written";
  EXPECT_EXIT(static_cast<void>(values[0]), ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(values[0] = 1, ::testing::KilledBySignal(SIGSEGV), "");
  // An error in a kernel closes the memory too.
  EXPECT_THROW(run(32, [] { throw Error("no"); }), Error);
  EXPECT_EXIT(static_cast<void>(values[0]), ::testing::KilledBySignal(SIGSEGV), "");
  device.free(there);
}

#endif

}  // namespace
}  // namespace loci::test
