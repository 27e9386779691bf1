#include "kernels/rows.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

// Widths around the vector length; small integers, so that every sum is exact and compared as such.
class Rows : public ::testing::TestWithParam<int64_t> {
 protected:
  Values row(const Values& values, int64_t r) const {
    return Values(values.begin() + r * width_, values.begin() + (r + 1) * width_);
  }
  int64_t width_ = GetParam();
  std::mt19937 random_{1};
};

TEST_P(Rows, EmbedAndItsBackward) {
  Context context(device_options(3));
  const std::vector<int32_t> ids_values{4, 0, 4, 2, 4};
  const auto ids = device(context, ids_values);
  const Values table_values = integer_values(random_, 5 * width_), dy_values = integer_values(random_, 5 * width_);
  Padded table(context, 5, width_, table_values), y(context, 5, width_), dy(context, 5, width_, dy_values);
  embed_rows(context, table.read(), ids, y.view());
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(row(y.values(), i), row(table_values, ids_values[i]));
  EXPECT_TRUE(y.guarded());
  Values expected = table_values;
  for (size_t i = 0; i < 5; ++i)
    for (size_t c = 0; c < static_cast<size_t>(width_); ++c)
      expected[static_cast<size_t>(ids_values[i]) * static_cast<size_t>(width_) + c] +=
          dy_values[i * static_cast<size_t>(width_) + c];
  embed_rows_backward(context, ids, dy.read(), table.view());
  EXPECT_EQ(table.values(), expected);
  EXPECT_TRUE(table.guarded());
}

TEST_P(Rows, EmbedReadsTablesOfAnyType) {
  Context context(device_options(3));
  const std::vector<int32_t> ids_values{4, 0, 4, 2};
  const auto ids = device(context, ids_values);
  for (const StoredType type : kStoredTypes) {
    const Values table_values = rounded_to(type, normal_values(random_, 5 * width_));
    const StoredMatrix table(context, type, 5, width_, table_values);
    Padded y(context, 4, width_);
    embed_rows(context, table.view(), ids, y.view());
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(row(y.values(), i), row(table_values, ids_values[i]));
    EXPECT_TRUE(y.guarded());
  }
}

// IEEE 754: (-1)^sign 2^(exponent - bias) 1.fraction, below the smallest exponent 0.fraction.
float decoded(uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits & 0x7fff) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
  const int whole = exponent > 0 ? 1 << fraction_bits : 0;
  double value = std::ldexp(whole + fraction, std::max(exponent, 1) - bias - fraction_bits);
  if (exponent == (1 << exponent_bits) - 1) value = fraction ? NAN : HUGE_VAL;
  return static_cast<float>(bits & 0x8000 ? -value : value);
}

TEST(StoredNumbers, AllOfThemAreConvertedExactly) {
  Context context(device_options());
  std::vector<uint16_t> all(1 << 16);
  std::iota(all.begin(), all.end(), uint16_t{0});
  const auto table = device(context, all);
  std::vector<int32_t> rows(256);
  std::iota(rows.begin(), rows.end(), 0);
  const auto ids = device(context, rows);
  for (const StoredType type : {StoredType::fp16, StoredType::bf16}) {
    Tensor y(context, 256, 256);
    embed_rows(context, StoredView(table.data(), type, 256, 256, 256), ids, y.view());
    const Values got = y.to_host();
    for (size_t i = 0; i < all.size(); ++i) {
      const float expected = decoded(all[i], type == StoredType::fp16 ? 5 : 8);
      EXPECT_TRUE(std::isnan(expected) ? std::isnan(got[i]) : std::memcmp(&got[i], &expected, sizeof(float)) == 0)
          << "bits " << i << " become " << got[i];
    }
  }
}

TEST_P(Rows, GatherScatterTapCollect) {
  Context context(device_options());
  const std::vector<int64_t> rows_values{3, 1};
  const auto rows = device(context, rows_values);
  const Values x_values = integer_values(random_, 4 * width_);
  Padded x(context, 4, width_, x_values), picked(context, 2, width_);
  gather_rows(context, x.read(), rows, picked.view());
  EXPECT_EQ(row(picked.values(), 0), row(x_values, 3));
  EXPECT_EQ(row(picked.values(), 1), row(x_values, 1));

  Padded y(context, 4, width_, Values(x_values.size(), 1));
  scatter_rows(context, picked.read(), rows, y.view(), Write::assign);
  EXPECT_EQ(row(y.values(), 3), row(x_values, 3));
  EXPECT_EQ(row(y.values(), 0), Values(static_cast<size_t>(width_), 1));
  scatter_rows(context, picked.read(), rows, y.view(), Write::accumulate);
  Values doubled = row(x_values, 1);
  for (float& value : doubled) value *= 2;
  EXPECT_EQ(row(y.values(), 1), doubled);

  Padded tapped(context, 2, width_);
  tap_rows(context, x.read(), device<RowDestination>(context, {{2, tapped.view().row(1)}, {0, tapped.view().row(0)}}));
  EXPECT_EQ(row(tapped.values(), 0), row(x_values, 0));
  EXPECT_EQ(row(tapped.values(), 1), row(x_values, 2));
  Padded collected(context, 2, width_);
  collect_rows(context, device<const float*>(context, {x.view().row(2), x.view().row(2)}), collected.view());
  EXPECT_EQ(row(collected.values(), 0), row(x_values, 2));
  EXPECT_EQ(row(collected.values(), 1), row(x_values, 2));
  EXPECT_TRUE(picked.guarded() && y.guarded() && tapped.guarded() && collected.guarded());
}

TEST_P(Rows, PatchesOfOneRowApplyInOrder) {
  Context context(device_options(3));
  const Values source_values = integer_values(random_, 3 * width_);
  Padded source(context, 3, width_, source_values), y(context, 3, width_, Values(source_values.size(), 1));
  const auto patches = device<RowSource>(context, {{1, source.view().row(0), Write::accumulate},
                                                   {1, source.view().row(1), Write::assign},
                                                   {1, source.view().row(2), Write::accumulate},
                                                   {0, source.view().row(2), Write::accumulate}});
  patch_rows(context, patches, y.view());
  const Values got = y.values();
  for (size_t c = 0; c < static_cast<size_t>(width_); ++c) {
    const auto at = [&](size_t r) { return r * static_cast<size_t>(width_) + c; };
    EXPECT_EQ(got[at(0)], 1 + source_values[at(2)]);
    EXPECT_EQ(got[at(1)], source_values[at(1)] + source_values[at(2)]);
    EXPECT_EQ(got[at(2)], 1);
  }
  EXPECT_TRUE(y.guarded());
}

TEST_P(Rows, Arithmetic) {
  Context context(device_options());
  const Values a_values = integer_values(random_, 33 * width_), b_values = integer_values(random_, 33 * width_);
  Padded a(context, 33, width_, a_values), b(context, 33, width_, b_values), y(context, 33, width_);
  sum(context, a.read(), b.read(), y.view());
  Values expected = a_values;
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += b_values[i];
  EXPECT_EQ(y.values(), expected);
  sum(context, a.read(), b.read(), b.view());
  EXPECT_EQ(b.values(), expected);
  Values products = a_values;
  for (size_t i = 0; i < products.size(); ++i) products[i] *= expected[i];
  product(context, a.read(), b.read(), y.view());
  EXPECT_EQ(y.values(), products);
  product(context, a.read(), y.read(), y.view());
  for (size_t i = 0; i < products.size(); ++i) products[i] *= a_values[i];
  EXPECT_EQ(y.values(), products);
  add(context, a.read(), b.view());
  scale(context, -2, b.view());
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = -2 * (expected[i] + a_values[i]);
  EXPECT_EQ(b.values(), expected);
  const Values factors = integer_values(random_, 33);
  scale_rows(context, device(context, factors), b.view());
  for (size_t i = 0; i < expected.size(); ++i) expected[i] *= factors[i / static_cast<size_t>(width_)];
  EXPECT_TRUE(near(b.values(), expected, 0));
  EXPECT_TRUE(y.guarded() && b.guarded());
  clamp(context, 3.0f, b.view());
  for (float& value : expected) value = std::clamp(value, -3.0f, 3.0f);
  EXPECT_EQ(b.values(), expected);
  EXPECT_TRUE(b.guarded());
}

TEST_P(Rows, SumsAndDots) {
  for (const int threads : thread_counts({1, 3})) {
    Context context(device_options(threads));
    const Values a_values = integer_values(random_, 129 * width_), b_values = integer_values(random_, 129 * width_);
    Padded a(context, 129, width_, a_values), b(context, 129, width_, b_values), dots(context, 129, 1);
    Padded sums(context, 1, width_, Values(static_cast<size_t>(width_), 2));
    Values dots_expected(129), sums_expected(static_cast<size_t>(width_), 2);
    for (size_t i = 0; i < a_values.size(); ++i) {
      dots_expected[i / static_cast<size_t>(width_)] += a_values[i] * b_values[i];
      sums_expected[i % static_cast<size_t>(width_)] += a_values[i];
    }
    row_dots(context, a.read(), b.read(), dots.view());
    add_column_sums(context, a.read(), sums.view());
    EXPECT_EQ(dots.values(), dots_expected);
    EXPECT_EQ(sums.values(), sums_expected);
    EXPECT_TRUE(dots.guarded() && sums.guarded());
  }
}

TEST_P(Rows, LowRankTermsMayOverlap) {
  Context context(device_options(3));
  const int64_t d = 3;
  const Values key_values = integer_values(random_, 5 * width_), u_values = integer_values(random_, 2 * width_),
               v_values = integer_values(random_, 2 * d), y_values = integer_values(random_, 5 * d);
  Padded keys(context, 5, width_, key_values), u(context, 2, width_, u_values), v(context, 2, d, v_values),
      y(context, 5, d, y_values);
  const auto terms = device<LowRankRows>(
      context, {{0, 3, u.view().row(0), v.view().row(0)}, {2, 2, u.view().row(1), v.view().row(1)}});
  add_low_rank(context, keys.read(), terms, y.view());
  Values expected = y_values;
  const auto apply = [&](size_t r, size_t e) {
    float dot = 0;
    for (size_t c = 0; c < static_cast<size_t>(width_); ++c)
      dot += key_values[r * static_cast<size_t>(width_) + c] * u_values[e * static_cast<size_t>(width_) + c];
    for (size_t c = 0; c < 3; ++c) expected[r * 3 + c] += dot * v_values[e * 3 + c];
  };
  for (const size_t r : {0, 1, 2}) apply(r, 0);
  for (const size_t r : {2, 3}) apply(r, 1);
  EXPECT_EQ(y.values(), expected);
  EXPECT_TRUE(y.guarded());
}

INSTANTIATE_TEST_SUITE_P(Widths, Rows, ::testing::Values(1, 31, 32, 33, 129));

TEST(RowsEmpty, NothingToDoIsDone) {
  Context context(device_options());
  Padded x(context, 0, 5), y(context, 1, 5, Values(5, 2));
  add_column_sums(context, x.read(), y.view());
  patch_rows(context, DeviceArray<RowSource>(), y.view());
  scatter_rows(context, x.read(), DeviceArray<int64_t>(), y.view(), Write::assign);
  gather_rows(context, y.read(), DeviceArray<int64_t>(), x.view());
  add_low_rank(context, y.read(), DeviceArray<LowRankRows>(), y.view());
  EXPECT_EQ(y.values(), Values(5, 2));
}

TEST(RowsNumbers, ColumnSumsDoNotLoseSmallTerms) {
  Context context(device_options());
  // 1 and then 65536 times half an eps: summed in fp32 each would vanish.
  Values values(65537, static_cast<float>(kEps));
  values[0] = 1;
  Padded x(context, 65537, 1, values), y(context, 1, 1, {0}), dot(context, 1, 1);
  add_column_sums(context, x.read(), y.view());
  EXPECT_EQ(y.values()[0], static_cast<float>(1 + 65536 * kEps));
  Padded flat(context, 1, 65537, values), ones(context, 1, 65537, Values(65537, 1));
  row_dots(context, flat.read(), ones.read(), dot.view());
  EXPECT_EQ(dot.values()[0], static_cast<float>(1 + 65536 * kEps));
}

TEST(RowsErrors, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  Padded x(context, 2, 3, Values(6, 1)), y(context, 3, 2, Values(6, 7));
  const auto two = device<int64_t>(context, {0, 1});
  const auto ids = device<int32_t>(context, {0, 1});
  EXPECT_THROW(add(context, x.read(), y.view()), ShapeError);
  EXPECT_THROW(sum(context, x.read(), y.read(), y.view()), ShapeError);
  EXPECT_THROW(product(context, x.read(), y.read(), y.view()), ShapeError);
  EXPECT_THROW(embed_rows(context, x.read(), ids, y.view()), ShapeError);
  EXPECT_THROW(embed_rows_backward(context, ids, x.read(), y.view()), ShapeError);
  EXPECT_THROW(gather_rows(context, x.read(), two, y.view()), ShapeError);
  EXPECT_THROW(scatter_rows(context, x.read(), two, y.view(), Write::assign), ShapeError);
  EXPECT_THROW(collect_rows(context, device<const float*>(context, {x.view().data}), y.view()), ShapeError);
  EXPECT_THROW(scale_rows(context, device<float>(context, {1}), y.view()), ShapeError);
  EXPECT_THROW(add_column_sums(context, x.read(), y.view()), ShapeError);
  EXPECT_THROW(row_dots(context, x.read(), y.read(), y.view()), ShapeError);
  EXPECT_THROW(add_low_rank(context, x.read(), DeviceArray<LowRankRows>(), y.view()), ShapeError);
  EXPECT_EQ(y.values(), Values(6, 7));
}

}  // namespace
}  // namespace loci
