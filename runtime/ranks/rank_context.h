#pragma once

#include <optional>

#include "runtime/context.h"
#include "runtime/cuda_device.h"
#include "runtime/ranks/communicator.h"

namespace loci {

/// Which of a machine's GPUs a rank takes.
enum class GpuChoice {
  the_given,   ///< that of the options
  one_a_rank,  ///< rank r of a machine takes the one of number r modulo their count
};

/// The device of this rank. Collective. CPU threads and memory that are not given are this rank's share of what its
/// machine has; more threads than that are not taken, of which rank 0 warns. Throws InputError where the device or the
/// precision is not to be had.
Context make_rank_context(Communicator& communicator, ContextOptions options, GpuChoice choice);

/// How many ranks take memory of the same GPU, whatever number it has in each process (launchers may show each rank its
/// own as cuda:0), or, of the ranks without one, of the same machine. Collective.
int count_sharers(Communicator& communicator, const std::optional<CudaDevice::Identity>& gpu);

}  // namespace loci
