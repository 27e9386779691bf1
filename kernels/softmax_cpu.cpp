#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd_math.h"
#include "kernels/softmax_rows.h"

// The exponentials of a row take no longer than the product in front of it may afford (2 d operations a logit, and d is
// small in small models), so they are computed in fp32: good to 2 ulp from a compensated difference where they are
// results, and cheaper where only the logarithm of their sum is one.
namespace loci::cpu {
namespace {

// exp(x - maximum) without the error of rounding the difference, which exp would multiply by |x - maximum|: the
// rounding error of a difference is itself an fp32 number (Knuth's two-sum), and exp(s + e) = exp(s) (1 + e) to first
// order.
LOCI_INLINE float exp_difference(float x, float maximum) {
  const float s = x - maximum;
  const float b = s - x;
  float e = (x - (s - b)) - (maximum + b);
  e = e == e ? e : 0.0f;  // of infinite differences
  const float y = simd::exp(s);
  return y + y * e;
}

}  // namespace

LOCI_SIMD float row_maximum(const float* x, int64_t count) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kLowest = std::numeric_limits<float>::lowest();
  float best = -kInfinity;
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < count; ++i) best = x[i] > best ? x[i] : best;
  // Where clang makes lanes of the loop, each of them begins at the lowest finite number.
  if (best == kLowest && std::find(x, x + count, kLowest) == x + count) return -kInfinity;
  return best;
}

// The differences are not compensated here. Rounding, exponentiating and adding four of them in fp32 (conversions to
// fp64 would take a third of the time) costs a term (6 + 2.3 |x - maximum|) 2^-24 of itself at most. Terms enter the
// logarithm of the sum with the weights of a softmax, so it is off by (6 + 2.3 E|x - maximum|) 2^-24 at most, and the
// entropy bounds that mean: a few roundings to fp32 of the log probabilities of such a distribution.
LOCI_SIMD double sum_of_exponentials(const float* x, int64_t count, float maximum) {
  constexpr int64_t kLanes = 16;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    const float* const a = x + i;
#pragma omp simd
    for (int64_t j = 0; j < kLanes; ++j) {
      const float first = simd::exp_of_nonpositive(a[j] - maximum),
                  second = simd::exp_of_nonpositive(a[j + kLanes] - maximum);
      const float third = simd::exp_of_nonpositive(a[j + 2 * kLanes] - maximum),
                  fourth = simd::exp_of_nonpositive(a[j + 3 * kLanes] - maximum);
      sums[j] += static_cast<double>((first + second) + (third + fourth));
    }
  }
  double sum = 0;
  for (; i < count; ++i) sum += static_cast<double>(simd::exp_of_nonpositive(x[i] - maximum));
  for (const double lane : sums) sum += lane;
  return sum;
}

namespace {

// y = exp(x - maximum); returns the sum.
LOCI_SIMD double exponentiate_row(const float* x, int64_t count, float maximum, float* y) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    y[i] = exp_difference(x[i], maximum);
    sum += static_cast<double>(y[i]);
  }
  return sum;
}

LOCI_SIMD void scale_row(int64_t count, float factor, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] *= factor;
}

LOCI_SIMD void add_exponentials(const float* x, int64_t count, float maximum, float factor, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] += factor * exp_difference(x[i], maximum);
}

// log sum exp = maximum + log_sum, kept apart so that huge logits do not swallow the second.
struct RowSum {
  double maximum;
  double log_sum;
};

RowSum row_sum(const float* x, int64_t count) {
  const float maximum = row_maximum(x, count);
  return {static_cast<double>(maximum), std::log(sum_of_exponentials(x, count, maximum))};
}

LOCI_INLINE double log_probability(float logit, double maximum, double log_sum) {
  return static_cast<double>(logit) - maximum - log_sum;
}

LOCI_SIMD void shift_row(const float* x, int64_t count, RowSum row, float* y) {
  const double maximum = row.maximum, log_sum = row.log_sum;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(log_probability(x[i], maximum, log_sum));
}

LOCI_SIMD double row_divergence(const float* x, const float* reference, int64_t count, RowSum row) {
  const double maximum = row.maximum, log_sum = row.log_sum;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const double log_p = log_probability(x[i], maximum, log_sum);
    sum += simd::exp(log_p) * (log_p - static_cast<double>(reference[i]));
  }
  return sum;
}

// d KL / d x_j = p_j (log p_j - log q_j - KL).
LOCI_SIMD void divergence_gradient_row(const float* x, const float* reference, int64_t count, RowSum row,
                                       double divergence, double weight, Write write, float* y) {
  const double maximum = row.maximum, log_sum = row.log_sum;
  if (write == Write::assign) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const double log_p = log_probability(x[i], maximum, log_sum);
      y[i] = static_cast<float>(weight * simd::exp(log_p) * (log_p - static_cast<double>(reference[i]) - divergence));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const double log_p = log_probability(x[i], maximum, log_sum);
      y[i] += static_cast<float>(weight * simd::exp(log_p) * (log_p - static_cast<double>(reference[i]) - divergence));
    }
  }
}

template <typename Row>
void over_rows(Context& context, int64_t rows, int64_t cols, const Row& row) {
  context.threads().parallel_for(rows, row_grain(cols, 2048), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

LOCI_SIMD double sum_of_differences(const float* x, int64_t count, float maximum) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) - static_cast<double>(maximum);
  return sum;
}

LOCI_SIMD void subtract(int64_t count, float value, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] -= value;
}

void cross_entropy_row(const float* x, int64_t count, int32_t target, float weight, Write write, float smoothing,
                       float* loss, float* dx) {
  if (target < 0) {
    *loss = 0;
    if (write == Write::assign) std::fill_n(dx, count, 0.0f);
    return;
  }
  const float maximum = row_maximum(x, count);
  const float target_logit = x[target];  // dx may be x
  const float before = write == Write::accumulate ? dx[target] : 0.0f;
  const double differences = smoothing > 0 ? sum_of_differences(x, count, maximum) : 0;
  double sum = 0;
  if (write == Write::assign) {
    sum = exponentiate_row(x, count, maximum, dx);
    scale_row(count, static_cast<float>(static_cast<double>(weight) / sum), dx);
  } else {
    sum = sum_of_exponentials(x, count, maximum);
    add_exponentials(x, count, maximum, static_cast<float>(static_cast<double>(weight) / sum), dx);
  }
  const double w = static_cast<double>(weight), log_sum = std::log(sum);
  const double log_p = log_probability(target_logit, static_cast<double>(maximum), log_sum);
  // p - 1 of the target by expm1, since 1 - p cancels where the target is nearly certain.
  if (smoothing == 0) {
    *loss = static_cast<float>(-w * log_p);
    dx[target] = before + static_cast<float>(w * std::expm1(log_p));
    return;
  }
  const double left = static_cast<double>(smoothing), share = left / static_cast<double>(count - 1);
  const double all = differences - static_cast<double>(count) * log_sum;  // sum of log p
  *loss = static_cast<float>(-w * ((1 - left) * log_p + share * (all - log_p)));
  subtract(count, static_cast<float>(w * share), dx);
  dx[target] = before + static_cast<float>(w * (std::expm1(log_p) + left));
}

}  // namespace

void log_sum_exp(Context& context, ConstView logits, View log_sum) {
  over_rows(context, logits.rows, logits.cols, [&](int64_t r) {
    const RowSum row = row_sum(logits.row(r), logits.cols);
    *log_sum.row(r) = static_cast<float>(row.maximum + row.log_sum);
  });
}

void softmax(Context& context, ConstView logits, View probabilities) {
  over_rows(context, logits.rows, logits.cols, [&](int64_t r) {
    const float maximum = row_maximum(logits.row(r), logits.cols);
    const double sum = exponentiate_row(logits.row(r), logits.cols, maximum, probabilities.row(r));
    scale_row(logits.cols, static_cast<float>(1 / sum), probabilities.row(r));
  });
}

void target_log_probabilities(Context& context, ConstView logits, const DeviceArray<int64_t>& rows,
                              const DeviceArray<int32_t>& targets, View log_probabilities) {
  context.threads().parallel_for(rows.size(), row_grain(logits.cols, 2048), [&](int64_t begin, int64_t end) {
    // Targets of one row stand next to each other as a rule: its sum is then taken once.
    int64_t r = -1;
    RowSum row{};
    for (int64_t i = begin; i < end; ++i) {
      if (rows.data()[i] != r) {
        r = rows.data()[i];
        row = row_sum(logits.row(r), logits.cols);
      }
      const float logit = logits.row(r)[targets.data()[i]];
      *log_probabilities.row(i) = static_cast<float>(log_probability(logit, row.maximum, row.log_sum));
    }
  });
}

void argmax_rows(Context& context, ConstView logits, DeviceArray<int32_t>& best) {
  over_rows(context, logits.rows, logits.cols, [&](int64_t r) {
    const float* x = logits.row(r);
    const float maximum = row_maximum(x, logits.cols);
    int64_t index = 0;
    while (index + 1 < logits.cols && x[index] != maximum) ++index;
    best.data()[r] = static_cast<int32_t>(x[index] == maximum ? index : 0);
  });
}

void cross_entropy(Context& context, ConstView logits, const DeviceArray<int32_t>& targets,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write, float smoothing) {
  over_rows(context, logits.rows, logits.cols, [&](int64_t r) {
    cross_entropy_row(logits.row(r), logits.cols, targets.data()[r], weights.data()[r], write, smoothing, losses.row(r),
                      dlogits.row(r));
  });
}

void kl_divergence(Context& context, ConstView logits, ConstView reference_log_probabilities,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write) {
  over_rows(context, logits.rows, logits.cols, [&](int64_t r) {
    const float* x = logits.row(r);
    const float* reference = reference_log_probabilities.row(r);
    const double weight = static_cast<double>(weights.data()[r]);
    const RowSum row = row_sum(x, logits.cols);
    const double divergence = row_divergence(x, reference, logits.cols, row);
    *losses.row(r) = static_cast<float>(weight * divergence);
    divergence_gradient_row(x, reference, logits.cols, row, divergence, weight, write, dlogits.row(r));
  });
}

void log_softmax(Context& context, ConstView logits, View log_probabilities) {
  over_rows(context, logits.rows, logits.cols, [&](int64_t r) {
    shift_row(logits.row(r), logits.cols, row_sum(logits.row(r), logits.cols), log_probabilities.row(r));
  });
}

}  // namespace loci::cpu
