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

LOCI_SIMD Moments row_moments(Norm norm, const float* x, int64_t width, double epsilon) {
  double mean = 0;
  if (norm == Norm::layer) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]);
    mean = sum / static_cast<double>(width);
  }
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; ++i) {
    const double centred = static_cast<double>(x[i]) - mean;
    squares += centred * centred;
  }
  return {mean, 1 / std::sqrt(squares / static_cast<double>(width) + epsilon)};
}

LOCI_SIMD void apply(const Moments& moments, const float* x, int64_t width, const float* gain, const float* bias,
                     float* y) {
  const double mean = moments.mean;
  const double rstd = moments.rstd;
  if (bias == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[i] = static_cast<float>((static_cast<double>(x[i]) - mean) * rstd) * gain[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i)
      y[i] = static_cast<float>((static_cast<double>(x[i]) - mean) * rstd) * gain[i] + bias[i];
  }
}

LOCI_SIMD void add_row(const float* update, int64_t width, float* x) {
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) x[i] += update[i];
}

void normalise_row(Norm norm, ConstView x, int64_t r, ConstView gain, ConstView bias, float epsilon, View y,
                   View statistics) {
  const Moments moments = row_moments(norm, x.row(r), x.cols, static_cast<double>(epsilon));
  apply(moments, x.row(r), x.cols, gain.data, bias.empty() ? nullptr : bias.data, y.row(r));
  if (statistics.empty()) return;
  statistics.row(r)[0] = static_cast<float>(moments.mean);
  statistics.row(r)[1] = static_cast<float>(moments.rstd);
}

// dx = rstd (g - mean(g) - x^ mean(g x^)) with g = dy gain and x^ = (x - mean) rstd; for rms without mean(g).
LOCI_SIMD void row_backward(Norm norm, const float* x, const float* gain, const float* dy, int64_t width,
                            const float* statistics, Write write, float* dx) {
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
  sum = norm == Norm::layer ? sum / static_cast<double>(width) : 0;
  projection *= rstd * rstd / static_cast<double>(width);
  if (write == Write::assign) {
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

void normalise(Context& context, Norm norm, ConstView x, ConstView gain, ConstView bias, float epsilon, View y,
               View statistics) {
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) normalise_row(norm, x, r, gain, bias, epsilon, y, statistics);
  });
}

void add_normalise(Context& context, Norm norm, ConstView update, View x, ConstView gain, ConstView bias, float epsilon,
                   View y, View statistics) {
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      add_row(update.row(r), x.cols, x.row(r));
      normalise_row(norm, x, r, gain, bias, epsilon, y, statistics);
    }
  });
}

void normalise_backward(Context& context, Norm norm, ConstView x, ConstView gain, ConstView statistics, ConstView dy,
                        View dx, Write write, View dgain, View dbias) {
  // First, since dx may alias dy.
  if (!dgain.empty() || !dbias.empty()) parameter_gradients(context, x, statistics, dy, dgain, dbias);
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      row_backward(norm, x.row(r), gain.data, dy.row(r), x.cols, statistics.row(r), write, dx.row(r));
  });
}

}  // namespace loci::cpu
