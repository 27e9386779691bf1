#include <cmath>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

namespace loci::cpu {
namespace {

struct Moments {
  double mean;
  double rstd;
};

LOCI_SIMD Moments row_moments(const float* x, int64_t width, double epsilon) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(width);
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; ++i) {
    const double centred = static_cast<double>(x[i]) - mean;
    squares += centred * centred;
  }
  return {mean, 1 / std::sqrt(squares / static_cast<double>(width) + epsilon)};
}

LOCI_SIMD void normalise_row(const float* x, int64_t width, const Moments& moments, const float* gain,
                             const float* bias, float* y) {
  const double mean = moments.mean;
  const double rstd = moments.rstd;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i)
    y[i] = static_cast<float>((static_cast<double>(x[i]) - mean) * rstd) * gain[i] + bias[i];
}

LOCI_SIMD void add_row(const float* update, int64_t width, float* x) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) x[i] += update[i];
}

void layer_norm_row(ConstView x, int64_t r, ConstView gain, ConstView bias, float epsilon, View y, View statistics) {
  const Moments moments = row_moments(x.row(r), x.cols, static_cast<double>(epsilon));
  normalise_row(x.row(r), x.cols, moments, gain.data, bias.data, y.row(r));
  if (statistics.empty()) return;
  statistics.row(r)[0] = static_cast<float>(moments.mean);
  statistics.row(r)[1] = static_cast<float>(moments.rstd);
}

// dx = rstd (g - mean(g) - x^ mean(g x^)) with g = dy gain and x^ = (x - mean) rstd.
LOCI_SIMD void row_backward(const float* x, const float* gain, const float* dy, int64_t width, const float* statistics,
                            float keep, float* dx) {
  const double mean = static_cast<double>(statistics[0]);
  const double rstd = static_cast<double>(statistics[1]);
  double sum = 0;
  double projection = 0;
#pragma omp simd reduction(+ : sum, projection)
  for (int64_t i = 0; i < width; ++i) {
    const double g = static_cast<double>(dy[i]) * static_cast<double>(gain[i]);
    sum += g;
    projection += g * (static_cast<double>(x[i]) - mean);
  }
  sum /= static_cast<double>(width);
  projection *= rstd * rstd / static_cast<double>(width);
  if (keep == 0) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const double g = static_cast<double>(dy[i]) * static_cast<double>(gain[i]);
      dx[i] = static_cast<float>(rstd * (g - sum - (static_cast<double>(x[i]) - mean) * projection));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const double g = static_cast<double>(dy[i]) * static_cast<double>(gain[i]);
      dx[i] += static_cast<float>(rstd * (g - sum - (static_cast<double>(x[i]) - mean) * projection));
    }
  }
}

constexpr int64_t kColumns = 64;

// Gradients of gain and bias for `count` <= kColumns columns, rows in ascending order.
LOCI_SIMD void column_gradients(ConstView x, ConstView statistics, ConstView dy, int64_t first, int64_t count,
                                double* gain, double* bias) {
  for (int64_t r = 0; r < x.rows; ++r) {
    const float* x_row = x.row(r) + first;
    const float* dy_row = dy.row(r) + first;
    const double mean = static_cast<double>(statistics.row(r)[0]);
    const double rstd = static_cast<double>(statistics.row(r)[1]);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const double gradient = static_cast<double>(dy_row[i]);
      gain[i] += gradient * (static_cast<double>(x_row[i]) - mean) * rstd;
      bias[i] += gradient;
    }
  }
}

void parameter_gradients(Context& context, ConstView x, ConstView statistics, ConstView dy, View dgain, View dbias) {
  const int64_t blocks = (x.cols + kColumns - 1) / kColumns;
  context.threads().parallel_for(blocks, row_grain(x.rows * kColumns), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kColumns;
      const int64_t count = std::min(kColumns, x.cols - first);
      double gain[kColumns] = {};
      double bias[kColumns] = {};
      column_gradients(x, statistics, dy, first, count, gain, bias);
      if (!dgain.empty())
        for (int64_t i = 0; i < count; ++i) dgain.data[first + i] += static_cast<float>(gain[i]);
      if (!dbias.empty())
        for (int64_t i = 0; i < count; ++i) dbias.data[first + i] += static_cast<float>(bias[i]);
    }
  });
}

}  // namespace

void layer_norm(Context& context, ConstView x, ConstView gain, ConstView bias, float epsilon, View y, View statistics) {
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) layer_norm_row(x, r, gain, bias, epsilon, y, statistics);
  });
}

void add_layer_norm(Context& context, ConstView update, View x, ConstView gain, ConstView bias, float epsilon, View y,
                    View statistics) {
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      add_row(update.row(r), x.cols, x.row(r));
      layer_norm_row(x, r, gain, bias, epsilon, y, statistics);
    }
  });
}

void layer_norm_backward(Context& context, ConstView x, ConstView gain, ConstView statistics, ConstView dy, View dx,
                         Write write, View dgain, View dbias) {
  // First, since dx may alias dy.
  if (!dgain.empty() || !dbias.empty()) parameter_gradients(context, x, statistics, dy, dgain, dbias);
  const float keep = write == Write::accumulate ? 1.0f : 0.0f;
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      row_backward(x.row(r), gain.data, dy.row(r), x.cols, statistics.row(r), keep, dx.row(r));
  });
}

}  // namespace loci::cpu
