// Rates of the ops at the shapes of GPT-2 small, each as a fraction of a ceiling measured in the same run:
//   products, attention, symmetric updates: GFLOP/s against the best square product of 1536 (`of_ceiling`);
//   row-wise ops: GB/s of what they must read and write against a copy of 256 MiB (`of_ceiling`).
// Each result is checked before it is timed. Exits non-zero where a check fails or a filter matches nothing.
//   kernels_bench [--threads=N] [--benchmark_filter=REGEX] [--benchmark_out=FILE.json --benchmark_repetitions=5]
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>

#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/cholesky.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "kernels/symmetric_update.h"
#include "runtime/error.h"
#include "runtime/provenance.h"

namespace {

using namespace loci;

constexpr int64_t kWidth = 768;
constexpr int64_t kHeads = 12;
constexpr int64_t kVocabulary = 50257;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Bench {
 public:
  explicit Bench(int threads) : context_(options(threads)) {
    const Tensor a = random(1536, 1536), b = random(1536, 1536);
    Tensor c(context_, 1536, 1536);
    for (int i = 0; i < 8; ++i) {
      const double seconds =
          seconds_of([&] { gemm(context_, Transpose::no, a.view(), Transpose::no, b.view(), c.view()); });
      flop_ceiling_ = std::max(flop_ceiling_, gemm_flop(1536, 1536, 1536) / seconds);
    }
    const Tensor from = Tensor::zeros(context_, 1 << 12, 1 << 14);
    Tensor to = Tensor::zeros(context_, 1 << 12, 1 << 14);
    for (int i = 0; i < 4; ++i) {
      const double seconds = seconds_of([&] {
        context_.threads().parallel_for(1 << 12, 1, [&](int64_t begin, int64_t end) {
          std::memcpy(to.row(begin), from.row(begin), sizeof(float) * static_cast<size_t>((end - begin) << 14));
        });
      });
      byte_ceiling_ = std::max(byte_ceiling_, 2.0 * sizeof(float) * (1 << 26) / seconds);
    }
  }

  /// What was registered holds memory of the context.
  ~Bench() { benchmark::ClearRegisteredBenchmarks(); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  Context& context() { return context_; }
  double flop_ceiling() const { return flop_ceiling_; }
  double byte_ceiling() const { return byte_ceiling_; }
  bool failed() const { return failed_; }

  Tensor random(int64_t rows, int64_t cols, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& value : values) value = normal(random_);
    return Tensor::from_host(context_, values, rows, cols);
  }

  /// Registers a benchmark: `make` sets up and returns the work and a check of its result (an error below `allowed`).
  struct Work {
    std::function<void()> run;
    std::function<double()> error;  ///< after run(); relative to what is allowed, so 1 is the limit
  };
  enum class Unit { flop, byte };
  void add(const std::string& name, Unit unit, double amount, std::function<Work()> make) {
    benchmark::RegisterBenchmark(
        name.c_str(),
        [=, this](benchmark::State& state) {
          const Work work = make();
          work.run();
          if (const double error = work.error(); !(error <= 1)) {
            failed_ = true;
            state.SkipWithError(fmt::format("the result is wrong: error {} times what is allowed", error).c_str());
            return;
          }
          for (auto _ : state) work.run();
          const double done = amount * static_cast<double>(state.iterations());
          const double ceiling = unit == Unit::flop ? flop_ceiling_ : byte_ceiling_;
          state.counters[unit == Unit::flop ? "GFLOP/s" : "GB/s"] =
              benchmark::Counter(done / 1e9, benchmark::Counter::kIsRate);
          state.counters["of_ceiling"] = benchmark::Counter(done / ceiling, benchmark::Counter::kIsRate);
        })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }

 private:
  static ContextOptions options(int threads) {
    ContextOptions made;
    made.threads = threads;
    return made;
  }

  Context context_;
  std::mt19937 random_{1};
  double flop_ceiling_ = 0;
  double byte_ceiling_ = 0;
  bool failed_ = false;
};

// Element (r, c) of op(a) op(b) in fp64 against what was computed, at a few places; in units of (k + 2) eps |a| |b|.
double product_error(Transpose ta, ConstView a, Transpose tb, ConstView b, ConstView c, const float* bias) {
  const int64_t k = ta == Transpose::no ? a.cols : a.rows;
  double worst = 0;
  for (int64_t i = 0; i < 50; ++i) {
    const int64_t r = (i * 7919) % c.rows, col = (i * 104729) % c.cols;
    double sum = bias ? static_cast<double>(bias[col]) : 0, magnitude = std::abs(sum);
    for (int64_t p = 0; p < k; ++p) {
      const double x = static_cast<double>(ta == Transpose::no ? a.row(r)[p] : a.row(p)[r]);
      const double y = static_cast<double>(tb == Transpose::no ? b.row(p)[col] : b.row(col)[p]);
      sum += x * y;
      magnitude += std::abs(x * y);
    }
    const double error = std::abs(static_cast<double>(c.row(r)[col]) - sum);
    const double allowed = static_cast<double>(k + 2) * 0x1p-24 * magnitude;
    worst = error <= allowed ? std::max(worst, error / allowed) : INFINITY;
  }
  return worst;
}

struct ProductShape {
  const char* name;
  Transpose ta, tb;
  int64_t m, n, k;
};

void add_products(Bench& bench) {
  const auto no = Transpose::no, yes = Transpose::yes;
  std::vector<ProductShape> shapes;
  for (const int64_t rows : {132, 1024}) {
    shapes.push_back({"qkv", no, no, rows, 3 * kWidth, kWidth});
    shapes.push_back({"attn_out", no, no, rows, kWidth, kWidth});
    shapes.push_back({"mlp_in", no, no, rows, 4 * kWidth, kWidth});
    shapes.push_back({"mlp_out", no, no, rows, kWidth, 4 * kWidth});
    shapes.push_back({"mlp_out_dx", no, yes, rows, 4 * kWidth, kWidth});
    shapes.push_back({"mlp_in_dw", yes, no, kWidth, 4 * kWidth, rows});
  }
  for (const int64_t rows : {1, 2, 4, 8, 11}) {
    shapes.push_back({"mlp_in", no, no, rows, 4 * kWidth, kWidth});
    shapes.push_back({"mlp_out", no, no, rows, kWidth, 4 * kWidth});
    shapes.push_back({"unembed", no, yes, rows, kVocabulary, kWidth});
  }
  shapes.push_back({"unembed", no, yes, 132, kVocabulary, kWidth});
  shapes.push_back({"small_width", no, no, 1024, 384, 96});
  for (const ProductShape& s : shapes) {
    const double flop = gemm_flop(static_cast<double>(s.m), static_cast<double>(s.n), static_cast<double>(s.k));
    bench.add(fmt::format("gemm/{}/{}x{}x{}", s.name, s.m, s.n, s.k), Bench::Unit::flop, flop, [&bench, s] {
      auto a = std::make_shared<Tensor>(s.ta == Transpose::no ? bench.random(s.m, s.k) : bench.random(s.k, s.m));
      auto b = std::make_shared<Tensor>(s.tb == Transpose::no ? bench.random(s.k, s.n) : bench.random(s.n, s.k));
      auto c = std::make_shared<Tensor>(bench.context(), s.m, s.n);
      return Bench::Work{[=, &bench] { gemm(bench.context(), s.ta, a->view(), s.tb, b->view(), c->view()); },
                         [=] { return product_error(s.ta, a->view(), s.tb, b->view(), c->view(), nullptr); }};
    });
  }
  bench.add("linear/mlp_in/132x3072x768", Bench::Unit::flop, gemm_flop(132, 4 * kWidth, kWidth), [&bench] {
    auto x = std::make_shared<Tensor>(bench.random(132, kWidth));
    auto w = std::make_shared<Tensor>(bench.random(kWidth, 4 * kWidth));
    auto bias = std::make_shared<Tensor>(bench.random(1, 4 * kWidth));
    auto y = std::make_shared<Tensor>(bench.context(), 132, 4 * kWidth);
    return Bench::Work{
        [=, &bench] { linear(bench.context(), x->view(), w->view(), bias->view(), y->view()); },
        [=] { return product_error(Transpose::no, x->view(), Transpose::no, w->view(), y->view(), bias->data()); }};
  });
}

struct AttentionShape {
  const char* name;
  int64_t sequences, queries, segment_keys;
};

// What one attention call reads and writes.
struct AttentionData {
  AttentionData(Bench& bench, const AttentionShape& s)
      : q(bench.random(s.sequences * s.queries, kWidth)),
        k(bench.random(s.sequences * s.queries, kWidth)),
        v(bench.random(s.sequences * s.queries, kWidth)),
        base_k(bench.random(std::max<int64_t>(1, s.segment_keys), kWidth)),
        base_v(bench.random(std::max<int64_t>(1, s.segment_keys), kWidth)),
        y(bench.context(), q.rows(), kWidth),
        dy(bench.random(q.rows(), kWidth)),
        dq(bench.context(), q.rows(), kWidth),
        dk(Tensor::zeros(bench.context(), q.rows(), kWidth)),
        dv(Tensor::zeros(bench.context(), q.rows(), kWidth)),
        log_sums(bench.context(), q.rows(), kHeads) {
    std::vector<AttentionSequence> sequences;
    for (int64_t i = 0; i < s.sequences; ++i)
      sequences.push_back({i * s.queries, s.queries, i * s.queries, s.queries, 1, 0, s.segment_keys ? 1 : 0});
    std::vector<AttentionSegment> segments;
    if (s.segment_keys) segments.push_back({base_k.data(), base_v.data(), kWidth, s.segment_keys});
    batch.sequences = DeviceArray<AttentionSequence>(bench.context(), std::span<const AttentionSequence>(sequences));
    batch.segments = DeviceArray<AttentionSegment>(bench.context(), std::span<const AttentionSegment>(segments));
    batch.queries = q.rows();
    batch.max_keys = s.segment_keys + s.queries;
  }

  void forward(Context& context) {
    attention(context, batch, kHeads, 0.125f, q.view(), k.view(), v.view(), y.view(), log_sums.view());
  }
  void backward(Context& context) {
    attention_backward(context, batch, kHeads, 0.125f, q.view(), k.view(), v.view(), y.view(), log_sums.view(),
                       dy.view(), dq.view(), dk.view(), dv.view());
  }
  // A convex combination of values: with all values 1 the output is 1.
  double error(Context& context) {
    std::fill_n(v.data(), v.rows() * kWidth, 1.0f);
    std::fill_n(base_v.data(), base_v.rows() * kWidth, 1.0f);
    forward(context);
    double worst = 0;
    for (const float value : y.to_host()) {
      const double error =
          std::abs(static_cast<double>(value) - 1) / (static_cast<double>(batch.max_keys + 8) * 0x1p-24);
      worst = error <= 1 ? std::max(worst, error) : INFINITY;
    }
    return worst;
  }

  Tensor q, k, v, base_k, base_v, y, dy, dq, dk, dv, log_sums;
  AttentionBatch batch;
};

void add_attention(Bench& bench) {
  for (const AttentionShape& s : {AttentionShape{"batch", 8, 128, 0}, AttentionShape{"prompts", 11, 12, 0},
                                  AttentionShape{"lanes", 1000, 1, 11}, AttentionShape{"lanes", 500, 6, 6},
                                  AttentionShape{"long", 1, 1024, 0}, AttentionShape{"generate", 1, 1, 200}}) {
    const double pairs = static_cast<double>(s.sequences) * (static_cast<double>(s.queries * (s.queries + 1)) / 2 +
                                                             static_cast<double>(s.queries * s.segment_keys));
    const double flop = 4 * pairs * kWidth;  // of the keys that are seen
    const std::string shape = fmt::format("{}/{}x{}+{}", s.name, s.sequences, s.queries, s.segment_keys);
    bench.add("attention/" + shape, Bench::Unit::flop, flop, [&bench, s] {
      auto data = std::make_shared<AttentionData>(bench, s);
      return Bench::Work{[=, &bench] { data->forward(bench.context()); },
                         [=, &bench] { return data->error(bench.context()); }};
    });
    bench.add("attention_backward/" + shape, Bench::Unit::flop, 2.5 * flop, [&bench, s] {
      auto data = std::make_shared<AttentionData>(bench, s);
      return Bench::Work{[=, &bench] { data->backward(bench.context()); },
                         [=, &bench] { return data->error(bench.context()); }};
    });
  }
}

/// A row-wise op on [rows, cols] that touches `matrices` matrices of this size; checked for finite results.
void add_row_op(Bench& bench, const std::string& name, int64_t rows, int64_t cols, double matrices,
                const std::function<void(Context&, const Tensor& x, Tensor& y)>& op) {
  const double bytes = matrices * sizeof(float) * static_cast<double>(rows * cols);
  bench.add(fmt::format("{}/{}x{}", name, rows, cols), Bench::Unit::byte, bytes, [=, &bench] {
    auto x = std::make_shared<Tensor>(bench.random(rows, cols));
    auto y = std::make_shared<Tensor>(bench.random(rows, cols));
    return Bench::Work{
        [=, &bench] { op(bench.context(), *x, *y); },
        [=, &bench] { return std::isfinite(sum_of_squares(bench.context(), y->view())) ? 0.0 : INFINITY; }};
  });
}

void add_row_ops(Bench& bench) {
  auto gain = std::make_shared<Tensor>(bench.random(1, kWidth));
  auto statistics = std::make_shared<Tensor>(bench.random(1024, 2));
  auto gradients = std::make_shared<Tensor>(Tensor::zeros(bench.context(), 2, kWidth));
  add_row_op(bench, "layer_norm", 1024, kWidth, 2, [=](Context& context, const Tensor& x, Tensor& y) {
    layer_norm(context, x.view(), gain->view(), gain->view(), 1e-5f, y.view(), statistics->view());
  });
  add_row_op(bench, "layer_norm_backward", 1024, kWidth, 3, [=](Context& context, const Tensor& x, Tensor& y) {
    layer_norm_backward(context, x.view(), gain->view(), statistics->view(), x.view(), y.view(), Write::assign,
                        gradients->rows_slice(0, 1), gradients->rows_slice(1, 1));
  });
  add_row_op(bench, "gelu_new", 1024, 4 * kWidth, 2, [](Context& context, const Tensor& x, Tensor& y) {
    activation(context, Activation::gelu_new, x.view(), y.view());
  });
  add_row_op(bench, "gelu_new_backward", 1024, 4 * kWidth, 3, [](Context& context, const Tensor& x, Tensor& y) {
    activation_backward(context, Activation::gelu_new, x.view(), x.view(), y.view());
  });
  add_row_op(bench, "add", 1024, kWidth, 3,
             [](Context& context, const Tensor& x, Tensor& y) { sum(context, x.view(), x.view(), y.view()); });
  add_row_op(bench, "softmax", 132, kVocabulary, 2,
             [](Context& context, const Tensor& x, Tensor& y) { softmax(context, x.view(), y.view()); });
  add_row_op(bench, "add_column_sums", 1024, 4 * kWidth, 1, [](Context& context, const Tensor& x, Tensor& y) {
    add_column_sums(context, x.view(), y.rows_slice(0, 1));
  });
  auto first = std::make_shared<Tensor>(Tensor::zeros(bench.context(), kWidth, 4 * kWidth));
  auto second = std::make_shared<Tensor>(Tensor::zeros(bench.context(), kWidth, 4 * kWidth));
  add_row_op(bench, "adam_step", kWidth, 4 * kWidth, 7, [=](Context& context, const Tensor& x, Tensor& y) {
    adam_step(context, {}, 1, x.view(), 1, y.view(), first->view(), second->view());
  });
}

void add_second_moments(Bench& bench) {
  const int64_t n = 4 * kWidth;
  for (const int64_t rows : {132, 1024}) {
    // The arithmetic that a symmetric result needs: half of a product.
    const double flop = static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(n + 1);
    bench.add(fmt::format("symmetric_update/{}x{}", rows, n), Bench::Unit::flop, flop, [=, &bench] {
      auto x = std::make_shared<Tensor>(bench.random(rows, n));
      auto sum = std::make_shared<Tensor>(Tensor::zeros(bench.context(), n, n));
      return Bench::Work{[=, &bench] { symmetric_update(bench.context(), x->view(), sum->view()); },
                         [=] {
                           return product_error(Transpose::yes, x->view(), Transpose::no, x->view().cols_slice(0, 1),
                                                sum->view().cols_slice(0, 1), nullptr);
                         }};
    });
    bench.add(fmt::format("second_moment/{}x{}", rows, n), Bench::Unit::flop, flop, [=, &bench] {
      auto x = std::make_shared<Tensor>(bench.random(rows, n));
      auto moment = std::make_shared<SecondMoment>(bench.context(), n);
      return Bench::Work{[=, &bench] { moment->add(bench.context(), x->view()); },
                         [=, &bench] {
                           const double trace = sum_of_squares(bench.context(), x->view());
                           const std::vector<double> sum = moment->sum(bench.context());
                           double got = 0;
                           for (int64_t i = 0; i < n; ++i) got += sum[static_cast<size_t>(i * (n + 1))];
                           return std::abs(got / trace - 1) / (static_cast<double>(rows + 2) * 0x1p-24);
                         }};
    });
  }
  const double cubic = std::pow(static_cast<double>(n), 3) / 3;
  bench.add(fmt::format("cholesky_fp64/{}", n), Bench::Unit::flop, cubic, [=, &bench] {
    const Tensor x = bench.random(2 * n, n);
    SecondMoment moment(bench.context(), n);
    moment.add(bench.context(), x.view());
    auto matrix = std::make_shared<std::vector<double>>(moment.sum(bench.context()));
    auto factor = std::make_shared<std::unique_ptr<Cholesky>>();
    return Bench::Work{[=, &bench] { *factor = std::make_unique<Cholesky>(bench.context(), *matrix, n, "C"); },
                       [=] {
                         // C x = (C's first row) has the solution e_0.
                         std::vector<double> b(matrix->begin(), matrix->begin() + n);
                         (*factor)->solve(b);
                         return std::abs(b[0] - 1) / 1e-10;
                       }};
  });
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

int run(int argc, char** argv) {
  int threads = 0;
  for (int i = 1; i < argc; ++i)
    if (const std::string text = argv[i]; text.starts_with("--threads=")) {
      threads = std::stoi(text.substr(10));
      std::copy(argv + i + 1, argv + argc, argv + i);
      --argc;
    }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Bench bench(threads);
  benchmark::AddCustomContext("cpu", cpu_name());
  benchmark::AddCustomContext("commit", loci_git_commit());
  benchmark::AddCustomContext("threads", std::to_string(bench.context().threads().size()));
  benchmark::AddCustomContext("ceiling_GFLOP/s", fmt::format("{:.1f}", bench.flop_ceiling() / 1e9));
  benchmark::AddCustomContext("ceiling_GB/s", fmt::format("{:.1f}", bench.byte_ceiling() / 1e9));
  add_products(bench);
  add_attention(bench);
  add_row_ops(bench);
  add_second_moments(bench);
  const size_t ran = benchmark::RunSpecifiedBenchmarks();
  return ran == 0 || bench.failed() ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "kernels_bench: {}\n", error.what());
    return 1;
  }
}
