#include "kernels/adam_factors.h"
#include "kernels/cuda.h"
#include "kernels/cuda_rows.h"
#include "runtime/tensor.h"

namespace loci::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStepVectors = 2;             // of four matrices each
constexpr int64_t kMostPartialSums = 1024;  // enough blocks to keep the memory busy; the same on every GPU

struct FirstMoment {
  AdamFactors f;
  __device__ float operator()(float gradient, float m) const {
    return m + f.one_minus_beta_1 * (f.gradient_scale * gradient - m);
  }
};

struct SecondMoment {
  AdamFactors f;
  __device__ float operator()(float gradient, float v) const {
    const float g = f.gradient_scale * gradient;
    return f.beta_2 * v + f.one_minus_beta_2 * g * g;
  }
};

struct Parameter {
  AdamFactors f;
  __device__ float operator()(float x, float m, float v) const {
    const float denominator = sqrtf(v) / f.root_correction_2 + f.epsilon;
    return f.keep * x - f.step_size * m / denominator;
  }
};

template <typename V>
__global__ void __launch_bounds__(kSlabThreads, kResident)
    adam_kernel(AdamFactors factors, Slabs slabs, ConstView gradient, View x, View first, View second) {
  const Slab slab = own_slab<kStepVectors>(slabs);
  if (slab.row >= slabs.rows) return;
  V g[kStepVectors], m[kStepVectors], v[kStepVectors], p[kStepVectors];
  load_slab(row_of<V>(gradient, slab.row), slab.first, slabs.vectors, g);
  load_slab(row_of<V>(first, slab.row), slab.first, slabs.vectors, m);
  load_slab(row_of<V>(second, slab.row), slab.first, slabs.vectors, v);
  load_slab(row_of<V>(x, slab.row), slab.first, slabs.vectors, p);
#pragma unroll
  for (int u = 0; u < kStepVectors; ++u) {
    m[u] = apply(FirstMoment{factors}, g[u], m[u]);
    v[u] = apply(SecondMoment{factors}, g[u], v[u]);
    p[u] = apply(Parameter{factors}, p[u], m[u], v[u]);
  }
  store_slab(row_of<V>(first, slab.row), slab.first, slabs.vectors, m);
  store_slab(row_of<V>(second, slab.row), slab.first, slabs.vectors, v);
  store_slab(row_of<V>(x, slab.row), slab.first, slabs.vectors, p);
}

/// partial[block] = the squares of the slabs of the block's warps.
template <typename V>
__global__ void __launch_bounds__(kSlabThreads, kResident) square_slabs(Slabs slabs, ConstView x, double* partial) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  const int64_t warps_a_block = kSlabThreads / kWarp, count = slabs.rows * slabs.per_row;
  double sum = 0;
  for (int64_t i = blockIdx.x * warps_a_block + warp_index(); i < count; i += gridDim.x * warps_a_block) {
    const Slab slab = slab_at<kSlabVectors>(slabs, i);
    V values[kSlabVectors];
    load_slab(row_of<V>(x, slab.row), slab.first, slabs.vectors, values);
#pragma unroll
    for (int u = 0; u < kSlabVectors; ++u) sum = add_product(sum, values[u], values[u]);
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// total = sum of the partial sums; one block.
__global__ void add_partial_sums(const double* partial, int64_t count, double* total) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) *total = sum;
}

__global__ void __launch_bounds__(kThreads, kResident) clamp_kernel(ConstView limits, View x) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  const int64_t r = blockIdx.x;
  float* row = row_of<float>(x, r);
  const double norm = sqrt(block_dot(row, row, x.cols, scratch));
  const double limit = static_cast<double>(*row_of<float>(limits, r));
  if (norm <= limit) return;
  const float factor = static_cast<float>(limit / norm);  // NaN stays NaN
  for (int64_t i = threadIdx.x; i < x.cols; i += blockDim.x) row[i] *= factor;
}

}  // namespace

void adam_step(Context& context, const AdamOptions& options, int64_t step, ConstView gradient, float gradient_scale,
               View x, View first, View second) {
  const AdamFactors factors = adam_factors(options, step, gradient_scale);
  const auto run = [&]<typename V>(ConstView g, View p, View m, View v) {
    const Slabs slabs = slabs_of<V, kStepVectors>(p.rows, p.cols);
    launch(context, {.op = "adam_step", .grid = slabs.blocks(), .threads = kSlabThreads}, adam_kernel<V>, factors,
           slabs, g, p, m, v);
  };
  with_widest(run, gradient, x, first, second);
}

double sum_of_squares(Context& context, ConstView x) {
  if (x.empty()) return 0;
  DeviceArray<double> partial(context, kMostPartialSums), total(context, 1);
  const auto run = [&]<typename V>(ConstView view) {
    const Slabs slabs = slabs_of<V, kSlabVectors>(view.rows, view.cols);
    const unsigned blocks = std::min<unsigned>(slabs.blocks(), kMostPartialSums);
    const size_t scratch = SharedMemory::bytes<double>(kWarp);
    launch(context, {.op = "sum_of_squares", .grid = blocks, .threads = kSlabThreads, .shared_bytes = scratch},
           square_slabs<V>, slabs, view, partial.data());
    launch(context, {.op = "sum_of_squares", .grid = 1, .threads = kThreads, .shared_bytes = scratch}, add_partial_sums,
           partial.data(), static_cast<int64_t>(blocks), total.data());
  };
  with_widest(run, x);
  return total.to_host().front();
}

void clamp_row_norms(Context& context, ConstView limits, View x) {
  launch(context,
         {.op = "clamp_row_norms",
          .grid = static_cast<unsigned>(x.rows),
          .threads = kThreads,
          .shared_bytes = SharedMemory::bytes<double>(kWarp)},
         clamp_kernel, limits, x);
}

}  // namespace loci::cuda
