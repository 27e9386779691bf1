#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "runtime/view.h"

/// Numbers as checkpoints store them: fp32, IEEE half, bfloat16.
namespace loci {

enum class StoredType { fp32, fp16, bf16 };

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

inline int64_t stored_bytes(StoredType type) { return type == StoredType::fp32 ? 4 : 2; }

/// To single precision: exact for every value.
constexpr float to_float(float value) { return value; }
constexpr float to_float(Bfloat value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }
constexpr float to_float(Half value) {
  const uint32_t magnitude = value.bits & 0x7fffu, sign = (value.bits & 0x8000u) << 16;
  // Below 2^-14 halves are multiples of 2^-24.
  const uint32_t normal = (magnitude << 13) + (112u << 23), special = magnitude << 13 | 0x7f800000u,
                 small = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return std::bit_cast<float>(sign | (magnitude >= 0x7c00u ? special : magnitude < 0x400u ? small : normal));
}

/// To nearest, ties to even; beyond its range infinity.
inline Half to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  const auto made = [&](uint32_t rest) { return Half{static_cast<uint16_t>(sign | rest)}; };
  if (std::isnan(value)) return made(0x7e00u);
  if (magnitude >= 65520.0f) return made(0x7c00u);
  if (magnitude < 0x1p-14f) return made(static_cast<uint32_t>(std::lrint(std::ldexp(magnitude, 24))));
  uint32_t rounded = bits & 0x7fffffffu;
  rounded += 0xfffu + ((rounded >> 13) & 1u);
  return made((rounded >> 13) - (112u << 10));
}
/// To nearest, ties to even.
inline Bfloat to_bfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// A non-owning constant row-major matrix of any stored type, in a device's memory. A view of fp32 is one as it is.
struct StoredView {
  const void* data = nullptr;
  StoredType type = StoredType::fp32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  ///< elements from one row to the next

  StoredView() = default;
  StoredView(const void* data_, StoredType type_, int64_t rows_, int64_t cols_, int64_t stride_)
      : data(data_), type(type_), rows(rows_), cols(cols_), stride(stride_) {}
  StoredView(ConstView view) : StoredView(view.data, StoredType::fp32, view.rows, view.cols, view.stride) {}
  StoredView(View view) : StoredView(ConstView(view)) {}

  bool empty() const { return rows == 0 || cols == 0; }
  /// Of a matrix of this type alone.
  ConstView fp32() const { return {static_cast<const float*>(data), rows, cols, stride}; }
  StoredView rows_slice(int64_t first, int64_t count) const { return {at(first * stride), type, count, cols, stride}; }
  StoredView cols_slice(int64_t first, int64_t count) const { return {at(first), type, rows, count, stride}; }

 private:
  const void* at(int64_t element) const {
    return static_cast<const unsigned char*>(data) + element * stored_bytes(type);
  }
};

/// Calls visit(pointer to the first element, as const float*, const Half* or const Bfloat*).
template <typename Visit>
decltype(auto) visit_elements(const StoredView& view, const Visit& visit) {
  if (view.type == StoredType::fp16) return visit(static_cast<const Half*>(view.data));
  if (view.type == StoredType::bf16) return visit(static_cast<const Bfloat*>(view.data));
  return visit(static_cast<const float*>(view.data));
}

}  // namespace loci
