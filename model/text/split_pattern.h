#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace loci {

/// The pre-tokenizer `Split` of tokenizer.json (behaviour Isolated): the matches of a regular expression are pieces,
/// and so is what lies between two of them. Hugging Face runs these patterns in Oniguruma with Unicode 16, loci in
/// PCRE2:
///
/// - `\p{L}`, `\p{N}` and `\s` (and `\P{L}`, `\P{N}`, `\S`) mean the classes of unicode.h; other properties are
/// PCRE2's,
///   of Unicode 14.
/// - Bytes that are not well-formed UTF-8 count as characters that are neither letter, number nor space.
/// - What the two engines read differently is refused, and so is a pattern that matches an empty text.
///
/// One object may serve many threads at once.
class SplitPattern {
 public:
  /// `place` (file and field) leads every message. InputError where the pattern is refused or is no regular expression.
  SplitPattern(std::string_view pattern, std::string place);
  ~SplitPattern();

  const std::string& pattern() const { return pattern_; }

  /// The pieces of one text, one after the other. For one thread; the pattern and the text must outlive it.
  class Pieces {
   public:
    Pieces(const SplitPattern& pattern, std::string_view text);
    ~Pieces();
    /// The end of the next piece. The first piece begins at byte 0, every other one where the one before it ends; call
    /// it until that is the end of the text. InputError naming the place of the pattern where a match takes too many
    /// steps.
    std::size_t next();

   private:
    struct State;
    void find_match();

    const SplitPattern& pattern_;
    std::string replaced_;  // the text, if it had bytes that are no UTF-8
    std::string_view text_;
    std::unique_ptr<State> state_;
    std::size_t begin_ = 0;                        // of the next piece
    std::size_t match_begin_ = 0, match_end_ = 0;  // the match in `begin_` or behind it
  };

 private:
  struct Compiled;

  std::string pattern_;
  std::string place_;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace loci
