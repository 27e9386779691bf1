#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/text/bpe.h"
#include "model/text/character_encoder.h"
#include "model/text/tokenizer_files.h"
#include "model/text/unicode.h"

namespace loci {

/// Token ids and, for each, the bytes of the text that it stands for, from the first to the last that went into it. The
/// ranges cover the text. Those of a byte-level tokenizer without a normalizer follow each other without gaps; others
/// may overlap: a space that was put in front stands for the text's first character, and a character that NFC composed
/// stands for all of its parts. Tokens of the text's template have an empty range at the text's beginning or end.
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<ByteRange> offsets;
};

/// Whether `<|endoftext|>` and other special tokens in a text become their ids (what Hugging Face does) or are spelled
/// out as ordinary characters.
enum class SpecialTokens { parse, as_text };

/// Whether decoding drops the spaces before punctuation and English contractions where tokenizer_config.json asks for
/// it (`clean_up_tokenization_spaces`), as Hugging Face's `decode` then does.
enum class TextCleanUp { none, as_configured };

/// Whether decoding takes the space at the beginning away that some tokenizers put there (Llama-2), as Hugging Face's
/// `decode` does. The text of a single token, or of tokens that follow others, keeps it.
enum class LeadingSpace { keep, as_configured };

/// What a text is to the model.
enum class TextKind {
  whole,        ///< a prompt or a document: with the tokens that the tokenizer puts around every text (`<s>`)
  bare,         ///< the same without them
  continuation  ///< what follows other text: without them, and without a space put in front
};

/// A tokenizer of tokenizer.json: added tokens are cut out; then normalizer, pre-tokenizer, BPE and template follow
/// each other. With GPT-2's byte-level BPE (Radford et al. 2019) any bytes can be encoded and come back unchanged from
/// decode(); bytes that are not well-formed UTF-8 count as neither letters, numbers nor spaces in the split into
/// pieces. All methods are const and may be called from many threads at once.
class Tokenizer {
 public:
  static constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

  /// From a Hugging Face model directory; tokenizer_files.h says what is read and what is refused (InputError).
  static Tokenizer load(const std::filesystem::path& folder);
  explicit Tokenizer(TokenizerDefinition definition);
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Tells how many rows the model's embedding has. Added tokens may lie beyond them: a text that holds one is then
  /// refused (InputError), and end_of_text() is not such a token. Throws InputError naming `model` where a token of the
  /// vocabulary itself, or one that begins or ends every text, has no row: then the tokenizer is another model's.
  void limit_to_embedding(std::int64_t rows, std::string_view model);

  /// Text up to 2^31 - 1 bytes (InputError beyond). O(n log n) in its length.
  Encoding encode(std::string_view text, SpecialTokens special = SpecialTokens::parse,
                  TextKind kind = TextKind::whole) const;
  /// The ids alone; only the first `limit` of them.
  std::vector<std::int32_t> encode_ids(std::string_view text, SpecialTokens special = SpecialTokens::parse,
                                       std::int64_t limit = kNoLimit, TextKind kind = TextKind::whole) const;
  /// The tokens that `text` adds to a prompt, such as those of " Rome": what follows the prompt's tokens in those of
  /// both together. Where these do not begin with the prompt's, because a token goes across, those of the text as a
  /// continuation.
  std::vector<std::int32_t> encode_continuation(std::string_view prompt, std::string_view text,
                                                SpecialTokens special = SpecialTokens::parse) const;

  /// The bytes of the tokens, one after the other. A token may end inside a UTF-8 character. What is a space to the
  /// reader is one here (U+2581 of Llama-2), and `<0xE6>` is a byte; tokens of the template are spelled out. A row of
  /// the embedding without a token has no bytes. InputError for other ids that no token has, here and below.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string_view decode_token(std::int32_t id) const;
  /// decode() as text: what is not well-formed UTF-8 becomes U+FFFD (Python's errors="replace").
  std::string decode_text(std::span<const std::int32_t> ids, TextCleanUp clean_up = TextCleanUp::none,
                          LeadingSpace leading_space = LeadingSpace::keep) const;

  /// The highest id and 1. Ids below it may be without a token, where added tokens leave gaps.
  std::int32_t vocabulary_size() const { return static_cast<std::int32_t>(definition_.token_bytes.size()); }
  /// Whether a token has this id.
  bool has_token(std::int64_t id) const {
    return id >= 0 && id < vocabulary_size() && !definition_.token_bytes[id].empty();
  }
  /// Whether the model has an embedding for it, as far as limit_to_embedding() told.
  bool has_row(std::int64_t id) const { return id < embedding_rows_; }
  /// The id of `<|endoftext|>`; where the vocabulary has none, that of the configured `eos_token`.
  std::optional<std::int32_t> end_of_text() const {
    return definition_.end_of_text < embedding_rows_ ? definition_.end_of_text : std::nullopt;
  }
  /// The tokens before and behind every whole text; mostly none, or one for the beginning.
  const TextTemplate& text_template() const { return definition_.text_template; }
  /// What sampling starts from without a prompt: the token that begins every text, or end_of_text().
  std::optional<std::int32_t> start_of_text() const {
    return definition_.text_template.before.empty() ? end_of_text() : definition_.text_template.before[0];
  }
  /// The id of the token that stands for exactly these bytes, added tokens included.
  std::optional<std::int32_t> find(std::string_view bytes) const;

  /// Hash of vocabulary, merges, added tokens and what differs from GPT-2's components: equal for tokenizers that
  /// encode alike, whatever files they came from.
  std::string sha256() const;

 private:
  /// A stretch of text: an added token's, or (id < 0) ordinary text.
  struct Section {
    std::size_t begin = 0, end = 0;
    std::int32_t id = -1;
  };

  /// Encodes one text.
  class Encoder;

  std::vector<Section> cut_added(std::string_view text, SpecialTokens special, bool second_pass) const;
  const AddedToken* longest_added(std::string_view rest, SpecialTokens special, bool second_pass) const;
  std::string decode_with_bytes(std::span<const std::int32_t> ids) const;
  void require_id(std::int32_t id) const;
  void require_row(std::int32_t id, std::string_view text) const;

  TokenizerDefinition definition_;
  std::int64_t embedding_rows_ = std::numeric_limits<std::int64_t>::max();
  MergeTable merge_table_;
  std::unordered_map<std::string_view, std::int32_t> id_of_bytes_;  // views into definition_.token_bytes
  std::unordered_map<std::string_view, std::int32_t> id_of_whole_piece_;
  std::optional<CharacterEncoder> character_encoder_;
  /// Per pass, indices into definition_.added by the first byte of what is looked for, longest first.
  std::array<std::array<std::vector<std::int32_t>, 256>, 2> added_by_first_byte_;
  std::array<bool, 2> has_added_{};
};

}  // namespace loci
