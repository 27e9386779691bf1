#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/text/bpe.h"
#include "model/text/tokenizer_components.h"

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

/// A token that is cut out of the text before the pre-tokenizer looks at it.
struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  /// White space left or right of it belongs to it.
  bool takes_space_left = false;
  bool takes_space_right = false;
  /// It is found only where no letter, digit or mark goes on beside it (`single_word`).
  bool whole_word = false;
  /// Looked for in a second pass, in what the first left over, and in the normalized text (Hugging Face's
  /// `normalized`).
  bool second_pass = false;
  /// Such as `<|endoftext|>`: taken as plain text under SpecialTokens::as_text.
  bool special = false;
};

/// Tokens that spell characters, as in Llama-2.
struct CharacterTokens {
  /// The spelling of each token of the vocabulary, by id; empty for other ids.
  std::vector<std::string> spelled;
  /// Stands for a character that has neither a token nor tokens for its bytes; several in a row become one token where
  /// `fuses_unknown`.
  std::optional<std::int32_t> unknown;
  bool fuses_unknown = false;
};

/// A checked BPE tokenizer, of tokens that spell bytes (GPT-2) or characters (Llama-2). Every byte has a token, or
/// there is one for unknown characters; every merge joins two tokens to a third that spells both. A token of several
/// bytes or characters is made by some merge, unless it is in `whole_pieces`.
struct TokenizerDefinition {
  /// The text of each token, by id, as bytes; empty where no token has the id.
  std::vector<std::string> token_bytes;
  /// The token of each single byte. Where tokens spell characters: its `<0xE6>`, or -1.
  std::array<std::int32_t, 256> byte_tokens{};
  std::optional<CharacterTokens> characters;
  /// By rank.
  std::vector<Merge> merges;
  std::vector<NormalizerStep> normalizer;
  PreTokenizer pre_tokenizer;
  /// Tokens that a piece becomes as a whole, without merges (`ignore_merges`): none, or the whole vocabulary.
  std::vector<std::int32_t> whole_pieces;
  std::vector<AddedToken> added;
  TextTemplate text_template;
  Decoder decoder;
  /// By id, whether a token is a byte for the decoder; empty where none is.
  std::vector<bool> decodes_to_byte;
  std::optional<std::int32_t> end_of_text;
  /// `clean_up_tokenization_spaces` of tokenizer_config.json.
  bool cleans_up_spaces = false;
};

/// tokenizer.json where there is one (vocab.json and merges.txt are then not looked at, as in Hugging Face's loader),
/// else vocab.json and merges.txt, which are GPT-2's kind; added and special tokens from all the files that name any.
/// Throws InputError naming file, field and fix for anything that is malformed or contradictory, and for components
/// other than those of docs/tokenizers.md.
///
/// Tokens before and behind every text are those of the post-processor. The classes of Llama and GPT-NeoX take
/// `add_bos_token` and `add_eos_token` of tokenizer_config.json instead; GPT-2's class, and none, refuse them.
TokenizerDefinition parse_tokenizer(const TokenizerFiles& files);

}  // namespace loci
