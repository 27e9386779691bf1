#include "bench/suite.h"

#include <benchmark/benchmark.h>

#include <cmath>

#include "bench/ceilings.h"
#include "kernels/rows.h"
#include "runtime/random.h"

namespace loci::bench {
namespace {

constexpr int64_t kPoolValues = int64_t{1} << 22;
// Several times the L2 cache of any GPU of today.
constexpr int64_t kRotatedBytes = int64_t{256} << 20;
constexpr int64_t kMostInstances = 64;

Tensor random_pool(Context& context, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  Random random(1);
  for (float& value : values) value = static_cast<float>(random.normal());
  return Tensor::from_host(context, values, 1, count);
}

}  // namespace

Suite::Suite(const ContextOptions& options, Shapes shapes, Effort effort)
    : context_(options),
      shapes_(std::move(shapes)),
      effort_(effort),
      pool_(random_pool(context_, shapes_.width < 128 ? kPoolValues >> 6 : kPoolValues)) {
  flop_ceiling_ = square_product_flops(context_, shapes_.ceiling_product);
  byte_ceiling_ = copied_bytes(context_, shapes_.ceiling_copy);
}

Suite::~Suite() { benchmark::ClearRegisteredBenchmarks(); }

// Pieces of the pool one after the other; tensors start at different places of it.
Tensor Suite::random(int64_t rows, int64_t cols, float scale) {
  Tensor made(context_, rows, cols);
  pool_offset_ = (pool_offset_ + 7919 * 64) % (pool_.cols() / 2);
  for (int64_t done = 0, from = pool_offset_; done < rows * cols; from = 0) {
    const int64_t part = std::min(rows * cols - done, pool_.cols() - from);
    context_.copy_on_device(made.data() + done, pool_.data() + from, sizeof(float) * static_cast<size_t>(part));
    done += part;
  }
  if (scale != 1) loci::scale(context_, scale, made.view());
  return made;
}

std::vector<Suite::Work> Suite::instances(const std::function<Work()>& make) {
  context_.reset_peak();
  const int64_t before = context_.peak_bytes();
  std::vector<Work> made{make()};
  if (context_.on_cpu()) return made;
  const int64_t bytes = std::max<int64_t>(1, context_.peak_bytes() - before);
  const int64_t count = std::clamp<int64_t>((kRotatedBytes + bytes - 1) / bytes, 1, kMostInstances);
  while (std::ssize(made) < count) made.push_back(make());
  return made;
}

void Suite::add(const std::string& name, Unit unit, double amount, std::function<Work()> make) {
  const auto measure = [=, this](benchmark::State& state) {
    const std::vector<Work> works = instances(make);
    works[0].run();
    if (const double error = works[0].error(); !(error <= 1)) {
      failed_ = true;
      state.SkipWithError(fmt::format("the result is wrong: error {} times what is allowed", error).c_str());
      return;
    }
    for (const Work& work : works) work.run();
    size_t next = 0;
    for (auto _ : state) {
      const Samples samples = sample(context_, effort_, [&] { works[next++ % works.size()].run(); });
      const double seconds = samples.median();
      state.SetIterationTime(seconds);
      state.counters["samples"] = static_cast<double>(samples.seconds.size());
      state.counters["batch"] = samples.batch;
      state.counters["instances"] = static_cast<double>(works.size());
      state.counters["spread"] = (samples.quantile(0.9) - samples.quantile(0.1)) / seconds;
      state.counters[unit == Unit::flop ? "GFLOP/s" : "GB/s"] = amount / seconds / 1e9;
      state.counters["of_ceiling"] = amount / seconds / (unit == Unit::flop ? flop_ceiling_ : byte_ceiling_);
    }
  };
  // An error of one benchmark must not keep the others from running.
  benchmark::RegisterBenchmark(name.c_str(),
                               [=, this](benchmark::State& state) {
                                 try {
                                   measure(state);
                                 } catch (const std::exception& error) {
                                   failed_ = true;
                                   state.SkipWithError(error.what());
                                 }
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

// Tensor cores cut fp32 operands off to tf32, and bf16 ones are rounded.
double product_tolerance(Precision precision, int64_t k) {
  const double input = precision == Precision::tf32 ? 0x1p-10 : precision == Precision::bf16 ? 0x1p-8 : 0;
  return static_cast<double>(k + 2) * 0x1p-24 + 2 * input + input * input;
}

double product_error(Context& context, Transpose ta, ConstView a, Transpose tb, ConstView b, ConstView c,
                     ConstView bias) {
  const int64_t k = ta == Transpose::no ? a.cols : a.rows;
  const double tolerance = product_tolerance(context.precision(), k);
  double worst = 0;
  for (int64_t i = 0; i < 20; ++i) {
    const int64_t r = (i * 7919) % c.rows, col = (i * 104729) % c.cols;
    const auto x = to_host(context, ta == Transpose::no ? a.rows_slice(r, 1) : a.cols_slice(r, 1));
    const auto y = to_host(context, tb == Transpose::no ? b.cols_slice(col, 1) : b.rows_slice(col, 1));
    const double got = static_cast<double>(to_host(context, c.rows_slice(r, 1).cols_slice(col, 1))[0]);
    double sum = bias.empty() ? 0 : static_cast<double>(to_host(context, bias.cols_slice(col, 1))[0]);
    double magnitude = std::abs(sum);
    for (size_t p = 0; p < x.size(); ++p) {
      const double term = static_cast<double>(x[p]) * static_cast<double>(y[p]);
      sum += term;
      magnitude += std::abs(term);
    }
    const double error = std::abs(got - sum), allowed = tolerance * magnitude;
    worst = error <= allowed ? std::max(worst, error / allowed) : INFINITY;
  }
  return worst;
}

}  // namespace loci::bench
