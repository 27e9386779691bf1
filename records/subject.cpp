#include "records/subject.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "model/text/unicode.h"
#include "runtime/shown_text.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

using unicode::CharClass;

bool is_white_space(char32_t c) { return unicode::char_class(c) == CharClass::space || (c >= 0x1C && c <= 0x1F); }

bool is_one_of(char32_t c, std::initializer_list<std::pair<char32_t, char32_t>> ranges) {
  return std::ranges::any_of(ranges, [c](const auto& range) { return c >= range.first && c <= range.second; });
}

/// Accents and vowel signs that are characters of their own and go on with the word before them.
bool is_mark(char32_t c) {
  if (c == 0x0964 || c == 0x0965) return false;  // the full stops of Indic scripts
  return unicode::char_class(c) == CharClass::other && is_one_of(c, {{0x0300, 0x036F},
                                                                     {0x0483, 0x0489},
                                                                     {0x064B, 0x065F},
                                                                     {0x0900, 0x0DFF},
                                                                     {0x1AB0, 0x1AFF},
                                                                     {0x1DC0, 0x1DFF},
                                                                     {0x200C, 0x200D},
                                                                     {0x20D0, 0x20FF},
                                                                     {0xFE20, 0xFE2F}});
}

/// Thai, Lao, Myanmar, Khmer, Chinese and Japanese, which set no spaces between words, and Korean, whose particles
/// follow a noun without one.
bool is_unspaced(char32_t c) {
  return is_one_of(c, {{0x0E00, 0x0EFF},
                       {0x1000, 0x109F},
                       {0x1100, 0x11FF},
                       {0x1780, 0x17FF},
                       {0x2E80, 0xA4CF},
                       {0xA960, 0xA97F},
                       {0xAC00, 0xD7FF},
                       {0xF900, 0xFAFF},
                       {0xFF66, 0xFFDC},
                       {0x20000, 0x3FFFF}});
}

bool is_of_word(char32_t c) {
  if (is_unspaced(c)) return false;
  const CharClass kind = unicode::char_class(c);
  return kind == CharClass::letter || kind == CharClass::number || c == '_' || is_mark(c);
}

/// The character before byte `at`, which is not 0.
char32_t character_before(std::string_view text, size_t at) {
  size_t begin = at - 1;
  while (begin > 0 && at - begin < 4 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return utf8::decode(text, begin).code_point;
}

/// Whether a word goes on across byte `at`.
bool inside_word(std::string_view text, size_t at) {
  if (at == 0 || at == text.size()) return false;
  return is_of_word(character_before(text, at)) && is_of_word(utf8::decode(text, at).code_point);
}

/// All places of `part`, which may overlap.
std::vector<ByteRange> places_of(std::string_view text, std::string_view part) {
  std::vector<ByteRange> places;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1))
    places.push_back({static_cast<int64_t>(at), static_cast<int64_t>(at + part.size())});
  return places;
}

}  // namespace

std::string_view strip_end(std::string_view text) {
  size_t end = 0;  // after the last character that is not white space
  for (size_t at = 0; at < text.size();) {
    const auto step = utf8::decode(text, at);
    at += step.length;
    if (!step.well_formed || !is_white_space(step.code_point)) end = at;
  }
  return text.substr(0, end);
}

std::string_view strip(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const auto step = utf8::decode(text, begin);
    if (!step.well_formed || !is_white_space(step.code_point)) break;
    begin += step.length;
  }
  return strip_end(text.substr(begin));
}

int64_t count_occurrences(std::string_view text, std::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

std::string fill_subject(std::string_view text, std::string_view subject) {
  std::string filled(text);
  return filled.replace(filled.find(kSubjectMark), kSubjectMark.size(), subject);
}

std::string keep_words_apart(std::string text, std::string_view untrimmed_subject) {
  const std::string_view subject = strip(untrimmed_subject);
  const auto lead = static_cast<size_t>(subject.data() - untrimmed_subject.data());
  const size_t begin = text.find(kSubjectMark), end = begin + kSubjectMark.size();
  if (begin == text.npos) return text;
  const std::string filled = fill_subject(text, subject);
  if (inside_word(filled, begin + subject.size())) text.insert(end, untrimmed_subject.substr(lead + subject.size()));
  if (inside_word(filled, begin)) text.insert(begin, untrimmed_subject.substr(0, lead));
  return text;
}

SubjectPlace find_subject(std::string_view prompt, std::string_view subject, SubjectChoice choice) {
  const std::vector<ByteRange> places = places_of(prompt, subject);
  std::vector<ByteRange> words;
  std::ranges::copy_if(places, std::back_inserter(words), [&](const ByteRange& place) {
    return !inside_word(prompt, static_cast<size_t>(place.begin)) &&
           !inside_word(prompt, static_cast<size_t>(place.end));
  });
  if (places.empty()) return {};
  const std::vector<ByteRange>& candidates = words.empty() ? places : words;
  SubjectPlace place{candidates.front(), std::ssize(candidates), !words.empty()};
  if (choice == SubjectChoice::first_occurrence && place.bytes != places.front())
    place = {places.front(), place.candidates, false};
  return place;
}

std::string show_from(std::string_view text, size_t at) {
  constexpr size_t kBefore = 40;
  if (at <= kBefore) return shown(text);
  size_t begin = at - kBefore;
  while (begin < at && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) ++begin;
  return "..." + shown(text.substr(begin));
}

std::string show_place(std::string_view text, ByteRange bytes) {
  const auto begin = static_cast<size_t>(bytes.begin), end = static_cast<size_t>(bytes.end);
  return show_from(fmt::format("{}[{}]{}", text.substr(0, begin), text.substr(begin, end - begin), text.substr(end)),
                   begin);
}

TokenRange token_range(const Encoding& encoding, ByteRange bytes) {
  const auto& offsets = encoding.offsets;
  const int64_t last = std::ssize(offsets) - 1;
  TokenRange range;
  while (range.begin < last && offsets[range.begin].end <= bytes.begin) ++range.begin;
  range.end = range.begin;
  while (range.end < last && offsets[range.end].end < bytes.end) ++range.end;
  ++range.end;
  return range;
}

}  // namespace loci
