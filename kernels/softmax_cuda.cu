#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"
#include "kernels/cuda_row_walk.h"

// A block takes a row. The first walk finds the sum of exponentials beside a running maximum, the second one writes,
// and finds part of what the first has read in L2. Exponentials are fp32 of a compensated difference, sums fp64, as on
// the CPU.
namespace loci::cuda {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kNone = std::numeric_limits<int>::max();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// exp(x - shift) without the error of rounding the difference, which exp would multiply by |x - shift|: that error is
// itself an fp32 number (Knuth's two-sum), and exp(s + e) = exp(s) (1 + e) to first order.
__device__ float exp_difference(float x, float shift) {
  const float s = x - shift;
  const float b = s - x;
  float e = (x - (s - b)) - (shift + b);
  e = e == e ? e : 0.0f;  // of infinite differences
  const float y = expf(s);
  return y + y * e;
}

// exp(x - shift) fits fp32 well up to here, so the running shift follows the maximum at this distance: rescaling, which
// takes an exponential in fp64, then happens once or twice a row instead of at each new maximum.
constexpr float kSlack = 8;

/// sum_j exp(x_j - shift) of the elements seen so far. NaN shows in the sum alone.
struct Exponentials {
  float shift = kLowest;  // finite, so that -inf is an ordinary logit
  double sum = 0;

  __device__ void shift_to(float other) {
    sum *= exp(static_cast<double>(shift) - static_cast<double>(other));
    shift = other;
  }

  template <int N>
  __device__ void add(const Pack<N>& x) {
    if (const float highest = highest_of(x); highest > shift + kSlack) shift_to(highest);
    if constexpr (N == 4)
      sum += (exponential(x.at[0]) + exponential(x.at[1])) + (exponential(x.at[2]) + exponential(x.at[3]));
    else
      sum += exponential(x.at[0]);
  }

  template <int N>
  __device__ static float highest_of(const Pack<N>& x) {
    float highest = x.at[0];
    for (int i = 1; i < N; ++i) highest = fmaxf(highest, x.at[i]);
    return highest;
  }
  __device__ double exponential(float x) const { return static_cast<double>(exp_difference(x, shift)); }
};

/// And sum_j exp(x_j - shift) ((x_j - shift) - log q_j), from which the divergence follows in the same walk:
/// KL = sum_j p_j (log p_j - log q_j) = product / sum - log sum.
struct WeightedExponentials {
  Exponentials terms;
  double product = 0;

  __device__ void shift_to(float other) {
    const double moved = static_cast<double>(terms.shift) - static_cast<double>(other);
    product = (product + moved * terms.sum) * exp(moved);
    terms.shift_to(other);
  }

  template <int N>
  __device__ void add(const Pack<N>& x, const Pack<N>& log_q) {
    if (const float highest = Exponentials::highest_of(x); highest > terms.shift + kSlack) shift_to(highest);
    for (int i = 0; i < N; ++i) {
      const double y = terms.exponential(x.at[i]);
      terms.sum += y;
      product +=
          y * ((static_cast<double>(x.at[i]) - static_cast<double>(terms.shift)) - static_cast<double>(log_q.at[i]));
    }
  }
};

/// Shared memory of a block's reductions, each part used once.
struct Scratch {
  float* shifts;
  double* sums;
  double* products;

  __device__ explicit Scratch(SharedMemory& shared)
      : shifts(shared.take<float>(kWarp)), sums(shared.take<double>(kWarp)), products(shared.take<double>(kWarp)) {}
  static constexpr size_t bytes() { return SharedMemory::bytes<float>(kWarp) + 2 * SharedMemory::bytes<double>(kWarp); }
};

/// The row's exponentials from those of the threads, in each of them. log sum_j exp(x_j) = shift + log(sum), kept
/// apart so that huge logits do not swallow the second.
__device__ Exponentials block_total(Exponentials mine, int count, const Scratch& scratch) {
  const float shift = block_reduce<Max>(mine.shift, kLowest, scratch.shifts);
  mine.shift_to(shift);
  const double sum = block_sum(mine.sum, scratch.sums);
  // Logits that are all -inf have no probabilities.
  return {shift, sum == 0 && count > 0 ? kNan : sum};
}

__device__ WeightedExponentials block_total(WeightedExponentials mine, int count, const Scratch& scratch) {
  const float shift = block_reduce<Max>(mine.terms.shift, kLowest, scratch.shifts);
  mine.shift_to(shift);
  const double sum = block_sum(mine.terms.sum, scratch.sums);
  const double product = block_sum(mine.product, scratch.products);
  return {{shift, sum == 0 && count > 0 ? kNan : sum}, product};
}

__device__ Exponentials row_exponentials(const float* x, int count, const Scratch& scratch) {
  Exponentials mine;
  over_row(
      row_parts(count, x), [=]<int N>(int i) { return load_pack<N>(x + i); },
      [&](int, const auto& pack) { mine.add(pack); });
  return block_total(mine, count, scratch);
}

__device__ double log_probability(float logit, float shift, double log_sum) {
  return static_cast<double>(logit) - static_cast<double>(shift) - log_sum;
}

__global__ void __launch_bounds__(1024) log_sum_exp_rows(ConstView logits, View log_sum) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int64_t r = blockIdx.x;
  const Exponentials row = row_exponentials(row_of(logits, r), static_cast<int>(logits.cols), scratch);
  if (threadIdx.x == 0) *row_of(log_sum, r) = static_cast<float>(static_cast<double>(row.shift) + log(row.sum));
}

// y = function(x), from the end of the row, which the walk before has read last.
template <typename Function>
__device__ void map_row(const float* x, float* y, int count, Function function) {
  over_row<Order::falling>(
      row_parts(count, x, y), [=]<int N>(int i) { return load_pack<N>(x + i); },
      [=]<int N>(int i, Pack<N> pack) {
        for (int j = 0; j < N; ++j) pack.at[j] = function(pack.at[j]);
        store_pack(y + i, pack);
      });
}

__global__ void __launch_bounds__(1024) softmax_rows(ConstView logits, View probabilities) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int count = static_cast<int>(logits.cols);
  const float* x = row_of(logits, blockIdx.x);
  float* y = row_of(probabilities, blockIdx.x);
  const Exponentials row = row_exponentials(x, count, scratch);
  const float shift = row.shift, factor = static_cast<float>(1 / row.sum);
  map_row(x, y, count, [=](float logit) { return exp_difference(logit, shift) * factor; });
}

__global__ void __launch_bounds__(1024) log_softmax_rows(ConstView logits, View log_probabilities) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int count = static_cast<int>(logits.cols);
  const float* x = row_of(logits, blockIdx.x);
  float* y = row_of(log_probabilities, blockIdx.x);
  const Exponentials row = row_exponentials(x, count, scratch);
  const float shift = row.shift;
  const double log_sum = log(row.sum);
  map_row(x, y, count, [=](float logit) { return static_cast<float>(log_probability(logit, shift, log_sum)); });
}

// A block for each target; where targets of one row stand next to each other, as a rule, the first one's block serves
// them all and the others end at once.
__global__ void __launch_bounds__(1024)
    target_log_probability_rows(ConstView logits, const int64_t* rows, const int32_t* targets, int64_t count,
                                View log_probabilities) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int64_t first = blockIdx.x, r = rows[first];
  if (first > 0 && rows[first - 1] == r) return;
  const float* x = row_of(logits, r);
  const Exponentials row = row_exponentials(x, static_cast<int>(logits.cols), scratch);
  if (threadIdx.x >= kWarp) return;
  const double log_sum = log(row.sum);
  for (int64_t i = first + threadIdx.x;; i += kWarp) {
    // Lanes up to the first target of another row.
    const unsigned others = __ballot_sync(kAllLanes, !(i < count && rows[i] == r));
    const int serve = others ? __ffs(static_cast<int>(others)) - 1 : kWarp;
    if (static_cast<int>(threadIdx.x) < serve)
      *row_of(log_probabilities, i) = static_cast<float>(log_probability(x[targets[i]], row.shift, log_sum));
    if (serve < kWarp) return;
  }
}

// The higher value in the upper half, of equal ones the lower index in the lower half; 0 for nothing.
__device__ uint64_t rank_of(float value, int index) {
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
  const unsigned order = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(order) << 32 | (0xffffffffu - static_cast<unsigned>(index));
}

__global__ void __launch_bounds__(1024) argmax_row(ConstView logits, int32_t* best) {
  SharedMemory shared;
  uint64_t* scratch = shared.take<uint64_t>(kWarp);
  const float* x = row_of(logits, blockIdx.x);
  float highest = -kInfinity;
  int index = kNone;
  over_row(
      row_parts(static_cast<int>(logits.cols), x), [=]<int N>(int i) { return load_pack<N>(x + i); },
      [&]<int N>(int i, const Pack<N>& pack) {
        for (int j = 0; j < N; ++j) {
          const float value = pack.at[j];
          if (value > highest || (value == highest && i + j < index)) {
            highest = value;
            index = i + j;
          }
        }
      });
  const uint64_t mine = index == kNone ? 0 : rank_of(highest, index);
  const uint64_t rank = block_reduce<Max>(mine, uint64_t{0}, scratch);
  if (threadIdx.x == 0) best[blockIdx.x] = rank ? static_cast<int32_t>(0xffffffffu - static_cast<unsigned>(rank)) : 0;
}

/// What a walk that adds reads: the logits and what is there already.
template <int N>
struct WithOld {
  Pack<N> x, old;
};

__device__ void fill_row(float* y, int count, float value) {
  over_row(
      row_parts(count, y),
      [=]<int N>(int) {
        Pack<N> pack;
        for (int j = 0; j < N; ++j) pack.at[j] = value;
        return pack;
      },
      [=](int i, const auto& pack) { store_pack(y + i, pack); });
}

// sum_j (x_j - shift), in each thread.
__device__ double sum_of_differences(const float* x, int count, float shift, double* scratch) {
  double sum = 0;
  over_row(
      row_parts(count, x), [=]<int N>(int i) { return load_pack<N>(x + i); },
      [&]<int N>(int, const Pack<N>& pack) {
        for (int j = 0; j < N; ++j) sum += static_cast<double>(pack.at[j]) - static_cast<double>(shift);
      });
  return block_sum(sum, scratch);
}

// y = or += factor exp(x - shift) - share.
template <Write kWrite>
__device__ void write_exponentials(const float* x, int count, float shift, float factor, float share, float* y) {
  over_row<Order::falling>(
      row_parts(count, x, y),
      [=]<int N>(int i) {
        WithOld<N> loaded;
        loaded.x = load_pack<N>(x + i);
        if constexpr (kWrite == Write::accumulate) loaded.old = load_pack<N>(y + i);
        return loaded;
      },
      [=]<int N>(int i, WithOld<N> loaded) {
        for (int j = 0; j < N; ++j) {
          const float term = factor * exp_difference(loaded.x.at[j], shift) - share;
          loaded.old.at[j] = kWrite == Write::assign ? term : loaded.old.at[j] + term;
        }
        store_pack(y + i, loaded.old);
      });
}

template <Write kWrite>
__global__ void __launch_bounds__(1024)
    cross_entropy_rows(ConstView logits, const int32_t* targets, const float* weights, float smoothing, View losses,
                       View dlogits) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int64_t r = blockIdx.x;
  const int count = static_cast<int>(logits.cols);
  const float* x = row_of(logits, r);
  float* dx = row_of(dlogits, r);
  const int target = targets[r];
  if (target < 0) {
    if (threadIdx.x == 0) *row_of(losses, r) = 0;
    if constexpr (kWrite == Write::assign) fill_row(dx, count, 0);
    return;
  }
  const float target_logit = x[target];  // dx may be x
  const float before = kWrite == Write::accumulate ? dx[target] : 0.0f;
  const double weight = static_cast<double>(weights[r]);
  const Exponentials row = row_exponentials(x, count, scratch);
  const double left = static_cast<double>(smoothing), share = smoothing > 0 ? left / (count - 1) : 0;
  const double differences = smoothing > 0 ? sum_of_differences(x, count, row.shift, scratch.products) : 0;
  write_exponentials<kWrite>(x, count, row.shift, static_cast<float>(weight / row.sum),
                             static_cast<float>(weight * share), dx);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const double log_sum = log(row.sum), log_p = log_probability(target_logit, row.shift, log_sum);
  const double others = smoothing > 0 ? differences - count * log_sum - log_p : 0;  // sum of their log p
  *row_of(losses, r) = static_cast<float>(-weight * ((1 - left) * log_p + share * others));
  // p - 1 of the target by expm1, since 1 - p cancels where the target is nearly certain.
  dx[target] = before + static_cast<float>(weight * (expm1(log_p) + left));
}

template <int N>
struct WithReference {
  Pack<N> x, log_q, old;
};

// d KL / d x_j = p_j (log p_j - log q_j - KL), with `offset` = log sum + KL.
template <Write kWrite>
__device__ void write_divergence_gradient(const float* x, const float* log_q, int count, float shift, float factor,
                                          double offset, float* y) {
  over_row<Order::falling>(
      row_parts(count, x, log_q, y),
      [=]<int N>(int i) {
        WithReference<N> loaded;
        loaded.x = load_pack<N>(x + i);
        loaded.log_q = load_pack<N>(log_q + i);
        if constexpr (kWrite == Write::accumulate) loaded.old = load_pack<N>(y + i);
        return loaded;
      },
      [=]<int N>(int i, WithReference<N> loaded) {
        for (int j = 0; j < N; ++j) {
          const double excess =
              log_probability(loaded.x.at[j], shift, static_cast<double>(loaded.log_q.at[j])) - offset;
          const float term = exp_difference(loaded.x.at[j], shift) * factor * static_cast<float>(excess);
          loaded.old.at[j] = kWrite == Write::assign ? term : loaded.old.at[j] + term;
        }
        store_pack(y + i, loaded.old);
      });
}

template <Write kWrite>
__global__ void __launch_bounds__(1024)
    kl_divergence_rows(ConstView logits, ConstView reference, const float* weights, View losses, View dlogits) {
  SharedMemory shared;
  const Scratch scratch(shared);
  const int64_t r = blockIdx.x;
  const int count = static_cast<int>(logits.cols);
  const float* x = row_of(logits, r);
  const float* log_q = row_of(reference, r);
  WeightedExponentials mine;
  over_row(
      row_parts(count, x, log_q),
      [=]<int N>(int i) {
        return WithOld<N>{load_pack<N>(x + i), load_pack<N>(log_q + i)};
      },
      [&](int, const auto& loaded) { mine.add(loaded.x, loaded.old); });
  const WeightedExponentials row = block_total(mine, count, scratch);
  const double weight = static_cast<double>(weights[r]), log_sum = log(row.terms.sum);
  const double divergence = row.product / row.terms.sum - log_sum;
  if (threadIdx.x == 0) *row_of(losses, r) = static_cast<float>(weight * divergence);
  write_divergence_gradient<kWrite>(x, log_q, count, row.terms.shift, static_cast<float>(weight / row.terms.sum),
                                    log_sum + divergence, row_of(dlogits, r));
}

// Sixteen elements for each thread at least. By the width alone, so that a row's bits do not depend on the rows beside
// it.
Launch over_rows(const char* op, int64_t rows, int64_t cols) {
  const int64_t threads = std::clamp<int64_t>((cols + 511) / 512 * kWarp, kWarp, 1024);
  return {.op = op,
          .grid = static_cast<unsigned>(rows),
          .threads = static_cast<int>(threads),
          .shared_bytes = Scratch::bytes()};
}

}  // namespace

void log_sum_exp(Context& context, ConstView logits, View log_sum) {
  launch(context, over_rows("log_sum_exp", logits.rows, logits.cols), log_sum_exp_rows, logits, log_sum);
}

void softmax(Context& context, ConstView logits, View probabilities) {
  launch(context, over_rows("softmax", logits.rows, logits.cols), softmax_rows, logits, probabilities);
}

void target_log_probabilities(Context& context, ConstView logits, const DeviceArray<int64_t>& rows,
                              const DeviceArray<int32_t>& targets, View log_probabilities) {
  launch(context, over_rows("target_log_probabilities", rows.size(), logits.cols), target_log_probability_rows, logits,
         rows.data(), targets.data(), rows.size(), log_probabilities);
}

void argmax_rows(Context& context, ConstView logits, DeviceArray<int32_t>& best) {
  launch(context, over_rows("argmax_rows", logits.rows, logits.cols), argmax_row, logits, best.data());
}

void cross_entropy(Context& context, ConstView logits, const DeviceArray<int32_t>& targets,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write, float smoothing) {
  launch(context, over_rows("cross_entropy", logits.rows, logits.cols),
         write == Write::assign ? cross_entropy_rows<Write::assign> : cross_entropy_rows<Write::accumulate>, logits,
         targets.data(), weights.data(), smoothing, losses, dlogits);
}

void kl_divergence(Context& context, ConstView logits, ConstView reference_log_probabilities,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write) {
  launch(context, over_rows("kl_divergence", logits.rows, logits.cols),
         write == Write::assign ? kl_divergence_rows<Write::assign> : kl_divergence_rows<Write::accumulate>, logits,
         reference_log_probabilities, weights.data(), losses, dlogits);
}

void log_softmax(Context& context, ConstView logits, View log_probabilities) {
  launch(context, over_rows("log_softmax", logits.rows, logits.cols), log_softmax_rows, logits, log_probabilities);
}

}  // namespace loci::cuda
