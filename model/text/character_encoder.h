#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "model/text/bpe.h"
#include "model/text/tokenizer_files.h"

namespace loci {

/// Tokens of a text, and where each ends, if that is wanted.
struct EncodedText {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> ends;
  bool with_ends = false;
  std::int64_t limit = 0;

  bool is_full() const { return std::ssize(ids) >= limit; }
  /// A token of the next `length` bytes.
  void add(std::int32_t id, std::size_t length) {
    ids.push_back(id);
    if (with_ends) ends.push_back((ends.empty() ? 0 : ends.back()) + static_cast<std::int64_t>(length));
  }
};

/// Byte-pair encoding by tokens that spell characters. A character without a token becomes the tokens of its bytes, or
/// where one of these is missing, the unknown token; neither takes part in merges.
///
/// Without a pre-tokenizer a whole document is one piece. It is cut wherever two characters meet that stand side by
/// side in no token that merges make: no merge can go across, so the tokens are the same, and what is left to merge is
/// short (Llama-2 joins nothing to a space on its right).
class CharacterEncoder {
 public:
  /// Of a definition that has `characters`.
  explicit CharacterEncoder(const TokenizerDefinition& definition);

  /// Appends the tokens of one piece, until `tokens` is full. `merges` are the definition's.
  void encode(std::string_view piece, const MergeTable& merges, MergeScratch& scratch, EncodedText& tokens) const;

 private:
  std::vector<Merge> neighbours_in(const TokenizerDefinition& definition) const;
  std::int32_t token_of(char32_t character) const {
    return character < token_of_character_.size() ? token_of_character_[character] : -1;
  }
  void add_missing(std::string_view character, std::size_t& after_unknown, EncodedText& tokens) const;

  std::vector<std::int32_t> token_of_character_;  // by code point; -1: none
  std::vector<std::uint32_t> length_;             // of a token's spelling, by id
  MergeTable neighbours_;                         // the pairs of characters side by side in merged tokens
  std::array<std::int32_t, 256> byte_tokens_;
  std::optional<std::int32_t> unknown_;
  bool fuses_unknown_;
};

}  // namespace loci
