#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"
#include "kernels/cuda_row_walk.h"

// A block takes a row and finds the chosen logit without sorting. "The first candidate, in falling order, at which a
// running sum exceeds a target" is found by descending through the bits of the logits: sixteen partial sums a level, in
// fp64 and in a fixed order. The same descent finds the k-th logit, with counts for sums, and the draw, with
// probabilities. Candidates of equal logits are told apart at the very end, by index.
namespace loci::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigitBits = 4;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kListed = 2048;  // logits kept in shared memory where k is small
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// A logit as bits whose order as integers is that of the logits; equal logits, 0 and -0 too, have equal keys.
__device__ unsigned key_of(float logit) {
  const unsigned bits = __float_as_uint(logit + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ float logit_of(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

struct Scratch {
  double* warp_bins;  // [kDigits, kWarps]
  double* bins;       // [kDigits]
  unsigned* keys;     // [2, kWarp]
  int* counts;        // [kWarps]
  float* maxima;      // [kThreads]
  float* listed;      // [kListed]

  __device__ explicit Scratch(SharedMemory& shared)
      : warp_bins(shared.take<double>(kDigits * kWarps)),
        bins(shared.take<double>(kDigits)),
        keys(shared.take<unsigned>(2 * kWarp)),
        counts(shared.take<int>(kWarps)),
        maxima(shared.take<float>(kThreads)),
        listed(shared.take<float>(kListed)) {}
  static constexpr size_t bytes() {
    return SharedMemory::bytes<double>(kDigits * kWarps) + SharedMemory::bytes<double>(kDigits) +
           SharedMemory::bytes<unsigned>(2 * kWarp) + SharedMemory::bytes<int>(kWarps) +
           SharedMemory::bytes<float>(kThreads) + SharedMemory::bytes<float>(kListed);
  }
};

/// The logits that a descent looks at, in global or shared memory, with their highest key and a bound on the lowest.
struct Logits {
  const float* values;
  int count;
  unsigned highest, lowest;
};

/// Each logit counts one; the target is given.
struct Counting {
  double target;

  __device__ double of(unsigned) const { return 1; }
  __device__ double goal(double) const { return target; }
  __device__ bool has_tied() const { return false; }
  __device__ unsigned tied_key() const { return 0; }
  __device__ double tied() const { return 0; }
};

/// Probabilities up to a factor, of the k candidates: the logits above `last`, the k-th one, and as many of those equal
/// to it as belong to the k.
struct Weighing {
  double highest, temperature, uniform;
  unsigned last;
  int tied_count;  // 0: all logits are candidates

  __device__ double weight(unsigned key) const {
    return exp((static_cast<double>(logit_of(key)) - highest) / temperature);
  }
  __device__ double of(unsigned key) const { return has_tied() && key <= last ? 0 : weight(key); }
  __device__ double goal(double total) const { return uniform * total; }
  __device__ bool has_tied() const { return tied_count > 0; }
  __device__ unsigned tied_key() const { return last; }
  __device__ double tied() const { return tied_count * weight(last); }
};

/// Where a descent ends: the key at which the running sum passes the target, and the sum before it. `target` is NaN
/// where there is no sum.
struct Found {
  unsigned key;
  double before, target;
};

/// Halves the digits a lane holds sums for until it holds one: digit lane / 2.
template <int kHalf = kDigits / 2>
__device__ double warp_sums(double (&sums)[kDigits]) {
  if constexpr (kHalf == 0) {
    return sums[0] + __shfl_xor_sync(kAllLanes, sums[0], 1);
  } else {
    constexpr int kBit = kWarp / kDigits * kHalf;
    const bool upper = threadIdx.x & kBit;
    for (int d = 0; d < kHalf; ++d) {
      const double sent = upper ? sums[d] : sums[d + kHalf], kept = upper ? sums[d + kHalf] : sums[d];
      sums[d] = kept + __shfl_xor_sync(kAllLanes, sent, kBit);
    }
    return warp_sums<kHalf / 2>(sums);
  }
}

/// Four loads in flight, but one copy of `use`, which is long.
template <typename Use>
__device__ void for_each_logit(const Logits& logits, Use use) {
  const auto load = [&](int i) { return i < logits.count ? logits.values[i] : 0.0f; };
  for (int first = static_cast<int>(threadIdx.x); first < logits.count; first += 4 * kThreads) {
    float next[] = {load(first), load(first + kThreads), load(first + 2 * kThreads), load(first + 3 * kThreads)};
#pragma unroll 1
    for (int i = first; i < min(first + 4 * kThreads, logits.count); i += kThreads) {
      use(next[0]);
      next[0] = next[1];
      next[1] = next[2];
      next[2] = next[3];
    }
  }
}

/// bins[d] = the sum over logits whose key agrees with `prefix` above `shift + kDigitBits` and has digit d at `shift`.
template <typename Measure>
__device__ void fill_bins(const Logits& logits, const Measure& measure, unsigned prefix, int shift,
                          const Scratch& scratch) {
  double sums[kDigits] = {};
  const auto above = [shift](unsigned key) { return static_cast<uint64_t>(key) >> (shift + kDigitBits); };
  const auto digit = [shift](unsigned key) { return static_cast<int>(key >> shift & (kDigits - 1)); };
  const auto add = [&](float logit) {
    const unsigned key = key_of(logit);
    if (above(key) != above(prefix)) return;
    const double value = measure.of(key);
    for (int d = 0; d < kDigits; ++d) sums[d] += digit(key) == d ? value : 0.0;
  };
  for_each_logit(logits, add);
  const double sum = warp_sums(sums);
  const int lane = lane_index(), warp = warp_index();
  if (lane % 2 == 0) scratch.warp_bins[lane / 2 * kWarps + warp] = sum;
  __syncthreads();
  if (threadIdx.x < kDigits) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += scratch.warp_bins[threadIdx.x * kWarps + w];
    const bool ties_here = measure.has_tied() && above(measure.tied_key()) == above(prefix) &&
                           digit(measure.tied_key()) == static_cast<int>(threadIdx.x);
    scratch.bins[threadIdx.x] = ties_here ? total + measure.tied() : total;
  }
  __syncthreads();
}

/// One level: appends to the key the digit at which the running sum passes the target.
__device__ void pick_digit(const double* bins, int shift, Found& found) {
  double running = found.before, before_last = running;
  int last = 0;
  for (int d = kDigits - 1; d >= 0; --d) {
    const double next = running + bins[d];
    if (bins[d] > 0) {
      last = d;
      before_last = running;
      if (next > found.target) break;
    }
    running = next;
  }
  // The last digit with a sum is also taken where rounding hides that it passes the target.
  found.key |= static_cast<unsigned>(last) << shift;
  found.before = before_last;
}

template <typename Measure>
__device__ Found descend(const Logits& logits, const Measure& measure, const Scratch& scratch) {
  // Digits above the first that differs are those of every logit.
  const unsigned differing = logits.highest ^ logits.lowest;
  const int first = differing ? (31 - __clz(static_cast<int>(differing))) / kDigitBits * kDigitBits : 0;
  const uint64_t common = static_cast<uint64_t>(logits.highest) >> (first + kDigitBits) << (first + kDigitBits);
  Found found{static_cast<unsigned>(common), 0, 0};
  for (int shift = first; shift >= 0; shift -= kDigitBits) {
    fill_bins(logits, measure, found.key, shift, scratch);
    if (shift == first) {
      double total = 0;
      for (int d = kDigits - 1; d >= 0; --d) total += scratch.bins[d];
      if (!(total > 0)) return {logits.highest, 0, kNan};
      found.target = measure.goal(total);
    }
    pick_digit(scratch.bins, shift, found);
  }
  return found;
}

/// The sum over the threads before this one; `total` over all. Starts with a barrier.
__device__ int count_before(int mine, int* scratch, int& total) {
  const int lane = lane_index(), warp = warp_index();
  int through = mine;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, through, static_cast<unsigned>(distance));
    if (lane >= distance) through += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) scratch[warp] = through;
  __syncthreads();
  int before = through - mine;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  return before;
}

/// The row with its extreme keys; leaves each thread's highest logit in scratch.maxima.
__device__ Logits whole_row(const float* row, int count, const Scratch& scratch) {
  unsigned highest = key_of(-kInfinity), lowest = ~0u;  // a thread may get no logit
  over_row(
      row_parts(count, row), [=]<int N>(int i) { return load_pack<N>(row + i); },
      [&]<int N>(int, const Pack<N>& pack) {
        for (int j = 0; j < N; ++j) {
          const unsigned key = key_of(pack.at[j]);
          highest = max(highest, key);
          lowest = min(lowest, key);
        }
      });
  scratch.maxima[threadIdx.x] = logit_of(highest);
  highest = block_reduce<Max>(highest, 0u, scratch.keys);
  lowest = ~block_reduce<Max>(~lowest, 0u, scratch.keys + kWarp);
  return {row, count, highest, lowest};
}

/// The few logits that can be among the k highest: k threads have a maximum as high as the k-th of the threads' maxima,
/// so the k-th logit is no lower. The row itself where they are too many.
__device__ Logits contenders(const Logits& row, int k, const Scratch& scratch) {
  const Logits maxima{scratch.maxima, kThreads, row.highest, 0};
  const unsigned bound = descend(maxima, Counting{static_cast<double>(k - 1)}, scratch).key;
  const auto visit = [&](auto use) {
    const float* values = row.values;
    over_row(
        row_parts(row.count, values), [=]<int N>(int i) { return load_pack<N>(values + i); },
        [&]<int N>(int, const Pack<N>& pack) {
          for (int j = 0; j < N; ++j)
            if (key_of(pack.at[j]) >= bound) use(pack.at[j]);
        });
  };
  int mine = 0, total = 0;
  visit([&](float) { ++mine; });
  int place = count_before(mine, scratch.counts, total);
  if (total > kListed) return row;
  visit([&](float logit) { scratch.listed[place++] = logit; });
  __syncthreads();
  return {scratch.listed, total, row.highest, bound};
}

/// Writes the index of the n-th logit of the row, from n = 1, whose key is `key`; of the last one where they are fewer.
/// A warp takes a stretch of the row.
__device__ void choose(const float* row, int count, unsigned key, int n, const Scratch& scratch, int32_t* chosen) {
  const int lane = lane_index(), warp = warp_index();
  const int stretch = (count + kThreads - 1) / kThreads * kWarp, begin = warp * stretch;
  const int end = min(begin + stretch, count);
  const auto matches = [&](int first) {
    return __ballot_sync(kAllLanes, first + lane < end && key_of(row[first + lane]) == key);
  };
  int mine = 0;
#pragma unroll 8
  for (int first = begin; first < end; first += kWarp) mine += __popc(matches(first));
  __syncthreads();
  if (lane == 0) scratch.counts[warp] = mine;
  __syncthreads();
  int before = 0, total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += scratch.counts[w];
    total += scratch.counts[w];
  }
  int left = min(n, total) - before;  // to the match looked for
  if (left < 1 || left > mine) return;
  for (int first = begin; first < end; first += kWarp) {
    const unsigned bits = matches(first);
    const int rank = __popc(bits & ((2u << lane) - 1));  // up to this lane
    if ((bits >> lane & 1) && rank == left) *chosen = first + lane;
    left -= __popc(bits);
  }
}

/// How many candidates of one weight it takes for the running sum to pass the target.
__device__ int number_of_equals(const Found& found, double weight) {
  const double needed = floor((found.target - found.before) / weight) + 1;
  if (!(needed > 1)) return 1;
  int n = static_cast<int>(fmin(needed, 2e9));
  if (n > 1 && found.before + (n - 1) * weight > found.target) --n;
  if (!(found.before + n * weight > found.target)) ++n;
  return n;
}

__global__ void __launch_bounds__(kThreads)
    sample_row(ConstView logits, int k, double temperature, const double* uniforms, int32_t* chosen) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int64_t r = blockIdx.x;
  const float* values = logits.data + r * logits.stride;
  const int count = static_cast<int>(logits.cols);
  const Logits row = whole_row(values, count, scratch);
  Logits candidates = row;
  // Worth its own walks where it leaves few.
  if (k <= kThreads / 4 && count >= 4 * kThreads) candidates = contenders(row, k, scratch);
  Weighing weighing{static_cast<double>(logit_of(row.highest)), temperature, uniforms[r], 0, 0};
  if (k < count) {
    const Found last = descend(candidates, Counting{static_cast<double>(k - 1)}, scratch);
    weighing.last = last.key;
    weighing.tied_count = k - static_cast<int>(last.before);
  }
  const Found draw = descend(candidates, weighing, scratch);
  int n = draw.target == draw.target ? number_of_equals(draw, weighing.weight(draw.key)) : 1;
  if (weighing.has_tied() && draw.key == weighing.last) n = min(n, weighing.tied_count);
  choose(values, count, draw.key, n, scratch, chosen + r);
}

}  // namespace

void sample_top_k(Context& context, ConstView logits, int64_t k, double temperature,
                  const DeviceArray<double>& uniforms, DeviceArray<int32_t>& chosen) {
  launch(context,
         {.op = "sample_top_k",
          .grid = static_cast<unsigned>(logits.rows),
          .threads = kThreads,
          .shared_bytes = Scratch::bytes()},
         sample_row, logits, static_cast<int>(k), temperature, uniforms.data(), chosen.data());
}

}  // namespace loci::cuda
