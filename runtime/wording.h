#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// How numbers, counted things and names are written in messages.
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

/// The name of an option in a message: samples, or --samples in a program with a command line. Libraries name options
/// by this alone, since those who call them from other programs have no command line: "{} {}: at least one corrupted
/// copy is needed", option("samples"), 0.
std::string option(std::string_view name);

enum class OptionStyle { plain, dashes };
/// How option() writes them from now on; plain at first. For main(), before there are threads.
void set_option_style(OptionStyle style);

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
size_t edit_distance(std::string_view from, std::string_view to);
/// "; did you mean facts?" with the candidate that somebody who wrote `word` most likely meant; nothing where none is
/// near. `before` and `after` stand around the candidate.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates,
                         std::string_view before = "", std::string_view after = "");

}  // namespace loci
