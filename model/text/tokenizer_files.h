#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/text/bpe.h"
#include "model/text/split_pattern.h"

namespace loci {

/// The text of the files that make a Hugging Face tokenizer; those that are absent are empty optionals.
struct TokenizerFiles {
  /// Where they come from; leads every message.
  std::string folder;
  std::optional<std::string> tokenizer_json;
  std::optional<std::string> vocab_json;
  std::optional<std::string> merges_txt;
  std::optional<std::string> added_tokens_json;
  std::optional<std::string> special_tokens_map_json;
  std::optional<std::string> tokenizer_config_json;

  /// InputError if the folder does not exist or a file in it cannot be read.
  static TokenizerFiles read(const std::filesystem::path& folder);
};

/// A token that is cut out of the text before anything else looks at it.
struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  /// White space left or right of it belongs to it.
  bool takes_space_left = false;
  bool takes_space_right = false;
  /// Looked for in a second pass, in what the first left over (Hugging Face's `normalized`).
  bool second_pass = false;
  /// Such as `<|endoftext|>`: taken as plain text under SpecialTokens::as_text.
  bool special = false;
};

/// A checked byte-level BPE tokenizer: ids run from 0, without gaps but before added tokens; every byte has a token,
/// and every merge joins two tokens to a third that spells both. A token of several bytes is made by some merge, unless
/// it is in `whole_pieces`.
struct TokenizerDefinition {
  /// The bytes of each token, by id; empty where no token has the id.
  std::vector<std::string> token_bytes;
  /// The token of each single byte.
  std::array<std::int32_t, 256> byte_tokens{};
  /// By rank.
  std::vector<Merge> merges;
  /// How a text is cut into pieces; null: by GPT-2's pattern.
  std::shared_ptr<const SplitPattern> split;
  /// Tokens that a piece becomes as a whole, without merges (`ignore_merges`): none, or the whole vocabulary.
  std::vector<std::int32_t> whole_pieces;
  std::vector<AddedToken> added;
  std::optional<std::int32_t> end_of_text;
  /// `clean_up_tokenization_spaces` of tokenizer_config.json.
  bool cleans_up_spaces = false;
};

/// tokenizer.json where there is one (vocab.json and merges.txt are then not looked at, as in Hugging Face's loader),
/// else vocab.json and merges.txt; added and special tokens from all the files that name any. Throws InputError naming
/// file, field and fix for anything that is malformed, contradictory, or asks for a tokenizer of another kind: a
/// normaliser, a pre-tokenizer other than ByteLevel and Split with ByteLevel, tokens added to every text (a
/// post-processor, `add_bos_token`), byte fallback, dropout.
TokenizerDefinition parse_tokenizer(const TokenizerFiles& files);

}  // namespace loci
