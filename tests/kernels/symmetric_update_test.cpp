#include "kernels/symmetric_update.h"

#include <gtest/gtest.h>

#include <numeric>
#include <ostream>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

Doubles gram(const Values& x, int64_t n) {
  const auto width = static_cast<size_t>(n);
  Doubles out(width * width);
  for (size_t r = 0; width > 0 && r < x.size() / width; ++r)
    for (size_t i = 0; i < width; ++i)
      for (size_t j = 0; j < width; ++j)
        out[i * width + j] += static_cast<double>(x[r * width + i]) * static_cast<double>(x[r * width + j]);
  return out;
}

struct UpdateShape {
  int64_t rows, n;
};

// Tests are listed by it.
void PrintTo(const UpdateShape& shape, std::ostream* out) { *out << shape.rows << "x" << shape.n; }

class SymmetricUpdate : public ::testing::TestWithParam<UpdateShape> {};

TEST_P(SymmetricUpdate, AddsToTheLowerTriangleOnly) {
  const UpdateShape s = GetParam();
  std::mt19937 random(1);
  const Values x_values = integer_values(random, s.rows * s.n);
  const Doubles product = gram(x_values, s.n);
  for (const int threads : thread_counts({1, 3})) {
    Context context(device_options(threads));
    Padded x(context, s.rows, s.n, x_values), sum(context, s.n, s.n, Values(static_cast<size_t>(s.n * s.n), 2));
    symmetric_update(context, x.read(), sum.view());
    Doubles expected = product;
    for (int64_t i = 0; i < s.n; ++i)
      for (int64_t j = 0; j < s.n; ++j) {
        double& value = expected[i * s.n + j];
        value = j <= i ? value + 2 : 2;
      }
    EXPECT_TRUE(near(sum.values(), expected, 0));
    EXPECT_TRUE(sum.guarded());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SymmetricUpdate,
                         ::testing::Values(UpdateShape{0, 4}, UpdateShape{3, 0}, UpdateShape{1, 1}, UpdateShape{31, 33},
                                           UpdateShape{33, 32}, UpdateShape{5, 97}, UpdateShape{129, 129},
                                           UpdateShape{17, 385}, UpdateShape{9, 1000}, UpdateShape{3, 2500}),
                         [](const auto& named) { return fmt::format("{}x{}", named.param.rows, named.param.n); });

TEST(SecondMoment, SumsInDoubleWhateverTheCalls) {
  std::mt19937 random(2);
  const int64_t block = SecondMoment::flush_rows(Context(device_options()));
  const int64_t n = 65, rows = 2 * block + 100;
  const Values values = normal_values(random, rows * n);
  const Doubles expected = gram(values, n);
  std::vector<Doubles> sums;
  for (const int64_t step : {rows, int64_t{1}, int64_t{700}, block}) {
    Context context(device_options(static_cast<int>(1 + step % 3)));
    SecondMoment moment(n);
    Padded x(context, rows, n, values);
    for (int64_t first = 0; first < rows; first += step)
      moment.add(context, x.read().rows_slice(first, std::min(step, rows - first)));
    EXPECT_EQ(moment.count(), rows);
    sums.push_back(moment.sum(context));
  }
  // Each block is summed in fp32: its error is below its number of rows times eps times the sum of magnitudes, which
  // Cauchy-Schwarz bounds by the diagonal. Products of rounded inputs add theirs.
  const double eps = static_cast<double>(block) * kEps + product_error(device_options().precision);
  const auto tolerance = [&](size_t i) {
    const auto width = static_cast<size_t>(n);
    return eps * std::sqrt(expected[(i / width) * (width + 1)] * expected[(i % width) * (width + 1)]);
  };
  EXPECT_TRUE(near_by(std::span<const double>(sums[0]), std::span<const double>(expected), tolerance));
  for (const Doubles& sum : sums) EXPECT_TRUE(identical(sum, sums[0]));
}

TEST(SecondMoment, StartsAgainFromNothing) {
  std::mt19937 random(3);
  const int64_t n = 33, rows = 300;
  const Values values = integer_values(random, rows * n);
  Context context(device_options());
  Padded x(context, rows, n, values);
  SecondMoment moment(n);
  moment.add(context, x.read().rows_slice(5, 95));
  moment.clear(context);
  EXPECT_EQ(moment.count(), 0);
  moment.add(context, x.read());
  EXPECT_EQ(moment.count(), rows);
  EXPECT_TRUE(identical(moment.sum(context), gram(values, n)));
}

TEST(SecondMoment, HandsOutItsLowerTriangle) {
  std::mt19937 random(4);
  const int64_t n = 37, rows = 90;
  const Values values = integer_values(random, rows * n);
  const Doubles expected = gram(values, n);
  Context context(device_options());
  Padded x(context, rows, n, values);
  SecondMoment moment(n);
  EXPECT_EQ(moment.take_lower(context).to_host(), Doubles(static_cast<size_t>(n * n)));
  for (int turn = 0; turn < 2; ++turn) {
    moment.add(context, x.read());
    Doubles lower = moment.take_lower(context).to_host();
    EXPECT_EQ(moment.count(), 0);
    for (size_t r = 0; r < static_cast<size_t>(n); ++r)
      for (size_t c = r + 1; c < static_cast<size_t>(n); ++c) EXPECT_EQ(lower[r * static_cast<size_t>(n) + c], 0);
    mirror_lower(context, lower.data(), n);
    EXPECT_TRUE(identical(lower, expected));
  }
}

TEST(SecondMoment, SumsAreAddedWhereverTheyLie) {
  Context context(device_options());
  for (const int64_t count : {0, 1, 2, 7, 8192, 8193}) {
    for (const int64_t offset : {0, 1}) {
      Doubles terms(static_cast<size_t>(count + 1)), totals(static_cast<size_t>(count + 3), 0.5);
      std::iota(terms.begin(), terms.end(), 0x1p40);
      const DeviceArray<double> x(context, std::span<const double>(terms)), y(context, std::span<const double>(totals));
      add_fp64(context, x.data() + 1 - offset, y.data() + offset, count);
      const Doubles sums = y.to_host();
      for (int64_t i = 0; i < std::ssize(sums); ++i) {
        const int64_t term = i - offset;
        const bool added = term >= 0 && term < count;
        EXPECT_EQ(sums[i], added ? terms[term + 1 - offset] + 0.5 : 0.5) << i;
      }
    }
  }
}

TEST(SecondMoment, LosesNothingOverManyBlocks) {
  Context context(device_options());
  SecondMoment moment(1);
  // At 2^40 the values of fp32 are 2^17 apart: summed there, none of the later blocks would leave a trace.
  const int64_t block = SecondMoment::flush_rows(context);
  Values large(static_cast<size_t>(block), 0);
  large[7] = 0x1p20f;
  moment.add(context, Tensor::from_host(context, large, block, 1).view());
  Tensor ones = Tensor::from_host(context, Values(static_cast<size_t>(16 * block), 1), 16 * block, 1);
  for (int i = 0; i < 4; ++i) moment.add(context, ones.view());
  EXPECT_EQ(moment.sum(context)[0], 0x1p40 + static_cast<double>(64 * block));
}

TEST(SecondMoment, NanAndShapes) {
  Context context(device_options());
  SecondMoment moment(2);
  Padded x(context, 1, 2, {kNan, 1}), wrong(context, 1, 3, {1, 1, 1});
  EXPECT_THROW(moment.add(context, wrong.read()), ShapeError);
  EXPECT_THROW(symmetric_update(context, x.read(), wrong.view()), ShapeError);
  EXPECT_EQ(moment.sum(context), Doubles(4));
  moment.add(context, x.read());
  const Doubles sum = moment.sum(context);
  EXPECT_TRUE(std::isnan(sum[0]) && std::isnan(sum[1]) && std::isnan(sum[2]));
  EXPECT_EQ(sum[3], 1);
}

}  // namespace
}  // namespace loci
