#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

/// The part of CUDA that the kernels use, as host C++: every thread of a block is a fiber, blocks run one after
/// another. It finds what a GPU would pass over in silence: threads that wait at different barriers, a shuffle that
/// some of its lanes do not reach, shared memory read before it is written (it starts as NaN), and, under the
/// sanitizers, overruns of shared and device memory and accesses that no barrier orders (each fiber is a thread to
/// ThreadSanitizer, and only barriers and the two ends of a launch order fibers).

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace loci::emulation {

struct Job {
  const char* op;
  dim3 grid;
  int threads;
  size_t shared_bytes;
};

/// Runs `body` for every thread of every block. Throws Error for what a kernel must not do (see above).
void run(const Job& job, const std::function<void()>& body);

/// What follows is called by running kernels only.
struct Place {
  uint3 thread, block;
  dim3 block_size, grid;
};
extern constinit thread_local const Place* running_place;
inline const Place& place() { return *running_place; }
inline int lane() { return static_cast<int>(place().thread.x) % 32; }
void* take_shared(size_t call, size_t bytes);
void sync_block();
/// Waits for all lanes in `mask`, which must contain the caller's.
void sync_lanes(unsigned mask);
/// The bits that lane `source` of the warp handed in; all lanes in `mask` take part.
uint64_t exchange(unsigned mask, uint64_t bits, int source);
/// What each lane of the warp handed in; all 32 take part.
void gather(uint64_t bits, uint64_t (&all)[32]);
/// One bit for each lane in `mask` that handed in true.
unsigned ballot(unsigned mask, bool value);

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace loci::emulation

#define threadIdx (::loci::emulation::place().thread)
#define blockIdx (::loci::emulation::place().block)
#define blockDim (::loci::emulation::place().block_size)
#define gridDim (::loci::emulation::place().grid)

inline void __syncthreads() { loci::emulation::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { loci::emulation::sync_lanes(mask); }
inline unsigned __ballot_sync(unsigned mask, bool value) { return loci::emulation::ballot(mask, value); }
inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }
inline bool __all_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) == mask; }

/// As in CUDA: a source outside the segment of `width` lanes gives back the caller's own value.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int own = loci::emulation::lane();
  return loci::emulation::shuffle(mask, value, own / width * width + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int own = loci::emulation::lane(), source = own ^ bits;
  return loci::emulation::shuffle(mask, value, source < (own / width + 1) * width ? source : own);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int own = loci::emulation::lane(), source = own + static_cast<int>(delta);
  return loci::emulation::shuffle(mask, value, source < (own / width + 1) * width ? source : own);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int own = loci::emulation::lane(), source = own - static_cast<int>(delta);
  return loci::emulation::shuffle(mask, value, source >= own / width * width ? source : own);
}

/// Blocks run one after another and fibers switch at barriers only, so a plain update is atomic; ThreadSanitizer is
/// told by the atomic builtin. Integers only: kernels sum floats in a fixed order.
inline int atomicAdd(int* address, int value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline int atomicMax(int* address, int value) {
  int seen = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (seen < value &&
         !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}

inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
using std::max;
using std::min;
