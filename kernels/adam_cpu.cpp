#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/adam_factors.h"
#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

namespace loci::cpu {
namespace {

LOCI_SIMD void step_row(const AdamFactors& f, const float* gradient, int64_t count, float* x, float* first,
                        float* second) {
  const AdamFactors factors = f;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = factors.gradient_scale * gradient[i];
    const float m = first[i] + factors.one_minus_beta_1 * (g - first[i]);
    const float v = factors.beta_2 * second[i] + factors.one_minus_beta_2 * g * g;
    first[i] = m;
    second[i] = v;
    const float denominator = std::sqrt(v) / factors.root_correction_2 + factors.epsilon;
    x[i] = factors.keep * x[i] - factors.step_size * m / denominator;
  }
}

LOCI_SIMD double squares(const float* x, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace

void adam_step(Context& context, const AdamOptions& options, int64_t step, ConstView gradient, float gradient_scale,
               View x, View first, View second) {
  const AdamFactors factors = adam_factors(options, step, gradient_scale);
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      step_row(factors, gradient.row(r), x.cols, x.row(r), first.row(r), second.row(r));
  });
}

double sum_of_squares(Context& context, ConstView x) {
  // One partial sum a row, added in order: the same whatever the number of threads.
  std::vector<double> partial(static_cast<size_t>(x.rows));
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) partial[r] = squares(x.row(r), x.cols);
  });
  double sum = 0;
  for (const double one : partial) sum += one;
  return sum;
}

void clamp_row_norms(Context& context, ConstView limits, View x) {
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const double norm = std::sqrt(squares(x.row(r), x.cols));
      const double limit = static_cast<double>(*limits.row(r));
      if (norm <= limit) continue;
      const float factor = static_cast<float>(limit / norm);  // NaN stays NaN
      for (int64_t i = 0; i < x.cols; ++i) x.row(r)[i] *= factor;
    }
  });
}

}  // namespace loci::cpu
