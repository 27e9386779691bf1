#pragma once

#include <concepts>
#include <cstdint>

#include "kernels/cuda_reduce.h"

/// Work over the rows of matrices. For *_cuda.cu only.
///
/// A row is cut into slabs, one for a warp at a time: kVectors vectors a lane, where a vector is a float4 or a float.
/// All of a lane's vectors are loaded before the first is stored, so that enough bytes are under way to keep the memory
/// busy.
namespace loci::cuda {

constexpr int kSlabThreads = 256;
constexpr int kSlabVectors = 4;
/// Blocks that a multiprocessor should hold at least. Asking for no more lets the compiler keep all loads of a slab
/// under way at once, where it would otherwise save registers by waiting for some. Elementwise kernels want more
/// blocks: while some compute, others load.
constexpr int kResident = 4;
constexpr int kResidentMaps = 6;

template <typename V>
constexpr int kWidth = static_cast<int>(sizeof(V) / sizeof(float));

/// Whether float4 accesses at all of these addresses are aligned.
template <typename... T>
__device__ bool aligned(const T*... addresses) {
  return ((reinterpret_cast<uintptr_t>(addresses) | ...) & 15) == 0;
}

/// f elementwise.
template <typename F, std::same_as<float>... V>
__device__ float apply(const F& f, V... values) {
  return f(values...);
}
template <typename F, std::same_as<float4>... V>
__device__ float4 apply(const F& f, V... values) {
  return make_float4(f(values.x...), f(values.y...), f(values.z...), f(values.w...));
}

/// The slabs of a matrix [rows, vectors].
struct Slabs {
  int64_t rows;
  int64_t vectors;
  int64_t per_row;

  int64_t count() const { return rows * per_row; }
  /// Blocks of kSlabThreads with a slab for each warp.
  unsigned blocks() const { return blocks_for(count(), kSlabThreads / kWarp); }
};

template <typename V, int kVectors>
Slabs slabs_of(int64_t rows, int64_t cols) {
  const int64_t vectors = cols / kWidth<V>;
  return {rows, vectors, (vectors + kWarp * kVectors - 1) / (kWarp * kVectors)};
}

/// Where a lane's part of a slab lies: vectors first, first + 32, ... of a row.
struct Slab {
  int64_t row;
  int64_t first;
};

template <int kVectors>
__device__ Slab slab_at(const Slabs& slabs, int64_t index) {
  const int64_t row = index / slabs.per_row;
  return {row, (index - row * slabs.per_row) * (kWarp * kVectors) + lane_index()};
}

/// The slab of the calling warp in a launch of slabs.blocks(); its row is past the end for warps without one.
template <int kVectors>
__device__ Slab own_slab(const Slabs& slabs) {
  return slab_at<kVectors>(slabs, static_cast<int64_t>(blockIdx.x) * (kSlabThreads / kWarp) + warp_index());
}

/// Loads a lane's vectors of a slab; zero past the end of the row.
template <int kVectors, typename V>
__device__ void load_slab(const V* row, int64_t first, int64_t count, V (&values)[kVectors]) {
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const int64_t i = first + u * kWarp;
    values[u] = i < count ? row[i] : V{};
  }
}

template <int kVectors, typename V>
__device__ void store_slab(V* row, int64_t first, int64_t count, const V (&values)[kVectors]) {
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const int64_t i = first + u * kWarp;
    if (i < count) row[i] = values[u];
  }
}

template <typename V, int kVectors, typename F>
__global__ void __launch_bounds__(kSlabThreads, kResidentMaps) map_one(F f, Slabs slabs, ConstView a, View y) {
  const Slab slab = own_slab<kVectors>(slabs);
  if (slab.row >= slabs.rows) return;
  V values[kVectors];
  load_slab(row_of<V>(a, slab.row), slab.first, slabs.vectors, values);
#pragma unroll
  for (int u = 0; u < kVectors; ++u) values[u] = apply(f, values[u]);
  store_slab(row_of<V>(y, slab.row), slab.first, slabs.vectors, values);
}

template <typename V, int kVectors, typename F>
__global__ void __launch_bounds__(kSlabThreads, kResidentMaps)
    map_two(F f, Slabs slabs, ConstView a, ConstView b, View y) {
  const Slab slab = own_slab<kVectors>(slabs);
  if (slab.row >= slabs.rows) return;
  V first[kVectors], second[kVectors];
  load_slab(row_of<V>(a, slab.row), slab.first, slabs.vectors, first);
  load_slab(row_of<V>(b, slab.row), slab.first, slabs.vectors, second);
#pragma unroll
  for (int u = 0; u < kVectors; ++u) first[u] = apply(f, first[u], second[u]);
  store_slab(row_of<V>(y, slab.row), slab.first, slabs.vectors, first);
}

/// A matrix without gaps as one row.
template <typename T>
MatrixView<T> flattened(const MatrixView<T>& view) {
  return {view.data, 1, view.rows * view.cols};
}

/// Calls run.template operator()<V>(views...) with V the widest vector that all views allow, each view as one row where
/// none has gaps. Nothing is called for empty views.
template <typename Run, typename First, typename... Rest>
void with_widest(const Run& run, const First& first, const Rest&... rest) {
  if (first.empty()) return;
  if (first.rows > 1 && first.contiguous() && (rest.contiguous() && ...))
    return with_widest(run, flattened(first), flattened(rest)...);
  if (wide(first) && (wide(rest) && ...))
    run.template operator()<float4>(first, rest...);
  else
    run.template operator()<float>(first, rest...);
}

/// y = f(a) elementwise; y may alias a.
template <int kVectors = kSlabVectors, typename F>
void map_elements(Context& context, const char* op, const F& f, ConstView a, View y) {
  const auto run = [&]<typename V>(ConstView from, View to) {
    const Slabs slabs = slabs_of<V, kVectors>(to.rows, to.cols);
    launch(context, {.op = op, .grid = slabs.blocks(), .threads = kSlabThreads}, map_one<V, kVectors, F>, f, slabs,
           from, to);
  };
  with_widest(run, a, y);
}

/// y = f(a, b) elementwise; y may alias either.
template <int kVectors = kSlabVectors, typename F>
void map_elements(Context& context, const char* op, const F& f, ConstView a, ConstView b, View y) {
  const auto run = [&]<typename V>(ConstView first, ConstView second, View to) {
    const Slabs slabs = slabs_of<V, kVectors>(to.rows, to.cols);
    launch(context, {.op = op, .grid = slabs.blocks(), .threads = kSlabThreads}, map_two<V, kVectors, F>, f, slabs,
           first, second, to);
  };
  with_widest(run, a, b, y);
}

/// sum + a . b in fp64, where products of fp32 are exact.
__device__ inline double add_product(double sum, float a, float b) {
  return fma(static_cast<double>(a), static_cast<double>(b), sum);
}
__device__ inline double add_product(double sum, float4 a, float4 b) {
  return add_product(add_product(add_product(add_product(sum, a.x, b.x), a.y, b.y), a.z, b.z), a.w, b.w);
}

/// The calling thread's part of the dot product of two rows of `count` vectors.
template <typename V>
__device__ double thread_dot(const V* a, const V* b, int64_t count) {
  constexpr int kVectors = kSlabVectors;
  double sum = 0;
  for (int64_t base = threadIdx.x; base < count; base += kVectors * static_cast<int64_t>(blockDim.x)) {
    V x[kVectors], y[kVectors];
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      const int64_t i = base + u * static_cast<int64_t>(blockDim.x);
      x[u] = i < count ? a[i] : V{};
      y[u] = i < count ? b[i] : V{};
    }
#pragma unroll
    for (int u = 0; u < kVectors; ++u) sum = add_product(sum, x[u], y[u]);
  }
  return sum;
}

/// The dot product of two rows of `count` floats, in each thread of the block; its order depends on nothing but
/// `count`, the number of threads and whether the rows are aligned. `scratch` as for block_sum.
__device__ inline double block_dot(const float* a, const float* b, int64_t count, double* scratch) {
  const int64_t whole = aligned(a, b) ? count / 4 * 4 : 0;
  double sum = thread_dot(reinterpret_cast<const float4*>(a), reinterpret_cast<const float4*>(b), whole / 4);
  sum += thread_dot(a + whole, b + whole, count - whole);
  return block_sum(sum, scratch);
}

}  // namespace loci::cuda
