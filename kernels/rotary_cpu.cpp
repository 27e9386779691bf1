#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

namespace loci::cpu {
namespace {

/// Pairs (a[i], b[i]), or with a step of 2 between one pair and the next.
template <int kStep>
LOCI_INLINE void turn_pairs(const float* cosines, const float* sines, float sign, int64_t count, float* a, float* b) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float first = a[kStep * i], second = b[kStep * i], sine = sign * sines[i];
    a[kStep * i] = first * cosines[i] - second * sine;
    b[kStep * i] = second * cosines[i] + first * sine;
  }
}

LOCI_SIMD void turn_interleaved(const float* cosines, const float* sines, float sign, int64_t count, float* head) {
  turn_pairs<2>(cosines, sines, sign, count, head, head + 1);
}

LOCI_SIMD void turn_halves(const float* cosines, const float* sines, float sign, int64_t count, float* head) {
  turn_pairs<1>(cosines, sines, sign, count, head, head + count);
}

}  // namespace

void rotate(Context& context, RotaryPairs pairs, Turn turn, int64_t heads, const DeviceArray<int32_t>& positions,
            ConstView cosines, ConstView sines, View x) {
  const auto turn_head = pairs == RotaryPairs::interleaved ? turn_interleaved : turn_halves;
  const float sign = turn == Turn::back ? -1.0f : 1.0f;
  const int64_t width = x.cols / heads;
  context.threads().parallel_for(x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t position = positions.data()[r];
      if (position < 0) continue;
      for (int64_t head = 0; head < heads; ++head)
        turn_head(cosines.row(position), sines.row(position), sign, cosines.cols, x.row(r) + head * width);
    }
  });
}

}  // namespace loci::cpu
