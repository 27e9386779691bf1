#pragma once

/// NCCL in host memory between the threads of a test, with faults on demand. Like the real one it answers "in progress"
/// before it does anything.
namespace loci::fake_nccl {

enum class Fault {
  none,
  never_starts,  ///< communicators stay in the making
  stalls,        ///< operations never end
  breaks,        ///< operations end with an error of another rank
};

/// For what is called from now on.
void set_fault(Fault fault);

/// Communicators since the last call of reset_counts().
struct Counts {
  int destroyed = 0;  ///< in order, after ncclCommFinalize
  int aborted = 0;
};
Counts counts();
void reset_counts();

}  // namespace loci::fake_nccl
