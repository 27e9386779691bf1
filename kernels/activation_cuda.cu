#include "kernels/cuda.h"
#include "kernels/cuda_rows.h"

// In fp64, as on the CPU, but only as much of it as the last bit of fp32 needs: about 20 fp64 operations an element for
// gelu_new and 40 for gelu. On data-centre GPUs, which do one for every two of fp32, gelu_new stays bound by memory.
namespace loci::cuda {
namespace {

constexpr int kVectors = 2;  // a lane holds fp64 temporaries for each element under way

constexpr double kRoot = 0.79788456080286535588;      // sqrt(2 / pi)
constexpr double kRootHalf = 0.70710678118654752440;  // sqrt(1 / 2)
constexpr double kCubic = 0.044715;

/// c + t (c_1 + t (c_2 + ...)).
__device__ inline double polynomial(double, double c) { return c; }
template <typename... C>
__device__ double polynomial(double t, double c, C... higher) {
  return fma(t, polynomial(t, higher...), c);
}

/// exp(x) for x in [-700, 700], and at the nearer end of it for other x; relative error below 3e-10. NaN stays.
__device__ inline double short_exp(double x) {
  constexpr double kLog2E = 1.4426950408889634074, kLn2 = 0.69314718055994530942;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: a sum with it has its integer part in the low bits
  x = x < -700 ? -700 : x > 700 ? 700 : x;
  const double shifted = fma(x, kLog2E, kRound);
  const double r = fma(shifted - kRound, -kLn2, x);  // |r| <= ln(2) / 2
  const double value =
      polynomial(r, 1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320);
  return value * __longlong_as_double((__double_as_longlong(shifted) + 1023) << 52);
}

/// About 1 / x in its first 20 bits, for normal x with a normal reciprocal.
__device__ inline double coarse_reciprocal(double x) {
#ifdef __CUDACC__
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
#else
  return __longlong_as_double(__double_as_longlong(1 / x) & ~((1ll << 32) - 1));
#endif
}

/// 1 / x with a relative error below 1e-11 (one step of Newton's).
__device__ inline double short_reciprocal(double x) {
  const double y = coarse_reciprocal(x);
  return y * fma(-x, y, 2.0);
}

struct Gate {
  double open;  ///< 0.5 (1 + tanh z) = 1 / (1 + exp(-2 z)), which does not cancel
  double shut;  ///< 1 - open
};

__device__ inline Gate gelu_new_gate(double x) {
  const double power = short_exp(x * fma(-2 * kRoot * kCubic, x * x, -2 * kRoot));
  const double open = short_reciprocal(1 + power);
  return {open, power * open};
}

struct Normal {
  double distribution;  ///< Phi(x)
  double kernel;        ///< exp(-x^2 / 2)
};

/// erfc(u) = exp(-u^2) P(t) / (u + 3) for u >= 0, with t = (u - 3) / (u + 3). P interpolates at the Chebyshev points
/// of 0 <= u <= 11, with a relative error below 1.5e-10; beyond, exp(-u^2) is zero in fp32.
__device__ inline Normal normal(double x) {
  double u = fabs(x) * kRootHalf;
  u = u > 40 ? 40 : u;
  const double reciprocal = short_reciprocal(u + 3);
  const double t = fma(-6.0, reciprocal, 1.0);
  const double p =
      polynomial(t, 1.0740069070700322, -0.8833944532728907, 0.5902283598461242, -0.310467243660833,
                 0.11952770299684684, -0.026827650476010795, -0.0012121540156488954, 0.0030373394883218925,
                 -0.0005471213620964567, -0.0002871288415200053, 9.748043856634484e-05, 4.031185324543989e-05);
  const double kernel = short_exp(-u * u);
  const double tail = 0.5 * kernel * p * reciprocal;
  return {x < 0 ? tail : 1 - tail, kernel};
}

struct GeluNew {
  __device__ float operator()(float x) const {
    const double value = static_cast<double>(x);
    return static_cast<float>(value * gelu_new_gate(value).open);
  }
};

struct GeluNewBackward {
  __device__ float operator()(float x, float dy) const {
    const double value = static_cast<double>(x);
    const Gate gate = gelu_new_gate(value);
    const double slope = fma(6 * kRoot * kCubic * value, value, 2 * kRoot);
    return static_cast<float>(static_cast<double>(dy) * gate.open * fma(value * slope, gate.shut, 1.0));
  }
};

struct Gelu {
  __device__ float operator()(float x) const {
    const double value = static_cast<double>(x);
    return static_cast<float>(value * normal(value).distribution);
  }
};

struct GeluBackward {
  __device__ float operator()(float x, float dy) const {
    const double value = static_cast<double>(x);
    const Normal at = normal(value);
    return static_cast<float>(static_cast<double>(dy) * fma(value * (kRoot / 2), at.kernel, at.distribution));
  }
};

/// 1 / (1 + exp(-x)) and what is missing to 1.
__device__ inline Gate logistic(double x) {
  const double power = short_exp(-x);
  const double open = short_reciprocal(1 + power);
  return {open, power * open};
}

struct Silu {
  __device__ float operator()(float x) const {
    const double value = static_cast<double>(x);
    return static_cast<float>(value * logistic(value).open);
  }
};

struct SiluBackward {
  __device__ float operator()(float x, float dy) const {
    const double value = static_cast<double>(x);
    const Gate gate = logistic(value);
    return static_cast<float>(static_cast<double>(dy) * gate.open * fma(value, gate.shut, 1.0));
  }
};

// Written so that NaN survives.
struct Relu {
  __device__ float operator()(float x) const { return x < 0 ? 0 : x; }
};

struct ReluBackward {
  __device__ float operator()(float x, float dy) const { return x <= 0 ? 0 : dy; }
};

}  // namespace

void activation(Context& context, Activation kind, ConstView x, View y) {
  const char* op = "activation";
  if (kind == Activation::gelu_new) return map_elements<kVectors>(context, op, GeluNew(), x, y);
  if (kind == Activation::gelu) return map_elements<kVectors>(context, op, Gelu(), x, y);
  if (kind == Activation::silu) return map_elements<kVectors>(context, op, Silu(), x, y);
  map_elements(context, op, Relu(), x, y);
}

void activation_backward(Context& context, Activation kind, ConstView x, ConstView dy, View dx) {
  const char* op = "activation_backward";
  if (kind == Activation::gelu_new) return map_elements<kVectors>(context, op, GeluNewBackward(), x, dy, dx);
  if (kind == Activation::gelu) return map_elements<kVectors>(context, op, GeluBackward(), x, dy, dx);
  if (kind == Activation::silu) return map_elements<kVectors>(context, op, SiluBackward(), x, dy, dx);
  map_elements(context, op, ReluBackward(), x, dy, dx);
}

}  // namespace loci::cuda
