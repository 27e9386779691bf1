#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

// As the header says it, in as many words.
int32_t reference_sample(const Values& logits, int64_t k, double temperature, double uniform) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int32_t i) { return static_cast<double>(logits[i]); };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  order.resize(static_cast<size_t>(k));
  const auto weight = [&](int32_t i) { return std::exp((logit(i) - logit(order[0])) / temperature); };
  double total = 0, running = 0;
  for (const int32_t i : order) total += weight(i);
  for (const int32_t i : order)
    if ((running += weight(i)) > uniform * total) return i;
  return order.back();
}

std::vector<int32_t> sample(const std::vector<Values>& rows, int64_t k, double temperature, const Doubles& uniforms) {
  Context context(device_options());
  const auto cols = std::ssize(rows[0]);
  Values all;
  for (const Values& row : rows) all.insert(all.end(), row.begin(), row.end());
  Padded logits(context, std::ssize(rows), cols, all);
  DeviceArray<int32_t> chosen(context, std::ssize(rows));
  sample_top_k(context, logits.read(), k, temperature, DeviceArray<double>(context, std::span<const double>(uniforms)),
               chosen);
  return chosen.to_host();
}

void expect_as_reference(const std::vector<Values>& rows, int64_t k, double temperature, const Doubles& uniforms) {
  const std::vector<int32_t> chosen = sample(rows, k, temperature, uniforms);
  for (size_t r = 0; r < rows.size(); ++r)
    EXPECT_EQ(chosen[r], reference_sample(rows[r], k, temperature, uniforms[r]))
        << "row " << r << " of " << rows[r].size() << ", k " << k << ", temperature " << temperature << ", uniform "
        << uniforms[r];
}

class Sampling : public ::testing::TestWithParam<int64_t> {
 protected:
  /// Every k that is a case of its own, with uniforms from one end to the other.
  void expect_all(const std::vector<Values>& rows) {
    for (const int64_t k :
         {int64_t{1}, int64_t{2}, int64_t{40}, int64_t{128}, int64_t{129}, cols_ / 2, cols_ - 1, cols_})
      if (k >= 1 && k <= cols_)
        for (const double temperature : {0.7, 3.0}) {
          Doubles uniforms(rows.size());
          for (double& uniform : uniforms) uniform = std::uniform_real_distribution<double>()(random_);
          uniforms.front() = 0;
          // Where the last candidates weigh less than the rounding of a long sum, any of them may be meant.
          uniforms.back() = cols_ > 10000 ? 1 - 1e-9 : 1 - 0x1p-53;
          expect_as_reference(rows, k, temperature, uniforms);
        }
  }
  int64_t cols_ = GetParam();
  size_t rows_ = cols_ > 10000 ? 3 : 6;
  std::mt19937 random_{17};
};

TEST_P(Sampling, ContinuousLogits) {
  std::vector<Values> rows;
  for (size_t r = 0; r < rows_; ++r) rows.push_back(normal_values(random_, cols_, 3));
  for (float& value : rows[1]) value -= 100;
  expect_all(rows);
}

TEST_P(Sampling, EqualLogitsByRisingIndex) {
  std::vector<Values> rows(rows_);
  for (Values& row : rows)
    for (int64_t c = 0; c < cols_; ++c) row.push_back(0.25f * static_cast<float>(random_() % 7) - 0.75f);
  for (float& value : rows[1]) value = value < 0.5f ? -std::numeric_limits<float>::infinity() : 1;
  for (float& value : rows[2]) value = value < 0 ? 0.0f : -0.0f;
  rows[1][0] = 1;
  expect_all(rows);
}

INSTANTIATE_TEST_SUITE_P(Widths, Sampling, ::testing::Values(1, 5, 33, 1000, 2048, 2500, 50257));

TEST(SamplingByHand, RunningSumExceedsTheUniform) {
  const Values row = {0, std::log(2.0f), 0};
  EXPECT_EQ(sample({row, row, row, row}, 3, 1, {0, 0.49, 0.51, 0.76}), (std::vector<int32_t>{1, 1, 0, 2}));
  EXPECT_EQ(sample({row, row}, 2, 1, {0.6, 0.7}), (std::vector<int32_t>{1, 0}));
}

TEST(SamplingByHand, ChosenIsAnIndexEvenWithoutProbabilities) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sample({{1, infinity, 2, infinity}, {-infinity, -infinity, -infinity, -infinity}}, 3, 1, {0.9, 0.9}),
            (std::vector<int32_t>{1, 0}));
}

TEST(SamplingErrors, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  Padded logits(context, 2, 3, Values(6, 1));
  const std::vector<int32_t> before = {7, 7};
  DeviceArray<int32_t> chosen(context, std::span<const int32_t>(before));
  const DeviceArray<double> uniforms(context, std::span<const double>(Doubles{0, 0}));
  EXPECT_THROW(sample_top_k(context, logits.read(), 0, 1, uniforms, chosen), ShapeError);
  EXPECT_THROW(sample_top_k(context, logits.read(), 4, 1, uniforms, chosen), ShapeError);
  EXPECT_THROW(sample_top_k(context, logits.read(), 1, 0, uniforms, chosen), ShapeError);
  EXPECT_EQ(chosen.to_host(), before);
}

}  // namespace
}  // namespace loci
