#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"

// Rows are held in registers where they fit, so that each is read once. Statistics and sums are fp64 additions of fp32
// values, as on the CPU: a layer norm moves 8 bytes for each handful of them, so they cost nothing.
namespace loci::cuda {
namespace {

constexpr int kRowThreads = 256;

struct RowMoments {
  double mean;
  double rstd;
};

/// Mean and 1 / sqrt(variance + epsilon) of a row whose elements lie `stride` apart over the threads of a block.
__device__ RowMoments row_moments(const float* x, int64_t width, double epsilon, double* scratch) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) sum += static_cast<double>(x[i]);
  const double mean = block_sum(sum, scratch) / static_cast<double>(width);
  double squares = 0;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const double centred = static_cast<double>(x[i]) - mean;
    squares += centred * centred;
  }
  const double variance = block_sum(squares, scratch + kWarp) / static_cast<double>(width);
  return {mean, rsqrt(variance + epsilon)};
}

}  // namespace
}  // namespace loci::cuda
