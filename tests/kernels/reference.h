#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "runtime/tensor.h"
#include "runtime/view.h"
#include "tests/support/compare.h"
#include "tests/support/device.h"

/// What the kernel tests share: random matrices with room around them, and naive fp64 references.
namespace loci::test {

using Values = std::vector<float>;
using Doubles = std::vector<double>;

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

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

/// The values in device memory.
template <typename T>
DeviceArray<T> device(Context& context, const std::vector<T>& values) {
  return DeviceArray<T>(context, std::span<const T>(values));
}

/// A matrix in device memory that starts off the alignment and has a gap behind each row; everything around it is
/// filled with a guard value that must still be there at the end.
class Padded {
 public:
  /// Filled with NaN.
  Padded(Context& context, int64_t rows, int64_t cols)
      : Padded(context, rows, cols, Values(static_cast<size_t>(rows * cols), kNan)) {}
  Padded(Context& context, int64_t rows, int64_t cols, const Values& values)
      : context_(&context), rows_(rows), cols_(cols), stride_(cols + 5) {
    Values all(static_cast<size_t>(kOffset + rows * stride_ + 7), kGuard);
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(values.begin() + r * cols, cols, all.begin() + kOffset + r * stride_);
    storage_ = Tensor::from_host(context, all, 1, std::ssize(all));
  }
  View view() { return {storage_.data() + kOffset, rows_, cols_, stride_}; }
  ConstView read() { return view(); }
  Values values() { return to_host(*context_, read()); }
  /// True where nothing outside the matrix was written.
  bool guarded() {
    const Values all = storage_.to_host();
    for (int64_t i = 0; i < storage_.cols(); ++i) {
      const int64_t at = i - kOffset;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % stride_ < cols_;
      if (!inside && all[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kOffset = 3;
  static constexpr float kGuard = 1234.5f;
  Context* context_;
  int64_t rows_, cols_, stride_;
  Tensor storage_;
};

}  // namespace loci::test
