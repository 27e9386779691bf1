#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

/// How numbers and counted things are written in messages.
namespace loci {

/// "1 fact", "2 facts", "0 facts". `plural` is for nouns that take more than an s: count(n, "entry", "entries").
inline std::string count(int64_t number, std::string_view noun, std::string_view plural = {}) {
  if (number == 1) return fmt::format("{} {}", number, noun);
  return plural.empty() ? fmt::format("{} {}s", number, noun) : fmt::format("{} {}", number, plural);
}

/// A number with so many decimals. What rounds to zero has no sign: "0.0000", not "-0.0000".
inline std::string fixed(double value, int decimals) {
  const std::string text = fmt::format("{:.{}f}", value, decimals);
  return text.starts_with('-') && text.find_first_of("123456789in") == text.npos ? text.substr(1) : text;
}

}  // namespace loci
