#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"

namespace loci::cuda {
namespace {

constexpr int kThreads = 256;

/// How the pairs of a matrix lie.
struct Pairs {
  int64_t heads, width;  ///< of a head
  int64_t count;         ///< of a head
  int64_t step, apart;   ///< from one pair to the next, from a pair's first entry to its second
  float sign;
};

/// A thread turns one pair.
__global__ void __launch_bounds__(kThreads)
    rotate_kernel(Pairs pairs, const int32_t* positions, ConstView cosines, ConstView sines, View x) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t of_row = pairs.heads * pairs.count, row = index / of_row;
  if (row >= x.rows || positions[row] < 0) return;
  const int64_t head = (index - row * of_row) / pairs.count, i = index - row * of_row - head * pairs.count;
  const float cosine = row_of(cosines, positions[row])[i], sine = pairs.sign * row_of(sines, positions[row])[i];
  float* const a = row_of(x, row) + head * pairs.width + i * pairs.step;
  const float first = a[0], second = a[pairs.apart];
  a[0] = first * cosine - second * sine;
  a[pairs.apart] = second * cosine + first * sine;
}

}  // namespace

void rotate(Context& context, RotaryPairs kind, Turn turn, int64_t heads, const DeviceArray<int32_t>& positions,
            ConstView cosines, ConstView sines, View x) {
  const bool interleaved = kind == RotaryPairs::interleaved;
  const Pairs pairs{.heads = heads,
                    .width = x.cols / heads,
                    .count = cosines.cols,
                    .step = interleaved ? 2 : 1,
                    .apart = interleaved ? 1 : cosines.cols,
                    .sign = turn == Turn::back ? -1.0f : 1.0f};
  launch(context, {.op = "rotate", .grid = blocks_for(x.rows * heads * cosines.cols, kThreads), .threads = kThreads},
         rotate_kernel, pairs, positions.data(), cosines, sines, x);
}

}  // namespace loci::cuda
