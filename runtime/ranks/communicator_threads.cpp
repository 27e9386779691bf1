#include "runtime/ranks/communicator_threads.h"

#include <spdlog/spdlog.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/error.h"

namespace loci {
namespace {

[[noreturn]] void end_process(int exit_code) {
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

class ThreadRank;

/// What the ranks of one run_threads share. Ranks meet twice in a collective that moves data: when all are there, each
/// copies what it receives from the others' memory; when all have copied, they part.
struct ThreadTeam {
  struct Member {
    const ThreadRank* rank = nullptr;
    bool here = false;   // at this round's meeting
    bool ended = false;  // its function has returned or thrown
  };

  explicit ThreadTeam(int ranks) : members(static_cast<size_t>(ranks)) {}
  int size() const { return static_cast<int>(members.size()); }

  /// All below is under the mutex. Remembers the first failure and wakes all ranks.
  void fail(int rank, const std::exception_ptr& error);
  void throw_if_failed() const;
  std::vector<int> missing() const;
  /// A rank that ended without coming to the meeting, which cannot take place then; -1 where there is none.
  int left() const;

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Member> members;
  int here = 0;
  int ended = 0;
  uint64_t round = 0;  // meetings that took place
  std::exception_ptr failure;
  int failed_rank = -1;
};

void ThreadTeam::fail(int rank, const std::exception_ptr& error) {
  if (failure) return;
  failure = error;
  failed_rank = rank;
  changed.notify_all();
}

void ThreadTeam::throw_if_failed() const {
  require<PeerFailedError>(!failure, "rank {} failed; its own message says why", failed_rank);
}

std::vector<int> ThreadTeam::missing() const {
  std::vector<int> ranks;
  for (size_t rank = 0; rank < members.size(); ++rank)
    if (!members[rank].here) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

int ThreadTeam::left() const {
  for (size_t rank = 0; rank < members.size(); ++rank)
    if (members[rank].ended && !members[rank].here) return static_cast<int>(rank);
  return -1;
}

class ThreadRank final : public Communicator {
 public:
  ThreadRank(ThreadTeam& team, int rank, const CommunicatorOptions& options)
      : Communicator({rank, team.size(), rank, team.size()}, options), team_(team) {}

  std::string_view kind() const override { return "threads"; }
  void check_peers() override {
    std::lock_guard lock(team_.mutex);
    team_.throw_if_failed();
  }
  [[noreturn]] void abort(int exit_code) override { end_process(exit_code); }

 private:
  void run(const Call& call) override;
  void arrive(const Call& call);
  void part();
  void end_round();
  template <typename Check>
  void fail_with(const Check& check);
  void expect_same_calls() const;
  void copy() const;
  const Call& call_of(int rank) const { return team_.members[rank].rank->call_; }

  ThreadTeam& team_;
  Call call_{};  // read by the other ranks between the meetings
};

void ThreadRank::run(const Call& call) {
  arrive(call);
  if (call.operation == Operation::barrier) return;
  copy();
  part();
}

void ThreadRank::arrive(const Call& call) {
  std::unique_lock lock(team_.mutex);
  team_.throw_if_failed();
  call_ = call;
  ThreadTeam::Member& self = team_.members[rank()];
  self.rank = this;
  self.here = true;
  if (++team_.here == size()) {
    fail_with([&] { expect_same_calls(); });
    end_round();
    return;
  }
  const uint64_t round = team_.round;
  team_.changed.wait_for(lock, time_limit(),
                         [&] { return team_.round != round || team_.failure || team_.left() >= 0; });
  if (team_.round != round) return;
  team_.throw_if_failed();
  fail_with([&] {
    require<LostRankError>(team_.left() < 0, "rank {} of {} ended and did not come to {}", team_.left(), size(),
                           call.what);
    throw_lost(call, team_.missing());
  });
}

/// Runs what may throw, and makes its error that of the team before any rank can go on.
template <typename Check>
void ThreadRank::fail_with(const Check& check) {
  try {
    check();
  } catch (const Error&) {
    team_.fail(rank(), std::current_exception());
    throw;
  }
}

// Without a time limit: the others do nothing but copy, and their sources must not go before they have.
void ThreadRank::part() {
  std::unique_lock lock(team_.mutex);
  if (++team_.here == size()) {
    end_round();
    return;
  }
  const uint64_t round = team_.round;
  team_.changed.wait(lock, [&] { return team_.round != round; });
}

void ThreadRank::end_round() {
  for (ThreadTeam::Member& member : team_.members) member.here = false;
  team_.here = 0;
  ++team_.round;
  team_.changed.notify_all();
}

void ThreadRank::expect_same_calls() const {
  for (int other = 0; other < size(); ++other)
    require<ShapeError>(same(call_of(other), call_of(0)), "the ranks are out of step: rank 0 is at {}, rank {} at {}",
                        describe(call_of(0)), other, describe(call_of(other)));
}

void ThreadRank::copy() const {
  const size_t bytes = call_.bytes;
  if (bytes == 0) return;
  if (call_.operation == Operation::broadcast) {
    if (rank() != call_.root) std::memcpy(call_.received, call_of(call_.root).received, bytes);
    return;
  }
  // Of an all-gather everybody gets the one block of each rank, of an all-to-all the block that is for this rank.
  const size_t block = call_.operation == Operation::all_to_all ? static_cast<size_t>(rank()) * bytes : 0;
  for (int other = 0; other < size(); ++other)
    std::memcpy(call_.received + static_cast<size_t>(other) * bytes, call_of(other).own + block, bytes);
}

/// Ends the process where other ranks do not end in time after a failure.
void wait_for_end(ThreadTeam& team, std::unique_lock<std::mutex>& lock, std::chrono::milliseconds limit) {
  if (team.changed.wait_for(lock, limit, [&] { return team.ended == team.size(); })) return;
  try {
    std::rethrow_exception(team.failure);
  } catch (const Error& error) {
    spdlog::error("{}", error.what());
    end_process(error.exit_code());
  } catch (const std::exception& error) {
    spdlog::error("unexpected: {}", error.what());
    end_process(70);
  }
}

void run_rank(ThreadTeam& team, int rank, const ThreadRankOptions& options,
              const std::function<void(Communicator&)>& rank_main) {
  std::exception_ptr error;
  try {
    ThreadRank communicator(team, rank, options.communicator);
    rank_main(communicator);
  } catch (...) {
    error = std::current_exception();
  }
  std::unique_lock lock(team.mutex);
  if (error) team.fail(rank, error);
  team.members[rank].ended = true;
  ++team.ended;
  team.changed.notify_all();
  if (error && team.failed_rank == rank) wait_for_end(team, lock, options.ending_limit);
}

}  // namespace

void run_threads(int ranks, const ThreadRankOptions& options, const std::function<void(Communicator&)>& rank_main) {
  require<InputError>(ranks >= 1, "a job needs at least 1 rank, not {}", ranks);
  ThreadTeam team(ranks);
  {
    std::vector<std::jthread> threads;
    for (int rank = 1; rank < ranks; ++rank)
      threads.emplace_back([&team, &options, &rank_main, rank] { run_rank(team, rank, options, rank_main); });
    run_rank(team, 0, options, rank_main);
  }
  if (team.failure) std::rethrow_exception(team.failure);
}

}  // namespace loci
