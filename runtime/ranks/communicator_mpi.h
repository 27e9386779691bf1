#pragma once

#include <memory>

#include "runtime/ranks/communicator.h"
#include "runtime/ranks/launched_ranks.h"

namespace loci {

/// This process as a rank of an MPI job, from MPI_Init to MPI_Finalize. One per process, made in main where
/// detect_launch() found a launcher, by the thread that will use it. Errors are to be caught inside its life and to end
/// in communicator().abort(code): where it is destroyed by an error on its way out, or after a collective that failed,
/// it ends the job with code 1.
class MpiSession {
 public:
  /// Throws InputError where this build has no MPI, or MPI sees one rank where the launcher started several;
  /// SystemError where MPI fails.
  explicit MpiSession(const LaunchedRanks& launched, const CommunicatorOptions& options = {});
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// Whether this build has MPI.
  static bool available();

  Communicator& communicator();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace loci
