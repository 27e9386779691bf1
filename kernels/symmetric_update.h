#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/tensor.h"

namespace loci {

/// sum += x^T x for x [rows, n], sum [n, n]; only the lower triangle of `sum` (row >= column) is written.
/// Throws ShapeError before any write.
void symmetric_update(Context& context, ConstView x, View sum);

/// totals[i] += terms[i] for i < count, in device memory.
void add_fp64(Context& context, const double* terms, double* totals, int64_t count);

/// Makes a symmetric matrix [n, n] in host memory of its lower triangle.
void mirror_lower(Context& context, double* matrix, int64_t n);

/// An fp64-safe accumulator of second moments sum_r x_r x_r^T. Rows are gathered in blocks of flush_rows(); the fp32
/// product of a block is added to an fp64 matrix, so nothing is lost over 1e8 rows. How the rows are cut into calls of
/// add() does not change a bit of the result.
class SecondMoment {
 public:
  explicit SecondMoment(int64_t width) : width_(width) {}
  /// Rows of a block. A GPU adds a block to the fp64 matrix at the cost of about 1000 rows of it, so it takes more at a
  /// time; the error of a block's fp32 sums, some sqrt(rows) eps, stays below the rounding of TF32 inputs.
  static int64_t flush_rows(const Context& context) { return context.on_cpu() ? 1024 : 4096; }
  /// Adds the rows of x [rows, width]. Throws ShapeError before any write.
  void add(Context& context, ConstView x);
  /// Rows added since the start.
  int64_t count() const { return count_; }
  int64_t width() const { return width_; }
  /// The full symmetric sum [width * width], row-major, in fp64, on the host. Ends the block under way.
  std::vector<double> sum(Context& context);
  /// Hands out the sum as it lies on the device, [width * width]: the lower triangle, zeros above it. Starts again from
  /// nothing.
  DeviceArray<double> take_lower(Context& context);
  /// Starts again from nothing.
  void clear(Context& context);

 private:
  double* total(Context& context);
  void gather(Context& context, ConstView rows);
  void flush(Context& context);

  int64_t width_;
  int64_t count_ = 0;
  int64_t pending_ = 0;        // rows in block_ that are not yet in total_
  Tensor block_;               // [flush_rows, width], made when it is first needed
  DeviceArray<double> total_;  // [width, width], lower triangle; made when it is first needed
};

}  // namespace loci
