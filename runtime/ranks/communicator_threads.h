#pragma once

#include <chrono>
#include <functional>

#include "runtime/ranks/communicator.h"

namespace loci {

struct ThreadRankOptions {
  CommunicatorOptions communicator;
  /// How long a failed rank waits for the others to end. A thread cannot be stopped from outside: after this time the
  /// error is logged and the process ends with its exit code, as MPI_Abort does.
  std::chrono::milliseconds ending_limit = std::chrono::minutes(1);
};

/// Runs `rank_main` as `ranks` ranks in threads of this process, rank 0 in the calling thread, and returns when all
/// have returned. The first error of a rank is thrown here; the other ranks leave their collectives and check_peers()
/// with a PeerFailedError, which they should let pass without a word. Throws InputError for fewer than one rank.
void run_threads(int ranks, const ThreadRankOptions& options, const std::function<void(Communicator&)>& rank_main);

}  // namespace loci
