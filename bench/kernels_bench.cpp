// Rates of the ops at the shapes of GPT-2, each as a fraction of a ceiling measured in the same run:
//   products, attention, symmetric updates: GFLOP/s against a large square product of the same precision
//   (`of_ceiling`); row-wise ops: GB/s of what they must read and write against a large copy (`of_ceiling`).
// Each result is checked before it is timed. Exits non-zero where a check fails or a filter matches nothing.
//   kernels_bench [--device=cpu|cuda] [--precision=fp32|tf32|bf16] [--shape=small|xl|smoke] [--threads=N]
//                 [--benchmark_filter=REGEX] [--benchmark_out=FILE.json]
#include <benchmark/benchmark.h>

#include <cmath>
#include <fstream>
#include <map>
#include <numeric>

#include "bench/suite.h"
#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/cholesky.h"
#include "kernels/norm.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "kernels/symmetric_update.h"
#include "runtime/error.h"
#include "runtime/jobs/provenance.h"

namespace loci::bench {
namespace {

double gelu_new_of(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

struct ProductShape {
  const char* name;
  Transpose ta, tb;
  int64_t m, n, k;
};

std::vector<ProductShape> product_shapes(const Shapes& shapes) {
  const auto no = Transpose::no, yes = Transpose::yes;
  const int64_t d = shapes.width, inner = shapes.inner(), vocabulary = shapes.vocabulary;
  std::vector<ProductShape> made;
  for (const int64_t rows : shapes.rows) {
    made.push_back({"qkv", no, no, rows, 3 * d, d});
    made.push_back({"attn_out", no, no, rows, d, d});
    made.push_back({"mlp_in", no, no, rows, inner, d});
    made.push_back({"mlp_out", no, no, rows, d, inner});
    made.push_back({"mlp_out_dx", no, yes, rows, inner, d});
    made.push_back({"mlp_in_dx", no, yes, rows, d, inner});
    made.push_back({"qkv_dx", no, yes, rows, d, 3 * d});
    made.push_back({"mlp_in_dw", yes, no, d, inner, rows});
    if (rows <= 1024) made.push_back({"unembed", no, yes, rows, vocabulary, d});
  }
  for (const int64_t rows : {1, 2, 4, 8, 11}) {
    made.push_back({"mlp_in", no, no, rows, inner, d});
    made.push_back({"mlp_out", no, no, rows, d, inner});
    made.push_back({"unembed", no, yes, rows, vocabulary, d});
  }
  if (d >= 128) made.push_back({"small_width", no, no, 1024, 384, 96});
  return made;
}

// Weights do not change while a model is loaded, and the executor says so.
std::shared_ptr<ConstantOperands> constant(Suite& suite, const Tensor& weight) {
  const ConstView view = weight.view();
  return std::make_shared<ConstantOperands>(suite.context(), std::span(&view, 1));
}

Suite::Work make_product(Suite& suite, const ProductShape& s) {
  auto a = s.ta == Transpose::no ? suite.shared_random(s.m, s.k) : suite.shared_random(s.k, s.m);
  auto b = s.tb == Transpose::no ? suite.shared_random(s.k, s.n) : suite.shared_random(s.n, s.k);
  auto c = suite.shared_random(s.m, s.n);
  auto promise = s.ta == Transpose::no ? constant(suite, *b) : nullptr;  // else b is no weight
  return {[=, &suite, held = promise] { gemm(suite.context(), s.ta, a->view(), s.tb, b->view(), c->view()); },
          [=, &suite] { return product_error(suite.context(), s.ta, a->view(), s.tb, b->view(), c->view()); }};
}

Suite::Work make_linear(Suite& suite, int64_t rows, int64_t inputs, int64_t outputs) {
  auto x = suite.shared_random(rows, inputs), w = suite.shared_random(inputs, outputs);
  auto bias = suite.shared_random(1, outputs), y = suite.shared_random(rows, outputs);
  return {[=, &suite, held = constant(suite, *w)] {
            linear(suite.context(), x->view(), WeightView::in_out(w->view()), bias->view(), y->view());
          },
          [=, &suite] {
            return product_error(suite.context(), Transpose::no, x->view(), Transpose::no, w->view(), y->view(),
                                 bias->view());
          }};
}

// A Linear of a checkpoint in bf16, as it is stored.
Suite::Work make_linear_bf16(Suite& suite, int64_t rows, int64_t inputs, int64_t outputs) {
  auto x = suite.shared_random(rows, inputs), y = suite.shared_random(rows, outputs);
  std::vector<float> values = suite.shared_random(outputs, inputs)->to_host();
  std::vector<uint16_t> halves;
  for (float& value : values) {
    halves.push_back(to_bfloat(value).bits);
    value = to_float(to_bfloat(value));
  }
  auto w = std::make_shared<DeviceArray<uint16_t>>(suite.context(), std::span<const uint16_t>(halves));
  auto same = std::make_shared<Tensor>(Tensor::from_host(suite.context(), values, outputs, inputs));
  return {[=, &suite] {
            const StoredView stored(w->data(), StoredType::bf16, outputs, inputs, inputs);
            linear(suite.context(), x->view(), WeightView::out_in(stored), {}, y->view());
          },
          [=, &suite] {
            return product_error(suite.context(), Transpose::no, x->view(), Transpose::yes, same->view(), y->view());
          }};
}

// Of GELU, in relation to what is allowed.
double activation_error(Context& context, ConstView up, ConstView y) {
  const auto before = to_host(context, up), after = to_host(context, y);
  // The GPU's own tanh is good to 2^-11.
  const double allowed = context.precision() == Precision::fp32 ? 1e-5 : 0x1p-10;
  double worst = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const double value = static_cast<double>(before[i]);
    const double off = std::abs(static_cast<double>(after[i]) - gelu_new_of(value)) / (1 + std::abs(value));
    worst = off <= allowed ? std::max(worst, off / allowed) : INFINITY;
  }
  return worst;
}

// The MLP's first product with its bias and GELU, as lanes and bases run it.
Suite::Work make_linear_activation(Suite& suite, int64_t rows, int64_t inputs, int64_t outputs) {
  auto x = suite.shared_random(rows, inputs), w = suite.shared_random(inputs, outputs, 0.02f);
  auto bias = suite.shared_random(1, outputs), y = suite.shared_random(rows, outputs);
  return {[=, &suite, held = constant(suite, *w)] {
            linear_activation(suite.context(), x->view(), WeightView::in_out(w->view()), bias->view(),
                              Activation::gelu_new, {}, y->view());
          },
          [=, &suite] {  // its largest error is that of the sums, which the GELU hardly enlarges
            Context& context = suite.context();
            Tensor sums(context, rows, outputs);
            linear(context, x->view(), WeightView::in_out(w->view()), bias->view(), sums.view());
            const double product =
                product_error(context, Transpose::no, x->view(), Transpose::no, w->view(), sums.view(), bias->view());
            return std::max(product,
                            activation_error(context, sums.rows_slice(rows - 1, 1), y->rows_slice(rows - 1, 1)));
          }};
}

// The same where `up` is kept for the backward pass.
Suite::Work make_linear_activation_keeping(Suite& suite, int64_t rows, int64_t inputs, int64_t outputs) {
  auto x = suite.shared_random(rows, inputs), w = suite.shared_random(inputs, outputs, 0.02f);
  auto bias = suite.shared_random(1, outputs), y = suite.shared_random(rows, outputs);
  auto up = suite.shared_random(rows, outputs);
  return {[=, &suite, held = constant(suite, *w)] {
            linear_activation(suite.context(), x->view(), WeightView::in_out(w->view()), bias->view(),
                              Activation::gelu_new, up->view(), y->view());
          },
          [=, &suite] {
            const double product = product_error(suite.context(), Transpose::no, x->view(), Transpose::no, w->view(),
                                                 up->view(), bias->view());
            return std::max(product,
                            activation_error(suite.context(), up->rows_slice(rows - 1, 1), y->rows_slice(rows - 1, 1)));
          }};
}

}  // namespace

void add_products(Suite& suite) {
  const auto flop_of = [](int64_t m, int64_t n, int64_t k) {
    return gemm_flop(static_cast<double>(m), static_cast<double>(n), static_cast<double>(k));
  };
  for (const ProductShape& s : product_shapes(suite.shapes()))
    suite.add(fmt::format("gemm/{}/{}x{}x{}", s.name, s.m, s.n, s.k), Suite::Unit::flop, flop_of(s.m, s.n, s.k),
              [&suite, s] { return make_product(suite, s); });
  const int64_t d = suite.shapes().width, inner = suite.shapes().inner();
  for (const int64_t rows : suite.shapes().rows) {
    suite.add(fmt::format("linear/qkv/{}x{}x{}", rows, 3 * d, d), Suite::Unit::flop, flop_of(rows, 3 * d, d),
              [&suite, rows, d] { return make_linear(suite, rows, d, 3 * d); });
    suite.add(fmt::format("linear/mlp_out/{}x{}x{}", rows, d, inner), Suite::Unit::flop, flop_of(rows, d, inner),
              [&suite, rows, d, inner] { return make_linear(suite, rows, inner, d); });
    suite.add(fmt::format("linear_gelu/mlp_in/{}x{}x{}", rows, inner, d), Suite::Unit::flop, flop_of(rows, inner, d),
              [&suite, rows, d, inner] { return make_linear_activation(suite, rows, d, inner); });
    suite.add(fmt::format("linear_gelu/mlp_in_kept/{}x{}x{}", rows, inner, d), Suite::Unit::flop,
              flop_of(rows, inner, d),
              [&suite, rows, d, inner] { return make_linear_activation_keeping(suite, rows, d, inner); });
    suite.add(fmt::format("linear/mlp_in/{}x{}x{}", rows, inner, d), Suite::Unit::flop, flop_of(rows, inner, d),
              [&suite, rows, d, inner] { return make_linear(suite, rows, d, inner); });
    suite.add(fmt::format("linear_bf16/mlp_in/{}x{}x{}", rows, inner, d), Suite::Unit::flop, flop_of(rows, inner, d),
              [&suite, rows, d, inner] { return make_linear_bf16(suite, rows, d, inner); });
  }
}

namespace {

struct AttentionLoad {
  const char* name;
  int64_t sequences, queries, segment_keys;
  int64_t group = 1;  // query heads that share a key head
};

// What one attention call reads and writes. All sequences have the same form.
class AttentionData {
 public:
  AttentionData(Suite& suite, const AttentionLoad& s)
      : context_(suite.context()),
        load_(s),
        heads_(suite.shapes().heads),
        head_width_(suite.shapes().width / heads_),
        q_(suite.random(s.sequences * s.queries, suite.shapes().width)),
        k_(suite.random(q_.rows(), q_.cols() / s.group)),
        v_(suite.random(k_.rows(), k_.cols())),
        base_k_(suite.random(std::max<int64_t>(1, s.segment_keys), k_.cols())),
        base_v_(suite.random(std::max<int64_t>(1, s.segment_keys), k_.cols())),
        y_(suite.random(q_.rows(), q_.cols())),
        dy_(suite.random(q_.rows(), q_.cols())),
        dq_(suite.random(q_.rows(), q_.cols())),
        dk_(Tensor::zeros(suite.context(), k_.rows(), k_.cols())),
        dv_(Tensor::zeros(suite.context(), k_.rows(), k_.cols())),
        log_sums_(suite.context(), q_.rows(), heads_) {
    std::vector<AttentionSequence> sequences;
    for (int64_t i = 0; i < s.sequences; ++i)
      sequences.push_back({i * s.queries, s.queries, i * s.queries, s.queries, 1, 0, s.segment_keys ? 1 : 0});
    std::vector<AttentionSegment> segments;
    if (s.segment_keys) segments.push_back({base_k_.data(), base_v_.data(), k_.cols(), s.segment_keys});
    batch_.sequences = DeviceArray<AttentionSequence>(context_, std::span<const AttentionSequence>(sequences));
    batch_.segments = DeviceArray<AttentionSegment>(context_, std::span<const AttentionSegment>(segments));
    batch_.queries = q_.rows();
    batch_.max_queries = s.queries;
    batch_.max_keys = s.segment_keys + s.queries;
  }

  void forward() { attention(context_, batch_, shape(), inputs(), y_.view(), log_sums_.view()); }
  void backward() {
    attention_backward(context_, batch_, shape(), inputs(), y_.view(), log_sums_.view(), dy_.view(),
                       {dq_.view(), dk_.view(), dv_.view()});
  }

  // Sampled queries in fp64 over everything that they see.
  double forward_error() {
    double worst = 0;
    for (int64_t i = 0; i < 12; ++i)
      worst = std::max(worst, row_error((i * 7919 + batch_.queries - 1) % batch_.queries, i % heads_));
    return worst;
  }

  // Two identities of the exact gradients, over all sequences and per head: the weights of a query sum to 1, so
  // sum dv = sum dy where there are no segments; and sum q . dq = sum k . dk, since both are sums of s ds.
  double backward_error() {
    if (load_.segment_keys) return std::isfinite(sum_of_squares(context_, dq_.view())) ? 0 : INFINITY;
    const auto dv = dv_.to_host(), dy = dy_.to_host();
    double lost = 0, size = 0;
    for (const float value : dv) lost += static_cast<double>(value);
    for (const float value : dy) {
      lost -= static_cast<double>(value);
      size += std::abs(static_cast<double>(value));
    }
    const double by_queries = dot(q_, dq_), by_keys = dot(k_, dk_);
    const double norms = std::sqrt(sum_of_squares(context_, q_.view()) * sum_of_squares(context_, dq_.view()));
    const double error = std::max(std::abs(lost) / size, std::abs(by_queries - by_keys) / norms);
    return error / (8 * product_tolerance(context_.precision(), head_width_ + batch_.max_keys));
  }

 private:
  float scale() const { return 1 / std::sqrt(static_cast<float>(head_width_)); }
  AttentionShape shape() const { return {heads_, heads_ / load_.group, scale()}; }
  AttentionInputs inputs() const { return {q_.view(), k_.view(), v_.view()}; }

  double dot(const Tensor& a, const Tensor& b) {
    const auto x = a.to_host(), y = b.to_host();
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    return sum;
  }

  std::vector<float> head_of(const Tensor& x, int64_t first, int64_t rows, int64_t head) {
    return to_host(context_, x.rows_slice(first, rows).cols_slice(head * head_width_, head_width_));
  }

  double row_error(int64_t query, int64_t head) {
    const int64_t sequence = query / load_.queries, first = sequence * load_.queries, own = query - first + 1;
    const int64_t key_head = head / load_.group;
    auto keys = head_of(base_k_, 0, load_.segment_keys, key_head),
         values = head_of(base_v_, 0, load_.segment_keys, key_head);
    for (const float key : head_of(k_, first, own, key_head)) keys.push_back(key);
    for (const float value : head_of(v_, first, own, key_head)) values.push_back(value);
    const auto q = head_of(q_, query, 1, head), got = head_of(y_, query, 1, head);
    const size_t width = q.size(), count = keys.size() / width;
    std::vector<double> weights(count);
    double total = 0;
    for (size_t j = 0; j < count; ++j) {
      double score = 0;
      for (size_t i = 0; i < width; ++i) score += static_cast<double>(q[i]) * static_cast<double>(keys[j * width + i]);
      total += weights[j] = std::exp(static_cast<double>(scale()) * score);
    }
    // Errors of a score, of size about |q| |k| scale = width^0.5, come back as relative errors of a weight.
    const double allowed = 8 * std::sqrt(static_cast<double>(width)) *
                           product_tolerance(context_.precision(), static_cast<int64_t>(width + count));
    double worst = 0;
    for (size_t i = 0; i < width; ++i) {
      double want = 0, magnitude = 0;
      for (size_t j = 0; j < count; ++j) {
        const double term = weights[j] / total * static_cast<double>(values[j * width + i]);
        want += term;
        magnitude += std::abs(term);
      }
      const double error = std::abs(static_cast<double>(got[i]) - want) / (allowed * magnitude);
      worst = error <= 1 ? std::max(worst, error) : INFINITY;
    }
    return worst;
  }

  Context& context_;
  AttentionLoad load_;
  int64_t heads_, head_width_;
  Tensor q_, k_, v_, base_k_, base_v_, y_, dy_, dq_, dk_, dv_, log_sums_;
  AttentionBatch batch_;
};

std::vector<AttentionLoad> attention_loads(const Suite& suite) {
  if (suite.shapes().width < 128)
    return {{"prompts", 3, 5, 0}, {"lanes", 5, 2, 3}, {"long", 1, 40, 0}, {"grouped", 1, 40, 0, 4}};
  if (suite.shapes().width == 1600)
    return {{"prompts", 2000, 12, 0}, {"lanes", 4000, 1, 11},   {"lanes", 2000, 6, 6},     {"long", 8, 1024, 0},
            {"long", 1, 1024, 0},     {"generate", 32, 1, 200}, {"grouped", 8, 1024, 0, 5}};
  return {{"batch", 8, 128, 0}, {"prompts", 11, 12, 0},  {"lanes", 1000, 1, 11},    {"lanes", 500, 6, 6},
          {"long", 1, 1024, 0}, {"generate", 1, 1, 200}, {"grouped", 1, 1024, 0, 4}};
}

}  // namespace

// Rates count the keys that are seen. Short sequences are bound by memory on a GPU, so for them the bytes count:
// queries, keys, values and output, each once; backward also the output's gradient and the three gradients, two of them
// added to.
void add_attention(Suite& suite) {
  const double width = static_cast<double>(suite.shapes().width);
  for (const AttentionLoad& s : attention_loads(suite)) {
    const double rows = static_cast<double>(s.sequences * s.queries), queries = static_cast<double>(s.queries);
    const double pairs =
        static_cast<double>(s.sequences) * (queries * (queries + 1) / 2) + rows * static_cast<double>(s.segment_keys);
    const bool by_bytes = !suite.context().on_cpu() && s.queries + s.segment_keys < 128;
    const auto unit = by_bytes ? Suite::Unit::byte : Suite::Unit::flop;
    const double forward = by_bytes ? 4 * 4 * rows * width : 4 * pairs * width;
    const double backward = by_bytes ? 10 * 4 * rows * width : 10 * pairs * width;
    const std::string shape = fmt::format("{}/{}x{}+{}", s.name, s.sequences, s.queries, s.segment_keys);
    suite.add("attention/" + shape, unit, forward, [&suite, s] {
      auto data = std::make_shared<AttentionData>(suite, s);
      return Suite::Work{[=] { data->forward(); }, [=] { return data->forward_error(); }};
    });
    suite.add("attention_backward/" + shape, unit, backward, [&suite, s] {
      auto data = std::make_shared<AttentionData>(suite, s);
      data->forward();
      return Suite::Work{[=] { data->backward(); }, [=] { return data->backward_error(); }};
    });
  }
}

namespace {

using Row = std::vector<double>;

// What a row-wise op works on; rows of it on the host for the check.
struct RowData {
  Context& context;
  Tensor x, z, y, before;  // `before`: y before the first run
  Tensor statistics;       // of normalise

  static Row row(Context& context, const Tensor& tensor, int64_t r) {
    const auto values = to_host(context, tensor.rows_slice(r, 1));
    return Row(values.begin(), values.end());
  }
  Row x_row(int64_t r) const { return row(context, x, r); }
  Row z_row(int64_t r) const { return row(context, z, r); }
  Row before_row(int64_t r) const { return row(context, before, r); }
};

struct RowOp {
  std::string name;
  int64_t rows, cols;
  double matrices;  ///< matrices of this size that must be read or written
  std::function<void(Context&, RowData&)> run;
  std::function<Row(const RowData&, int64_t r)> expected;  ///< row r of y, in fp64
  double tolerance = 1e-5;                                 ///< in relation to the row's largest element
  int64_t inputs = 1;                                      ///< 2: z is there
  int64_t x_cols = 0;                                      ///< where x is wider than y
};

double row_op_error(const RowOp& op, const RowData& data) {
  double worst = 0;
  for (const int64_t r : {int64_t{0}, op.rows / 3, op.rows / 2, op.rows - 1}) {
    const Row want = op.expected(data, r), got = RowData::row(data.context, data.y, r);
    double largest = 0, error = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::abs(want[i]));
      const double off = std::abs(got[i] - want[i]);
      error = off <= error ? error : off;  // also NaN
    }
    const double relative = error / (op.tolerance * largest);
    worst = relative <= 1 ? std::max(worst, relative) : INFINITY;
  }
  return worst;
}

void add_row_op(Suite& suite, const RowOp& op) {
  const int64_t x_cols = op.x_cols ? op.x_cols : op.cols;
  const double bytes = sizeof(float) * static_cast<double>(op.rows) *
                       (op.matrices * static_cast<double>(op.cols) + static_cast<double>(op.x_cols));
  suite.add(fmt::format("{}/{}x{}", op.name, op.rows, op.cols), Suite::Unit::byte, bytes, [=, &suite] {
    Context& context = suite.context();
    auto data = std::make_shared<RowData>(
        RowData{context, suite.random(op.rows, x_cols), op.inputs > 1 ? suite.random(op.rows, op.cols) : Tensor(),
                suite.random(op.rows, op.cols), Tensor(context, op.rows, op.cols), Tensor()});
    context.copy_on_device(data->before.data(), data->y.data(), sizeof(float) * static_cast<size_t>(op.rows * op.cols));
    return Suite::Work{[=, &suite] { op.run(suite.context(), *data); }, [=] { return row_op_error(op, *data); }};
  });
}

Row each(const Row& a, const std::function<double(double)>& f) {
  Row made;
  for (const double value : a) made.push_back(f(value));
  return made;
}
Row each(const Row& a, const Row& b, const std::function<double(double, double)>& f) {
  Row made;
  for (size_t i = 0; i < a.size(); ++i) made.push_back(f(a[i], b[i]));
  return made;
}
double mean(const Row& a) { return std::accumulate(a.begin(), a.end(), 0.0) / static_cast<double>(a.size()); }

Row log_softmax_of(const Row& x) {
  double total = 0;
  for (const double value : x) total += std::exp(value);
  return each(x, [=](double value) { return value - std::log(total); });
}
double gelu_new_slope(double x) {
  const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

struct Normalised {
  Row hat;
  double rstd;
};
Normalised normalised(const Row& x) {
  const double center = mean(x);
  const Row centered = each(x, [=](double value) { return value - center; });
  const double rstd = 1 / std::sqrt(mean(each(centered, [](double value) { return value * value; })) + 1e-5);
  return {each(centered, [=](double value) { return value * rstd; }), rstd};
}

void add_layer_norms(Suite& suite, int64_t rows) {
  const int64_t d = suite.shapes().width;
  Context& context = suite.context();
  auto gain = suite.shared_random(1, d), bias = suite.shared_random(1, d);
  auto statistics = std::make_shared<Tensor>(Tensor::zeros(context, rows, 2));
  auto gradients = std::make_shared<Tensor>(Tensor::zeros(context, 2, d));
  const Row g = RowData::row(context, *gain, 0), b = RowData::row(context, *bias, 0);
  const auto forward = [=](Context& c, RowData& data) {
    normalise(c, Norm::layer, data.x.view(), gain->view(), bias->view(), 1e-5f, data.y.view(), statistics->view());
  };
  add_row_op(suite, {"layer_norm", rows, d, 2, forward, [=](const RowData& data, int64_t r) {
                       const Row scaled = each(normalised(data.x_row(r)).hat, g, std::multiplies<>());
                       return each(scaled, b, std::plus<>());
                     }});
  // The residual stream's sum and the norm after it; z is the stream.
  add_row_op(suite, {"add_layer_norm", rows, d, 4,
                     [=](Context& c, RowData& data) {
                       add_normalise(c, Norm::layer, data.x.view(), data.z.view(), gain->view(), bias->view(), 1e-5f,
                                     data.y.view(), statistics->view());
                     },
                     [=](const RowData& data, int64_t r) {
                       const Row scaled = each(normalised(data.z_row(r)).hat, g, std::multiplies<>());
                       return each(scaled, b, std::plus<>());
                     },
                     1e-5, 2});
  add_row_op(suite, {"layer_norm_backward", rows, d, 3,
                     [=](Context& c, RowData& data) {
                       if (data.statistics.empty()) {
                         data.statistics = Tensor(c, rows, 2);
                         normalise(c, Norm::layer, data.x.view(), gain->view(), bias->view(), 1e-5f, data.y.view(),
                                   data.statistics.view());
                       }
                       normalise_backward(c, Norm::layer, data.x.view(), gain->view(), data.statistics.view(),
                                          data.z.view(), data.y.view(), Write::assign, gradients->rows_slice(0, 1),
                                          gradients->rows_slice(1, 1));
                     },
                     [=](const RowData& data, int64_t r) {
                       const auto [hat, rstd] = normalised(data.x_row(r));
                       const Row dhat = each(data.z_row(r), g, std::multiplies<>());
                       const double m1 = mean(dhat), m2 = mean(each(dhat, hat, std::multiplies<>()));
                       return each(dhat, hat,
                                   [=, scale = rstd](double dh, double h) { return scale * (dh - m1 - h * m2); });
                     },
                     1e-5, 2});
}

void add_elementwise(Suite& suite, int64_t rows) {
  const int64_t d = suite.shapes().width, inner = suite.shapes().inner();
  add_row_op(suite,
             {"gelu_new", rows, inner, 2,
              [](Context& c, RowData& data) { activation(c, Activation::gelu_new, data.x.view(), data.y.view()); },
              [](const RowData& data, int64_t r) { return each(data.x_row(r), gelu_new_of); }});
  add_row_op(suite, {"gelu_new_backward", rows, inner, 3,
                     [](Context& c, RowData& data) {
                       activation_backward(c, Activation::gelu_new, data.x.view(), data.z.view(), data.y.view());
                     },
                     [](const RowData& data, int64_t r) {
                       return each(each(data.x_row(r), gelu_new_slope), data.z_row(r), std::multiplies<>());
                     },
                     1e-5, 2});
  add_row_op(suite,
             {"add", rows, d, 3, [](Context& c, RowData& data) { add(c, data.x.view(), data.y.view()); },
              [](const RowData& data, int64_t r) { return each(data.x_row(r), data.before_row(r), std::plus<>()); }});
  add_row_op(
      suite,
      {"sum", rows, d, 3, [](Context& c, RowData& data) { sum(c, data.x.view(), data.z.view(), data.y.view()); },
       [](const RowData& data, int64_t r) { return each(data.x_row(r), data.z_row(r), std::plus<>()); }, 1e-6, 2});
  auto first = std::make_shared<Tensor>(Tensor::zeros(suite.context(), rows, inner));
  auto second = std::make_shared<Tensor>(Tensor::zeros(suite.context(), rows, inner));
  add_row_op(suite, {"adam_step", rows, inner, 7,
                     [=](Context& c, RowData& data) {
                       adam_step(c, {}, 1, data.x.view(), 1, data.y.view(), first->view(), second->view());
                     },
                     [](const RowData& data, int64_t r) {  // the first step: the moments cancel
                       return each(data.x_row(r), data.before_row(r),
                                   [](double g, double y) { return y - 1e-3 * g / (std::abs(g) + 1e-8); });
                     }});
}

void add_row_movers(Suite& suite, int64_t rows) {
  const int64_t d = suite.shapes().width, inner = suite.shapes().inner();
  Context& context = suite.context();
  std::vector<int64_t> order;
  for (int64_t r = 0; r < rows; ++r) order.push_back((r * 7919 + 3) % rows);
  auto index = std::make_shared<DeviceArray<int64_t>>(context, std::span<const int64_t>(order));
  add_row_op(suite, {"gather_rows", rows, d, 2,
                     [=](Context& c, RowData& data) { gather_rows(c, data.x.view(), *index, data.y.view()); },
                     [=](const RowData& data, int64_t r) { return data.x_row(order[r]); }});
  // Bias gradients: one read of x; y's first row is added to.
  add_row_op(suite, {"add_column_sums", rows, inner, 1,
                     [](Context& c, RowData& data) { add_column_sums(c, data.x.view(), data.y.rows_slice(0, 1)); },
                     [](const RowData& data, int64_t r) {
                       Row total = data.before_row(r);
                       if (r > 0) return total;
                       const auto x = data.x.to_host();
                       for (size_t i = 0; i < x.size(); ++i) total[i % total.size()] += static_cast<double>(x[i]);
                       return total;
                     }});
  // 32 edits, each for its part of the rows.
  const int64_t edits = std::min<int64_t>(32, rows);
  auto u = suite.shared_random(edits, inner, 0.02f), v = suite.shared_random(edits, d);
  std::vector<LowRankRows> terms;
  for (int64_t e = 0; e < edits; ++e)
    terms.push_back(
        {e * (rows / edits), e + 1 == edits ? rows - e * (rows / edits) : rows / edits, u->row(e), v->row(e)});
  auto device_terms = std::make_shared<DeviceArray<LowRankRows>>(context, std::span<const LowRankRows>(terms));
  add_row_op(suite, {"add_low_rank", rows, d, 2,
                     [=, held = std::pair(u, v)](Context& c, RowData& data) {
                       add_low_rank(c, data.x.view(), *device_terms, data.y.view());
                     },
                     [=](const RowData& data, int64_t r) {
                       const int64_t e = std::min(edits - 1, r / (rows / edits));
                       const Row key = data.x_row(r), own_u = RowData::row(data.context, *u, e);
                       const double factor = std::inner_product(key.begin(), key.end(), own_u.begin(), 0.0);
                       return each(data.before_row(r), RowData::row(data.context, *v, e),
                                   [=](double y, double value) { return y + factor * value; });
                     },
                     1e-5, 1, inner});
}

void add_vocabulary_ops(Suite& suite, int64_t rows) {
  const int64_t n = suite.shapes().vocabulary;
  Context& context = suite.context();
  add_row_op(suite, {"softmax", rows, n, 2, [](Context& c, RowData& data) { softmax(c, data.x.view(), data.y.view()); },
                     [](const RowData& data, int64_t r) {
                       return each(log_softmax_of(data.x_row(r)), [](double value) { return std::exp(value); });
                     }});
  add_row_op(suite, {"log_softmax", rows, n, 2,
                     [](Context& c, RowData& data) { log_softmax(c, data.x.view(), data.y.view()); },
                     [](const RowData& data, int64_t r) { return log_softmax_of(data.x_row(r)); }});
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r) targets.push_back(static_cast<int32_t>((r * 104729) % n));
  auto wanted = std::make_shared<DeviceArray<int32_t>>(context, std::span<const int32_t>(targets));
  const std::vector<float> ones(static_cast<size_t>(rows), 1.0f);
  auto weights = std::make_shared<DeviceArray<float>>(context, std::span<const float>(ones));
  auto losses = std::make_shared<Tensor>(context, rows, 1);
  add_row_op(suite, {"cross_entropy", rows, n, 2,
                     [=](Context& c, RowData& data) {
                       cross_entropy(c, data.x.view(), *wanted, *weights, losses->view(), data.y.view(), Write::assign);
                     },
                     [=](const RowData& data, int64_t r) {
                       Row made = each(log_softmax_of(data.x_row(r)), [](double value) { return std::exp(value); });
                       made[targets[r]] -= 1;
                       return made;
                     }});
  // ROME's essence term; the reference's log-probabilities are those of other logits.
  add_row_op(suite, {"kl_divergence", rows, n, 3,
                     [=](Context& c, RowData& data) {
                       kl_divergence(c, data.x.view(), data.z.view(), *weights, losses->view(), data.y.view(),
                                     Write::assign);
                     },
                     [=](const RowData& data, int64_t r) {
                       const Row log_p = log_softmax_of(data.x_row(r));
                       const Row excess = each(log_p, data.z_row(r), std::minus<>());
                       double total = 0;
                       for (size_t i = 0; i < log_p.size(); ++i) total += std::exp(log_p[i]) * excess[i];
                       return each(log_p, excess, [=](double p, double e) { return std::exp(p) * (e - total); });
                     },
                     1e-4, 2});
}

}  // namespace

void add_row_ops(Suite& suite) {
  for (const int64_t rows : suite.shapes().rows) {
    add_layer_norms(suite, rows);
    add_elementwise(suite, rows);
    add_row_movers(suite, rows);
    if (rows <= 1024) add_vocabulary_ops(suite, rows);
  }
}

namespace {

Suite::Work make_second_moment(Suite& suite, int64_t rows) {
  auto x = suite.shared_random(rows, suite.shapes().inner());
  auto moment = std::make_shared<SecondMoment>(x->cols());
  return {[=, &suite] { moment->add(suite.context(), x->view()); },
          [=, &suite] {
            const double trace = sum_of_squares(suite.context(), x->view());
            const std::vector<double> sum = moment->sum(suite.context());
            double got = 0;
            for (int64_t i = 0; i < x->cols(); ++i) got += sum[i * (x->cols() + 1)];
            return std::abs(got / trace - 1) / product_tolerance(suite.context().precision(), rows);
          }};
}

Suite::Work make_cholesky(Suite& suite) {
  const int64_t n = suite.shapes().inner();
  SecondMoment moment(n);
  moment.add(suite.context(), suite.random(2 * n, n).view());
  auto matrix = std::make_shared<std::vector<double>>(moment.sum(suite.context()));
  for (int64_t i = 0; i < n; ++i) (*matrix)[i * (n + 1)] += static_cast<double>(n);  // far from singular
  auto factor = std::make_shared<std::unique_ptr<Cholesky>>();
  return {[=, &suite] { *factor = std::make_unique<Cholesky>(suite.context(), *matrix, n, "C"); },
          [=] {
            // C x = (C's first row) has the solution e_0.
            std::vector<double> b(matrix->begin(), matrix->begin() + n);
            (*factor)->solve(b);
            return std::abs(b[0] - 1) / 1e-9;
          }};
}

}  // namespace

void add_second_moments(Suite& suite) {
  const int64_t n = suite.shapes().inner();
  for (const int64_t rows : suite.shapes().rows) {
    // The arithmetic that a symmetric result needs: half of a product.
    const double flop = static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(n + 1);
    suite.add(fmt::format("symmetric_update/{}x{}", rows, n), Suite::Unit::flop, flop, [=, &suite] {
      auto x = suite.shared_random(rows, n);
      auto sum = std::make_shared<Tensor>(Tensor::zeros(suite.context(), n, n));
      return Suite::Work{[=, &suite] { symmetric_update(suite.context(), x->view(), sum->view()); },
                         [=, &suite] {
                           return product_error(suite.context(), Transpose::yes, x->view(), Transpose::no,
                                                x->view().cols_slice(0, 1), sum->view().cols_slice(0, 1));
                         }};
    });
    suite.add(fmt::format("second_moment/{}x{}", rows, n), Suite::Unit::flop, flop,
              [=, &suite] { return make_second_moment(suite, rows); });
  }
  // The matrix comes from the host; its transfer is part of the time. The rate is fp64, the ceiling is not.
  suite.add(fmt::format("cholesky_fp64/{}", n), Suite::Unit::flop, std::pow(static_cast<double>(n), 3) / 3,
            [&suite] { return make_cholesky(suite); });
}

namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

struct Arguments {
  ContextOptions context;
  std::string shape;
};

/// Takes the flags that are not Google Benchmark's off the command line.
Arguments take_arguments(int& argc, char** argv) {
  std::map<std::string, std::string> given{{"device", "cpu"}, {"precision", "fp32"}, {"shape", ""}, {"threads", "0"}};
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t end = text.find('=');
    const std::string key = text.starts_with("--") && end != text.npos ? text.substr(2, end - 2) : "";
    if (given.contains(key))
      given[key] = text.substr(end + 1);
    else
      argv[kept++] = argv[i];
  }
  argc = kept;
  Arguments made;
  made.context.device = Device::parse(given["device"]);
  made.context.precision = parse_precision(given["precision"]);
  made.context.threads = std::stoi(given["threads"]);
  made.shape = !given["shape"].empty() ? given["shape"] : made.context.device.type == DeviceType::cpu ? "small" : "xl";
  return made;
}

Shapes shapes_of(const std::string& name, DeviceType device) {
  Shapes shapes;
  if (name == "smoke")
    shapes = {
        .width = 64, .heads = 4, .vocabulary = 211, .rows = {5, 24}, .ceiling_product = 64, .ceiling_copy = 1 << 16};
  else if (name == "xl")
    shapes = {.width = 1600, .heads = 25, .vocabulary = 50257, .rows = {64, 1024, 8192}};
  else
    require<InputError>(name == "small", "--shape={} is unknown; use small, xl or smoke", name);
  if (device != DeviceType::cpu && name != "smoke") {
    shapes.ceiling_product = 8192;
    shapes.ceiling_copy = int64_t{2} << 30;
  }
  return shapes;
}

int run(int argc, char** argv) {
  const Arguments arguments = take_arguments(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const bool smoke = arguments.shape == "smoke";
  const Effort effort = smoke ? Effort{.batch_seconds = 0, .total_seconds = 0, .fewest = 1, .most = 1} : Effort{};
  Suite suite(arguments.context, shapes_of(arguments.shape, arguments.context.device.type), effort);
  benchmark::AddCustomContext("cpu", cpu_name());
  benchmark::AddCustomContext("commit", loci_git_commit());
  benchmark::AddCustomContext("device", suite.context().device_product());
  benchmark::AddCustomContext("precision", precision_name(suite.context().precision()));
  benchmark::AddCustomContext("shape", arguments.shape);
  benchmark::AddCustomContext("threads", std::to_string(suite.context().threads().size()));
  benchmark::AddCustomContext("ceiling_GFLOP/s", fmt::format("{:.1f}", suite.flop_ceiling() / 1e9));
  benchmark::AddCustomContext("ceiling_GB/s", fmt::format("{:.1f}", suite.byte_ceiling() / 1e9));
  add_products(suite);
  add_attention(suite);
  add_row_ops(suite);
  add_second_moments(suite);
  const size_t ran = benchmark::RunSpecifiedBenchmarks();
  return ran == 0 || suite.failed() ? 1 : 0;
}

}  // namespace
}  // namespace loci::bench

int main(int argc, char** argv) {
  try {
    return loci::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "kernels_bench: {}\n", error.what());
    return 1;
  }
}
