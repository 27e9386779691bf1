#include "kernels/symmetric_update.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/rows.h"

namespace loci {

void symmetric_update(Context& context, ConstView x, View sum) {
  require_valid("symmetric_update", "x", x);
  require_shape("symmetric_update", "sum", sum, x.cols, x.cols);
  (context.on_cpu() ? cpu::symmetric_update : cuda::symmetric_update)(context, x, sum);
}

SecondMoment::SecondMoment(Context& context, int64_t width) : width_(width), total_(context, width * width) {
  context.fill_zero(total_.data(), sizeof(double) * static_cast<size_t>(total_.size()));
}

void SecondMoment::add(Context& context, ConstView x) {
  require_shape("SecondMoment::add", "x", x, x.rows, width_);
  for (int64_t first = 0; first < x.rows;) {
    const int64_t count = std::min(kFlushRows - pending_, x.rows - first);
    if (count == kFlushRows) {
      (context.on_cpu() ? cpu::add_second_moment : cuda::add_second_moment)(context, x.rows_slice(first, count),
                                                                            total_.data());
    } else {
      if (block_.empty()) block_ = Tensor(context, kFlushRows, width_);
      for (int64_t r = 0; r < count; ++r)
        context.copy_on_device(block_.row(pending_ + r), x.row(first + r), sizeof(float) * static_cast<size_t>(width_));
      pending_ += count;
      if (pending_ == kFlushRows) flush(context);
    }
    first += count;
    count_ += count;
  }
}

void SecondMoment::flush(Context& context) {
  if (pending_ > 0)
    (context.on_cpu() ? cpu::add_second_moment : cuda::add_second_moment)(context, block_.rows_slice(0, pending_),
                                                                          total_.data());
  pending_ = 0;
}

std::vector<double> SecondMoment::sum(Context& context) {
  flush(context);
  std::vector<double> full = total_.to_host();
  const auto n = static_cast<size_t>(width_);
  for (size_t r = 0; r < n; ++r)
    for (size_t c = r + 1; c < n; ++c) full[r * n + c] = full[c * n + r];
  return full;
}

void SecondMoment::restore(Context& context, std::span<const double> sum, int64_t count) {
  require<ShapeError>(static_cast<int64_t>(sum.size()) == width_ * width_,
                      "SecondMoment::restore: the sum has {} elements, expected {} x {}", sum.size(), width_, width_);
  context.copy_to_device(total_.data(), sum.data(), sum.size_bytes());
  count_ = count;
  pending_ = 0;
}

}  // namespace loci
