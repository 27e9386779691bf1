#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/thread_pool.h"

namespace loci {

/// Sums of second moments over the units of a text, kept by several ranks together: each holds some rows of every
/// layer's matrix. Units are added one after the other in their order, whoever computed them, so that the bits do not
/// depend on the number of ranks. fp64, on the host. All members are collective but add() and accessors.
class MomentTotals {
 public:
  /// Matrices [width, width], added by `threads`. A layer has no total before the first add() or restore().
  MomentTotals(Communicator& ranks, ThreadPool& threads, size_t layers, int64_t width);

  /// One layer of the units that the ranks have computed, one each. `own` [width * width], or empty where this rank has
  /// none. Returns this rank's rows of all of them, for add().
  std::vector<double> exchange(std::vector<double> own) const;
  /// Adds the units of the ranks [first, end) to a layer, in this order. The only rank's first unit becomes the total
  /// itself, and `exchanged` is then empty.
  void add(size_t layer, std::vector<double>& exchanged, int first, int end);

  /// A layer's total [width * width].
  std::vector<double> gather(size_t layer) const;
  /// The same, and the layer has no total any more.
  std::vector<double> take(size_t layer);
  /// Goes on from a total that rank 0 has; `total` is read there alone.
  void restore(size_t layer, std::vector<double> total);

  int64_t width() const { return width_; }

 private:
  size_t block() const { return static_cast<size_t>(rows_ * width_); }

  Communicator& ranks_;
  ThreadPool& threads_;
  int64_t width_;
  int64_t rows_;                             // of a rank; the last ranks' may lie behind the matrix
  std::vector<std::vector<double>> totals_;  // per layer, [rows_, width]; empty before the first unit
};

}  // namespace loci
