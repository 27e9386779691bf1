#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/text/tokenizer.h"

/// The subject of a record: white space at the ends of texts, the subject's place in its prompt, its tokens.
namespace loci {

/// The mark of the subject's place in prompts and templates.
inline constexpr std::string_view kSubjectMark = "{}";

/// Tokens [begin, end).
struct TokenRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const TokenRange&) const = default;
};

/// Text without white space at either end. White space is what Unicode calls so, no-break spaces included, and the four
/// separators U+001C to U+001F, as in Python's str.strip().
std::string_view strip(std::string_view text);
/// Text without white space at its end.
std::string_view strip_end(std::string_view text);

/// How many times `part` occurs in `text`, without overlap.
int64_t count_occurrences(std::string_view text, std::string_view part);

/// The text with the subject at its first `{}`.
std::string fill_subject(std::string_view text, std::string_view subject);

/// `text`, which marks the place of a subject of which white space at the ends was left out: with that white space
/// beside the mark, where the subject would else be joined to another word.
std::string keep_words_apart(std::string text, std::string_view untrimmed_subject);

/// Which of several places of the subject in a prompt is taken.
enum class SubjectChoice {
  whole_word,       ///< the first one that is a whole word, else the first one
  first_occurrence  ///< as in the published code, also inside another word
};

/// Where a subject stands in a prompt that does not mark its place.
struct SubjectPlace {
  ByteRange bytes;
  int64_t candidates = 0;   ///< places that are whole words; where there are none, all places
  bool whole_word = false;  ///< whether `bytes` is one

  bool is_clear() const { return whole_word && candidates == 1; }
};

/// Finds the subject. A place is a whole word where no letter, number or accent goes on beside it; in scripts that set
/// no spaces between words, and in Korean, every place is one. No candidates where the prompt does not hold the
/// subject.
SubjectPlace find_subject(std::string_view prompt, std::string_view subject, SubjectChoice choice);

/// For messages: the text with brackets around these bytes, "[Art]hur admires Art", with dots where much is left out.
std::string show_place(std::string_view text, ByteRange bytes);
/// For messages: "text" from a little before byte `at` on, with dots where something is left out.
std::string show_from(std::string_view text, size_t at);

/// The tokens that hold one of these bytes of the encoded text, which must not be empty.
TokenRange token_range(const Encoding& encoding, ByteRange bytes);

}  // namespace loci
