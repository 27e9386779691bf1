#include "model/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/utf8.h"

namespace loci::unicode {
namespace {

constexpr CharClass kLetter = CharClass::letter, kNumber = CharClass::number;

/// Every other letter and number is in Unicode 14 already, in the same class.
constexpr ClassRange kAddedSinceUnicode14[] = {
    {0x1C89, 0x1C8A, kLetter},   {0xA7CB, 0xA7CD, kLetter},   {0xA7DA, 0xA7DC, kLetter},   {0x105C0, 0x105F3, kLetter},
    {0x10D40, 0x10D49, kNumber}, {0x10D4A, 0x10D65, kLetter}, {0x10D6F, 0x10D85, kLetter}, {0x10EC2, 0x10EC4, kLetter},
    {0x1123F, 0x11240, kLetter}, {0x11380, 0x11389, kLetter}, {0x1138B, 0x1138B, kLetter}, {0x1138E, 0x1138E, kLetter},
    {0x11390, 0x113B5, kLetter}, {0x113B7, 0x113B7, kLetter}, {0x113D1, 0x113D1, kLetter}, {0x113D3, 0x113D3, kLetter},
    {0x116D0, 0x116E3, kNumber}, {0x11BC0, 0x11BE0, kLetter}, {0x11BF0, 0x11BF9, kNumber}, {0x11F02, 0x11F02, kLetter},
    {0x11F04, 0x11F10, kLetter}, {0x11F12, 0x11F33, kLetter}, {0x11F50, 0x11F59, kNumber}, {0x1342F, 0x1342F, kLetter},
    {0x13441, 0x13446, kLetter}, {0x13460, 0x143FA, kLetter}, {0x16100, 0x1611D, kLetter}, {0x16130, 0x16139, kNumber},
    {0x16D40, 0x16D6C, kLetter}, {0x16D70, 0x16D79, kNumber}, {0x18CFF, 0x18CFF, kLetter}, {0x1B132, 0x1B132, kLetter},
    {0x1B155, 0x1B155, kLetter}, {0x1CCF0, 0x1CCF9, kNumber}, {0x1D2C0, 0x1D2D3, kNumber}, {0x1DF25, 0x1DF2A, kLetter},
    {0x1E030, 0x1E06D, kLetter}, {0x1E4D0, 0x1E4EB, kLetter}, {0x1E4F0, 0x1E4F9, kNumber}, {0x1E5D0, 0x1E5ED, kLetter},
    {0x1E5F0, 0x1E5F0, kLetter}, {0x1E5F1, 0x1E5FA, kNumber}, {0x2B739, 0x2B739, kLetter}, {0x2EBF0, 0x2EE5D, kLetter},
    {0x31350, 0x323AF, kLetter}};

CharClass class_of_unassigned(char32_t code_point) {
  const auto range = std::ranges::lower_bound(kAddedSinceUnicode14, code_point, {}, &ClassRange::last);
  return range != std::end(kAddedSinceUnicode14) && code_point >= range->first ? range->char_class : CharClass::other;
}

}  // namespace

CharClass char_class(char32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::space;
    case UTF8PROC_CATEGORY_CC:  // White_Space has six control characters
      return (code_point >= '\t' && code_point <= '\r') || code_point == 0x85 ? CharClass::space : CharClass::other;
    case UTF8PROC_CATEGORY_CN:
      return class_of_unassigned(code_point);
    default:
      return CharClass::other;
  }
}

bool is_of_word(char32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_SO:  // letters in circles and squares are alphabetic, too
      return (code_point >= 0x24B6 && code_point <= 0x24E9) || (code_point >= 0x1F130 && code_point <= 0x1F149) ||
             (code_point >= 0x1F150 && code_point <= 0x1F169) || (code_point >= 0x1F170 && code_point <= 0x1F189);
    default:
      return char_class(code_point) == CharClass::letter || code_point == 0x200C || code_point == 0x200D;
  }
}

std::span<const ClassRange> added_since_unicode_14() { return kAddedSinceUnicode14; }

// ---- NFC ----

namespace {

/// Below it, no character joins the one before it, and none changes but with one from here on.
constexpr char32_t kFirstThatJoins = 0x300;

/// A character on its way from decomposed to composed form, and the bytes that went into it.
struct Part {
  char32_t code_point = 0;
  int combining_class = 0;
  ByteRange source;
};

int combining_class(char32_t code_point) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point))->combining_class;
}

/// Well-formed text, canonically decomposed (UAX 15).
std::vector<Part> decomposed(std::string_view text, ByteRange source) {
  std::vector<Part> parts;
  for (std::int64_t at = source.begin; at < source.end;) {
    const utf8::Step step = utf8::decode(text, static_cast<std::size_t>(at));
    const ByteRange bytes{at, at + static_cast<std::int64_t>(step.length)};
    utf8proc_int32_t codes[16];  // four are the most that any character has
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), codes,
                                                           std::ssize(codes), UTF8PROC_DECOMPOSE, nullptr);
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      const auto code_point = static_cast<char32_t>(codes[i]);
      parts.push_back({code_point, combining_class(code_point), bytes});
    }
    at = bytes.end;
  }
  const auto is_starter = [](const Part& part) { return part.combining_class == 0; };
  for (auto begin = parts.begin(); begin != parts.end();) {
    begin = std::ranges::find_if_not(begin, parts.end(), is_starter);
    const auto end = std::ranges::find_if(begin, parts.end(), is_starter);
    std::ranges::stable_sort(begin, end, {}, &Part::combining_class);
    begin = end;
  }
  return parts;
}

/// The one character that two are canonically equivalent to; 0 where there is none.
char32_t composite(char32_t first, char32_t second) {
  utf8proc_int32_t pair[] = {static_cast<utf8proc_int32_t>(first), static_cast<utf8proc_int32_t>(second)};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  return utf8proc_normalize_utf32(pair, 2, options) == 1 ? static_cast<char32_t>(pair[0]) : 0;
}

/// A part joins the last starter before it unless one in between has no lower combining class (UAX 15, D117).
std::vector<Part> composed(const std::vector<Part>& parts) {
  std::vector<Part> result;
  std::ptrdiff_t starter = -1;
  for (const Part& part : parts) {
    const bool is_next = starter == std::ssize(result) - 1;
    const bool may_join = starter >= 0 && part.code_point >= kFirstThatJoins &&
                          (is_next || result.back().combining_class < part.combining_class);
    if (const char32_t joined = may_join ? composite(result[starter].code_point, part.code_point) : 0) {
      ByteRange& source = result[starter].source;
      source = {std::min(source.begin, part.source.begin), std::max(source.end, part.source.end)};
      result[starter].code_point = joined;
      continue;
    }
    if (part.combining_class == 0) starter = std::ssize(result);
    result.push_back(part);
  }
  return result;
}

bool may_join(char byte) {
  constexpr unsigned char kFirstByteThatJoins = 0xCC;  // of kFirstThatJoins in UTF-8
  return static_cast<unsigned char>(byte) >= kFirstByteThatJoins;
}

/// The end of what surely stays from `begin` on: all before the character that the next one may join.
std::size_t plain_end(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (end < text.size() && !may_join(text[end])) ++end;
  if (end == text.size() || end == begin) return end;
  --end;
  return end > begin && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80 ? end - 1 : end;
}

}  // namespace

NfcText::NfcText(std::string_view original) {
  reserve(original.size());
  const auto joins = [original](std::size_t at) {
    const utf8::Step step = utf8::decode(original, at);
    return step.well_formed && step.code_point >= kFirstThatJoins ? step.length : 0;
  };
  // Each character together with those behind it that may join it.
  for (std::size_t begin = 0, end = 0; begin < original.size(); begin = end) {
    if (const std::size_t plain = plain_end(original, begin); plain > begin) {
      copy(original, {static_cast<std::int64_t>(begin), static_cast<std::int64_t>(plain)});
      end = plain;
      continue;
    }
    const utf8::Step first = utf8::decode(original, begin);
    end = begin + first.length;
    while (first.well_formed && end < original.size() && joins(end) > 0) end += joins(end);
    const ByteRange bytes{static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)};
    const bool may_change = first.well_formed && (end > begin + first.length || first.code_point >= kFirstThatJoins);
    if (may_change) {
      normalise(original, bytes);
    } else {
      copy(original, bytes);
    }
  }
}

void NfcText::normalise(std::string_view original, ByteRange source) {
  for (const Part& part : composed(decomposed(original, source))) {
    const auto before = static_cast<std::size_t>(part.source.begin);
    const auto length = static_cast<std::size_t>(part.source.end) - before;
    std::string bytes;
    utf8::append(bytes, part.code_point);
    if (original.substr(before, length) == bytes) {
      copy(original, part.source);
    } else {
      make(bytes, part.source);
    }
  }
}

bool is_surely_nfc(std::string_view text) { return std::ranges::none_of(text, may_join); }

}  // namespace loci::unicode
