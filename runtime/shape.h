#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace loci {

/// The product of the extents; nothing where one is negative or the product does not fit. An extent of 0 makes it 0
/// wherever it stands.
inline std::optional<int64_t> product_of(std::span<const int64_t> shape) {
  int64_t product = 1;
  bool fits = true, empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty = empty || extent == 0;
    fits = fits && !__builtin_mul_overflow(product, extent, &product);
  }
  if (empty) return 0;
  return fits ? std::optional(product) : std::nullopt;
}

/// "[3, 4]"
inline std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace loci
