#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace loci::utf8 {

/// One step through a text: a well-formed character, or the longest ill-formed stretch that Unicode replaces by a
/// single U+FFFD (a "maximal subpart", table 3-7 of the standard; at least one byte).
struct Step {
  char32_t code_point = 0xFFFD;
  std::size_t length = 1;
  bool well_formed = false;
};

/// The character that begins at `text[begin]`; `begin` must lie inside the text. Overlong forms, surrogates, values
/// beyond U+10FFFF and cut sequences are ill-formed.
Step decode(std::string_view text, std::size_t begin);

/// Appends the UTF-8 form of a code point up to U+10FFFF.
void append(std::string& text, char32_t code_point);

/// The text with every ill-formed stretch replaced by U+FFFD, as Python's and Rust's lossy decoders do.
std::string replace_ill_formed(std::string_view text);

}  // namespace loci::utf8
