#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "runtime/stored.h"
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

/// The number that `value` becomes where it is stored in a type.
inline float rounded_to(StoredType type, float value) {
  if (type == StoredType::fp16) return to_float(to_half(value));
  if (type == StoredType::bf16) return to_float(to_bfloat(value));
  return value;
}
inline Values rounded_to(StoredType type, Values values) {
  for (float& value : values) value = rounded_to(type, value);
  return values;
}

/// A matrix of a stored type in device memory, off the alignment and with gaps between its rows, or with rows that are
/// 16-byte aligned. What lies around it is NaN.
class StoredMatrix {
 public:
  enum class Layout { anywhere, aligned };

  StoredMatrix(Context& context, StoredType type, int64_t rows, int64_t cols, const Values& values,
               Layout layout = Layout::anywhere)
      : type_(type), rows_(rows), cols_(cols) {
    stride_ = layout == Layout::aligned ? (cols + 7) / 8 * 8 : cols + 5;
    offset_ = layout == Layout::aligned ? 0 : 3;
    const int64_t size = stored_bytes(type);
    std::vector<unsigned char> all(static_cast<size_t>((offset_ + rows * stride_ + 7) * size), 0xff);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const float value = values[r * cols + c];
        const Half half = to_half(value);
        const Bfloat bfloat = to_bfloat(value);
        const void* const from = type == StoredType::fp32   ? static_cast<const void*>(&value)
                                 : type == StoredType::fp16 ? static_cast<const void*>(&half)
                                                            : static_cast<const void*>(&bfloat);
        std::memcpy(all.data() + (offset_ + r * stride_ + c) * size, from, static_cast<size_t>(size));
      }
    storage_ = DeviceArray<unsigned char>(context, std::span<const unsigned char>(all));
  }
  StoredView view() const { return {storage_.data() + offset_ * stored_bytes(type_), type_, rows_, cols_, stride_}; }

 private:
  StoredType type_;
  int64_t rows_, cols_, stride_ = 0, offset_ = 0;
  DeviceArray<unsigned char> storage_;
};

inline constexpr StoredType kStoredTypes[] = {StoredType::fp32, StoredType::fp16, StoredType::bf16};

}  // namespace loci::test
