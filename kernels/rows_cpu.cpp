#include <algorithm>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

namespace loci::cpu {
namespace {

LOCI_SIMD void add_row(const float* x, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] += x[i];
}

LOCI_SIMD void sum_row(const float* a, const float* b, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

LOCI_SIMD void multiply_row(const float* a, const float* b, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] * b[i];
}

LOCI_SIMD void scale_row(float factor, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] *= factor;
}

LOCI_SIMD void clamp_row(float limit, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float low = y[i] < -limit ? -limit : y[i];
    y[i] = low > limit ? limit : low;
  }
}

LOCI_SIMD void add_scaled_row(float factor, const float* x, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

LOCI_SIMD double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

constexpr int64_t kColumns = 64;

LOCI_SIMD void column_sums(ConstView x, int64_t first, int64_t count, double* sums) {
  for (int64_t r = 0; r < x.rows; ++r) {
    const float* row = x.row(r) + first;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(row[i]);
  }
}

void copy_row(const float* from, int64_t count, float* to) {
  if (count > 0) std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
}

void write_row(const float* from, int64_t count, Write write, float* to) {
  if (write == Write::accumulate)
    add_row(from, count, to);
  else
    copy_row(from, count, to);
}

// Calls row(r) for each row; threads share the rows.
template <typename Row>
void over_rows(Context& context, int64_t rows, int64_t cols, const Row& row) {
  context.threads().parallel_for(rows, row_grain(cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

// Calls block(first, count) for blocks of columns; threads share the columns, so that rows are met in order by each.
template <typename Block>
void over_columns(Context& context, int64_t rows, int64_t cols, const Block& block) {
  const int64_t blocks = (cols + kColumns - 1) / kColumns;
  context.threads().parallel_for(blocks, row_grain(rows * kColumns), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumns;
    block(first, std::min(cols, end * kColumns) - first);
  });
}

}  // namespace

void embed_rows(Context& context, const StoredView& table, const DeviceArray<int32_t>& ids, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t i) { to_fp32(table.rows_slice(ids.data()[i], 1), y.row(i)); });
}

void embed_rows_backward(Context& context, const DeviceArray<int32_t>& ids, ConstView dy, View table_gradient) {
  over_columns(context, dy.rows, dy.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = 0; i < dy.rows; ++i) add_row(dy.row(i) + first, count, table_gradient.row(ids.data()[i]) + first);
  });
}

void gather_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t i) { copy_row(x.row(rows.data()[i]), y.cols, y.row(i)); });
}

void scatter_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y, Write write) {
  over_rows(context, x.rows, x.cols, [&](int64_t i) { write_row(x.row(i), x.cols, write, y.row(rows.data()[i])); });
}

void patch_rows(Context& context, const DeviceArray<RowSource>& patches, View y) {
  over_columns(context, patches.size(), y.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = 0; i < patches.size(); ++i) {
      const RowSource& patch = patches.data()[i];
      write_row(patch.source + first, count, patch.write, y.row(patch.row) + first);
    }
  });
}

void tap_rows(Context& context, ConstView x, const DeviceArray<RowDestination>& taps) {
  over_rows(context, taps.size(), x.cols,
            [&](int64_t i) { copy_row(x.row(taps.data()[i].row), x.cols, taps.data()[i].destination); });
}

void collect_rows(Context& context, const DeviceArray<const float*>& sources, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t i) { copy_row(sources.data()[i], y.cols, y.row(i)); });
}

void add(Context& context, ConstView x, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t r) { add_row(x.row(r), y.cols, y.row(r)); });
}

void sum(Context& context, ConstView a, ConstView b, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t r) { sum_row(a.row(r), b.row(r), y.cols, y.row(r)); });
}

void product(Context& context, ConstView a, ConstView b, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t r) { multiply_row(a.row(r), b.row(r), y.cols, y.row(r)); });
}

void scale(Context& context, float factor, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t r) { scale_row(factor, y.cols, y.row(r)); });
}

void clamp(Context& context, float limit, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t r) { clamp_row(limit, y.cols, y.row(r)); });
}

void scale_rows(Context& context, const DeviceArray<float>& factors, View y) {
  over_rows(context, y.rows, y.cols, [&](int64_t r) { scale_row(factors.data()[r], y.cols, y.row(r)); });
}

void add_column_sums(Context& context, ConstView x, View y) {
  over_columns(context, x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t begin = first; begin < first + count; begin += kColumns) {
      const int64_t width = std::min(kColumns, first + count - begin);
      double sums[kColumns] = {};
      column_sums(x, begin, width, sums);
      for (int64_t i = 0; i < width; ++i) y.data[begin + i] += static_cast<float>(sums[i]);
    }
  });
}

void row_dots(Context& context, ConstView a, ConstView b, View out) {
  over_rows(context, a.rows, a.cols,
            [&](int64_t r) { *out.row(r) = static_cast<float>(dot(a.row(r), b.row(r), a.cols)); });
}

void add_low_rank(Context& context, ConstView keys, const DeviceArray<LowRankRows>& terms, View y) {
  context.threads().parallel_for(y.rows, row_grain(keys.cols + y.cols), [&](int64_t begin, int64_t end) {
    for (int64_t e = 0; e < terms.size(); ++e) {
      const LowRankRows& term = terms.data()[e];
      const int64_t last = std::min(end, term.first_row + term.rows);
      for (int64_t r = std::max(begin, term.first_row); r < last; ++r)
        add_scaled_row(static_cast<float>(dot(keys.row(r), term.u, keys.cols)), term.v, y.cols, y.row(r));
    }
  });
}

}  // namespace loci::cpu
