#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/text/bpe.h"
#include "model/text/tokenizer_files.h"
#include "model/text/unicode.h"

namespace loci {

/// Token ids and, for each, the bytes of the text that it stands for. The ranges follow each other without gaps and
/// cover the text.
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

/// Byte-level BPE as GPT-2 has it (Radford et al. 2019), split by GPT-2's or another pattern. Any bytes can be encoded
/// and come back unchanged from decode(); bytes that are not well-formed UTF-8 count as neither letters, numbers nor
/// spaces in the split into pieces. All methods are const and may be called from many threads at once.
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
  /// vocabulary itself has no row: then the tokenizer is another model's.
  void limit_to_embedding(std::int64_t rows, std::string_view model);

  /// Text up to 2^31 - 1 bytes (InputError beyond).
  Encoding encode(std::string_view text, SpecialTokens special = SpecialTokens::parse) const;
  /// The ids alone; only the first `limit` of them.
  std::vector<std::int32_t> encode_ids(std::string_view text, SpecialTokens special = SpecialTokens::parse,
                                       std::int64_t limit = kNoLimit) const;

  /// The bytes of the tokens, one after the other: the inverse of encode(). A token may end inside a UTF-8 character.
  /// InputError for ids that no token has, here and below.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string_view decode_token(std::int32_t id) const;
  /// decode() as text: what is not well-formed UTF-8 becomes U+FFFD (Python's errors="replace").
  std::string decode_text(std::span<const std::int32_t> ids, TextCleanUp clean_up = TextCleanUp::none) const;

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
  /// The id of the token that stands for exactly these bytes, added tokens included.
  std::optional<std::int32_t> find(std::string_view bytes) const;

  /// Hash of vocabulary, merges, added tokens and, where it is not GPT-2's, the split: equal for tokenizers that encode
  /// alike, whatever files they came from.
  std::string sha256() const;

 private:
  /// A stretch of text: an added token's, or (id < 0) ordinary text.
  struct Section {
    std::size_t begin = 0, end = 0;
    std::int32_t id = -1;
  };

  std::vector<Section> sections_of(std::string_view text, SpecialTokens special) const;
  void cut_added(std::string_view text, Section section, SpecialTokens special, bool second_pass,
                 std::vector<Section>& sections) const;
  const AddedToken* longest_added(std::string_view rest, SpecialTokens special, bool second_pass) const;
  void encode_ordinary(std::string_view text, std::int64_t limit, std::vector<std::int32_t>& ids) const;
  void require_id(std::int32_t id) const;
  void require_row(std::int32_t id, std::string_view text) const;

  TokenizerDefinition definition_;
  std::int64_t embedding_rows_ = std::numeric_limits<std::int64_t>::max();
  MergeTable merge_table_;
  std::unordered_map<std::string_view, std::int32_t> id_of_bytes_;  // views into definition_.token_bytes
  std::unordered_map<std::string_view, std::int32_t> id_of_whole_piece_;
  std::array<std::vector<std::int32_t>, 256> added_by_first_byte_;  // indices into definition_.added, longest first
};

}  // namespace loci
