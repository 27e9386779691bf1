#include "model/text/pretokenizer.h"

#include <array>

#include "model/text/unicode.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

using unicode::CharClass;

constexpr std::array<CharClass, 128> ascii_classes() {
  std::array<CharClass, 128> classes{};
  for (std::size_t c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    classes[c] = letter                 ? CharClass::letter
                 : c >= '0' && c <= '9' ? CharClass::number
                 : space                ? CharClass::space
                                        : CharClass::other;
  }
  return classes;
}

constexpr std::array<CharClass, 128> kAscii = ascii_classes();

struct Character {
  CharClass char_class;
  std::size_t length;
};

Character character_at(std::string_view text, std::size_t index) {
  const auto byte = static_cast<unsigned char>(text[index]);
  if (byte < 0x80) return {kAscii[byte], 1};
  const utf8::Step step = utf8::decode(text, index);
  return {step.well_formed ? unicode::char_class(step.code_point) : CharClass::other, step.length};
}

/// End of the run of characters of one class.
std::size_t run_end(std::string_view text, std::size_t begin, CharClass wanted) {
  while (begin < text.size()) {
    const Character next = character_at(text, begin);
    if (next.char_class != wanted) break;
    begin += next.length;
  }
  return begin;
}

/// Length of the contraction 's 't 're 've 'm 'll 'd that begins with the apostrophe at `begin`, or 0.
std::size_t contraction_length(std::string_view text, std::size_t begin) {
  const char first = begin + 1 < text.size() ? text[begin + 1] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  const char second = begin + 2 < text.size() ? text[begin + 2] : '\0';
  const bool long_form =
      (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return long_form ? 3 : 0;
}

/// `\s+(?!\S)|\s+`: the whole run at the end of the text; elsewhere all but its last character, which is left to begin
/// the next piece, unless it is the only one.
std::size_t space_run_end(std::string_view text, std::size_t begin) {
  std::size_t last = begin, end = begin;
  while (end < text.size()) {
    const Character next = character_at(text, end);
    if (next.char_class != CharClass::space) return last > begin ? last : end;
    last = end;
    end += next.length;
  }
  return end;
}

}  // namespace

std::size_t piece_end(std::string_view text, std::size_t begin) {
  const Character first = character_at(text, begin);
  if (text[begin] == '\'') {
    if (const std::size_t length = contraction_length(text, begin)) return begin + length;
  }
  if (first.char_class != CharClass::space) return run_end(text, begin + first.length, first.char_class);
  if (text[begin] == ' ' && begin + 1 < text.size()) {
    const Character second = character_at(text, begin + 1);
    if (second.char_class != CharClass::space) return run_end(text, begin + 1 + second.length, second.char_class);
  }
  return space_run_end(text, begin);
}

}  // namespace loci
