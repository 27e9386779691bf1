#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

namespace loci::cpu {
namespace {

// The scalars of one step, in fp32 as PyTorch hands them to its loops.
struct StepFactors {
  float gradient_scale;
  float keep;  // 1 - learning_rate weight_decay
  float one_minus_beta_1;
  float beta_2;
  float one_minus_beta_2;
  float root_correction_2;  // sqrt(1 - beta_2^t)
  float epsilon;
  float step_size;  // learning_rate / (1 - beta_1^t)
};

StepFactors step_factors(const AdamOptions& options, int64_t step, float gradient_scale) {
  const double correction_1 = 1 - std::pow(options.beta_1, static_cast<double>(step));
  const double correction_2 = 1 - std::pow(options.beta_2, static_cast<double>(step));
  return {gradient_scale,
          static_cast<float>(1 - options.learning_rate * options.weight_decay),
          static_cast<float>(1 - options.beta_1),
          static_cast<float>(options.beta_2),
          static_cast<float>(1 - options.beta_2),
          static_cast<float>(std::sqrt(correction_2)),
          static_cast<float>(options.epsilon),
          static_cast<float>(options.learning_rate / correction_1)};
}

LOCI_SIMD void step_row(const StepFactors& f, const float* gradient, int64_t count, float* x, float* first,
                        float* second) {
  const StepFactors factors = f;
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
  const StepFactors factors = step_factors(options, step, gradient_scale);
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      step_row(factors, gradient.row(r), x.cols, x.row(r), first.row(r), second.row(r));
  });
}

double sum_of_squares(Context& context, ConstView x) {
  // One partial sum a row, added in order: the same whatever the number of threads.
  std::vector<double> partial(static_cast<size_t>(x.rows));
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) partial[static_cast<size_t>(r)] = squares(x.row(r), x.cols);
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
