#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>

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

/// A ragged batch with random inputs, and the fp64 attention over it.
class Case {
 public:
  Case(Context& context, const std::vector<Spec>& specs, int64_t heads, int64_t width, float scale, unsigned seed = 1)
      : heads_(heads), width_(width), scale_(scale) {
    std::mt19937 random(seed);
    int64_t queries = 0;
    for (const Spec& spec : specs) {
      int64_t total = spec.keys;
      const auto first_segment = std::ssize(segments_);
      for (const int64_t count : spec.segments) {
        const Values& keys = segment_keys_.emplace_back(normal_values(random, count * d()));
        const Values& values = segment_values_.emplace_back(normal_values(random, count * d()));
        const float* keys_there = storage_.emplace_back(context, std::span<const float>(keys)).data();
        const float* values_there = storage_.emplace_back(context, std::span<const float>(values)).data();
        segments_.push_back({keys_there, values_there, d(), count});
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
    q_ = normal_values(random, queries * d());
    k_ = normal_values(random, key_rows_ * d());
    v_ = normal_values(random, key_rows_ * d());
  }

  int64_t d() const { return heads_ * width_; }
  int64_t queries() const { return batch_.queries; }
  int64_t key_rows() const { return key_rows_; }
  const AttentionBatch& batch() const { return batch_; }
  int64_t heads() const { return heads_; }
  float scale() const { return scale_; }
  const Values& q() const { return q_; }
  const Values& k() const { return k_; }
  const Values& v() const { return v_; }

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
    const Quantities zeros{Doubles(q_.size()), Doubles(static_cast<size_t>(queries() * heads_)), Doubles(q_.size()),
                           Doubles(k_.size()), Doubles(k_.size())};
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
    const int64_t row = s.first_query + i;
    std::vector<Seen> seen;
    for (int64_t e = s.first_segment; e < s.first_segment + s.segments; ++e)
      for (int64_t j = 0; j < segments_[e].count; ++j)
        seen.push_back(
            {segment_keys_[e].data() + j * d() + h * width_, segment_values_[e].data() + j * d() + h * width_, -1});
    for (int64_t j = 0; j < s.visible_0 + i; ++j)
      seen.push_back({k_.data() + (s.first_key + j) * d() + h * width_,
                      v_.data() + (s.first_key + j) * d() + h * width_, s.first_key + j});
    const float* query = q_.data() + row * d() + h * width_;
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
        const double query = static_cast<double>(q_[here]), key = static_cast<double>(seen[j].key[c]),
                     gradient = static_cast<double>(dy[here]);
        result.dq[here] += ds * key;
        result.errors.dq[here] += ds_error * std::abs(key);
        if (seen[j].own_row < 0) continue;
        const auto own = static_cast<size_t>(seen[j].own_row * d() + h * width_ + c);
        result.dk[own] += ds * query;
        result.errors.dk[own] += ds_error * std::abs(query);
        result.dv[own] += p[j] * gradient;
        result.errors.dv[own] += (weights.error[j] + 2 * p[j]) * std::abs(gradient);
      }
    }
  }

  static double product(float a, float b) { return static_cast<double>(a) * static_cast<double>(b); }

  int64_t heads_, width_;
  float scale_;
  int64_t key_rows_ = 0;
  std::vector<Values> segment_keys_, segment_values_;
  std::vector<DeviceArray<float>> storage_;  // the same on the device
  std::vector<AttentionSequence> sequences_;
  std::vector<AttentionSegment> segments_;
  AttentionBatch batch_;
  Values q_, k_, v_;
};

struct Sizes {
  std::vector<Spec> specs;
  int64_t heads;
  int64_t width;
};

std::vector<Sizes> all_sizes() {
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

class Attention : public ::testing::TestWithParam<size_t> {};

TEST_P(Attention, AgreesWithTheSumInDouble) {
  const Sizes sizes = all_sizes()[GetParam()];
  Context context(device_options());
  const Case c(context, sizes.specs, sizes.heads, sizes.width, 1 / std::sqrt(static_cast<float>(sizes.width)));
  Padded q(context, c.queries(), c.d(), c.q()), k(context, c.key_rows(), c.d(), c.k()),
      v(context, c.key_rows(), c.d(), c.v());
  Padded y(context, c.queries(), c.d()), log_sums(context, c.queries(), c.heads());
  attention(context, c.batch(), c.heads(), c.scale(), q.read(), k.read(), v.read(), y.view(), log_sums.view());
  const Case::Result expected = c.reference();
  EXPECT_TRUE(close_to(y.values(), expected.output, tolerance(sizes.width), expected.errors.output));
  EXPECT_TRUE(close_to(log_sums.values(), expected.log_sums, tolerance(sizes.width), expected.errors.log_sums));
  EXPECT_TRUE(y.guarded() && log_sums.guarded());
  Padded plain(context, c.queries(), c.d());
  attention(context, c.batch(), c.heads(), c.scale(), q.read(), k.read(), v.read(), plain.view(), View());
  EXPECT_TRUE(identical(plain.values(), y.values()));
}

TEST_P(Attention, DoesNotDependOnThreads) {
  const Sizes sizes = all_sizes()[GetParam()];
  std::vector<Values> outputs;
  for (const int threads : {1, 2, 3}) {
    Context context(device_options(threads));
    const Case c(context, sizes.specs, sizes.heads, sizes.width, 0.25f);
    Padded q(context, c.queries(), c.d(), c.q()), k(context, c.key_rows(), c.d(), c.k()),
        v(context, c.key_rows(), c.d(), c.v());
    Padded y(context, c.queries(), c.d());
    attention(context, c.batch(), c.heads(), c.scale(), q.read(), k.read(), v.read(), y.view(), View());
    outputs.push_back(y.values());
  }
  EXPECT_TRUE(identical(outputs[1], outputs[0]));
  EXPECT_TRUE(identical(outputs[2], outputs[0]));
}

TEST_P(Attention, BackwardAgreesWithTheDerivativeInDouble) {
  const Sizes sizes = all_sizes()[GetParam()];
  Context context(device_options());
  const Case c(context, sizes.specs, sizes.heads, sizes.width, 1 / std::sqrt(static_cast<float>(sizes.width)));
  std::mt19937 random(7);
  const Values dy_values = normal_values(random, c.queries() * c.d());
  Padded q(context, c.queries(), c.d(), c.q()), k(context, c.key_rows(), c.d(), c.k()),
      v(context, c.key_rows(), c.d(), c.v());
  Padded y(context, c.queries(), c.d()), log_sums(context, c.queries(), c.heads()),
      dy(context, c.queries(), c.d(), dy_values);
  const Values before(static_cast<size_t>(c.key_rows() * c.d()), 0.5f);
  Padded dq(context, c.queries(), c.d()), dk(context, c.key_rows(), c.d(), before),
      dv(context, c.key_rows(), c.d(), before);
  attention(context, c.batch(), c.heads(), c.scale(), q.read(), k.read(), v.read(), y.view(), log_sums.view());
  attention_backward(context, c.batch(), c.heads(), c.scale(), q.read(), k.read(), v.read(), y.read(), log_sums.read(),
                     dy.read(), dq.view(), dk.view(), dv.view());
  Case::Result expected = c.reference(dy_values);
  for (double& value : expected.dk) value += 0.5;
  for (double& value : expected.dv) value += 0.5;
  // dP is a sum of `width` products; each gradient a sum over the keys or queries, weighted by P <= 1 in all.
  const double allowed = 8 * tolerance(sizes.width) * std::sqrt(static_cast<double>(sizes.width));
  EXPECT_TRUE(close_to(dq.values(), expected.dq, allowed, expected.errors.dq));
  EXPECT_TRUE(close_to(dk.values(), expected.dk, allowed, expected.errors.dk));
  EXPECT_TRUE(close_to(dv.values(), expected.dv, allowed, expected.errors.dv));
  EXPECT_TRUE(dq.guarded() && dk.guarded() && dv.guarded());
}

// As above, with rows that are close together and, where the width is a multiple of 4, 16-byte aligned.
TEST_P(Attention, AgreesOnAlignedRows) {
  const Sizes sizes = all_sizes()[GetParam()];
  Context context(device_options());
  const Case c(context, sizes.specs, sizes.heads, sizes.width, 1 / std::sqrt(static_cast<float>(sizes.width)));
  std::mt19937 random(7);
  const Values dy_values = normal_values(random, c.queries() * c.d());
  const auto tensor = [&](const Values& values, int64_t rows) {
    return Tensor::from_host(context, values, rows, c.d());
  };
  const Tensor q = tensor(c.q(), c.queries()), k = tensor(c.k(), c.key_rows()), v = tensor(c.v(), c.key_rows());
  const Tensor dy = tensor(dy_values, c.queries());
  Tensor y(context, c.queries(), c.d()), log_sums(context, c.queries(), c.heads()), dq(context, c.queries(), c.d());
  Tensor dk = Tensor::zeros(context, c.key_rows(), c.d()), dv = Tensor::zeros(context, c.key_rows(), c.d());
  attention(context, c.batch(), c.heads(), c.scale(), q.view(), k.view(), v.view(), y.view(), log_sums.view());
  attention_backward(context, c.batch(), c.heads(), c.scale(), q.view(), k.view(), v.view(), y.view(), log_sums.view(),
                     dy.view(), dq.view(), dk.view(), dv.view());
  const Case::Result expected = c.reference(dy_values);
  const double allowed = 8 * tolerance(sizes.width) * std::sqrt(static_cast<double>(sizes.width));
  EXPECT_TRUE(close_to(y.to_host(), expected.output, tolerance(sizes.width), expected.errors.output));
  EXPECT_TRUE(close_to(log_sums.to_host(), expected.log_sums, tolerance(sizes.width), expected.errors.log_sums));
  EXPECT_TRUE(close_to(dq.to_host(), expected.dq, allowed, expected.errors.dq));
  EXPECT_TRUE(close_to(dk.to_host(), expected.dk, allowed, expected.errors.dk));
  EXPECT_TRUE(close_to(dv.to_host(), expected.dv, allowed, expected.errors.dv));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Attention, ::testing::Range<size_t>(0, 17));

TEST(AttentionByHand, TwoKeys) {
  Context context(device_options());
  // One head of one column, scale 1: the second query sees both keys with scores 0 and log 3.
  const std::vector<AttentionSequence> sequences{{0, 2, 0, 2, 1, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 2};
  Padded q(context, 2, 1, {1, 1}), k(context, 2, 1, {0, std::log(3.0f)}), v(context, 2, 1, {8, 4}), y(context, 2, 1);
  Padded log_sums(context, 2, 1);
  attention(context, batch, 1, 1, q.read(), k.read(), v.read(), y.view(), log_sums.view());
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
  attention(context, batch, 1, 1, q.read(), k.read(), v.read(), y.view(), View());
  EXPECT_TRUE(near(y.values(), Doubles{8, 6}, 8 * 4 * kEps));
}

TEST(AttentionNumbers, LargeScoresNeitherOverflowNorVanish) {
  Context context(device_options());
  const std::vector<AttentionSequence> sequences{{0, 1, 0, 2, 2, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 1, 2};
  Padded q(context, 1, 1, {1}), k(context, 2, 1, {3e4f, -3e4f}), v(context, 2, 1, {8, 4}), y(context, 1, 1);
  attention(context, batch, 1, 1, q.read(), k.read(), v.read(), y.view(), View());
  EXPECT_EQ(y.values(), Values{8});
}

TEST(AttentionNumbers, NanComesThrough) {
  Context context(device_options());
  const std::vector<AttentionSequence> sequences{{0, 2, 0, 2, 1, 0, 0}};
  AttentionBatch batch{
      DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 2};
  Padded q(context, 2, 1, {1, 1}), k(context, 2, 1, {0, kNan}), v(context, 2, 1, {8, 4}), y(context, 2, 1, {0, 0});
  attention(context, batch, 1, 1, q.read(), k.read(), v.read(), y.view(), View());
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
      attention(context, batch, 1, 0.2f, queries.view(), key_rows.view(), value_rows.view(), y.view(), View());
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

TEST(AttentionErrors, AreThrownBeforeAnyWrite) {
  Context context(device_options());
  const auto run = [&](const AttentionSequence& sequence, int64_t heads, int64_t key_rows) {
    const std::vector<AttentionSequence> sequences{sequence};
    AttentionBatch batch{
        DeviceArray<AttentionSequence>(context, std::span<const AttentionSequence>(sequences)), {}, 2, 2};
    Padded q(context, 2, 4, Values(8, 1)), k(context, key_rows, 4, Values(static_cast<size_t>(key_rows * 4), 1)),
        v(context, 2, 4, Values(8, 1)), y(context, 2, 4, Values(8, 7));
    EXPECT_THROW(attention(context, batch, heads, 1, q.read(), k.read(), v.read(), y.view(), View()), ShapeError);
    EXPECT_EQ(y.values(), Values(8, 7));
  };
  run({0, 2, 0, 2, 1, 0, 0}, 3, 2);  // four columns do not divide into three heads
  run({0, 2, 0, 2, 1, 0, 0}, 2, 3);  // keys and values differ
  // A GPU's sequences are not the host's to read.
  if (device_options().device.type != DeviceType::cpu) return;
  run({0, 2, 1, 2, 1, 0, 0}, 2, 2);  // own keys outside the rows
  run({0, 2, 0, 2, 2, 0, 0}, 2, 2);  // the second query would see three of two
  run({0, 2, 0, 2, 0, 0, 0}, 2, 2);  // the first query would see nothing
  run({0, 2, 0, 2, 1, 0, 1}, 2, 2);  // a segment that is not there
}

}  // namespace
}  // namespace loci
