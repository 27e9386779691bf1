#pragma once

#include <cstdint>

#include "kernels/simd.h"

/// Products of a few rows with operands that lie packed in cache, for attention: no call overhead, any shape.
namespace loci::cpu {

/// Columns of packed operands come in multiples of this; what lies beyond the last one is zero.
inline constexpr int64_t kPack = 16;

inline int64_t packed(int64_t count) { return (count + kPack - 1) / kPack * kPack; }

namespace detail {

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));

template <int kRows, int kVectors>
LOCI_INLINE void product_block(int64_t k, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t ldb,
                               float* c, int64_t ldc) {
  Lanes sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) sum[r][v] = *reinterpret_cast<const Lanes*>(c + r * ldc + v * kPack);
  for (int64_t p = 0; p < k; ++p) {
    Lanes row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = *reinterpret_cast<const Lanes*>(b + p * ldb + v * kPack);
    for (int r = 0; r < kRows; ++r) {
      const float factor = a[r * a_row + p * a_step];
      for (int v = 0; v < kVectors; ++v) sum[r][v] += factor * row[v];
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Lanes*>(c + r * ldc + v * kPack) = sum[r][v];
}

template <int kRows>
LOCI_INLINE void product_rows(int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_step, const float* b,
                              int64_t ldb, float* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + 2 * kPack <= n; j += 2 * kPack) product_block<kRows, 2>(k, a, a_row, a_step, b + j, ldb, c + j, ldc);
  for (; j < n; j += kPack) product_block<kRows, 1>(k, a, a_row, a_step, b + j, ldb, c + j, ldc);
}

}  // namespace detail

/// c [m, n] += a [m, k] b [k, n]; element (r, p) of a is a[r * a_row + p * a_step]; n is a multiple of kPack.
LOCI_INLINE void small_product(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_step,
                               const float* b, int64_t ldb, float* c, int64_t ldc) {
  int64_t r = 0;
  for (; r + 4 <= m; r += 4) detail::product_rows<4>(n, k, a + r * a_row, a_row, a_step, b, ldb, c + r * ldc, ldc);
  for (; r < m; ++r) detail::product_rows<1>(n, k, a + r * a_row, a_row, a_step, b, ldb, c + r * ldc, ldc);
}

}  // namespace loci::cpu
