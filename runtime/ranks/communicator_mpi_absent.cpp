#include "runtime/error.h"
#include "runtime/ranks/communicator_mpi.h"
#include "runtime/wording.h"

// A build without MPI: no session can be made, so communicator() is never reached.
namespace loci {

struct MpiSession::State {};

bool MpiSession::available() { return false; }

MpiSession::MpiSession(const LaunchedRanks& launched, const CommunicatorOptions&) {
  throw_error<InputError>(
      "this loci was built without MPI, but {} started it: install MPI (libopenmpi-dev) and build with -DLOCI_MPI=ON, "
      "or start it alone, with {} for several ranks on this machine",
      launched.launcher, option("ranks"));
}

MpiSession::~MpiSession() = default;

Communicator& MpiSession::communicator() { throw_error<SystemError>("this build has no MPI"); }

}  // namespace loci
