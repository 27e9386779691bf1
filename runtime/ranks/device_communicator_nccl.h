#pragma once

#include <memory>

#include "runtime/ranks/device_communicator.h"

/// The part of make_device_communicator that NCCL does: device_communicator_nccl.cpp, or
/// device_communicator_nccl_absent.cpp in a build without it.
namespace loci::nccl {

/// Whether this build has NCCL.
bool available();

/// Collective. Each rank's context has a GPU of its own. Throws SystemError where NCCL fails, LostRankError where ranks
/// do not come.
std::unique_ptr<DeviceCommunicator> make_communicator(Communicator& ranks, Context& context);

}  // namespace loci::nccl
