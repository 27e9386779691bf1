#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

struct Spec {
  int64_t queries;
  int64_t keys;
  int64_t visible_0;
  std::vector<int64_t> segments;  // keys of each
};

struct Sizes {
  std::vector<Spec> specs;
  int64_t heads;
  int64_t width;
  int64_t group = 1;  // query heads that share a key head
};

/// [rows, key_heads * width] with each key head written `group` times.
Values repeated_heads(const Values& values, int64_t width, int64_t group) {
  Values repeated;
  for (auto head = values.begin(); head != values.end(); head += width)
    for (int64_t i = 0; i < group; ++i) repeated.insert(repeated.end(), head, head + width);
  return repeated;
}

/// A ragged batch with random inputs, and the fp64 attention over it.
class Case {
 public:
  Case(Context& context, const Sizes& sizes, float scale, unsigned seed = 1)
      : heads_(sizes.heads), group_(sizes.group), width_(sizes.width), scale_(scale) {
    std::mt19937 random(seed);
    int64_t queries = 0;
    for (const Spec& spec : sizes.specs) {
      int64_t total = spec.keys;
      const auto first_segment = std::ssize(segments_);
      for (const int64_t count : spec.segments) {
        const Values& keys = segment_keys_.emplace_back(normal_values(random, count * key_d()));
        const Values& values = segment_values_.emplace_back(normal_values(random, count * key_d()));
        const float* keys_there = storage_.emplace_back(context, std::span<const float>(keys)).data();
        const float* values_there = storage_.emplace_back(context, std::span<const float>(values)).data();
        segments_.push_back({keys_there, values_there, key_d(), count});
        total += count;
      }
      sequences_.push_back(
          {queries, spec.queries, key_rows_, spec.keys, spec.visible_0, first_segment, std::ssize(spec.segments)});
      queries += spec.queries;
      key_rows_ += spec.keys;
      batch_.max_keys = std::max(batch_.max_keys, total);
      batch_.max_queries = std::max(batch_.max_queries, spec.queries);
    }
    batch_.queries = queries;
    batch_.sequences = DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences_));
    batch_.segments = DeviceArray<AttentionSegment>(context, std::span<const AttentionSegment>(segments_));
    q = normal_values(random, queries * d());
    k = normal_values(random, key_rows_ * key_d());
    v = normal_values(random, key_rows_ * key_d());
  }

  /// The same attention with a key head of its own for each query head.
  Case(Context& context, const Case& grouped, const Sizes& sizes) : Case(context, sizes, grouped.scale_) {
    const auto repeated = [&](const Values& values) { return repeated_heads(values, width_, grouped.group_); };
    q = grouped.q;
    k = repeated(grouped.k);
    v = repeated(grouped.v);
    for (size_t i = 0; i < segments_.size(); ++i) {
      segment_keys_[i] = repeated(grouped.segment_keys_[i]);
      segment_values_[i] = repeated(grouped.segment_values_[i]);
      const auto put = [&](const Values& values, const DeviceArray<float>& there) {
        context.copy_to_device(there.data(), values.data(), sizeof(float) * values.size());
      };
      put(segment_keys_[i], storage_[2 * i]);
      put(segment_values_[i], storage_[2 * i + 1]);
    }
  }

  int64_t d() const { return heads_ * width_; }
  int64_t key_d() const { return d() / group_; }
  int64_t queries() const { return batch_.queries; }
  int64_t key_rows() const { return key_rows_; }
  const AttentionBatch& batch() const { return batch_; }
  int64_t heads() const { return heads_; }
  AttentionShape shape() const { return {heads_, heads_ / group_, scale_}; }

  Values q, k, v;

  struct Quantities {
    Doubles output;
    Doubles log_sums;
    Doubles dq, dk, dv;
  };
  struct Result : Quantities {
    Quantities errors;  ///< bounds of what inputs of products that are rounded by 1 relative do, to first order
  };

  /// Forward, and backward where `dy` is given.
  Result reference(const Values& dy = {}) const {
    const Quantities zeros{Doubles(q.size()), Doubles(static_cast<size_t>(queries() * heads_)), Doubles(q.size()),
                           Doubles(k.size()), Doubles(k.size())};
    Result result{zeros, zeros};
    for (const AttentionSequence& s : sequences_)
      for (int64_t i = 0; i < s.queries; ++i)
        for (int64_t h = 0; h < heads_; ++h) one_query(s, i, h, dy, result);
    return result;
  }

 private:
  struct Seen {
    const float* key;
    const float* value;
    int64_t own_row;  // -1 in a segment
  };

  void one_query(const AttentionSequence& s, int64_t i, int64_t h, const Values& dy, Result& result) const {
    const int64_t row = s.first_query + i, key_column = h / group_ * width_;
    std::vector<Seen> seen;
    for (int64_t e = s.first_segment; e < s.first_segment + s.segments; ++e)
      for (int64_t j = 0; j < segments_[e].count; ++j)
        seen.push_back({segment_keys_[e].data() + j * key_d() + key_column,
                        segment_values_[e].data() + j * key_d() + key_column, -1});
    for (int64_t j = s.first_key; j < s.first_key + s.visible_0 + i; ++j)
      seen.push_back({k.data() + j * key_d() + key_column, v.data() + j * key_d() + key_column, j});
    const float* query = q.data() + row * d() + h * width_;
    Doubles p, p_error;  // of the scores at first
    for (const Seen& one : seen) {
      double score = 0, magnitude = 0;
      for (int64_t c = 0; c < width_; ++c) {
        score += product(query[c], one.key[c]);
        magnitude += std::abs(product(query[c], one.key[c]));
      }
      p.push_back(score * static_cast<double>(scale_));
      p_error.push_back(2 * magnitude * static_cast<double>(scale_));
    }
    const double maximum = *std::max_element(p.begin(), p.end());
    double sum = 0, log_sum_error = 0;
    for (double& value : p) sum += value = std::exp(value - maximum);
    for (double& value : p) value /= sum;
    for (size_t j = 0; j < p.size(); ++j) log_sum_error += p[j] * p_error[j];
    for (size_t j = 0; j < p.size(); ++j) p_error[j] = p[j] * (p_error[j] + log_sum_error);
    result.log_sums[row * heads_ + h] = maximum + std::log(sum);
    result.errors.log_sums[row * heads_ + h] = log_sum_error;
    for (size_t j = 0; j < seen.size(); ++j)
      for (int64_t c = 0; c < width_; ++c) {
        const auto at = static_cast<size_t>(row * d() + h * width_ + c);
        result.output[at] += p[j] * static_cast<double>(seen[j].value[c]);
        result.errors.output[at] += (p_error[j] + 2 * p[j]) * std::abs(static_cast<double>(seen[j].value[c]));
      }
    if (!dy.empty()) one_query_backward(seen, {p, p_error}, row * d() + h * width_, h, dy, result);
  }

  struct Weights {
    const Doubles& p;
    const Doubles& error;
  };

  void one_query_backward(const std::vector<Seen>& seen, const Weights& weights, int64_t at, int64_t h,
                          const Values& dy, Result& result) const {
    const Doubles& p = weights.p;
    const double scale = static_cast<double>(scale_);
    Doubles dp(p.size()), dp_error(p.size());
    double mean = 0, mean_error = 0;  // of dp; computed as dy times the output
    for (size_t j = 0; j < p.size(); ++j) {
      for (int64_t c = 0; c < width_; ++c) {
        dp[j] += product(dy[at + c], seen[j].value[c]);
        dp_error[j] += 2 * std::abs(product(dy[at + c], seen[j].value[c]));
      }
      mean += p[j] * dp[j];
    }
    for (int64_t c = 0; c < width_; ++c)
      mean_error += std::abs(static_cast<double>(dy[at + c])) * result.errors.output[at + c];
    for (size_t j = 0; j < p.size(); ++j) {
      const double ds = p[j] * (dp[j] - mean) * scale;
      const double ds_error =
          (weights.error[j] * std::abs(dp[j] - mean) + p[j] * (dp_error[j] + mean_error)) * scale + 2 * std::abs(ds);
      for (int64_t c = 0; c < width_; ++c) {
        const auto here = static_cast<size_t>(at + c);
        const double query = static_cast<double>(q[here]), key = static_cast<double>(seen[j].key[c]),
                     gradient = static_cast<double>(dy[here]);
        result.dq[here] += ds * key;
        result.errors.dq[here] += ds_error * std::abs(key);
        if (seen[j].own_row < 0) continue;
        const auto own = static_cast<size_t>(seen[j].own_row * key_d() + h / group_ * width_ + c);
        result.dk[own] += ds * query;
        result.errors.dk[own] += ds_error * std::abs(query);
        result.dv[own] += p[j] * gradient;
        result.errors.dv[own] += (weights.error[j] + 2 * p[j]) * std::abs(gradient);
      }
    }
  }

  static double product(float a, float b) { return static_cast<double>(a) * static_cast<double>(b); }

  int64_t heads_, group_, width_;
  float scale_;
  int64_t key_rows_ = 0;
  std::vector<Values> segment_keys_, segment_values_;
  std::vector<DeviceArray<float>> storage_;  // the same on the device
  std::vector<AttentionSequence> sequences_;
  std::vector<AttentionSegment> segments_;
  AttentionBatch batch_;
};

std::vector<Sizes> sizes_without_groups() {
  return {
      {{{1, 1, 1, {}}}, 1, 1},
      {{{2, 2, 1, {}}}, 1, 2},
      {{{5, 5, 1, {}}, {0, 0, 1, {}}, {3, 3, 1, {}}}, 3, 7},
      {{{12, 12, 1, {}}, {12, 12, 1, {}}, {1, 12, 12, {}}, {4, 12, 9, {}}}, 12, 64},
      {{{31, 31, 1, {}}, {32, 32, 1, {}}, {33, 33, 1, {}}}, 2, 16},
      {{{129, 129, 1, {}}}, 3, 24},
      {{{1, 1, 1, {5}}, {2, 2, 1, {3, 1, 7}}, {3, 0 + 2, 0, {4}}, {1, 0, 0, {9}}}, 2, 20},
      {{{70, 100, 31, {33, 0, 64}}}, 2, 33},
      {{}, 2, 4},
      {{{40, 40, 1, {}}, {3, 9, 4, {}}, {26, 60, 30, {7}}}, 2, 96},
      {{{33, 33, 1, {}}}, 1, 128},
      {{{70, 70, 1, {3}}, {5, 5, 1, {}}}, 1, 256},
      {{{30, 30, 1, {}}, {2, 3, 2, {1}}}, 1, 260},
      {{{130, 160, 31, {40}}}, 2, 64},
      {{{1, 200, 200, {}}, {1, 3, 3, {}}, {0, 2, 1, {}}, {1, 70, 66, {100, 9}}}, 3, 64},
      {{{1, 1, 1, {150}}, {1, 128, 128, {}}}, 2, 7},
      {{{1, 131, 130, {}}}, 2, 140},
  };
}

// Few queries, short and long sequences, lone queries with many keys, and each width that has kernels of its own.
std::vector<Sizes> grouped_sizes() {
  return {
      {{{1, 1, 1, {5}}, {2, 2, 1, {3, 1, 7}}, {3, 2, 0, {4}}, {5, 5, 1, {}}, {0, 0, 1, {}}}, 4, 7, 2},
      {{{12, 12, 1, {}}, {1, 12, 12, {}}, {4, 12, 9, {3}}}, 8, 64, 4},
      {{{70, 100, 31, {33, 0, 64}}, {3, 9, 4, {}}}, 4, 33, 4},
      {{{130, 160, 31, {40}}}, 4, 64, 2},
      {{{40, 40, 1, {}}, {26, 60, 30, {7}}}, 4, 96, 2},
      {{{33, 33, 1, {}}}, 4, 128, 4},
      {{{27, 27, 1, {2}}}, 2, 256, 2},
      {{{30, 30, 1, {}}, {2, 3, 2, {1}}}, 2, 260, 2},
      {{{1, 200, 200, {}}, {1, 3, 3, {}}, {0, 2, 1, {}}, {1, 70, 66, {100, 9}}}, 6, 64, 3},
      {{{1, 1, 1, {150}}, {1, 128, 128, {}}}, 4, 7, 4},
  };
}

std::vector<Sizes> all_sizes() {
  std::vector<Sizes> sizes = sizes_without_groups();
  std::ranges::copy(grouped_sizes(), std::back_inserter(sizes));
  return sizes;
}

// Scores are sums of `width` products of standard normal values, |score| <= 40 here; fp32 rounding of the scaled score
// and of its exponential moves a probability by that many roundings, and the output is a mean of values below 6.
double tolerance(int64_t width) { return kEps * static_cast<double>(width + 64) * 6; }

// Rounded inputs of products add what Case::Result::errors holds of them, and a quarter for terms of higher order.
::testing::AssertionResult close_to(const Values& actual, const Doubles& expected, double allowed,
                                    const Doubles& errors) {
  const Precision precision = device_options().precision;
  const double eps = precision == Precision::fp32 ? 0 : 1.25 * product_eps(precision);
  return near_by(std::span<const float>(actual), std::span<const double>(expected),
                 [&](size_t i) { return allowed + eps * errors[i]; });
}

/// A case's inputs, results and gradients in device memory, off the alignment and with gaps between their rows.
struct Buffers {
  Buffers(Context& context, const Case& c, const Values& dy_values = {})
      : q(context, c.queries(), c.d(), c.q),
        k(context, c.key_rows(), c.key_d(), c.k),
        v(context, c.key_rows(), c.key_d(), c.v),
        y(context, c.queries(), c.d()),
        log_sums(context, c.queries(), c.heads()),
        dy(context, c.queries(), c.d(), dy_values.empty() ? c.q : dy_values),
        dq(context, c.queries(), c.d()),
        dk(context, c.key_rows(), c.key_d(), Values(c.k.size(), 0.5f)),
        dv(context, c.key_rows(), c.key_d(), Values(c.k.size(), 0.5f)) {}

  AttentionInputs inputs() { return {q.read(), k.read(), v.read()}; }
  AttentionGradients gradients() { return {dq.view(), dk.view(), dv.view()}; }
  void forward(Context& context, const Case& c) {
    attention(context, c.batch(), c.shape(), inputs(), y.view(), log_sums.view());
  }
  void backward(Context& context, const Case& c) {
    attention_backward(context, c.batch(), c.shape(), inputs(), y.read(), log_sums.read(), dy.read(), gradients());
  }

  Padded q, k, v, y, log_sums, dy, dq, dk, dv;
};

float usual_scale(const Sizes& sizes) { return 1 / std::sqrt(static_cast<float>(sizes.width)); }

class Attention : public ::testing::TestWithParam<size_t> {};

TEST_P(Attention, AgreesWithTheSumInDouble) {
  const Sizes sizes = all_sizes()[GetParam()];
  Context context(device_options());
  const Case c(context, sizes, usual_scale(sizes));
  Buffers b(context, c);
  b.forward(context, c);
  const Case::Result expected = c.reference();
  EXPECT_TRUE(close_to(b.y.values(), expected.output, tolerance(sizes.width), expected.errors.output));
  EXPECT_TRUE(close_to(b.log_sums.values(), expected.log_sums, tolerance(sizes.width), expected.errors.log_sums));
  EXPECT_TRUE(b.y.guarded() && b.log_sums.guarded());
  Padded plain(context, c.queries(), c.d());
  attention(context, c.batch(), c.shape(), b.inputs(), plain.view(), View());
  EXPECT_TRUE(identical(plain.values(), b.y.values()));
}

TEST_P(Attention, DoesNotDependOnThreads) {
  const Sizes sizes = all_sizes()[GetParam()];
  std::vector<std::vector<Values>> results;
  for (const int threads : {1, 2, 3}) {
    Context context(device_options(threads));
    const Case c(context, sizes, 0.25f);
    Buffers b(context, c);
    b.forward(context, c);
    results.push_back({b.y.values()});
    if (!context.on_cpu()) continue;
    b.backward(context, c);
    for (Padded* const gradient : {&b.dq, &b.dk, &b.dv}) results.back().push_back(gradient->values());
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(identical(results[1][i], results[0][i])) << i;
    EXPECT_TRUE(identical(results[2][i], results[0][i])) << i;
  }
}

TEST_P(Attention, BackwardAgreesWithTheDerivativeInDouble) {
  const Sizes sizes = all_sizes()[GetParam()];
  Context context(device_options());
  const Case c(context, sizes, usual_scale(sizes));
  std::mt19937 random(7);
  const Values dy_values = normal_values(random, c.queries() * c.d());
  Buffers b(context, c, dy_values);
  b.forward(context, c);
  b.backward(context, c);
  Case::Result expected = c.reference(dy_values);
  for (double& value : expected.dk) value += 0.5;
  for (double& value : expected.dv) value += 0.5;
  // dP is a sum of `width` products; each gradient a sum over the keys or queries, weighted by P <= 1 in all.
  const double allowed = 8 * tolerance(sizes.width) * std::sqrt(static_cast<double>(sizes.width));
  const double shared = allowed * static_cast<double>(sizes.group);
  EXPECT_TRUE(close_to(b.dq.values(), expected.dq, allowed, expected.errors.dq));
  EXPECT_TRUE(close_to(b.dk.values(), expected.dk, shared, expected.errors.dk));
  EXPECT_TRUE(close_to(b.dv.values(), expected.dv, shared, expected.errors.dv));
  EXPECT_TRUE(b.dq.guarded() && b.dk.guarded() && b.dv.guarded());
}

// As above, with rows that are close together and, where the width is a multiple of 4, 16-byte aligned.
TEST_P(Attention, AgreesOnAlignedRows) {
  const Sizes sizes = all_sizes()[GetParam()];
  Context context(device_options());
  const Case c(context, sizes, usual_scale(sizes));
  std::mt19937 random(7);
  const Values dy_values = normal_values(random, c.queries() * c.d());
  const Tensor q = Tensor::from_host(context, c.q, c.queries(), c.d()),
               k = Tensor::from_host(context, c.k, c.key_rows(), c.key_d()),
               v = Tensor::from_host(context, c.v, c.key_rows(), c.key_d()),
               dy = Tensor::from_host(context, dy_values, c.queries(), c.d());
  Tensor y(context, c.queries(), c.d()), log_sums(context, c.queries(), c.heads()), dq(context, c.queries(), c.d());
  Tensor dk = Tensor::zeros(context, c.key_rows(), c.key_d()), dv = Tensor::zeros(context, c.key_rows(), c.key_d());
  const AttentionInputs inputs{q.view(), k.view(), v.view()};
  attention(context, c.batch(), c.shape(), inputs, y.view(), log_sums.view());
  attention_backward(context, c.batch(), c.shape(), inputs, y.view(), log_sums.view(), dy.view(),
                     {dq.view(), dk.view(), dv.view()});
  const Case::Result expected = c.reference(dy_values);
  const double allowed = 8 * tolerance(sizes.width) * std::sqrt(static_cast<double>(sizes.width));
  const double shared = allowed * static_cast<double>(sizes.group);
  EXPECT_TRUE(close_to(y.to_host(), expected.output, tolerance(sizes.width), expected.errors.output));
  EXPECT_TRUE(close_to(log_sums.to_host(), expected.log_sums, tolerance(sizes.width), expected.errors.log_sums));
  EXPECT_TRUE(close_to(dq.to_host(), expected.dq, allowed, expected.errors.dq));
  EXPECT_TRUE(close_to(dk.to_host(), expected.dk, shared, expected.errors.dk));
  EXPECT_TRUE(close_to(dv.to_host(), expected.dv, shared, expected.errors.dv));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Attention, ::testing::Range<size_t>(0, all_sizes().size()));

class GroupedAttention : public ::testing::TestWithParam<size_t> {};

// A query head's output and gradient are to the last bit those that it has with a key head of its own.
TEST_P(GroupedAttention, SharedKeyHeadsAreReadAsIfRepeated) {
  const Sizes sizes = grouped_sizes()[GetParam()];
  Sizes apart_sizes = sizes;
  apart_sizes.group = 1;
  Context context(device_options());
  const Case c(context, sizes, usual_scale(sizes)), apart(context, c, apart_sizes);
  Buffers b(context, c), expected(context, apart);
  b.forward(context, c);
  b.backward(context, c);
  expected.forward(context, apart);
  expected.backward(context, apart);
  EXPECT_TRUE(identical(b.y.values(), expected.y.values()));
  EXPECT_TRUE(identical(b.log_sums.values(), expected.log_sums.values()));
  EXPECT_TRUE(identical(b.dq.values(), expected.dq.values()));
}

INSTANTIATE_TEST_SUITE_P(Sizes, GroupedAttention, ::testing::Range<size_t>(0, grouped_sizes().size()));

TEST(AttentionByHand, TwoKeys) {
  Context context(device_options());
  // One head of one column, scale 1: the second query sees both keys with scores 0 and log 3.
  const std::vector<AttentionSequence> sequences{{0, 2, 0, 2, 1, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 2};
  Padded q(context, 2, 1, {1, 1}), k(context, 2, 1, {0, std::log(3.0f)}), v(context, 2, 1, {8, 4}), y(context, 2, 1);
  Padded log_sums(context, 2, 1);
  attention(context, batch, {1, 1, 1}, {q.read(), k.read(), v.read()}, y.view(), log_sums.view());
  const double eps = product_eps(context.precision());
  EXPECT_TRUE(near(y.values(), Doubles{8, 0.25 * 8 + 0.75 * 4}, 8 * 4 * eps));
  EXPECT_TRUE(near(log_sums.values(), Doubles{0, std::log(4.0)}, 4 * eps));
}

TEST(AttentionByHand, FutureKeysMayHoldAnything) {
  Context context(device_options());
  const std::vector<AttentionSequence> sequences{{0, 2, 0, 3, 1, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 3};
  Padded q(context, 2, 1, {1, 1}), k(context, 3, 1, {0, 0, kNan}), v(context, 3, 1, {8, 4, kNan}), y(context, 2, 1);
  attention(context, batch, {1, 1, 1}, {q.read(), k.read(), v.read()}, y.view(), View());
  EXPECT_TRUE(near(y.values(), Doubles{8, 6}, 8 * 4 * kEps));
}

TEST(AttentionNumbers, LargeScoresNeitherOverflowNorVanish) {
  Context context(device_options());
  const std::vector<AttentionSequence> sequences{{0, 1, 0, 2, 2, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 1, 2};
  Padded q(context, 1, 1, {1}), k(context, 2, 1, {3e4f, -3e4f}), v(context, 2, 1, {8, 4}), y(context, 1, 1);
  attention(context, batch, {1, 1, 1}, {q.read(), k.read(), v.read()}, y.view(), View());
  EXPECT_EQ(y.values(), Values{8});
}

TEST(AttentionNumbers, NanComesThrough) {
  Context context(device_options());
  const std::vector<AttentionSequence> sequences{{0, 2, 0, 2, 1, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 2};
  Padded q(context, 2, 1, {1, 1}), k(context, 2, 1, {0, kNan}), v(context, 2, 1, {8, 4}), y(context, 2, 1, {0, 0});
  attention(context, batch, {1, 1, 1}, {q.read(), k.read(), v.read()}, y.view(), View());
  EXPECT_EQ(y.values()[0], 8);
  EXPECT_TRUE(std::isnan(y.values()[1]));
}

// Tiles of queries see different numbers of the same keys.
TEST(AttentionNumbers, NanReachesOnlyTheQueriesThatSeeIt) {
  for (const int64_t count : {10, 100}) {
    Context context(device_options());
    const int64_t width = 40, bad_value = count / 2, bad_key = count - 3;
    const std::vector<AttentionSequence> sequences{{0, count, 0, count, 1, 0, 0}};
    AttentionBatch batch{
        DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, count, count};
    std::mt19937 random(3);
    const Values q = normal_values(random, count * width), k = normal_values(random, count * width),
                 v = normal_values(random, count * width);
    const auto run = [&](const Values& keys, const Values& values) {
      const Tensor queries = Tensor::from_host(context, q, count, width),
                   key_rows = Tensor::from_host(context, keys, count, width),
                   value_rows = Tensor::from_host(context, values, count, width);
      Tensor y(context, count, width);
      attention(context, batch, {1, 1, 0.2f}, {queries.view(), key_rows.view(), value_rows.view()}, y.view(), View());
      return y.to_host();
    };
    Values spoiled_k = k, spoiled_v = v;
    spoiled_k[bad_key * width + 5] = kNan;
    spoiled_v[bad_value * width + 7] = kNan;
    spoiled_v[bad_value * width + 33] = std::numeric_limits<float>::infinity();
    const Values clean = run(k, v), spoiled = run(spoiled_k, spoiled_v);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<size_t>(i * width + c);
        if (i >= bad_key || (i >= bad_value && (c == 7 || c == 33)))
          EXPECT_FALSE(std::isfinite(spoiled[at])) << "query " << i << ", column " << c;
        else
          EXPECT_EQ(spoiled[at], clean[at]) << "query " << i << ", column " << c;
      }
  }
}

// Of dy . y by each input; a key or value that several query heads read moves all of them.
TEST(AttentionNumbers, BackwardAgreesWithFiniteDifferences) {
  for (const int64_t group : {1, 2, 4}) {
    Context context(device_options());
    const Sizes sizes{{{4, 4, 1, {3}}, {2, 5, 4, {}}}, 4, 3, group};
    Case c(context, sizes, usual_scale(sizes));
    std::mt19937 random(8);
    const Values dy = normal_values(random, c.queries() * c.d());
    Buffers b(context, c, dy);
    b.forward(context, c);
    b.backward(context, c);
    const auto loss = [&] {
      const Doubles y = c.reference().output;
      return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0);
    };
    const auto slopes = [&](Values& input, double before) {
      constexpr float kStep = 0x1p-9f;
      Doubles found;
      for (float& x : input) {
        const float middle = x;
        const float upper = x = middle + kStep;
        const double above = loss();
        const float lower = x = middle - kStep;
        const double below = loss();
        x = middle;
        found.push_back(before + (above - below) / (static_cast<double>(upper) - static_cast<double>(lower)));
      }
      return found;
    };
    const Case::Result expected = c.reference(dy);
    constexpr double kAllowed = 1e-4;  // the square of the step, times a third derivative
    EXPECT_TRUE(close_to(b.dq.values(), slopes(c.q, 0), kAllowed, expected.errors.dq)) << group;
    EXPECT_TRUE(close_to(b.dk.values(), slopes(c.k, 0.5), kAllowed, expected.errors.dk)) << group;
    EXPECT_TRUE(close_to(b.dv.values(), slopes(c.v, 0.5), kAllowed, expected.errors.dv)) << group;
  }
}

TEST(AttentionErrors, AreThrownBeforeAnyWrite) {
  Context context(device_options());
  const auto run = [&](const AttentionSequence& sequence, int64_t heads, int64_t key_heads, int64_t key_rows) {
    const std::vector<AttentionSequence> sequences{sequence};
    AttentionBatch batch{
        DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 2};
    Padded q(context, 2, 4, Values(8, 1)), k(context, key_rows, 4, Values(static_cast<size_t>(key_rows * 4), 1)),
        v(context, 2, 4, Values(8, 1)), y(context, 2, 4, Values(8, 7));
    EXPECT_THROW(attention(context, batch, {heads, key_heads, 1}, {q.read(), k.read(), v.read()}, y.view(), View()),
                 ShapeError);
    EXPECT_EQ(y.values(), Values(8, 7));
  };
  run({0, 2, 0, 2, 1, 0, 0}, 3, 3, 2);  // four columns do not divide into three heads
  run({0, 2, 0, 2, 1, 0, 0}, 2, 2, 3);  // keys and values differ
  run({0, 2, 0, 2, 1, 0, 0}, 4, 3, 2);  // four heads cannot share three key heads
  run({0, 2, 0, 2, 1, 0, 0}, 4, 0, 2);
  run({0, 2, 0, 2, 1, 0, 0}, 4, 8, 2);
  run({0, 2, 0, 2, 1, 0, 0}, 4, 2, 2);  // two key heads take two columns, not four
  // A GPU's sequences are not the host's to read.
  if (device_options().device.type != DeviceType::cpu) return;
  run({0, 2, 1, 2, 1, 0, 0}, 2, 2, 2);  // own keys outside the rows
  run({0, 2, 0, 2, 2, 0, 0}, 2, 2, 2);  // the second query would see three of two
  run({0, 2, 0, 2, 0, 0, 0}, 2, 2, 2);  // the first query would see nothing
  run({0, 2, 0, 2, 1, 0, 1}, 2, 2, 2);  // a segment that is not there
}

}  // namespace
}  // namespace loci
