#include "runtime/error.h"
#include "runtime/ranks/device_communicator_nccl.h"

// A build without NCCL: the other functions are never reached.
namespace loci::nccl {

bool available() { return false; }

std::unique_ptr<DeviceCommunicator> make_communicator(Communicator&, Context&) {
  throw_error<SystemError>("this build has no NCCL");
}

}  // namespace loci::nccl
