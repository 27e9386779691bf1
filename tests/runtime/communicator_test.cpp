#include "runtime/ranks/communicator.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/ranks/communicator_mpi.h"
#include "runtime/ranks/communicator_threads.h"
#include "runtime/ranks/launched_ranks.h"
#include "tests/mpi/collective_checks.h"
#include "tests/support/errors.h"

namespace loci {
namespace {

using std::chrono::milliseconds;
using test::Bytes;
using test::error_of;
using test::expect_message;

// A test that waits for a rank in vain takes this long.
constexpr milliseconds kShort{50};

ThreadRankOptions short_waits() {
  ThreadRankOptions options;
  options.communicator.time_limit = kShort;
  return options;
}

TEST(Communicator, OfOneRankSpeaksToItself) {
  SelfCommunicator self;
  EXPECT_EQ(self.size(), 1);
  EXPECT_EQ(self.kind(), "self");
  test::check_collectives(self, 100001);
}

class Threads : public ::testing::TestWithParam<int> {};

TEST_P(Threads, SpeakToEachOther) {
  std::atomic<int> ranks = 0;
  run_threads(GetParam(), {}, [&](Communicator& communicator) {
    EXPECT_EQ(communicator.size(), GetParam());
    EXPECT_EQ(communicator.local_rank(), communicator.rank());
    EXPECT_EQ(communicator.kind(), "threads");
    test::check_collectives(communicator, 100001);
    ++ranks;
  });
  EXPECT_EQ(ranks, GetParam());
}

TEST_P(Threads, TheRootIsTheCaller) {
  const auto caller = std::this_thread::get_id();
  run_threads(GetParam(), {}, [&](Communicator& ranks) {
    EXPECT_EQ(ranks.is_root(), std::this_thread::get_id() == caller) << ranks.rank();
  });
}

INSTANTIATE_TEST_SUITE_P(Communicator, Threads, ::testing::Values(1, 2, 3, 4),
                         [](const auto& ranks) { return std::to_string(ranks.param) + "ranks"; });

TEST(Communicator, AThreadThatThrowsReleasesTheOthers) {
  for (int culprit = 0; culprit < 3; ++culprit) {
    std::atomic<int> released = 0;
    const std::string message = error_of<NumericalError>([&] {
      run_threads(3, {}, [&](Communicator& ranks) {
        ranks.barrier("the start");
        if (ranks.rank() == culprit) throw NumericalError("the loss is not finite");
        try {
          ranks.barrier("the end");
        } catch (const PeerFailedError& error) {
          expect_message(error.what(), {"rank " + std::to_string(culprit) + " failed"});
          ++released;
          throw;
        }
      });
    });
    EXPECT_EQ(message, "the loss is not finite");
    EXPECT_EQ(released, 2);
  }
}

TEST(Communicator, AThreadAtWorkSeesThatAnotherFailed) {
  const std::string message = error_of<InputError>([&] {
    run_threads(2, {}, [&](Communicator& ranks) {
      ranks.check_peers();
      ranks.barrier("the start");
      if (!ranks.is_root()) throw InputError("no such file");
      for (;;) ranks.check_peers();
    });
  });
  EXPECT_EQ(message, "no such file");
}

TEST(Communicator, ThreadsThatDoNotComeAreNamed) {
  std::atomic<bool> over = false;
  const auto run = [&](int ranks, int present) {
    over = false;
    return error_of<LostRankError>([&] {
      run_threads(ranks, short_waits(), [&](Communicator& communicator) {
        communicator.barrier("the start");
        if (communicator.rank() != present) {
          while (!over) std::this_thread::sleep_for(milliseconds(1));
          EXPECT_THROW(communicator.barrier("the end"), PeerFailedError);
          return;
        }
        try {
          communicator.broadcast(std::span<std::byte>(), 0, "the broadcast of the weights");
        } catch (const LostRankError& error) {
          EXPECT_EQ(error.exit_code(), 6);
          over = true;
          throw;
        }
      });
    });
  };
  EXPECT_EQ(
      run(2, 0),
      "rank 1 of 2 did not come to the broadcast of the weights within 0.05 s; it hangs or was lost: see its log, "
      "then run the same command again to continue");
  EXPECT_EQ(
      run(4, 2),
      "ranks 0, 1, 3 of 4 did not come to the broadcast of the weights within 0.05 s; they hang or were lost: see "
      "their logs, then run the same command again to continue");
}

// With the default time limit: nobody waits for a thread that is over.
TEST(Communicator, AThreadThatReturnsEarlyIsMissedAtOnce) {
  const std::string message = error_of<LostRankError>([&] {
    run_threads(3, {}, [&](Communicator& ranks) {
      if (ranks.rank() != 1) ranks.barrier("the end");
    });
  });
  EXPECT_EQ(message, "rank 1 of 3 ended and did not come to the end");
}

TEST(Communicator, ThreadsOutOfStepAreRefused) {
  using Step = std::function<void(Communicator&)>;
  const Step number = [](Communicator& ranks) {
    int32_t value = 0;
    ranks.broadcast_value(value, 0, "a number");
  };
  const std::vector<Step> others = {
      [](Communicator& ranks) { ranks.barrier("a number"); },
      [](Communicator& ranks) { ranks.all_gather_value(int32_t{0}, "a number"); },
      [](Communicator& ranks) {
        int64_t value = 0;
        ranks.broadcast_value(value, 0, "a number");
      },
      [](Communicator& ranks) {
        int32_t value = 0;
        ranks.broadcast_value(value, 1, "a number");
      },
      [](Communicator& ranks) {
        int32_t value = 0;
        ranks.broadcast_value(value, 0, "another number");
      },
  };
  for (const Step& other : others) {
    const std::string message = error_of<ShapeError>(
        [&] { run_threads(2, {}, [&](Communicator& ranks) { (ranks.is_root() ? number : other)(ranks); }); });
    expect_message(message, {"out of step: rank 0 is at a number (broadcast of 4 bytes from rank 0), rank 1 at a"});
  }
}

TEST(Communicator, SizesThatDoNotFitAreRefused) {
  SelfCommunicator self;
  Bytes eight(8), four(4);
  EXPECT_THROW(self.broadcast(four, 1, "x"), ShapeError);
  EXPECT_THROW(self.broadcast(four, -1, "x"), ShapeError);
  EXPECT_THROW(self.all_gather(four, eight, "x"), ShapeError);
  EXPECT_THROW(self.all_to_all(four, eight, "x"), ShapeError);
  EXPECT_THROW(self.all_gather(four, four, "x"), ShapeError);
  EXPECT_THROW(self.all_to_all(std::span(eight).first(4), std::span(eight).subspan(3, 4), "x"), ShapeError);
  EXPECT_NO_THROW(self.all_to_all(std::span(eight).first(4), std::span(eight).last(4), "x"));
  run_threads(3, {}, [&](Communicator& ranks) {
    Bytes sent(4), received(4);
    EXPECT_THROW(ranks.all_to_all(sent, received, "x"), ShapeError);
    EXPECT_THROW(ranks.broadcast(sent, 3, "x"), ShapeError);
  });
}

TEST(Communicator, LimitsAreChecked) {
  SelfCommunicator self;
  EXPECT_EQ(self.time_limit(), std::chrono::minutes(30));
  self.set_time_limit(milliseconds(1500));
  EXPECT_EQ(self.time_limit(), milliseconds(1500));
  EXPECT_THROW(self.set_time_limit(milliseconds(0)), InputError);
  EXPECT_THROW(self.set_time_limit(milliseconds(-1)), InputError);
  EXPECT_THROW(self.set_time_limit(std::chrono::hours(31 * 24)), InputError);
  CommunicatorOptions options;
  options.piece_bytes = 0;
  EXPECT_THROW(SelfCommunicator{options}, ShapeError);
  options.piece_bytes = (size_t{1} << 30) + 1;
  EXPECT_THROW(SelfCommunicator{options}, ShapeError);
  EXPECT_THROW(run_threads(0, {}, [](Communicator&) {}), InputError);
}

TEST(CommunicatorDeathTest, AbortEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(SelfCommunicator().abort(75), ::testing::ExitedWithCode(75), "");
  const auto abort_in_a_thread = [] {
    run_threads(2, {}, [](Communicator& ranks) {
      if (ranks.rank() == 1) ranks.abort(3);
      ranks.barrier("the end");
    });
  };
  EXPECT_EXIT(abort_in_a_thread(), ::testing::ExitedWithCode(3), "");
}

TEST(CommunicatorDeathTest, AThreadThatHangsEndsTheProcessInTheEnd) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto hang = [](int culprit) {
    spdlog::set_default_logger(spdlog::stderr_logger_mt("test"));
    ThreadRankOptions options = short_waits();
    options.ending_limit = kShort;
    run_threads(2, options, [&](Communicator& ranks) {
      while (ranks.rank() == culprit) std::this_thread::sleep_for(milliseconds(10));
      ranks.barrier("the end of the sweep");
    });
  };
  EXPECT_EXIT(hang(1), ::testing::ExitedWithCode(6), "rank 1 of 2 did not come to the end of the sweep");
  EXPECT_EXIT(hang(0), ::testing::ExitedWithCode(6), "rank 0 of 2 did not come to the end of the sweep");
}

LaunchedRanks launched_with(const std::map<std::string, std::string>& environment) {
  return detect_launch([&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(LaunchedRanks, AreSeenInTheEnvironment) {
  EXPECT_FALSE(launched_with({}).uses_mpi());
  EXPECT_EQ(launched_with({}).size, 1);

  const LaunchedRanks mpirun = launched_with({{"OMPI_COMM_WORLD_SIZE", "4"}, {"PMIX_RANK", "2"}});
  EXPECT_EQ(mpirun.launcher, "mpirun");
  EXPECT_EQ(mpirun.size, 4);

  const LaunchedRanks srun = launched_with({{"PMIX_RANK", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "3"}});
  EXPECT_EQ(srun.launcher, "srun --mpi=pmix");
  EXPECT_EQ(srun.size, 3);

  const LaunchedRanks pmi = launched_with({{"PMI_SIZE", "2"}, {"PMI_RANK", "0"}});
  EXPECT_EQ(pmi.launcher, "mpiexec");
  EXPECT_EQ(pmi.size, 2);

  const LaunchedRanks other = launched_with({{"PMIX_RANK", "0"}});
  EXPECT_TRUE(other.uses_mpi());
  EXPECT_EQ(other.size, 0);
}

TEST(LaunchedRanks, AloneInsideAJobStayAlone) {
  // A batch script, and one task of srun.
  EXPECT_FALSE(launched_with({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "8"}}).uses_mpi());
  EXPECT_FALSE(
      launched_with({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "8"}}).uses_mpi());
  EXPECT_FALSE(launched_with({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "many"}}).uses_mpi());
}

TEST(LaunchedRanks, TasksOfSrunWithoutPmixAreRefused) {
  const std::string message = error_of<InputError>([] {
    launched_with({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  });
  expect_message(message, {"srun started 4 tasks", "`srun --mpi=pmix`"});
}

TEST(MpiSession, IsRefusedByABuildWithoutMpi) {
  if (MpiSession::available()) GTEST_SKIP() << "this build has MPI";
  const std::string message = error_of<InputError>([] { MpiSession({"mpirun", 4}); });
  expect_message(message, {"built without MPI, but mpirun started it", "LOCI_MPI=ON"});
}

}  // namespace
}  // namespace loci
