#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "runtime/tensor.h"
#include "runtime/view.h"
#include "tests/support/compare.h"

/// What the kernel tests share: random matrices with room around them, and naive fp64 references.
namespace loci::test {

using Values = std::vector<float>;
using Doubles = std::vector<double>;

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline ContextOptions with_threads(int threads) {
  ContextOptions options;
  options.threads = threads;
  return options;
}

inline Values normal_values(std::mt19937& random, int64_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Values values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// Integers in [-3, 3]: sums of products of them are exact in fp32 in any order, up to 2^24.
inline Values integer_values(std::mt19937& random, int64_t count) {
  std::uniform_int_distribution<int> integer(-3, 3);
  Values values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(integer(random));
  return values;
}

/// A matrix in device memory that starts off the alignment and has a gap behind each row; everything around it is
/// filled with a guard value that must still be there at the end.
class Padded {
 public:
  /// Filled with NaN.
  Padded(Context& context, int64_t rows, int64_t cols)
      : Padded(context, rows, cols, Values(static_cast<size_t>(rows * cols), kNan)) {}
  Padded(Context& context, int64_t rows, int64_t cols, const Values& values)
      : rows_(rows), cols_(cols), stride_(cols + 5), storage_(context, 1, kOffset + rows * stride_ + 7) {
    std::fill_n(storage_.data(), storage_.cols(), kGuard);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) view().row(r)[c] = values[static_cast<size_t>(r * cols + c)];
  }
  View view() { return {storage_.data() + kOffset, rows_, cols_, stride_}; }
  ConstView read() { return view(); }
  Values values() {
    Values out;
    for (int64_t r = 0; r < rows_; ++r) out.insert(out.end(), view().row(r), view().row(r) + cols_);
    return out;
  }
  /// True where nothing outside the matrix was written.
  bool guarded() {
    for (int64_t i = 0; i < storage_.cols(); ++i) {
      const int64_t at = i - kOffset;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % stride_ < cols_;
      if (!inside && storage_.data()[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kOffset = 3;
  static constexpr float kGuard = 1234.5f;
  int64_t rows_, cols_, stride_;
  Tensor storage_;
};

}  // namespace loci::test
