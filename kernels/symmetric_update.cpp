#include "kernels/symmetric_update.h"

#include <algorithm>
#include <utility>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/rows.h"

namespace loci {
namespace {

/// Half a product: the lower triangle.
void count(Context& context, ConstView x) {
  const auto width = static_cast<double>(x.cols);
  context.count_matrix_flop(static_cast<double>(x.rows) * width * (width + 1));
}

void add_product(Context& context, ConstView x, double* total) {
  count(context, x);
  (context.on_cpu() ? cpu::add_second_moment : cuda::add_second_moment)(context, x, total);
}

}  // namespace

void add_fp64(Context& context, const double* terms, double* totals, int64_t count) {
  (context.on_cpu() ? cpu::add_fp64 : cuda::add_fp64)(context, terms, totals, count);
}

// Block by block: rows of the upper triangle are columns of the lower one.
void mirror_lower(Context& context, double* matrix, int64_t n) {
  constexpr int64_t kBlock = 32;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  context.threads().parallel_tasks(blocks, [&](TaskQueue& rows_of_blocks) {
    while (const auto block = rows_of_blocks.take())
      for (int64_t left = *block * kBlock; left < n; left += kBlock)
        for (int64_t row = *block * kBlock; row < std::min(n, (*block + 1) * kBlock); ++row)
          for (int64_t column = std::max(left, row + 1); column < std::min(n, left + kBlock); ++column)
            matrix[row * n + column] = matrix[column * n + row];
  });
}

void symmetric_update(Context& context, ConstView x, View sum) {
  require_valid("symmetric_update", "x", x);
  require_shape("symmetric_update", "sum", sum, x.cols, x.cols);
  count(context, x);
  (context.on_cpu() ? cpu::symmetric_update : cuda::symmetric_update)(context, x, sum);
}

void SecondMoment::clear(Context& context) {
  if (!total_.empty()) context.fill_zero(total_.data(), sizeof(double) * static_cast<size_t>(total_.size()));
  count_ = 0;
  pending_ = 0;
}

double* SecondMoment::total(Context& context) {
  if (total_.empty()) {
    total_ = DeviceArray<double>(context, width_ * width_);
    context.fill_zero(total_.data(), sizeof(double) * static_cast<size_t>(total_.size()));
  }
  return total_.data();
}

void SecondMoment::add(Context& context, ConstView x) {
  require_shape("SecondMoment::add", "x", x, x.rows, width_);
  const int64_t flush_rows = SecondMoment::flush_rows(context);
  for (int64_t first = 0; first < x.rows;) {
    const int64_t count = std::min(flush_rows - pending_, x.rows - first);
    const ConstView rows = x.rows_slice(first, count);
    if (count == flush_rows)
      add_product(context, rows, total(context));
    else
      gather(context, rows);
    first += count;
    count_ += count;
  }
}

void SecondMoment::gather(Context& context, ConstView rows) {
  const int64_t flush_rows = SecondMoment::flush_rows(context);
  if (block_.empty()) block_ = Tensor(context, flush_rows, width_);
  context.copy_rows_on_device(block_.row(pending_), rows.data, sizeof(float) * static_cast<size_t>(width_),
                              sizeof(float) * static_cast<size_t>(std::max(rows.stride, width_)),
                              static_cast<size_t>(rows.rows));
  pending_ += rows.rows;
  if (pending_ == flush_rows) flush(context);
}

void SecondMoment::flush(Context& context) {
  if (pending_ > 0) add_product(context, block_.rows_slice(0, pending_), total(context));
  pending_ = 0;
}

std::vector<double> SecondMoment::sum(Context& context) {
  flush(context);
  total(context);
  std::vector<double> full = total_.to_host();
  mirror_lower(context, full.data(), width_);
  return full;
}

DeviceArray<double> SecondMoment::take_lower(Context& context) {
  flush(context);
  total(context);
  count_ = 0;
  return std::exchange(total_, {});
}

}  // namespace loci
