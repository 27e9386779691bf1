#pragma once

#include <cstdint>

namespace loci::unicode {

/// What the pre-tokenizer asks of a character: general category L*, N*, the property White_Space, or none of them.
enum class CharClass : std::uint8_t { other = 0, letter = 1, number = 2, space = 3 };

/// Two-stage table of Unicode 16.0 (scripts/make_unicode_tables.py): the block of 256 code points that a code point
/// lies in, and the distinct blocks, four code points a byte.
extern const std::uint8_t kBlockOfCodePoint[0x110000 / 256];
extern const std::uint8_t kBlocks[][64];

/// Class of a code point; those beyond U+10FFFF, surrogates and unassigned ones are `other`.
inline CharClass char_class(char32_t code_point) {
  if (code_point >= 0x110000) return CharClass::other;
  const std::uint8_t packed = kBlocks[kBlockOfCodePoint[code_point >> 8]][(code_point & 0xFF) >> 2];
  return static_cast<CharClass>((packed >> (2 * (code_point & 3))) & 3);
}

}  // namespace loci::unicode
