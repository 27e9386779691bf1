#pragma once

#include <array>
#include <optional>
#include <string_view>

namespace loci {

/// A name of a value of an enum, as files and options spell it.
template <typename Enum>
struct NamedValue {
  std::string_view name;
  Enum value;
};

/// The names of an enum's values. A value may have several: the first is written, the others are read too.
template <typename Enum, size_t n>
using NamedValues = std::array<NamedValue<Enum>, n>;

/// There must be one.
template <typename Enum, size_t n>
std::string_view name_of(Enum value, const NamedValues<Enum, n>& names) {
  for (const auto& named : names)
    if (named.value == value) return named.name;
  return "";
}

/// Nothing where no value has this name.
template <typename Enum, size_t n>
std::optional<Enum> value_named(std::string_view name, const NamedValues<Enum, n>& names) {
  for (const auto& named : names)
    if (named.name == name) return named.value;
  return std::nullopt;
}

}  // namespace loci
