#pragma once

#include <cstdint>
#include <vector>

#include "runtime/ranks/device_communicator.h"
#include "runtime/tensor.h"

namespace loci {

/// Sums of second moments over the units of a text, kept by several ranks together: each holds some rows of every
/// layer's matrix. Units are added one after the other in their order, whoever computed them, so that the bits do not
/// depend on the number of ranks. fp64, in device memory, the lower triangle of each matrix; with one rank nothing
/// waits for the device. All members are collective but add() and accessors.
class MomentTotals {
 public:
  /// Matrices [width, width]. A layer has no total before the first add() or restore().
  MomentTotals(DeviceCommunicator& ranks, Context& context, size_t layers, int64_t width);

  /// One layer of the units that the ranks have computed, one each. `own` [width * width] (SecondMoment::take_lower()),
  /// or empty where this rank has none. Returns this rank's rows of all of them, for add().
  DeviceArray<double> exchange(DeviceArray<double> own) const;
  /// Adds the units of the ranks [first, end) to a layer, in this order. The only rank's first unit becomes the total
  /// itself, and `exchanged` is then empty.
  void add(size_t layer, DeviceArray<double>& exchanged, int first, int end);

  /// A layer's total, symmetric, [width * width], on rank 0's host; empty on the others.
  std::vector<double> gather(size_t layer) const;
  /// The same, and the layer has no total any more.
  std::vector<double> take(size_t layer);
  /// Goes on from a total that rank 0 has; `total` is read there alone.
  void restore(size_t layer, std::vector<double> total);

  int64_t width() const { return width_; }

 private:
  int64_t block() const { return rows_ * width_; }
  bool alone() const { return ranks_.ranks().size() == 1; }

  DeviceCommunicator& ranks_;
  Context& context_;
  int64_t width_;
  int64_t rows_;                             // of a rank; the last ranks' may lie past the matrix
  std::vector<DeviceArray<double>> totals_;  // per layer, [rows_, width]; empty before the first unit
};

}  // namespace loci
