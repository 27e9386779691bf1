#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/rows.h"
#include "tests/kernels/reference.h"

// The row ops on shapes for which a device takes other ways than for small unaligned ones: rows that are aligned, that
// are longer than a warp takes at a time, that leave a remainder; more entries than are listed at once.
namespace loci {
namespace {

using namespace test;

/// How rows lie in memory.
struct Layout {
  const char* name;
  int64_t cols, stride, offset;
};

// Tests are listed by it.
void PrintTo(const Layout& value, std::ostream* out) { *out << value.name; }

/// A matrix of a layout. What lies around it must stay as it was.
class Laid {
 public:
  Laid(Context& context, const Layout& layout, int64_t rows, const Values& values)
      : context_(&context), layout_(layout), rows_(rows) {
    Values all(static_cast<size_t>(layout.offset + rows * layout.stride), kAround);
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(values.begin() + r * layout.cols, layout.cols, all.begin() + layout.offset + r * layout.stride);
    storage_ = Tensor::from_host(context, all, 1, std::ssize(all));
  }
  View view() { return {storage_.data() + layout_.offset, rows_, layout_.cols, layout_.stride}; }
  ConstView read() { return view(); }
  float* row(int64_t r) { return view().row(r); }
  Values values() { return to_host(*context_, read()); }
  bool guarded() {
    const Values all = storage_.to_host();
    for (int64_t i = 0; i < storage_.cols(); ++i) {
      const int64_t at = i - layout_.offset;
      if ((at < 0 || at % layout_.stride >= layout_.cols) && all[i] != kAround) return false;
    }
    return true;
  }

 private:
  static constexpr float kAround = 1234.5f;
  Context* context_;
  Layout layout_;
  int64_t rows_;
  Tensor storage_;
};

class WideRows : public ::testing::TestWithParam<Layout> {
 protected:
  Laid made(int64_t rows, const Values& values) { return {context_, layout_, rows, values}; }
  Values integers(int64_t rows) { return integer_values(random_, rows * layout_.cols); }
  size_t at(int64_t r, int64_t c) const { return static_cast<size_t>(r * layout_.cols + c); }
  /// Calls element(r, c) for a matrix of the layout.
  template <typename Element>
  void each(int64_t rows, const Element& element) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < layout_.cols; ++c) element(r, c);
  }

  const Layout layout_ = GetParam();
  std::mt19937 random_{1};
  Context context_{device_options()};
};

TEST_P(WideRows, MoveToTheirPlaces) {
  const Values x_values = integers(4), y_values = integers(6);
  const std::vector<int64_t> to{5, 0, 3, 2};
  Laid x = made(4, x_values), y = made(6, y_values), embedded = made(6, y_values), tapped = made(4, y_values);
  scatter_rows(context_, x.read(), device(context_, to), y.view(), Write::assign);
  Values expected = y_values;
  each(4, [&](int64_t r, int64_t c) { expected[at(to[r], c)] = x_values[at(r, c)]; });
  EXPECT_EQ(y.values(), expected);
  scatter_rows(context_, x.read(), device(context_, to), y.view(), Write::accumulate);
  each(4, [&](int64_t r, int64_t c) { expected[at(to[r], c)] += x_values[at(r, c)]; });
  EXPECT_EQ(y.values(), expected);

  embed_rows(context_, x.read(), device<int32_t>(context_, {3, 2, 2, 0, 1, 3}), embedded.view());
  gather_rows(context_, embedded.read(), device<int64_t>(context_, {3, 4, 2, 5}), x.view());
  EXPECT_EQ(x.values(), x_values);
  std::vector<RowDestination> taps;
  for (int64_t r = 0; r < 4; ++r) taps.push_back({r, tapped.row(3 - r)});
  tap_rows(context_, x.read(), device(context_, taps));
  collect_rows(context_, device<const float*>(context_, {tapped.row(3), tapped.row(2), tapped.row(1), tapped.row(0)}),
               embedded.view().rows_slice(0, 4));
  const Values collected = embedded.values();
  EXPECT_TRUE(std::equal(x_values.begin(), x_values.end(), collected.begin()));
  EXPECT_TRUE(x.guarded() && y.guarded() && embedded.guarded() && tapped.guarded());
}

TEST_P(WideRows, Arithmetic) {
  const Values a_values = integers(6), b_values = integers(6), factors = integer_values(random_, 6);
  Laid a = made(6, a_values), b = made(6, b_values), y = made(6, a_values);
  sum(context_, a.read(), b.read(), y.view());
  add(context_, a.read(), y.view());
  scale(context_, 3, y.view());
  scale_rows(context_, device(context_, factors), y.view());
  Values expected(a_values.size());
  each(6, [&](int64_t r, int64_t c) {
    expected[at(r, c)] = 3 * (2 * a_values[at(r, c)] + b_values[at(r, c)]) * factors[r];
  });
  EXPECT_TRUE(near(y.values(), expected, 0));
  EXPECT_TRUE(y.guarded());
}

TEST_P(WideRows, SumsDotsAndClamps) {
  const int64_t rows = 257;
  const Values a_values = integers(rows), b_values = integers(rows);
  Laid a = made(rows, a_values), b = made(rows, b_values), sums = made(1, a_values);
  Tensor dots(context_, rows, 1);
  row_dots(context_, a.read(), b.read(), dots.view());
  add_column_sums(context_, a.read(), sums.view());
  Values dots_expected(static_cast<size_t>(rows)), sums_expected(a_values.begin(), a_values.begin() + layout_.cols);
  double squares = 0;
  each(rows, [&](int64_t r, int64_t c) {
    dots_expected[r] += a_values[at(r, c)] * b_values[at(r, c)];
    sums_expected[c] += a_values[at(r, c)];
    squares += static_cast<double>(a_values[at(r, c)] * a_values[at(r, c)]);
  });
  EXPECT_EQ(dots.to_host(), dots_expected);
  EXPECT_EQ(sums.values(), sums_expected);
  EXPECT_EQ(sum_of_squares(context_, a.read()), squares);
  EXPECT_TRUE(sums.guarded());

  const Values limits{1, 1e6f, 2};
  Laid clamped = made(3, Values(static_cast<size_t>(3 * layout_.cols), 2));
  clamp_row_norms(context_, Tensor::from_host(context_, limits, 3, 1).view(), clamped.view());
  const double root = std::sqrt(static_cast<double>(layout_.cols));
  Doubles expected;
  for (const double value : {1 / root, 2.0, 2 / root})
    expected.insert(expected.end(), static_cast<size_t>(layout_.cols), value);
  EXPECT_TRUE(near_relative(clamped.values(), expected, 2 * kEps));
  EXPECT_TRUE(clamped.guarded());
}

TEST_P(WideRows, ActivationsAsForOneElement) {
  const Values x_values = normal_values(random_, 6 * layout_.cols, 4),
               dy_values = normal_values(random_, 6 * layout_.cols);
  for (const Activation kind : {Activation::gelu_new, Activation::gelu, Activation::relu, Activation::silu}) {
    Laid x = made(6, x_values), dy = made(6, dy_values), y = made(6, x_values);
    Padded lone_x(context_, 6, layout_.cols, x_values), lone_dy(context_, 6, layout_.cols, dy_values),
        lone_y(context_, 6, layout_.cols);
    activation(context_, kind, x.read(), y.view());
    activation(context_, kind, lone_x.read(), lone_y.view());
    EXPECT_TRUE(near_relative(y.values(), lone_y.values(), kEps, 1e-44));
    activation_backward(context_, kind, x.read(), dy.read(), y.view());
    activation_backward(context_, kind, lone_x.read(), lone_dy.read(), lone_y.view());
    EXPECT_TRUE(near_relative(y.values(), lone_y.values(), kEps, 1e-10));
    EXPECT_TRUE(y.guarded());
  }
}

TEST_P(WideRows, AdamAsForOneElement) {
  const Values x_values = normal_values(random_, 6 * layout_.cols), g_values = normal_values(random_, 6 * layout_.cols);
  const Values zero(x_values.size());
  Laid x = made(6, x_values), g = made(6, g_values), first = made(6, zero), second = made(6, zero);
  Padded lone_x(context_, 6, layout_.cols, x_values), lone_g(context_, 6, layout_.cols, g_values),
      lone_first(context_, 6, layout_.cols, zero), lone_second(context_, 6, layout_.cols, zero);
  for (int64_t t = 1; t <= 3; ++t) {
    adam_step(context_, {}, t, g.read(), 0.5f, x.view(), first.view(), second.view());
    adam_step(context_, {}, t, lone_g.read(), 0.5f, lone_x.view(), lone_first.view(), lone_second.view());
  }
  // A compiler may contract the remainder of a loop otherwise than its body.
  EXPECT_TRUE(near_relative(x.values(), lone_x.values(), 4 * kEps, 8e-3 * kEps));
  EXPECT_TRUE(near_relative(first.values(), lone_first.values(), 8 * kEps));
  EXPECT_TRUE(near_relative(second.values(), lone_second.values(), 8 * kEps));
  EXPECT_TRUE(x.guarded() && first.guarded() && second.guarded());
}

TEST_P(WideRows, TermsOfManyEditsApplyInOrder) {
  const int64_t rows = 5, d = 12;
  const Values key_values = integers(rows), u_values = integers(3), v_values = integer_values(random_, 3 * d);
  Laid keys = made(rows, key_values), u = made(3, u_values);
  const Tensor v = Tensor::from_host(context_, v_values, 3, d);
  // 1201 terms, of which three cover a row: those before and after them cover none.
  std::vector<LowRankRows> terms(1201, LowRankRows{1, 0, u.row(0), v.row(0)});
  terms[3] = {0, 3, u.row(0), v.row(0)};
  terms[4] = {2, 3, u.row(1), v.row(1)};
  terms[1200] = {2, 1, u.row(2), v.row(2)};
  Tensor y = Tensor::zeros(context_, rows, d);
  add_low_rank(context_, keys.read(), device(context_, terms), y.view());
  Values expected(static_cast<size_t>(rows * d));
  for (const LowRankRows& term : terms)
    for (int64_t r = term.first_row; r < term.first_row + term.rows; ++r) {
      const int64_t e = (term.v - v.data()) / d;
      float dot = 0;
      for (int64_t c = 0; c < layout_.cols; ++c) dot += key_values[at(r, c)] * u_values[at(e, c)];
      for (int64_t c = 0; c < d; ++c) expected[r * d + c] += dot * v_values[e * d + c];
    }
  EXPECT_EQ(y.to_host(), expected);
}

INSTANTIATE_TEST_SUITE_P(Layouts, WideRows,
                         ::testing::Values(Layout{"aligned", 1032, 1032, 0},
                                           Layout{"columns_of_wider_rows", 516, 1040, 4},
                                           Layout{"aligned_with_remainder", 514, 516, 8},
                                           Layout{"close", 1030, 1030, 0}, Layout{"off_alignment", 1028, 1028, 1},
                                           Layout{"narrow", 4, 4, 0}),
                         [](const auto& named) { return std::string(named.param.name); });

// Sums in fp32 whose bits depend on their order, in one place for thousands of entries.
class ManyEntries : public ::testing::TestWithParam<int64_t> {};

TEST_P(ManyEntries, GradientsOfATokenAddUpInOrder) {
  Context context(device_options(3));
  std::mt19937 random(1);
  const int64_t n = 5000, d = GetParam();
  std::vector<int32_t> ids(static_cast<size_t>(n), 2);
  for (const size_t i : {0, 700, 701, 3000, 4999}) ids[i] = 0;
  ids[1024] = 3;
  const Values dy = normal_values(random, n * d);
  Values expected = normal_values(random, 5 * d);
  Tensor table = Tensor::from_host(context, expected, 5, d);
  const Tensor gradients = Tensor::from_host(context, dy, n, d);
  for (size_t i = 0; i < dy.size(); ++i)
    expected[static_cast<size_t>(ids[i / static_cast<size_t>(d)] * d) + i % static_cast<size_t>(d)] += dy[i];
  embed_rows_backward(context, device(context, ids), gradients.view(), table.view());
  EXPECT_TRUE(identical(table.to_host(), expected));
}

TEST_P(ManyEntries, PatchesApplyInOrder) {
  Context context(device_options(3));
  std::mt19937 random(2);
  const int64_t n = 3000, d = GetParam(), rows = 7;
  const Values source_values = normal_values(random, n * d);
  Values expected = normal_values(random, rows * d);
  const Tensor sources = Tensor::from_host(context, source_values, n, d);
  Tensor y = Tensor::from_host(context, expected, rows, d);
  std::vector<RowSource> patches;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = i < 2500 ? 1 : i % rows;
    const Write write = i % 900 == 5 ? Write::assign : Write::accumulate;
    patches.push_back({row, sources.row(i), write});
    for (int64_t c = 0; c < d; ++c) {
      float& value = expected[row * d + c];
      value = (write == Write::assign ? 0 : value) + source_values[i * d + c];
    }
  }
  patch_rows(context, device(context, patches), y.view());
  EXPECT_TRUE(identical(y.to_host(), expected));
}

INSTANTIATE_TEST_SUITE_P(Widths, ManyEntries, ::testing::Values(4, 5));

}  // namespace
}  // namespace loci
