#include "runtime/shown_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/utf8.h"

namespace loci {
namespace {

struct Range {
  char32_t first, last;
  bool contains(char32_t code) const { return code >= first && code <= last; }
};

template <std::size_t N>
bool any_contains(const std::array<Range, N>& ranges, char32_t code) {
  return std::ranges::any_of(ranges, [code](const Range& range) { return range.contains(code); });
}

/// Characters that cannot be seen or that pass for others, wherever they stand.
constexpr std::array kHidden = {
    Range{0x00, 0x1F},       Range{0x7F, 0xA0},       Range{0xAD, 0xAD},     Range{0x2BC, 0x2BC},
    Range{0x300, 0x36F},     Range{0x61C, 0x61C},     Range{0x1100, 0x11FF}, Range{0x1680, 0x1680},
    Range{0x180B, 0x180F},   Range{0x1AB0, 0x1AFF},   Range{0x1DC0, 0x1DFF}, Range{0x2000, 0x2015},
    Range{0x2018, 0x201F},   Range{0x2028, 0x202F},   Range{0x205F, 0x206F}, Range{0x20D0, 0x20FF},
    Range{0x2212, 0x2212},   Range{0x3000, 0x3000},   Range{0x3099, 0x309A}, Range{0x3164, 0x3164},
    Range{0xE000, 0xF8FF},   Range{0xFE00, 0xFE0F},   Range{0xFE20, 0xFE2F}, Range{0xFEFF, 0xFEFF},
    Range{0xFF01, 0xFF5E},   Range{0xFFA0, 0xFFA0},   Range{0xFFF9, 0xFFFD}, Range{0x1D400, 0x1D7FF},
    Range{0xE0000, 0xE0FFF}, Range{0xF0000, 0x10FFFF}};

/// Letters of other scripts that may stand for one that looks alike.
constexpr std::array kLookAlike = {Range{0x370, 0x52F}, Range{0x1F00, 0x1FFF}};

bool is_ascii_letter(char32_t code) { return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z'); }

std::string escaped(char32_t code) {
  switch (code) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return code < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(code))
                            : fmt::format("\\U{:08x}", static_cast<uint32_t>(code));
  }
}

}  // namespace

std::string shown(std::string_view text, std::size_t longest) {
  std::string result = "\"";
  char32_t previous = 0;
  std::size_t at = 0;
  while (at < text.size() && at < longest) {
    const utf8::Step step = utf8::decode(text, at);
    const std::size_t after = at + step.length;
    const char32_t next = after < text.size() ? utf8::decode(text, after).code_point : U'\0';
    const bool passes_for_ascii =
        any_contains(kLookAlike, step.code_point) && (is_ascii_letter(previous) || is_ascii_letter(next));
    if (!step.well_formed) {
      for (std::size_t i = at; i < after; ++i) result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
    } else if (step.code_point == '"' || step.code_point == '\\') {
      result += {'\\', text[at]};
    } else if (passes_for_ascii || any_contains(kHidden, step.code_point)) {
      result += escaped(step.code_point);
    } else {
      result += text.substr(at, step.length);
    }
    previous = step.code_point;
    at = after;
  }
  return result + (at < text.size() ? "\"..." : "\"");
}

}  // namespace loci
