#pragma once

#include <cstddef>
#include <string_view>

namespace loci {

/// GPT-2's pre-tokenizer as the regular expression that its authors published.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// The same by hand, several times faster than SplitPattern: the end of the piece that begins at `text[begin]` (`begin
/// < text.size()`), that is, of the match there.
///
/// Every text is covered: pieces follow each other without gaps, and byte-pair merges never cross from one to the next.
/// `\s` is the property White_Space. A byte that is not part of well-formed UTF-8 counts as neither letter, number nor
/// space, so that any bytes can be encoded without loss.
std::size_t piece_end(std::string_view text, std::size_t begin);

}  // namespace loci
