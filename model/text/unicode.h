#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "model/text/rewritten_text.h"

namespace loci::unicode {

/// What a pre-tokenizer asks of a character: general category L*, N*, the property White_Space, or none of them.
enum class CharClass : std::uint8_t { other, letter, number, space };

/// The class of a code point in Unicode 16.0, which Hugging Face's tokenizers use. Surrogates, unassigned code points
/// and what lies beyond U+10FFFF are `other`.
CharClass char_class(char32_t code_point);

/// Code points [first, last], all of one class.
struct ClassRange {
  char32_t first = 0;
  char32_t last = 0;
  CharClass char_class = CharClass::other;
};

/// The letters and numbers that came with Unicode 15 and 16, in rising order. Debian 12's libraries are older and take
/// them for unassigned: PCRE2 has Unicode 14, utf8proc 15.
std::span<const ClassRange> added_since_unicode_14();

/// Whether a character goes on with a word, as `\w` of regular expressions: letters, marks, digits, connectors,
/// joiners.
bool is_of_word(char32_t code_point);

/// A text in normalisation form C (NFC, as of Unicode 15), and which bytes of the original went into it. Bytes that are
/// not well-formed UTF-8 stay as they are, and no characters join across them. Bytes stand for themselves where the
/// original was in this form already. A character that was made of several others, or of parts of one, stands for
/// everything from the first byte of these to their last.
class NfcText : public RewrittenText {
 public:
  explicit NfcText(std::string_view original);

 private:
  void normalise(std::string_view original, ByteRange source);
};

/// Whether no character of the text is one that NFC may change or join to another. A quick look: false says nothing.
bool is_surely_nfc(std::string_view text);

}  // namespace loci::unicode
