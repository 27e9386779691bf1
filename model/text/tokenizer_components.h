#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/text/normalizer.h"
#include "model/text/split_pattern.h"
#include "runtime/json_fwd.h"

/// The parts of tokenizer.json around vocabulary and merges. Each is read by its type; a type, or a value of a field,
/// that loci does not have is refused by name (InputError). `place` is the file's name and leads every message.
namespace loci {

/// Spaces as a visible character, which also goes in front of a text.
struct Metaspace {
  enum class Prepend {
    first,   ///< before the beginning of the text
    always,  ///< before every stretch between added tokens
    never
  };
  std::string replacement;  // one character
  Prepend prepend = Prepend::always;
  /// Whether a piece begins at every replaced space.
  bool split = true;
};

/// How a text is cut into pieces, across which no merge goes, and what the vocabulary spells.
struct PreTokenizer {
  /// Tokens spell bytes (`ByteLevel`); otherwise characters.
  bool spells_bytes = true;
  /// Each cuts the pieces of the one before it; null: GPT-2's pattern. Without any, all of a text is one piece.
  std::vector<std::shared_ptr<const SplitPattern>> splits = {nullptr};
  std::optional<Metaspace> metaspace;
};

/// Tokens before and behind every text.
struct TextTemplate {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> behind;
};

/// How the texts of tokens become one text; beside joining them.
struct Decoder {
  /// In the spelling of each token, in turn.
  std::vector<NormalizerStep> replacements;
  /// Tokens spelled `<0xE6>` are bytes; those in a row that are not UTF-8 become U+FFFD each.
  bool joins_bytes = false;
  /// This character, as often as said at most, is taken off the ends of the text.
  std::string stripped;
  std::int64_t strip_begin = 0, strip_end = 0;
  /// All spaces of the first token are taken off.
  bool drops_first_spaces = false;
};

std::vector<NormalizerStep> read_normalizer(const Json& root, const std::string& place);
PreTokenizer read_pre_tokenizer(const Json& root, const std::string& place);
TextTemplate read_template(const Json& root, const std::string& place);
/// A file without a decoder is taken for one that spells bytes.
Decoder read_decoder(const Json& root, const PreTokenizer& pre_tokenizer, const std::string& place);

}  // namespace loci
