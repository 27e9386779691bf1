#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

#include "runtime/context.h"

namespace loci::bench {

/// Times of one call, in seconds, in rising order.
struct Samples {
  std::vector<double> seconds;
  int batch = 1;  ///< calls between two looks at the clock

  double quantile(double q) const { return seconds[static_cast<size_t>(q * static_cast<double>(seconds.size() - 1) + 0.5)]; }
  double median() const { return quantile(0.5); }
};

/// Work on a GPU is issued now and done later: the clock is read while nothing is under way, and so much is issued
/// between two readings that neither the wait nor the launches count.
template <typename Work>
double batch_seconds(Context& context, int batch, const Work& work) {
  context.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < batch; ++i) work();
  context.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / batch;
}

/// How long is measured.
struct Effort {
  double batch_seconds = 5e-3;  ///< the least time between two looks at the clock
  double total_seconds = 0.3;
  int fewest = 5;  ///< samples
  int most = 40;
};

template <typename Work>
Samples sample(Context& context, const Effort& effort, const Work& work) {
  batch_seconds(context, 1, work);  // warm: memory, kernels and plans are there
  const double once = std::max(batch_seconds(context, 1, work), 1e-7);
  Samples samples;
  samples.batch = static_cast<int>(std::clamp(effort.batch_seconds / once, 1.0, 2000.0));
  const double batch = std::max(once, batch_seconds(context, samples.batch, work)) * samples.batch;
  const auto count = static_cast<int>(
      std::clamp(effort.total_seconds / batch, static_cast<double>(effort.fewest), static_cast<double>(effort.most)));
  for (int i = 0; i < count; ++i) samples.seconds.push_back(batch_seconds(context, samples.batch, work));
  std::sort(samples.seconds.begin(), samples.seconds.end());
  return samples;
}

}  // namespace loci::bench
