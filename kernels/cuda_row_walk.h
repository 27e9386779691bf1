#pragma once

#include "runtime/cuda_launch.h"

/// How a block goes through a row of any alignment with 16-byte accesses. For *_cuda.cu only.
namespace loci::cuda {

/// One element, or four of which the first lies on a 16-byte boundary.
template <int N>
struct Pack {
  float at[N] = {};
};

template <int N>
__device__ Pack<N> load_pack(const float* address) {
  Pack<N> pack;
  if constexpr (N == 4) {
    const float4 quad = *reinterpret_cast<const float4*>(address);
    pack.at[0] = quad.x;
    pack.at[1] = quad.y;
    pack.at[2] = quad.z;
    pack.at[3] = quad.w;
  } else {
    pack.at[0] = *address;
  }
  return pack;
}

template <int N>
__device__ void store_pack(float* address, const Pack<N>& pack) {
  if constexpr (N == 4)
    *reinterpret_cast<float4*>(address) = make_float4(pack.at[0], pack.at[1], pack.at[2], pack.at[3]);
  else
    *address = pack.at[0];
}

/// A row of `count` elements: `head` lone ones, then `quads` of four on 16-byte boundaries, then at most three lone
/// ones. A row of 50257 elements starts on another residue than the row before it, so this is known in the kernel only.
struct RowParts {
  int count;
  int head;
  int quads;
};

/// The parts of rows that are walked through together: in quads where they share their alignment, else all lone.
template <typename... Others>
__device__ RowParts row_parts(int count, const float* row, const Others*... others) {
  const auto address = reinterpret_cast<uintptr_t>(row);
  const bool alike = (((address ^ reinterpret_cast<uintptr_t>(others)) % 16 == 0) && ...);
  int head = static_cast<int>((16 - address % 16) % 16 / sizeof(float));
  if (!alike || head > count) head = count;
  return {count, head, (count - head) / 4};
}

/// use(i, load<N>(i)) for the packs that fall to this thread. Several are loaded before the first is used: four, or
/// what fits 32 registers.
template <int N, typename At, typename Load, typename Use>
__device__ void over_packs(int packs, At at, Load load, Use use) {
  using Loaded = decltype(load.template operator()<N>(0));
  constexpr int kFitting = 128 / static_cast<int>(sizeof(Loaded)), kInFlight = kFitting < 4 ? kFitting : 4;
  const int step = static_cast<int>(blockDim.x);
  for (int first = static_cast<int>(threadIdx.x); first < packs; first += kInFlight * step) {
    Loaded loaded[kInFlight];
#pragma unroll
    for (int d = 0; d < kInFlight; ++d)
      if (first + d * step < packs) loaded[d] = load.template operator()<N>(at(first + d * step));
#pragma unroll
    for (int d = 0; d < kInFlight; ++d)
      if (first + d * step < packs) use(at(first + d * step), loaded[d]);
  }
}

/// The second walk over a row is better made backwards: what the first one read last is then met first, while it is
/// still in the cache.
enum class Order { rising, falling };

/// Calls `use(i, load<N>(i))`, N = 4 or 1, once for each element of a row over the threads of a block; i is the first
/// element of the pack. Without barriers.
template <Order kOrder = Order::rising, typename Load, typename Use>
__device__ void over_row(const RowParts& parts, Load load, Use use) {
  const int head = parts.head, quads = parts.quads, within = 4 * quads;
  const auto quad_at = [=](int quad) { return head + 4 * (kOrder == Order::rising ? quad : quads - 1 - quad); };
  const auto lone_at = [=](int lone) { return lone < head ? lone : lone + within; };
  over_packs<4>(quads, quad_at, load, use);
  over_packs<1>(parts.count - within, lone_at, load, use);
}

}  // namespace loci::cuda
