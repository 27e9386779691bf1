#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace loci {

/// Bytes of a text that a message shows unless it says otherwise.
inline constexpr std::size_t kShownBytes = 120;

/// A text for a message: in double quotes, on one line, so that texts that differ look different. Control characters,
/// quotes and backslashes are escaped as in JSON; other characters that cannot be seen or that pass for another are
/// written as \u00a0 or \U000e0001, bytes that are not UTF-8 as \xff:
///   spaces other than U+0020, characters without width, private ones, and U+FFFD;
///   combining marks and conjoining Hangul (Unicode form NFD: "e\u0301" is not "é");
///   dashes, quotation marks and full-width forms that pass for ASCII;
///   Greek and Cyrillic letters beside ASCII letters in one word.
/// After `longest` bytes of the text an ellipsis follows.
std::string shown(std::string_view text, std::size_t longest = kShownBytes);

}  // namespace loci
