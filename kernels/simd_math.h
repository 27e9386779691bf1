#pragma once

#include <bit>
#include <cstdint>

#include "kernels/simd.h"

/// Branch-free elementary functions that vectorise inside LOCI_SIMD loops. NaN in gives NaN out.
namespace loci::simd {

/// exp(x) to 2 ulp over the whole range: 0 below -104, subnormal results right, infinity above 88.73.
/// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial for exp(r) is the one of Cephes (Moshier 1989).
LOCI_INLINE float exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float t = x * 1.44269504089f + kRound;
  const float n = t - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * (r * r) + r + 1.0f;
  // 2^n in two factors, so that neither overflows nor underflows before the product does. Masked, so that the bits of a
  // NaN stay in range.
  const int32_t exponent = ((std::bit_cast<int32_t>(t) - std::bit_cast<int32_t>(kRound)) << 16) >> 16;
  const int32_t half = exponent >> 1;
  const float first = std::bit_cast<float>((half + 127) << 23);
  const float second = std::bit_cast<float>((exponent - half + 127) << 23);
  return y * first * second;
}

/// exp(x) for x <= 0, relative error below (4 + 1.3 |x|) 2^-24, held at exp(-87) below: for the terms of a sum that
/// holds exp(0) too. x log2 e = n + f, and 2^f is interpolated, in degree 6, at the Chebyshev points of |f| <= 1/2.
/// Half the work of exp(), which serves other arguments too.
LOCI_INLINE float exp_of_nonpositive(float x) {
  constexpr float kRound = 12582912.0f, kLog2e = 1.44269504089f;
  x = x < -87.0f ? -87.0f : x;
  const float t = x * kLog2e + kRound;
  const float f = x * kLog2e - (t - kRound);
  float p = 1.5461444854736328e-4f;
  p = p * f + 1.3400427997112274e-3f;
  p = p * f + 9.618056938052177e-3f;
  p = p * f + 5.550327152013779e-2f;
  p = p * f + 2.4022650718688965e-1f;
  p = p * f + 6.931471824645996e-1f;
  p = p * f + 1.0f;
  // The shift leaves the low bits of t, which are n; those of kRound are 0.
  return p * std::bit_cast<float>((std::bit_cast<uint32_t>(t) + 127u) << 23);
}

/// exp(x) in fp64, relative error below 3e-9, a twentieth of what rounding to fp32 costs; held at exp(-708) and
/// exp(709) outside. exp(r) by its interpolation of degree 6 at the Chebyshev points of |r| <= ln 2 / 2.
LOCI_INLINE double exp_to_single(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  x = x < -708.0 ? -708.0 : x;
  x = x > 709.0 ? 709.0 : x;
  const double t = x * 1.4426950408889634 + kRound;
  const double r = x - (t - kRound) * 6.931471805599453e-1;
  double p = 1.3941108412445337e-3;
  p = p * r + 8.375126398145721e-3;
  p = p * r + 4.1666352896941636e-2;
  p = p * r + 1.6666415514654628e-1;
  p = p * r + 5.000000047117756e-1;
  p = p * r + 1.000000037716214;
  p = p * r + 1.0;
  return p * std::bit_cast<double>((std::bit_cast<uint64_t>(t) - std::bit_cast<uint64_t>(kRound) + 1023u) << 52);
}

/// exp(x) in fp64 for results that are rounded to fp32: relative error below 1e-14; held at exp(-708) and exp(709)
/// outside.
LOCI_INLINE double exp(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  x = x < -708.0 ? -708.0 : x;
  x = x > 709.0 ? 709.0 : x;
  const double t = x * 1.4426950408889634 + kRound;
  const double n = t - kRound;
  const double r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  // Taylor to r^11: the rest is below 0.3466^12 / 12! = 6e-15.
  double p = 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t exponent = std::bit_cast<uint64_t>(t) - std::bit_cast<uint64_t>(kRound);
  return p * std::bit_cast<double>((exponent + 1023u) << 52);
}

}  // namespace loci::simd
