#include <cmath>
#include <numbers>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd_math.h"

// Everything in fp64: 1 + tanh cancels for negative x, and the arithmetic hides behind the products around it.
namespace loci::cpu {
namespace {

constexpr double kRoot = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double kCubic = 0.044715;

// 0.5 (1 + tanh z) = 1 / (1 + exp(-2 z)), which does not cancel.
LOCI_INLINE double inverse_gelu_new_gate(double x) {
  return 1 + simd::exp_to_single(-2 * kRoot * (x + kCubic * x * x * x));
}

LOCI_SIMD void gelu_new_row(const float* x, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    y[i] = static_cast<float>(value / inverse_gelu_new_gate(value));
  }
}

LOCI_SIMD void gelu_new_row_backward(const float* x, const float* dy, int64_t count, float* dx) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    const double gate = 1 / inverse_gelu_new_gate(value);
    const double slope = 2 * kRoot * (1 + 3 * kCubic * value * value);
    dx[i] = static_cast<float>(static_cast<double>(dy[i]) * (gate + value * gate * (1 - gate) * slope));
  }
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

void gelu_row(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    y[i] = static_cast<float>(value * normal_distribution(value));
  }
}

void gelu_row_backward(const float* x, const float* dy, int64_t count, float* dx) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    const double density = std::exp(-0.5 * value * value) * kRoot / 2;
    dx[i] = static_cast<float>(static_cast<double>(dy[i]) * (normal_distribution(value) + value * density));
  }
}

LOCI_SIMD void silu_row(const float* x, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    y[i] = static_cast<float>(value / (1 + simd::exp_to_single(-value)));
  }
}

LOCI_SIMD void silu_row_backward(const float* x, const float* dy, int64_t count, float* dx) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    const double gate = 1 / (1 + simd::exp_to_single(-value));
    dx[i] = static_cast<float>(static_cast<double>(dy[i]) * gate * (1 + value * (1 - gate)));
  }
}

// Written so that NaN survives.
LOCI_SIMD void relu_row(const float* x, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] < 0 ? 0 : x[i];
}

LOCI_SIMD void relu_row_backward(const float* x, const float* dy, int64_t count, float* dx) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) dx[i] = x[i] <= 0 ? 0 : dy[i];
}

LOCI_SIMD void add_row(const float* from, int64_t count, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <typename Row>
void over_rows(Context& context, ConstView x, const Row& row) {
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

auto backward_function(Activation kind) {
  switch (kind) {
    case Activation::gelu_new:
      return gelu_new_row_backward;
    case Activation::gelu:
      return gelu_row_backward;
    case Activation::relu:
      return relu_row_backward;
    case Activation::silu:
      return silu_row_backward;
  }
  throw_error<ShapeError>("activation_backward: no function has number {}", static_cast<int>(kind));
}

auto row_function(Activation kind) {
  switch (kind) {
    case Activation::gelu_new:
      return gelu_new_row;
    case Activation::gelu:
      return gelu_row;
    case Activation::relu:
      return relu_row;
    case Activation::silu:
      return silu_row;
  }
  throw_error<ShapeError>("activation: no function has number {}", static_cast<int>(kind));
}

}  // namespace

void activation(Context& context, Activation kind, ConstView x, View y) {
  const auto function = row_function(kind);
  over_rows(context, x, [&](int64_t r) { function(x.row(r), x.cols, y.row(r)); });
}

void biased_activation(Context& context, Activation kind, ConstView bias, View x, View y) {
  const auto function = row_function(kind);
  over_rows(context, x, [&](int64_t r) {
    add_row(bias.data, x.cols, x.row(r));
    function(x.row(r), x.cols, y.row(r));
  });
}

void activation_backward(Context& context, Activation kind, ConstView x, ConstView dy, View dx) {
  const auto function = backward_function(kind);
  over_rows(context, x, [&](int64_t r) { function(x.row(r), dy.row(r), x.cols, dx.row(r)); });
}

}  // namespace loci::cpu
