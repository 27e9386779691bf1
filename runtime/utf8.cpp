#include "runtime/utf8.h"

namespace loci::utf8 {
namespace {

unsigned byte_at(std::string_view text, std::size_t index) { return static_cast<unsigned char>(text[index]); }

/// What a lead byte asks for: bytes that follow, the payload it carries, and the range of the first that follows.
struct Lead {
  int following = 0;
  char32_t payload = 0;
  unsigned low = 0x80, high = 0xBF;
};

Lead lead_of(unsigned byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, byte & 0x1F};
  if (byte == 0xE0) return {2, 0, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0xD, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {2, byte & 0x0F};
  if (byte == 0xF0) return {3, 0, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, byte & 0x07};
  if (byte == 0xF4) return {3, 4, 0x80, 0x8F};
  return {};
}

}  // namespace

Step decode(std::string_view text, std::size_t begin) {
  const unsigned first = byte_at(text, begin);
  if (first < 0x80) return {first, 1, true};
  const Lead lead = lead_of(first);
  if (lead.following == 0) return {};
  char32_t code = lead.payload;
  unsigned low = lead.low, high = lead.high;
  for (std::size_t i = 1; i <= static_cast<std::size_t>(lead.following); ++i) {
    if (begin + i >= text.size()) return {0xFFFD, i, false};
    const unsigned next = byte_at(text, begin + i);
    if (next < low || next > high) return {0xFFFD, i, false};
    code = (code << 6) | (next & 0x3F);
    low = 0x80, high = 0xBF;
  }
  return {code, static_cast<std::size_t>(lead.following) + 1, true};
}

void append(std::string& text, char32_t code) {
  const auto put = [&text](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6)), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12)), put(0x80 | ((code >> 6) & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18)), put(0x80 | ((code >> 12) & 0x3F)), put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::string replace_ill_formed(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const Step step = decode(text, i);
    if (step.well_formed) {
      result.append(text.substr(i, step.length));
    } else {
      append(result, 0xFFFD);
    }
    i += step.length;
  }
  return result;
}

}  // namespace loci::utf8
