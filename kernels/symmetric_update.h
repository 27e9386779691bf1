#pragma once

#include "runtime/tensor.h"

namespace loci {

/// sum += x^T x for x [rows, n], sum [n, n]; only the lower triangle of `sum` (row >= column) is written.
void symmetric_update(Context& context, ConstView x, View sum);

/// An fp64-safe accumulator of second moments sum_r x_r x_r^T: fp32 products of at most `kFlushRows` rows are added to an fp64
/// matrix, so nothing is lost over 1e8 rows.
class SecondMoment {
 public:
  static constexpr int64_t kFlushRows = 1024;

  SecondMoment(Context& context, int64_t width);
  /// Adds the rows of x [rows, width].
  void add(Context& context, ConstView x);
  int64_t count() const { return count_; }
  int64_t width() const { return width_; }
  /// The full symmetric sum [width * width], row-major, in fp64, on the host. Flushes.
  std::vector<double> sum(Context& context);
  /// Replaces the state by an earlier sum (resume).
  void restore(Context& context, std::span<const double> sum, int64_t count);

 private:
  void flush(Context& context);

  int64_t width_;
  int64_t count_ = 0;
  int64_t pending_ = 0;  // rows in partial_ that are not yet in total_
  Tensor partial_;       // fp32, lower triangle
  DeviceArray<double> total_;
};

}  // namespace loci
