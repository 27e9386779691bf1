#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "model/train/parameter_buffer.h"
#include "runtime/ranks/device_communicator.h"

namespace loci {

/// Summed next-token cross-entropy of sequences, and over how many positions.
struct LossSum {
  double sum = 0;
  int64_t positions = 0;
  double mean() const { return positions ? sum / static_cast<double>(positions) : 0; }
};

/// The sum of the losses of `waves` waves, in the order of waves, where wave w is the ranks' w / size-th on rank w mod
/// size: `own` are this rank's, in order. Collective; `ranks` null: alone.
LossSum sum_losses(DeviceCommunicator* ranks, std::vector<LossSum> own, size_t waves, std::string_view what);

/// The gradient of a step: the sum s0 + s1 + ... of its waves' gradients, always added in the order of waves, so that
/// its bits do not depend on who computed them. Ranks take the waves in rounds, one each; after a round each adds its
/// block of all parameters, and at the end all get all blocks.
class GradientSum {
 public:
  /// `ranks` null: alone. It and the context outlive this.
  GradientSum(Context& context, const Architecture& config, DeviceCommunicator* ranks);

  /// A new sum.
  void start() { added_ = 0; }
  /// Where this rank adds up the gradient of its wave of the coming round; zero at first. Not collective.
  ParameterBuffer& wave();
  /// Adds the waves of a round, those of ranks 0 .. waves - 1. Collective.
  void add_round(int waves);
  /// After the last round: total() is the sum on all ranks. Collective.
  void finish();

  ParameterBuffer& total() { return total_; }

 private:
  ParameterBuffer& own_wave();
  int size() const { return ranks_ ? ranks_->ranks().size() : 1; }

  Context& context_;
  Architecture config_;
  DeviceCommunicator* ranks_;
  ParameterBuffer total_;                  // in a round of several ranks: what was received
  std::unique_ptr<ParameterBuffer> wave_;  // null until it is needed
  Tensor block_;                           // this rank's rows of the sum; for several ranks
  int64_t added_ = 0;                      // waves
};

}  // namespace loci
