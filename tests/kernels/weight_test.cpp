#include "kernels/weight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "kernels/gemm.h"
#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

struct Storage {
  Orientation orientation;
  StoredType type;
};

std::string name_of(const Storage& storage) {
  const char* const types[] = {"fp32", "fp16", "bf16"};
  return fmt::format("{}_{}", storage.orientation == Orientation::in_out ? "in_out" : "out_in",
                     types[static_cast<int>(storage.type)]);
}

std::vector<Storage> all_storages() {
  std::vector<Storage> all;
  for (const Orientation orientation : {Orientation::in_out, Orientation::out_in})
    for (const StoredType type : kStoredTypes) all.push_back({orientation, type});
  return all;
}

struct WeightShape {
  int64_t rows, in, out;
};

// Each extent meets each other one as inputs and outputs, and some number of rows.
std::vector<WeightShape> all_shapes() {
  const int64_t extents[] = {0, 1, 31, 32, 33, 129};
  std::vector<WeightShape> all;
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t o = 0; o < 6; ++o) all.push_back({extents[(i + o) % 6], extents[i], extents[o]});
  return all;
}

/// W [in, out], random numbers that its type can hold, and the same as it is stored.
class Weight {
 public:
  Weight(Context& context, const Storage& storage, int64_t in, int64_t out, std::mt19937& random,
         StoredMatrix::Layout layout = StoredMatrix::Layout::anywhere)
      : out_(out), orientation_(storage.orientation) {
    values_ = rounded_to(storage.type, normal_values(random, in * out, 0.2f));
    stored_ = values_;
    if (orientation_ == Orientation::out_in)
      for (int64_t i = 0; i < in; ++i)
        for (int64_t o = 0; o < out; ++o) stored_[o * in + i] = values_[i * out + o];
    const bool turned = orientation_ == Orientation::out_in;
    matrix_.emplace_back(context, storage.type, turned ? out : in, turned ? in : out, stored_, layout);
    fp32_.emplace_back(context, StoredType::fp32, turned ? out : in, turned ? in : out, stored_, layout);
  }

  double at(int64_t i, int64_t o) const { return static_cast<double>(values_[i * out_ + o]); }
  WeightView view() const { return view_of(matrix_[0].view()); }
  /// The same numbers in fp32, stored alike.
  WeightView fp32() const { return view_of(fp32_[0].view()); }

 private:
  WeightView view_of(const StoredView& stored) const {
    return orientation_ == Orientation::in_out ? WeightView::in_out(stored) : WeightView::out_in(stored);
  }

  int64_t out_;
  Orientation orientation_;
  Values values_, stored_;
  std::vector<StoredMatrix> matrix_, fp32_;
};

/// Sums in fp64 and what fp32 sums of so many terms, of inputs rounded as the device rounds them, may be off.
struct Sums {
  Doubles values, allowed;

  template <typename Term>
  Sums(int64_t rows, int64_t cols, int64_t terms, const Values& start, const Term& term) {
    const double eps = static_cast<double>(terms + 3) * kEps + product_error(device_options().precision);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        double sum = start.empty() ? 0 : static_cast<double>(start[(r * cols + c) % std::ssize(start)]);
        double magnitude = std::abs(sum);
        for (int64_t i = 0; i < terms; ++i) {
          sum += term(r, c, i);
          magnitude += std::abs(term(r, c, i));
        }
        values.push_back(sum);
        allowed.push_back(eps * magnitude);
      }
  }
  ::testing::AssertionResult near(const Values& actual) const {
    return near_by(std::span<const float>(actual), std::span<const double>(values),
                   [&](size_t i) { return allowed[i]; });
  }
};

double gelu_new(double x) {
  return x / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

// The slope of gelu_new is below 1.13; the GPU's own tanh is good to 2^-10.9.
::testing::AssertionResult near_gelu(const Values& actual, const Sums& sums) {
  Doubles expected;
  for (const double sum : sums.values) expected.push_back(gelu_new(sum));
  const double gate = products_are_fp32() ? 0 : 0x1p-11;
  return near_by(std::span<const float>(actual), std::span<const double>(expected), [&](size_t i) {
    return 1.2 * sums.allowed[i] + std::abs(sums.values[i]) * gate + 8 * kEps * std::abs(expected[i]);
  });
}

class StoredWeights : public ::testing::TestWithParam<Storage> {
 protected:
  void check(Context& context, const WeightShape& s, StoredMatrix::Layout layout = StoredMatrix::Layout::anywhere) {
    std::mt19937 random(1);
    const Weight w(context, GetParam(), s.in, s.out, random, layout);
    for (const bool biased : {true, false}) {
      SCOPED_TRACE(fmt::format("{} rows, {} to {}{}", s.rows, s.in, s.out, biased ? ", bias" : ""));
      check_forward(context, s, w, normal_values(random, biased ? s.out : 0), random);
    }
    check_backward(context, s, w, random);
  }

 private:
  void check_forward(Context& context, const WeightShape& s, const Weight& w, const Values& bias_values,
                     std::mt19937& random) {
    const Values x_values = normal_values(random, s.rows * s.in);
    Padded x(context, s.rows, s.in, x_values), bias(context, 1, std::ssize(bias_values), bias_values);
    const ConstView added = bias_values.empty() ? ConstView() : bias.read();
    const Sums sums(s.rows, s.out, s.in, bias_values, [&](int64_t r, int64_t o, int64_t i) {
      return static_cast<double>(x_values[r * s.in + i]) * w.at(i, o);
    });
    Padded y(context, s.rows, s.out), activated(context, s.rows, s.out), up(context, s.rows, s.out),
        alone(context, s.rows, s.out);
    linear(context, x.read(), w.view(), added, y.view());
    EXPECT_TRUE(sums.near(y.values()) && y.guarded());
    linear_activation(context, x.read(), w.view(), added, Activation::gelu_new, up.view(), activated.view());
    EXPECT_TRUE(sums.near(up.values()) && up.guarded());
    EXPECT_TRUE(near_gelu(activated.values(), sums) && activated.guarded());
    linear_activation(context, x.read(), w.view(), added, Activation::gelu_new, {}, alone.view());
    EXPECT_TRUE(near_gelu(alone.values(), sums) && alone.guarded());
  }

  void check_backward(Context& context, const WeightShape& s, const Weight& w, std::mt19937& random) {
    const Values dy_values = normal_values(random, s.rows * s.out), before = normal_values(random, s.rows * s.in);
    for (const Write write : {Write::assign, Write::accumulate}) {
      Padded dy(context, s.rows, s.out, dy_values), dx(context, s.rows, s.in, before);
      linear_backward(context, dy.read(), w.view(), dx.view(), write);
      const Sums sums(
          s.rows, s.in, s.out, write == Write::assign ? Values() : before,
          [&](int64_t r, int64_t i, int64_t o) { return static_cast<double>(dy_values[r * s.out + o]) * w.at(i, o); });
      EXPECT_TRUE(sums.near(dx.values()) && dx.guarded());
    }
  }
};

TEST_P(StoredWeights, AgreeWithTheSumsInDouble) {
  Context context(device_options());
  for (const WeightShape& s : all_shapes()) check(context, s);
}

TEST_P(StoredWeights, AgreeOnAlignedRows) {
  Context context(device_options());
  for (const WeightShape& s : {WeightShape{33, 32, 129}, WeightShape{5, 129, 72}, WeightShape{2, 264, 8}})
    check(context, s, StoredMatrix::Layout::aligned);
}

// Few and many rows, and weights that are converted in parts.
TEST_P(StoredWeights, AgreeWhereThereIsLittleMemory) {
  ContextOptions options = device_options();
  options.memory_budget = 1 << 16;
  Context context(options);
  for (const WeightShape& s : {WeightShape{3, 129, 300}, WeightShape{16, 300, 500}, WeightShape{520, 20, 401}})
    check(context, s);
}

TEST_P(StoredWeights, PartsMakeTheirOutputsAndReadTheirInputs) {
  Context context(device_options());
  std::mt19937 random(2);
  const int64_t rows = 4, in = 33, out = 40;
  const Weight w(context, GetParam(), in, out, random);
  const Values x_values = normal_values(random, rows * in);
  Padded x(context, rows, in, x_values), y(context, rows, 9), z(context, rows, out);
  linear(context, x.read(), w.view().outputs(20, 9), {}, y.view());
  const auto product = [&](int64_t r, int64_t o, int64_t i) {
    return static_cast<double>(x_values[r * in + i]) * w.at(i, o);
  };
  EXPECT_TRUE(
      Sums(rows, 9, in, {}, [&](int64_t r, int64_t o, int64_t i) { return product(r, 20 + o, i); }).near(y.values()));
  linear(context, x.read().cols_slice(8, 21), w.view().inputs(8, 21), {}, z.view());
  EXPECT_TRUE(
      Sums(rows, out, 21, {}, [&](int64_t r, int64_t o, int64_t i) { return product(r, o, 8 + i); }).near(z.values()));
}

struct Results {
  Values y, up, activated, dx;
};
Results results_of(Context& context, const WeightShape& s, const WeightView& w, bool biased) {
  std::mt19937 random(3);
  const Tensor x = Tensor::from_host(context, normal_values(random, s.rows * s.in), s.rows, s.in),
               bias = Tensor::from_host(context, normal_values(random, s.out), 1, s.out),
               dy = Tensor::from_host(context, normal_values(random, s.rows * s.out), s.rows, s.out);
  Tensor y(context, s.rows, s.out), up(context, s.rows, s.out), activated(context, s.rows, s.out);
  Tensor dx = Tensor::from_host(context, normal_values(random, s.rows * s.in), s.rows, s.in);
  const ConstView added = biased ? bias.view() : ConstView();
  linear(context, x.view(), w, added, y.view());
  linear_activation(context, x.view(), w, added, Activation::gelu_new, up.view(), activated.view());
  linear_backward(context, dy.view(), w, dx.view(), biased ? Write::assign : Write::accumulate);
  return {y.to_host(), up.to_host(), activated.to_host(), dx.to_host()};
}

void expect_identical(const Results& results, const Results& expected) {
  EXPECT_TRUE(identical(results.y, expected.y));
  EXPECT_TRUE(identical(results.up, expected.up));
  EXPECT_TRUE(identical(results.activated, expected.activated));
  EXPECT_TRUE(identical(results.dx, expected.dx));
}

// On the CPU in every form in which products read a weight; with products in bf16 on a GPU, too. Elsewhere a GPU's
// library may sum in another order where a part of the weight is converted at a time.
TEST_P(StoredWeights, HaveTheBitsOfTheSameNumbersInFp32) {
  const bool on_cpu = device_options().device.type == DeviceType::cpu;
  if (!on_cpu && device_options().precision != Precision::bf16) GTEST_SKIP() << "a claim of the CPU and of bf16";
  for (const int threads : thread_counts({1, 3}))
    for (const bool promised : {false, true})
      for (const WeightShape& s : {WeightShape{1, 33, 129}, WeightShape{16, 300, 1031}, WeightShape{17, 129, 700},
                                   WeightShape{40, 96, 640}, WeightShape{300, 64, 48}, WeightShape{520, 37, 401}}) {
        SCOPED_TRACE(
            fmt::format("{} rows, {} to {}, {} threads{}", s.rows, s.in, s.out, threads, promised ? ", constant" : ""));
        Context context(device_options(threads));
        std::mt19937 random(4);
        const Weight w(context, GetParam(), s.in, s.out, random);
        const std::vector<StoredView> constant{w.view().stored(), w.fp32().stored()};
        const ConstantOperands promise(context, std::span(constant).first(promised ? 2 : 0));
        for (const bool biased : {true, false})
          expect_identical(results_of(context, s, w.view(), biased), results_of(context, s, w.fp32(), biased));
      }
}

INSTANTIATE_TEST_SUITE_P(Storages, StoredWeights, ::testing::ValuesIn(all_storages()),
                         [](const auto& named) { return name_of(named.param); });

// More than are converted or transposed at a time where the copy is not kept.
TEST(WeightNumbers, TheBitsOfLargeOnesDoNotFollowTheMemory) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a claim of the CPU";
  const int64_t rows = 17, in = 431, out = 40000;
  std::mt19937 random(5);
  std::vector<uint16_t> halves(static_cast<size_t>(in * out));
  for (uint16_t& half : halves) half = static_cast<uint16_t>(0x3d80 | (random() & 0x807f));  // +- 0.0625 .. 0.125
  Values floats;
  for (const uint16_t half : halves) floats.push_back(to_float(Bfloat{half}));
  const Values x_values = normal_values(random, rows * in);
  for (const Orientation orientation : {Orientation::in_out, Orientation::out_in}) {
    const bool turned = orientation == Orientation::out_in;
    std::vector<Values> products;
    for (const int64_t budget : {int64_t{1} << 30, int64_t{1} << 26}) {
      ContextOptions options = device_options();
      options.memory_budget = budget;
      Context context(options);
      const auto there = device(context, halves);
      const auto fp32 = device(context, floats);
      const Tensor x = Tensor::from_host(context, x_values, rows, in);
      const int64_t stored_rows = turned ? out : in, stored_cols = turned ? in : out;
      for (const StoredView& constant :
           {StoredView(there.data(), StoredType::bf16, stored_rows, stored_cols, stored_cols),
            StoredView(ConstView(fp32.data(), stored_rows, stored_cols))}) {
        const ConstantOperands promise(context, {&constant, 1});
        Tensor y(context, rows, out);
        linear(context, x.view(), turned ? WeightView::out_in(constant) : WeightView::in_out(constant), {}, y.view());
        products.push_back(y.to_host());
        EXPECT_EQ(ConstantOperands::transposed_bytes(context), turned && budget == int64_t{1} << 30 ? 4 * in * out : 0);
      }
    }
    for (const Values& other : products) EXPECT_TRUE(identical(other, products[0])) << (turned ? "out_in" : "in_out");
  }
}

TEST(WeightErrors, ShapesThatDoNotFitAreRefusedBeforeAnyWrite) {
  Context context(device_options());
  Padded x(context, 2, 3, Values(6, 1)), w(context, 4, 3, Values(12, 1)), bias(context, 1, 3, Values(3, 1)),
      y(context, 2, 4, Values(8, 7));
  const WeightView right = WeightView::out_in(w.read());
  EXPECT_THROW(linear(context, x.read(), WeightView::in_out(w.read()), {}, y.view()), ShapeError);
  EXPECT_THROW(linear(context, x.read(), right, bias.read(), y.view()), ShapeError);
  EXPECT_THROW(linear_backward(context, x.read(), right, y.view(), Write::assign), ShapeError);
  WeightView overlapping = right;
  overlapping.stride = 2;
  EXPECT_THROW(linear(context, x.read(), overlapping, {}, y.view()), ShapeError);
  EXPECT_EQ(y.values(), Values(8, 7));
}

TEST(WeightNumbers, ArithmeticIsCounted) {
  Context context(device_options());
  const Tensor dy = Tensor::zeros(context, 3, 7), w = Tensor::zeros(context, 7, 5);
  Tensor dx(context, 3, 5);
  linear_backward(context, dy.view(), WeightView::out_in(w.view()), dx.view(), Write::assign);
  EXPECT_EQ(context.matrix_flop(), 2 * 3 * 5 * 7);
}

}  // namespace
}  // namespace loci
