#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/sampling.h"

namespace loci::cpu {
namespace {

int32_t sample_row(const float* logits, double temperature, double uniform, int64_t k, std::vector<int32_t>& order) {
  std::iota(order.begin(), order.end(), 0);
  const auto before = [logits](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
  const double highest = logits[order[0]];
  const auto weight = [&](int64_t j) {
    return std::exp((static_cast<double>(logits[order[j]]) - highest) / temperature);
  };
  double total = 0;
  for (int64_t j = 0; j < k; ++j) total += weight(j);
  double running = 0;
  for (int64_t j = 0; j < k; ++j) {
    running += weight(j);
    if (running > uniform * total) return order[j];
  }
  return order[0];  // only where a logit is not finite
}

}  // namespace

void sample_top_k(Context& context, ConstView logits, int64_t k, double temperature,
                  const DeviceArray<double>& uniforms, DeviceArray<int32_t>& chosen) {
  context.threads().parallel_for(logits.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> order(static_cast<size_t>(logits.cols));
    for (int64_t r = begin; r < end; ++r)
      chosen.data()[r] = sample_row(logits.row(r), temperature, uniforms.data()[r], k, order);
  });
}

}  // namespace loci::cpu
