#include "kernels/rotary.h"

#include <gtest/gtest.h>

#include "tests/kernels/reference.h"

namespace loci {
namespace {

using namespace test;

/// What rotate() is to give, in fp64, from the definition: pair by pair.
Doubles turned(RotaryPairs kind, Turn turn, int64_t heads, const std::vector<int32_t>& positions, const Values& cosines,
               const Values& sines, const Values& x) {
  const auto rows = std::ssize(positions), cols = std::ssize(x) / rows, width = cols / heads;
  Doubles y(x.begin(), x.end());
  const int64_t count = std::ssize(cosines) / 7;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads && positions[r] >= 0; ++h)
      for (int64_t i = 0; i < count; ++i) {
        const int64_t head = r * cols + h * width;
        const int64_t a = head + (kind == RotaryPairs::interleaved ? 2 * i : i);
        const int64_t b = kind == RotaryPairs::interleaved ? a + 1 : a + count;
        const double c = cosines[positions[r] * count + i],
                     s = (turn == Turn::back ? -1.0 : 1.0) * sines[positions[r] * count + i];
        y[a] = static_cast<double>(x[a]) * c - static_cast<double>(x[b]) * s;
        y[b] = static_cast<double>(x[b]) * c + static_cast<double>(x[a]) * s;
      }
  return y;
}

struct RotaryCase {
  int64_t rows, heads, width, count;
};

class Rotary : public ::testing::TestWithParam<std::tuple<RotaryPairs, Turn>> {};

TEST_P(Rotary, AgreesWithTheFormulaInDouble) {
  const auto [kind, turn] = GetParam();
  Context context(device_options());
  std::mt19937 random(1);
  for (const RotaryCase& shape : {RotaryCase{1, 1, 2, 1},
                                  {3, 2, 5, 2},
                                  {31, 3, 8, 1},
                                  {33, 5, 24, 3},
                                  {7, 2, 129, 64},
                                  {32, 1, 64, 32},
                                  {2, 4, 6, 0},
                                  {0, 2, 4, 2}}) {
    const int64_t cols = shape.heads * shape.width;
    const Values cos_values = normal_values(random, 7 * shape.count),
                 sin_values = normal_values(random, 7 * shape.count);
    const Values x_values = normal_values(random, shape.rows * cols);
    std::vector<int32_t> positions(static_cast<size_t>(shape.rows));
    for (int32_t& position : positions) position = static_cast<int32_t>(random() % 8) - 1;
    Padded cosines(context, 7, shape.count, cos_values), sines(context, 7, shape.count, sin_values),
        x(context, shape.rows, cols, x_values);
    rotate(context, kind, turn, shape.heads, device(context, positions), cosines.read(), sines.read(), x.view());
    if (shape.rows == 0) continue;
    const Doubles expected = turned(kind, turn, shape.heads, positions, cos_values, sin_values, x_values);
    // Two products and a sum, of numbers below 5.
    EXPECT_TRUE(near(x.values(), expected, 3 * 25 * kEps)) << shape.rows << " rows of " << cols;
    EXPECT_TRUE(x.guarded());
  }
}

TEST_P(Rotary, NegativePositionsAndTheRestOfAHeadStay) {
  const auto [kind, turn] = GetParam();
  Context context(device_options());
  const Values values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  Padded cosines(context, 1, 1, {0}), sines(context, 1, 1, {1}), x(context, 2, 5, values);
  rotate(context, kind, turn, 1, device<int32_t>(context, {-1, 0}), cosines.read(), sines.read(), x.view());
  const float sign = turn == Turn::forward ? 1 : -1;
  EXPECT_EQ(x.values(), (Values{1, 2, 3, 4, 5, -sign * 7, sign * 6, 8, 9, 10}));
}

/// Turning back is the transpose of turning: (R x) . y = x . (R^T y), with a factor in the tables too.
TEST_P(Rotary, BackIsTheTransposeOfForward) {
  const auto [kind, turn] = GetParam();
  Context context(device_options());
  std::mt19937 random(2);
  const int64_t rows = 5, heads = 3, width = 8, count = 3;
  const Values cos_values = normal_values(random, 7 * count), sin_values = normal_values(random, 7 * count);
  const Values x_values = normal_values(random, rows * heads * width),
               y_values = normal_values(random, rows * heads * width);
  const auto positions = device<int32_t>(context, {0, 6, 2, 2, 5});
  Padded cosines(context, 7, count, cos_values), sines(context, 7, count, sin_values),
      x(context, rows, heads * width, x_values), y(context, rows, heads * width, y_values);
  rotate(context, kind, turn, heads, positions, cosines.read(), sines.read(), x.view());
  rotate(context, kind, turn == Turn::forward ? Turn::back : Turn::forward, heads, positions, cosines.read(),
         sines.read(), y.view());
  const Values turned_x = x.values(), turned_y = y.values();
  double left = 0, right = 0, size = 0;
  for (size_t i = 0; i < x_values.size(); ++i) {
    left += static_cast<double>(turned_x[i]) * static_cast<double>(y_values[i]);
    right += static_cast<double>(x_values[i]) * static_cast<double>(turned_y[i]);
    size += std::abs(static_cast<double>(turned_x[i]) * static_cast<double>(y_values[i]));
  }
  EXPECT_NEAR(left, right, 8 * kEps * size);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Rotary,
                         ::testing::Combine(::testing::Values(RotaryPairs::interleaved, RotaryPairs::halves),
                                            ::testing::Values(Turn::forward, Turn::back)),
                         [](const auto& named) {
                           return std::string(std::get<0>(named.param) == RotaryPairs::interleaved ? "interleaved"
                                                                                                   : "halves") +
                                  (std::get<1>(named.param) == Turn::forward ? "_forward" : "_back");
                         });

TEST(RotaryErrors, ShapesAreCheckedBeforeAnyWrite) {
  Context context(device_options());
  const Values sevens(12, 7);
  Padded cosines(context, 3, 2, Values(6, 0)), other(context, 3, 1, Values(3, 0)), wide(context, 3, 4, sevens),
      x(context, 2, 6, sevens);
  const auto two = device<int32_t>(context, {0, 1}), one = device<int32_t>(context, {0});
  const auto refused = [&](int64_t heads, const DeviceArray<int32_t>& positions, ConstView c, ConstView s) {
    EXPECT_THROW(rotate(context, RotaryPairs::halves, Turn::forward, heads, positions, c, s, x.view()), ShapeError);
  };
  refused(1, one, cosines.read(), cosines.read());
  refused(1, two, cosines.read(), other.read());
  refused(1, two, wide.read(), wide.read());
  refused(4, two, cosines.read(), cosines.read());
  refused(0, two, cosines.read(), cosines.read());
  EXPECT_EQ(x.values(), sevens);
}

}  // namespace
}  // namespace loci
