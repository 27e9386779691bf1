#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

/// Bytes [begin, end) of a text.
struct ByteRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

}  // namespace loci

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

/// A text in normalisation form C (NFC, as of Unicode 15), and which bytes of the original went into it. Bytes that are
/// not well-formed UTF-8 stay as they are, and no characters join across them.
class NfcText {
 public:
  explicit NfcText(std::string_view original);

  const std::string& text() const { return text_; }
  /// The bytes of the original that bytes [begin, end) of text() stand for; begin < end. They are the same bytes where
  /// the original was in this form already. A character that was made of several others, or of parts of one, stands for
  /// everything from the first byte of these to their last.
  ByteRange original(ByteRange bytes) const;

 private:
  /// Bytes of text_ from `begin` to the next stretch: a copy of `source`, or one character that was made of it.
  struct Stretch {
    std::int64_t begin = 0;
    ByteRange source;
    bool copied = false;
  };

  void copy(std::string_view original, ByteRange source);
  void normalise(std::string_view original, ByteRange source);

  std::string text_;
  std::vector<Stretch> stretches_;
};

}  // namespace loci::unicode
