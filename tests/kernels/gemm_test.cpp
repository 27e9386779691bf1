#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <ostream>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

struct Shape {
  int64_t m, n, k;
};

// Tests are listed by it.
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.m << "x" << shape.n << "x" << shape.k; }

// op(a) op(b) in fp64, with the sums of magnitudes for the tolerance.
struct Reference {
  Doubles product;
  Doubles magnitude;
};

Reference multiply(const Shape& s, Transpose ta, const Values& a, Transpose tb, const Values& b) {
  Reference out{Doubles(static_cast<size_t>(s.m * s.n)), Doubles(static_cast<size_t>(s.m * s.n))};
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j)
      for (int64_t p = 0; p < s.k; ++p) {
        const double x = static_cast<double>(a[ta == Transpose::no ? i * s.k + p : p * s.m + i]);
        const double y = static_cast<double>(b[tb == Transpose::no ? p * s.n + j : j * s.k + p]);
        out.product[i * s.n + j] += x * y;
        out.magnitude[i * s.n + j] += std::abs(x * y);
      }
  return out;
}

Padded make(Context& context, Transpose transpose, int64_t rows, int64_t cols, const Values& values) {
  return transpose == Transpose::no ? Padded(context, rows, cols, values) : Padded(context, cols, rows, values);
}

class Gemm : public ::testing::TestWithParam<Shape> {};

TEST_P(Gemm, AgreesWithTheSumInDouble) {
  const Shape s = GetParam();
  Context context(device_options());
  std::mt19937 random(1);
  for (const Transpose ta : {Transpose::no, Transpose::yes})
    for (const Transpose tb : {Transpose::no, Transpose::yes}) {
      const Values a_values = normal_values(random, s.m * s.k);
      const Values b_values = normal_values(random, s.k * s.n);
      Padded a = make(context, ta, s.m, s.k, a_values);
      Padded b = make(context, tb, s.k, s.n, b_values);
      Padded c(context, s.m, s.n);
      gemm(context, ta, a.read(), tb, b.read(), c.view());
      const Reference expected = multiply(s, ta, a_values, tb, b_values);
      const double eps = static_cast<double>(s.k + 2) * kEps + product_error(context.precision());
      const auto tolerance = [&](size_t i) { return eps * expected.magnitude[i]; };
      const Values got = c.values();
      EXPECT_TRUE(near_by(std::span<const float>(got), std::span<const double>(expected.product), tolerance));
      EXPECT_TRUE(c.guarded());
      EXPECT_EQ(a.values(), a_values);
    }
}

TEST_P(Gemm, IsExactForSmallIntegers) {
  const Shape s = GetParam();
  std::mt19937 random(2);
  const Values a_values = integer_values(random, s.m * s.k);
  const Values b_values = integer_values(random, s.k * s.n);
  const Values c_values = integer_values(random, s.m * s.n);
  Reference expected = multiply(s, Transpose::no, a_values, Transpose::no, b_values);
  for (size_t i = 0; i < c_values.size(); ++i)
    expected.product[i] = static_cast<double>(c_values[i]) - 2 * expected.product[i];
  for (const int threads : thread_counts({1, 2, 3})) {
    Context context(device_options(threads));
    Padded a(context, s.m, s.k, a_values), b(context, s.k, s.n, b_values), c(context, s.m, s.n, c_values);
    gemm(context, Transpose::no, a.read(), Transpose::no, b.read(), c.view(), Write::accumulate, -2);
    EXPECT_TRUE(near(c.values(), expected.product, 0));
    EXPECT_TRUE(c.guarded());
  }
}

TEST_P(Gemm, LinearAddsTheBias) {
  const Shape s = GetParam();
  Context context(device_options());
  std::mt19937 random(3);
  const Values x_values = integer_values(random, s.m * s.k);
  const Values w_values = integer_values(random, s.k * s.n);
  const Values bias_values = integer_values(random, s.n);
  Padded x(context, s.m, s.k, x_values), w(context, s.k, s.n, w_values), bias(context, 1, s.n, bias_values),
      y(context, s.m, s.n);
  linear(context, x.read(), WeightView::in_out(w.read()), bias.read(), y.view());
  Reference expected = multiply(s, Transpose::no, x_values, Transpose::no, w_values);
  for (size_t i = 0; i < expected.product.size(); ++i)
    expected.product[i] += static_cast<double>(bias_values[i % static_cast<size_t>(s.n)]);
  EXPECT_TRUE(near(y.values(), expected.product, 0));
  EXPECT_TRUE(y.guarded());
}

double activated(Activation kind, double x) {
  if (kind == Activation::relu) return std::max(x, 0.0);
  if (kind == Activation::silu) return x / (1 + std::exp(-x));
  if (kind == Activation::gelu) return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
  return x / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

/// x w + bias is good to `eps` times the sum of magnitudes; no activation has a slope above 1.13. The GPU's own tanh,
/// on which the gate of gelu_new may rest where products are rounded, is good to 2^-10.9.
void expect_activated(Activation kind, const Reference& sums, double eps, const Values& up, const Values& y) {
  const double gate = kind == Activation::gelu_new && !products_are_fp32() ? 0x1p-11 : 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double allowed = eps * sums.magnitude[i];
    if (!up.empty()) {
      EXPECT_TRUE(std::abs(static_cast<double>(up[i]) - sums.product[i]) <= allowed) << i;
    }
    const double expected = activated(kind, sums.product[i]);
    EXPECT_TRUE(std::abs(static_cast<double>(y[i]) - expected) <=
                1.2 * allowed + std::abs(sums.product[i]) * gate + 8 * kEps * std::abs(expected))
        << i << ": " << y[i] << " for " << expected;
  }
}

TEST_P(Gemm, LinearActivation) {
  const Shape s = GetParam();
  Context context(device_options());
  std::mt19937 random(6);
  const Values x_values = normal_values(random, s.m * s.k), w_values = normal_values(random, s.k * s.n, 0.2f);
  const Values bias_values = normal_values(random, s.n);
  Reference sums = multiply(s, Transpose::no, x_values, Transpose::no, w_values);
  for (size_t i = 0; i < sums.product.size(); ++i) {
    const auto bias = static_cast<double>(bias_values[i % static_cast<size_t>(s.n)]);
    sums.product[i] += bias;
    sums.magnitude[i] += std::abs(bias);
  }
  const double eps = static_cast<double>(s.k + 3) * kEps + product_error(context.precision());
  for (const Activation kind : {Activation::gelu_new, Activation::gelu, Activation::relu, Activation::silu}) {
    Padded x(context, s.m, s.k, x_values), w(context, s.k, s.n, w_values), bias(context, 1, s.n, bias_values),
        up(context, s.m, s.n), y(context, s.m, s.n);
    linear_activation(context, x.read(), WeightView::in_out(w.read()), bias.read(), kind, up.view(), y.view());
    expect_activated(kind, sums, eps, up.values(), y.values());
    EXPECT_TRUE(up.guarded() && y.guarded());
    // Close together and aligned, where a library may do the whole at once; `up` is not wanted there.
    const Tensor packed_x = Tensor::from_host(context, x_values, s.m, s.k),
                 packed_w = Tensor::from_host(context, w_values, s.k, s.n),
                 packed_bias = Tensor::from_host(context, bias_values, 1, s.n);
    Tensor packed_up(context, s.m, s.n), packed_y(context, s.m, s.n);
    linear_activation(context, packed_x.view(), WeightView::in_out(packed_w.view()), packed_bias.view(), kind, {},
                      packed_y.view());
    expect_activated(kind, sums, eps, {}, packed_y.to_host());
    linear_activation(context, packed_x.view(), WeightView::in_out(packed_w.view()), packed_bias.view(), kind,
                      packed_up.view(), packed_y.view());
    expect_activated(kind, sums, eps, packed_up.to_host(), packed_y.to_host());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Gemm,
                         ::testing::Values(Shape{0, 3, 2}, Shape{3, 0, 2}, Shape{2, 3, 0}, Shape{1, 1, 1},
                                           Shape{1, 129, 33}, Shape{31, 32, 33}, Shape{33, 31, 32}, Shape{129, 1, 31},
                                           Shape{2, 515, 129}, Shape{300, 20, 129}, Shape{129, 129, 129},
                                           Shape{4, 1031, 96}, Shape{24, 64, 48}, Shape{529, 45, 19},
                                           Shape{530, 401, 37}),
                         [](const auto& named) {
                           return fmt::format("{}x{}x{}", named.param.m, named.param.n, named.param.k);
                         });

TEST(GemmByHand, TwoByTwo) {
  Context context(device_options());
  Padded a(context, 2, 2, {1, 2, 3, 4}), b(context, 2, 2, {5, 6, 7, 8}), c(context, 2, 2);
  gemm(context, Transpose::no, a.read(), Transpose::no, b.read(), c.view());
  EXPECT_EQ(c.values(), (Values{19, 22, 43, 50}));
  gemm(context, Transpose::yes, a.read(), Transpose::no, b.read(), c.view());
  EXPECT_EQ(c.values(), (Values{26, 30, 38, 44}));
  gemm(context, Transpose::no, a.read(), Transpose::yes, b.read(), c.view(), Write::accumulate, 2);
  EXPECT_EQ(c.values(), (Values{26 + 2 * 17, 30 + 2 * 23, 38 + 2 * 39, 44 + 2 * 53}));
}

TEST(GemmNumbers, TheSameCallGivesTheSameBits) {
  Context context(device_options(2));
  std::mt19937 random(4);
  const Shape s{133, 257, 300};
  Padded a(context, s.m, s.k, normal_values(random, s.m * s.k)), b(context, s.k, s.n, normal_values(random, s.k * s.n));
  std::vector<Values> results;
  for (int repeat = 0; repeat < 5; ++repeat) {
    Padded c(context, s.m, s.n);
    gemm(context, Transpose::no, a.read(), Transpose::no, b.read(), c.view());
    results.push_back(c.values());
  }
  for (const Values& result : results) EXPECT_TRUE(identical(result, results[0]));
}

TEST(GemmNumbers, ArithmeticIsCounted) {
  Context context(device_options());
  const Tensor a = Tensor::zeros(context, 3, 5), b = Tensor::zeros(context, 5, 7), bias = Tensor::zeros(context, 1, 7);
  Tensor c(context, 3, 7);
  gemm(context, Transpose::no, a.view(), Transpose::no, b.view(), c.view());
  EXPECT_EQ(context.matrix_flop(), 2 * 3 * 5 * 7);
  linear(context, a.view(), WeightView::in_out(b.view()), bias.view(), c.view());
  linear_activation(context, a.view(), WeightView::in_out(b.view()), bias.view(), Activation::gelu_new, {}, c.view());
  EXPECT_EQ(context.matrix_flop(), 3 * 2 * 3 * 5 * 7);
}

/// Results must not follow how many ranks share a machine's cores. The library's kernels for a slab differ by its
/// extents, so shapes lie on both sides of their limits, with and without rows and columns that are left over.
class GemmThreads : public ::testing::TestWithParam<Shape> {};

TEST_P(GemmThreads, BitsDoNotFollowTheNumberOfThreads) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a GPU's blocks do not follow the CPU's threads";
  const Shape s = GetParam();
  for (const Transpose ta : {Transpose::no, Transpose::yes})
    for (const Transpose tb : {Transpose::no, Transpose::yes}) {
      std::vector<Values> results;
      for (const int threads : {1, 2, 3, 4, 7, 16}) {
        Context context(device_options(threads));
        std::mt19937 random(4);
        Padded a = make(context, ta, s.m, s.k, normal_values(random, s.m * s.k));
        Padded b = make(context, tb, s.k, s.n, normal_values(random, s.k * s.n));
        Padded c(context, s.m, s.n, normal_values(random, s.m * s.n));
        gemm(context, ta, a.read(), tb, b.read(), c.view(), Write::accumulate, 0.3f);
        Padded bias(context, 1, s.n, normal_values(random, s.n)), y(context, s.m, s.n);
        if (ta == Transpose::no)
          linear(context, a.read(), tb == Transpose::no ? WeightView::in_out(b.read()) : WeightView::out_in(b.read()),
                 bias.read(), y.view());
        results.push_back(c.values());
        for (const float value : y.values()) results.back().push_back(ta == Transpose::no ? value : 0);
      }
      for (const Values& other : results) EXPECT_TRUE(identical(other, results[0])) << int(ta) << int(tb);
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmThreads,
                         ::testing::Values(Shape{20, 768, 768}, Shape{100, 3072, 768}, Shape{231, 768, 3072},
                                           Shape{300, 128, 1024}, Shape{600, 768, 512}, Shape{1, 1025, 700},
                                           Shape{1025, 1, 700}, Shape{9, 17, 6001}, Shape{289, 1009, 449},
                                           Shape{601, 531, 97}, Shape{1033, 47, 300}, Shape{97, 8353, 130},
                                           Shape{520, 6113, 101}, Shape{768, 768, 400}, Shape{256, 1024, 600},
                                           Shape{257, 1041, 1000}),
                         [](const auto& shape) { return ::testing::PrintToString(shape.param); });

TEST(GemmNumbers, APromiseThatAMatrixIsConstantChangesNothing) {
  Context context(device_options());
  std::mt19937 random(7);
  const int64_t m = 9, k = 24, n = 40;
  const Tensor x = Tensor::from_host(context, integer_values(random, m * k), m, k);
  Tensor w = Tensor::from_host(context, integer_values(random, k * n), k, n);
  const auto products = [&] {
    Tensor whole(context, m, n), columns(context, m, 16), rows(context, m, n), turned(context, m, 7);
    gemm(context, Transpose::no, x.view(), Transpose::no, w.view(), whole.view());
    gemm(context, Transpose::no, x.view(), Transpose::no, w.view().cols_slice(8, 16), columns.view());
    gemm(context, Transpose::no, x.view().cols_slice(0, 7), Transpose::no, w.rows_slice(5, 7), rows.view());
    gemm(context, Transpose::no, x.view(), Transpose::yes, w.rows_slice(3, 7).cols_slice(16, 24), turned.view());
    return std::vector<Values>{whole.to_host(), columns.to_host(), rows.to_host(), turned.to_host()};
  };
  const std::vector<Values> expected = products();
  std::vector<Values> again;
  {
    const ConstView constant = w.view();
    const ConstantOperands promise(context, {&constant, 1});
    EXPECT_EQ(ConstantOperands::find(context, w.rows_slice(5, 7))->view.data, w.data());
    EXPECT_EQ(ConstantOperands::find(context, x.view()), nullptr);
    again = products();
  }
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(identical(again[i], expected[i])) << i;
  context.fill_zero(w.data(), sizeof(float) * static_cast<size_t>(k * n));
  EXPECT_EQ(products()[0], Values(static_cast<size_t>(m * n)));
}

TEST(GemmNumbers, TransposesOfConstantMatricesAreKeptWhereThereIsRoom) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a GPU reads matrices as they lie";
  const int64_t m = 40, k = 24, n = 33;
  for (const int64_t budget : {int64_t{1} << 30, int64_t{4} * 4 * k * n - 1}) {
    ContextOptions options = device_options();
    options.memory_budget = budget;
    Context context(options);
    std::mt19937 random(8);
    const Tensor x = Tensor::from_host(context, integer_values(random, m * n), m, n);
    const Tensor w = Tensor::from_host(context, integer_values(random, k * n), k, n);
    const auto product = [&] {
      Tensor y(context, m, k);
      gemm(context, Transpose::no, x.view(), Transpose::yes, w.view(), y.view());
      return y.to_host();
    };
    const Values expected = product();
    const ConstView constant = w.view();
    const ConstantOperands promise(context, {&constant, 1});
    EXPECT_TRUE(identical(product(), expected));
    EXPECT_TRUE(identical(product(), expected));
    EXPECT_EQ(ConstantOperands::transposed_bytes(context), budget == int64_t{1} << 30 ? 4 * k * n : 0);
  }
}

// More than are transposed at a time where the copy is not kept.
TEST(GemmNumbers, TheBitsOfALargeConstantMatrixDoNotFollowTheMemory) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a GPU reads matrices as they lie";
  const int64_t m = 17, n = 40000, k = 431;
  std::mt19937 random(9);
  const Values x_values = normal_values(random, m * k), w_values = normal_values(random, n * k);
  std::vector<Values> products;
  for (const int64_t budget : {int64_t{1} << 30, int64_t{1} << 26}) {
    ContextOptions options = device_options();
    options.memory_budget = budget;
    Context context(options);
    const Tensor x = Tensor::from_host(context, x_values, m, k), w = Tensor::from_host(context, w_values, n, k);
    const ConstView constant = w.view();
    const ConstantOperands promise(context, {&constant, 1});
    Tensor y(context, m, n);
    gemm(context, Transpose::no, x.view(), Transpose::yes, w.view(), y.view());
    EXPECT_EQ(ConstantOperands::transposed_bytes(context), budget == int64_t{1} << 30 ? 4 * n * k : 0);
    products.push_back(y.to_host());
  }
  EXPECT_TRUE(identical(products[0], products[1]));
  for (const int64_t row : {0, 16})
    for (const int64_t column : {0, 38911, 38928, 39999}) {  // panels of 38 912 columns
      double expected = 0, size = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double term = static_cast<double>(x_values[row * k + i]) * static_cast<double>(w_values[column * k + i]);
        expected += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(static_cast<double>(products[1][row * n + column]), expected, 16 * kEps * size);
    }
}

TEST(GemmErrors, ShapesThatDoNotFitAreRefusedBeforeAnyWrite) {
  Context context(device_options());
  Padded a(context, 2, 3, Values(6, 1)), b(context, 4, 2, Values(8, 1)), c(context, 2, 2, Values(4, 7));
  EXPECT_THROW(gemm(context, Transpose::no, a.read(), Transpose::no, b.read(), c.view()), ShapeError);
  EXPECT_THROW(gemm(context, Transpose::yes, a.read(), Transpose::no, b.read(), c.view()), ShapeError);
  EXPECT_THROW(linear(context, a.read(), WeightView::in_out(b.read()), a.read(), c.view()), ShapeError);
  Padded w(context, 3, 2, Values(6, 1)), bias(context, 1, 2, {1, 1}), narrow(context, 2, 1, {1, 1});
  EXPECT_THROW(linear_activation(context, a.read(), WeightView::in_out(w.read()), bias.read(), Activation::relu,
                                 narrow.view(), c.view()),
               ShapeError);
  EXPECT_EQ(c.values(), Values(4, 7));
}

TEST(GemmNumbers, NanComesThrough) {
  Context context(device_options());
  for (const int64_t rows : {1, 2, 40}) {
    Values a_values(static_cast<size_t>(rows * 40), 1);
    a_values[5] = kNan;
    Padded a(context, rows, 40, a_values), b(context, 40, 33, Values(40 * 33, 0)), c(context, rows, 33);
    gemm(context, Transpose::no, a.read(), Transpose::no, b.read(), c.view());
    EXPECT_TRUE(std::isnan(c.values()[0]));
    EXPECT_TRUE(std::isnan(c.values()[32]));
  }
}

}  // namespace
}  // namespace loci
