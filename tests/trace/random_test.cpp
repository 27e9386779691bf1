// The generators against numpy 1.24's values, against the reference's own noise, and against published test vectors.
#include "runtime/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "runtime/io/npz.h"
#include "tests/support/compare.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

template <typename Draw>
std::vector<double> draws(int64_t count, Draw&& draw) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(draw());
  return values;
}

TEST(LegacyRandom, NormalsAreNumpys) {
  LegacyRandom random(1);  // numpy.random.RandomState(1).randn(5)
  const std::vector<double> expected = {1.6243453636632417, -0.61175641365007538, -0.5281717522634557,
                                        -1.0729686221561705, 0.86540762932467852};
  EXPECT_TRUE(identical(draws(5, [&] { return random.normal(); }), expected));
}

TEST(LegacyRandom, UniformsAreNumpys) {
  LegacyRandom random(1);  // RandomState(1).uniform(-1, 1, 1000): more than one refill of the state
  const auto values = draws(1000, [&] { return random.uniform(-1, 1); });
  EXPECT_EQ(values[0], -0.165955990594852);
  EXPECT_EQ(values[1], 0.4406489868843162);
  EXPECT_EQ(values[998], -0.34806558538202825);
  EXPECT_EQ(values[999], 0.5489545320301592);
}

TEST(LegacyRandom, ChiSquaresAreNumpys) {
  // RandomState(2).chisquare(df, 1000): shapes above, below and at 1 take different paths.
  struct Case {
    double degrees, first, second, last;
  };
  for (const Case& one : {Case{3, 1.5438607459046478, 2.2138815149120945, 0.30750682342565716},
                          Case{1.5, 1.0859990651641851, 0.67593900596186085, 2.5826740471585183},
                          Case{2, 1.14538397753923, 0.052536481729004665, 3.1485520822562467}}) {
    LegacyRandom random(2);
    const auto values = draws(1000, [&] { return random.chi_square(one.degrees); });
    EXPECT_EQ(values.front(), one.first) << one.degrees;
    EXPECT_EQ(values[1], one.second) << one.degrees;
    EXPECT_EQ(values.back(), one.last) << one.degrees;
  }
}

TEST(LegacyRandom, DrawsTheReferencesNoiseBitForBit) {
  const auto shared = shared_dir();
  if (!shared) GTEST_SKIP() << "no reference outputs";
  const auto noise = read_npz(*shared / "golden/tiny-a/trace/noise.npz");
  LegacyRandom random(1);
  for (const char* name : {"first", "second"}) {
    const auto expected = noise.at(name).as<double>();
    const auto actual = draws(std::ssize(expected), [&] { return random.normal(); });
    EXPECT_TRUE(identical(actual, expected)) << name;
  }
  LegacyRandom again(1);
  const auto uniform = noise.at("uniform").as<double>();
  const auto actual = draws(std::ssize(uniform), [&] { return again.uniform(-1, 1); });
  EXPECT_TRUE(identical(actual, uniform));
}

TEST(Philox, PublishedVectors) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, StreamsAreReproducibleAndDiffer) {
  Random a(7, 3), b(7, 3), other_stream(7, 4), other_seed(8, 3);
  std::set<uint64_t> seen;
  for (int i = 0; i < 100; ++i) {
    const uint64_t value = a.next();
    EXPECT_EQ(value, b.next());
    seen.insert({value, other_stream.next(), other_seed.next()});
  }
  EXPECT_EQ(seen.size(), 300u);
}

TEST(Random, MomentsOfUniformsAndNormals) {
  Random random(5);
  const int64_t count = 200000;
  double sum = 0, squares = 0, smallest = 1, largest = 0, normal_sum = 0, normal_squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double u = random.uniform();
    const double x = random.normal();
    sum += u;
    squares += u * u;
    smallest = std::min(smallest, u);
    largest = std::max(largest, u);
    normal_sum += x;
    normal_squares += x * x;
  }
  const double n = static_cast<double>(count);
  // Five standard errors.
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
  EXPECT_NEAR(normal_sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(normal_squares / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_GE(smallest, 0);
  EXPECT_LT(largest, 1);
}

TEST(Random, BelowIsEvenAndInRange) {
  Random random(9);
  std::vector<int64_t> counts(7);
  const int64_t count = 70000;
  for (int64_t i = 0; i < count; ++i) ++counts.at(random.below(7));
  for (const int64_t one : counts) EXPECT_NEAR(static_cast<double>(one), 10000, 5 * std::sqrt(10000 * 6.0 / 7));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(random.below(1), 0u);
}

}  // namespace
}  // namespace loci::test
