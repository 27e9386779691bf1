#include "model/text/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <limits>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/json.h"
#include "runtime/shown_text.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::int64_t kMaxId = std::numeric_limits<std::int32_t>::max();

/// Fields of special_tokens_map.json and tokenizer_config.json that name one special token each.
constexpr std::array<std::string_view, 7> kSpecialFields = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                            "pad_token", "cls_token", "mask_token"};

/// Tokens are short; a longer one is cut in messages.
constexpr std::size_t kShownToken = 40;

std::string shown_token(std::string_view text) { return shown(text, kShownToken); }

/// For messages: a value as it stands in the file, cut to a readable length.
std::string shown_json(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() <= kShownToken ? text : text.substr(0, kShownToken) + "...";
}

/// GPT-2 spells bytes by printable characters: '!'-'~', U+00A1-U+00AC and U+00AE-U+00FF stand for themselves, the
/// others take U+0100, U+0101, ... in order. The byte of each such character; -1 for characters that spell none.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    byte_of_.fill(-1);
    std::size_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      byte_of_[printable ? static_cast<std::size_t>(byte) : next++] = byte;
    }
  }
  /// The bytes that a token's spelling stands for; nothing if it is not spelled in the alphabet.
  std::optional<std::string> bytes(std::string_view spelling) const {
    std::string result;
    for (std::size_t i = 0; i < spelling.size();) {
      const utf8::Step step = utf8::decode(spelling, i);
      const int byte = step.well_formed && step.code_point < byte_of_.size() ? byte_of_[step.code_point] : -1;
      if (byte < 0) return std::nullopt;
      result.push_back(static_cast<char>(byte));
      i += step.length;
    }
    return result;
  }

 private:
  std::array<int, 256 + 68> byte_of_{};
};

/// Puts a definition together from the files, in the order vocabulary, merges, added tokens, special tokens.
class DefinitionBuilder {
 public:
  explicit DefinitionBuilder(const TokenizerFiles& files) : files_(files) {}
  TokenizerDefinition build();

 private:
  enum class Origin { vocabulary, added };
  struct Token {
    std::string spelling;
    /// The bytes that it spells; nothing for added tokens, spellings outside the byte alphabet, and tokens that spell
    /// characters.
    std::optional<std::string> bytes;
    std::int64_t id;
    std::string_view file;
    Origin origin;
    bool is_merged = false;
  };

  std::string where(std::string_view file) const { return files_.folder + "/" + std::string(file); }
  const Json& parse(const std::string& text, std::string_view file);
  bool spells_bytes() const { return definition_.pre_tokenizer.spells_bytes; }
  void read_tokenizer_json(const Json& root);
  void read_model_kind(const Json& model, const std::string& place);
  void read_vocabulary(const Json& vocabulary, std::string_view file);
  void add_token(const std::string& spelling, std::int64_t id, std::string_view file, Origin origin);
  void read_merges_text(std::string_view text);
  void read_merges_json(const Json& merges);
  void add_merge_line(std::string_view line, std::size_t number);
  void add_merge(std::string_view left, std::string_view right, std::size_t number);
  std::size_t merge_part(const std::string& spelling, std::size_t number) const;
  std::string merge_place(std::size_t number) const;
  void read_added_list(const Json& list);
  void read_added_map(const Json& map);
  void read_added_decoder(const Json& decoder);
  void read_special_fields(const Json& object, std::string_view file);
  AddedToken added_token(const Json& object, const std::string& place) const;
  void add_added(AddedToken token, const std::string& place, std::string_view file);
  void mark_special(const Json& value, const std::string& place, std::string_view file);
  std::int64_t highest_id() const;
  void mark_end_of_text();
  void finish_tokens();
  std::string decoded(const std::string& spelling) const;
  void finish_characters();
  void finish_template(const Json& config, const std::string& place);
  void normalize_added();
  void check_template() const;
  std::vector<std::int32_t> template_token(const Json& config, const std::string& field, bool absent,
                                           std::string_view spelling, const std::string& place) const;
  void check_gaps(const std::vector<const Token*>& by_id) const;
  void finish_byte_tokens();
  void check_merges_make_vocabulary() const;

  const TokenizerFiles& files_;
  std::vector<Json> parsed_;
  ByteAlphabet alphabet_;
  std::vector<Token> tokens_;
  std::unordered_map<std::string, std::size_t> token_of_spelling_;  // index into tokens_
  std::unordered_map<std::string, std::size_t> added_of_content_;   // index into definition_.added
  std::unordered_map<std::int64_t, std::size_t> number_of_merge_;   // by left id << 32 | right id
  std::string_view vocabulary_file_, merges_file_;
  bool ignores_merges_ = false, falls_back_to_bytes_ = false;
  std::optional<std::string> unknown_;
  std::optional<std::string> end_of_sequence_;
  TokenizerDefinition definition_;
};

// ---- tokenizer.json ----

void require_absent(const Json& object, std::string_view field, const std::string& place) {
  if (!json_has(object, field)) return;
  const Json& value = json_field(object, field, place);
  const bool neutral = (value.is_string() && value.get_ref<const std::string&>().empty()) ||
                       (value.is_number() && value.get<double>() == 0);
  require<InputError>(neutral, "{}: field \"{}\" is set, which is not supported: set it to null", place, field);
}

void DefinitionBuilder::read_model_kind(const Json& model, const std::string& place) {
  const std::string type = json_string_or(model, "type", "BPE", place);
  require<InputError>(type == "BPE", "{}: type {} is not supported: only BPE is", place, shown_token(type));
  for (const std::string_view field : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
    require_absent(model, field, place);
  ignores_merges_ = json_bool_or(model, "ignore_merges", false, place);
  const bool fuses_unknown = json_bool_or(model, "fuse_unk", false, place);
  falls_back_to_bytes_ = json_bool_or(model, "byte_fallback", false, place);
  if (json_has(model, "unk_token")) unknown_ = json_string(model, "unk_token", place);
  if (definition_.pre_tokenizer.spells_bytes) return;
  definition_.characters.emplace().fuses_unknown = fuses_unknown;
  require<InputError>(falls_back_to_bytes_ || unknown_,
                      "{}: there is neither byte_fallback nor unk_token, and no ByteLevel in the pre_tokenizer, so "
                      "characters would be lost: restore what is missing",
                      place);
}

void DefinitionBuilder::read_tokenizer_json(const Json& root) {
  const std::string place = where("tokenizer.json");
  vocabulary_file_ = merges_file_ = "tokenizer.json";
  definition_.normalizer = read_normalizer(root, place);
  definition_.pre_tokenizer = read_pre_tokenizer(root, place);
  definition_.text_template = read_template(root, place);
  definition_.decoder = read_decoder(root, definition_.pre_tokenizer, place);
  const Json& model = json_object(root, "model", place);
  read_model_kind(model, place + ": model");
  read_vocabulary(json_object(model, "vocab", place + ": model"), vocabulary_file_);
  read_merges_json(json_array(model, "merges", place + ": model"));
  if (json_has(root, "added_tokens")) read_added_list(json_array(root, "added_tokens", place));
}

// ---- vocabulary and merges ----

const Json& DefinitionBuilder::parse(const std::string& text, std::string_view file) {
  parsed_.push_back(parse_json(text, where(file)));
  require<InputError>(parsed_.back().is_object(), "{}: the file must hold one JSON object, got {}", where(file),
                      parsed_.back().type_name());
  return parsed_.back();
}

void DefinitionBuilder::read_vocabulary(const Json& vocabulary, std::string_view file) {
  require<InputError>(!vocabulary.empty(), "{}: the vocabulary is empty: restore the file", where(file));
  tokens_.reserve(vocabulary.size());
  token_of_spelling_.reserve(vocabulary.size());
  for (const auto& [spelling, id] : vocabulary.items()) {
    const bool fits = id.is_number_integer() && id.get<std::int64_t>() >= 0 && id.get<std::int64_t>() <= kMaxId;
    if (!fits)
      throw_error<InputError>("{}: token {} must have an integer id from 0 to {}, got {}", where(file),
                              shown_token(spelling), kMaxId, shown_json(id));
    add_token(spelling, id.get<std::int64_t>(), file, Origin::vocabulary);
  }
}

void DefinitionBuilder::add_token(const std::string& spelling, std::int64_t id, std::string_view file, Origin origin) {
  if (spelling.empty()) throw_error<InputError>("{}: the token of id {} is empty: remove it", where(file), id);
  token_of_spelling_.emplace(spelling, tokens_.size());
  std::optional<std::string> bytes;
  if (origin == Origin::vocabulary && spells_bytes()) bytes = alphabet_.bytes(spelling);
  tokens_.push_back({spelling, std::move(bytes), id, file, origin});
}

/// Where merge `number` stands: a line of merges.txt (from 1), an element of tokenizer.json (from 0).
std::string DefinitionBuilder::merge_place(std::size_t number) const {
  return merges_file_ == "merges.txt" ? fmt::format("{}: line {}", where(merges_file_), number)
                                      : fmt::format("{}: model.merges[{}]", where(merges_file_), number);
}

std::size_t DefinitionBuilder::merge_part(const std::string& spelling, std::size_t number) const {
  const auto found = token_of_spelling_.find(spelling);
  if (found == token_of_spelling_.end())
    throw_error<InputError>("{}: token {} is not in the vocabulary: vocabulary and merges must come from one model",
                            merge_place(number), shown_token(spelling));
  if (spells_bytes() && !tokens_[found->second].bytes)
    throw_error<InputError>("{}: token {} is not spelled in GPT-2's byte alphabet: remove the merge",
                            merge_place(number), shown_token(spelling));
  return found->second;
}

void DefinitionBuilder::add_merge(std::string_view left, std::string_view right, std::size_t number) {
  const std::int64_t left_id = tokens_[merge_part(std::string(left), number)].id;
  const std::int64_t right_id = tokens_[merge_part(std::string(right), number)].id;
  const std::size_t merged = merge_part(std::string(left).append(right), number);
  const auto [earlier, is_new] = number_of_merge_.emplace((left_id << 32) | right_id, number);
  if (!is_new)
    throw_error<InputError>("{}: {} and {} are merged before, in {}: remove one of the two", merge_place(number),
                            shown_token(left), shown_token(right), merge_place(earlier->second));
  tokens_[merged].is_merged = true;
  definition_.merges.push_back({static_cast<std::int32_t>(left_id), static_cast<std::int32_t>(right_id),
                                static_cast<std::int32_t>(tokens_[merged].id)});
}

/// "a b": two spellings and one space between them.
void DefinitionBuilder::add_merge_line(std::string_view line, std::size_t number) {
  const std::size_t space = line.find(' ');
  const bool well_formed = space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
                           line.find(' ', space + 1) == std::string_view::npos;
  if (!well_formed)
    throw_error<InputError>("{}: a merge must be two tokens with one space between them, got {}", merge_place(number),
                            shown_token(line));
  add_merge(line.substr(0, space), line.substr(space + 1), number);
}

void DefinitionBuilder::read_merges_text(std::string_view text) {
  refuse_other_kind(text.substr(0, kFileKindBytes), where(merges_file_), kText);
  text = without_byte_order_mark(text);
  const std::size_t last = text.find_last_not_of("\r\n");
  text = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
  for (std::size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (number == 1 && line.starts_with("#version")) continue;
    add_merge_line(line, number);
  }
}

void DefinitionBuilder::read_merges_json(const Json& merges) {
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    if (merge.is_string()) {
      add_merge_line(merge.get_ref<const std::string&>(), i);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), i);
    } else {
      throw_error<InputError>("{}: a merge must be a string \"a b\" or a list of two strings, got {}", merge_place(i),
                              shown_json(merge));
    }
  }
}

// ---- added and special tokens ----

AddedToken DefinitionBuilder::added_token(const Json& object, const std::string& place) const {
  AddedToken token;
  token.content = json_string(object, "content", place);
  token.takes_space_left = json_bool_or(object, "lstrip", false, place);
  token.takes_space_right = json_bool_or(object, "rstrip", false, place);
  token.special = json_bool_or(object, "special", false, place);
  token.second_pass = json_bool_or(object, "normalized", !token.special, place);
  token.whole_word = json_bool_or(object, "single_word", false, place);
  return token;
}

void DefinitionBuilder::add_added(AddedToken token, const std::string& place, std::string_view file) {
  require<InputError>(!token.content.empty(), "{}: the added token is empty: remove it", place);
  const auto known = token_of_spelling_.find(token.content);
  if (known == token_of_spelling_.end()) {
    add_token(token.content, token.id, file, Origin::added);
  } else {
    const Token& other = tokens_[known->second];
    require<InputError>(other.id == token.id, "{}: token {} has id {} here, but id {} in {}: give it one id", place,
                        shown_token(token.content), token.id, other.id, other.file);
  }
  const auto [found, is_new] = added_of_content_.emplace(token.content, definition_.added.size());
  if (is_new) {
    definition_.added.push_back(std::move(token));
  } else {
    definition_.added[found->second].special |= token.special;
  }
}

void DefinitionBuilder::read_added_list(const Json& list) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string place = fmt::format("{}: added_tokens[{}]", where("tokenizer.json"), i);
    AddedToken token = added_token(list[i], place);
    token.id = static_cast<std::int32_t>(json_int(list[i], "id", place, 0, kMaxId));
    add_added(std::move(token), place, "tokenizer.json");
  }
}

void DefinitionBuilder::read_added_map(const Json& map) {
  const std::string place = where("added_tokens.json");
  for (const auto& [content, unused] : map.items()) {
    AddedToken token;
    token.content = content;
    token.id = static_cast<std::int32_t>(json_int(map, content, place, 0, kMaxId));
    token.second_pass = true;
    add_added(std::move(token), place, "added_tokens.json");
  }
}

void DefinitionBuilder::read_added_decoder(const Json& decoder) {
  const std::string name = where("tokenizer_config.json") + ": added_tokens_decoder";
  for (const auto& [key, value] : decoder.items()) {
    const std::string place = fmt::format("{}[{}]", name, shown_token(key));
    AddedToken token = added_token(value, place);
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    require<InputError>(error == std::errc() && end == key.data() + key.size() && token.id >= 0,
                        "{}: the key must be a token id from 0 to {}", place, kMaxId);
    add_added(std::move(token), place, "tokenizer_config.json");
  }
}

std::int64_t DefinitionBuilder::highest_id() const { return std::ranges::max(tokens_, {}, &Token::id).id; }

void DefinitionBuilder::mark_special(const Json& value, const std::string& place, std::string_view file) {
  AddedToken token;
  if (value.is_string()) {
    token.content = value.get<std::string>();
  } else {
    require<InputError>(value.is_object(), "{}: a special token must be a string or an object, got {}", place,
                        value.type_name());
    token = added_token(value, place);
  }
  const auto known = token_of_spelling_.find(token.content);
  // A special token that no file gives an id gets the next one, as in transformers.
  const std::int64_t id = known == token_of_spelling_.end() ? highest_id() + 1 : tokens_[known->second].id;
  require<InputError>(id <= kMaxId, "{}: token {} has no id, and no higher one is left", place,
                      shown_token(token.content));
  token.id = static_cast<std::int32_t>(id);
  token.special = true;
  add_added(std::move(token), place, file);
}

void DefinitionBuilder::read_special_fields(const Json& object, std::string_view file) {
  for (const std::string_view field : kSpecialFields) {
    if (json_has(object, field))
      mark_special(json_field(object, field, where(file)), fmt::format("{}: {}", where(file), field), file);
  }
  if (json_has(object, "additional_special_tokens")) {
    const Json& list = json_array(object, "additional_special_tokens", where(file));
    for (std::size_t i = 0; i < list.size(); ++i)
      mark_special(list[i], fmt::format("{}: additional_special_tokens[{}]", where(file), i), file);
  }
  if (json_has(object, "eos_token") && !end_of_sequence_) {
    const Json& value = json_field(object, "eos_token", where(file));
    end_of_sequence_ = value.is_string() ? value.get<std::string>() : json_string(value, "content", where(file));
  }
}

void DefinitionBuilder::mark_end_of_text() {
  const auto known = token_of_spelling_.find(std::string(kEndOfText));
  if (known != token_of_spelling_.end()) {
    AddedToken token;
    token.content = kEndOfText;
    token.id = static_cast<std::int32_t>(tokens_[known->second].id);
    token.special = true;
    definition_.end_of_text = token.id;
    add_added(std::move(token), files_.folder, "");
  } else if (end_of_sequence_) {
    definition_.end_of_text = static_cast<std::int32_t>(tokens_[token_of_spelling_.at(*end_of_sequence_)].id);
  }
}

// ---- the whole ----

void DefinitionBuilder::finish_tokens() {
  std::vector<const Token*> by_id;
  for (const Token& token : tokens_) by_id.push_back(&token);
  std::ranges::sort(by_id, {},
                    [](const Token* token) { return std::pair(token->id, std::string_view(token->spelling)); });
  const auto twin = std::ranges::adjacent_find(by_id, {}, [](const Token* token) { return token->id; });
  if (twin != by_id.end())
    throw_error<InputError>("{}: tokens {} and {} both have id {}: give each its own", where((*twin)->file),
                            shown_token(twin[0]->spelling), shown_token(twin[1]->spelling), twin[0]->id);
  check_gaps(by_id);
  definition_.token_bytes.resize(static_cast<std::size_t>(by_id.back()->id) + 1);
  for (const Token* token : by_id) {
    definition_.token_bytes[token->id] = token->bytes ? *token->bytes : decoded(token->spelling);
    const bool may_be_piece = token->bytes || (!spells_bytes() && token->origin == Origin::vocabulary);
    if (ignores_merges_ && may_be_piece) definition_.whole_pieces.push_back(static_cast<std::int32_t>(token->id));
  }
  if (!spells_bytes()) finish_characters();
}

/// A token's spelling behind the decoder's replacements.
std::string DefinitionBuilder::decoded(const std::string& spelling) const {
  NormalizedText text(spelling);
  for (const NormalizerStep& step : definition_.decoder.replacements) text.apply(step);
  return std::string(text.text());
}

/// The byte that a token like `<0xE6>` stands for; -1 if it is not spelled so.
int byte_of(std::string_view spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || !spelling.ends_with(">")) return -1;
  unsigned byte = 0;
  const auto [end, error] = std::from_chars(spelling.data() + 3, spelling.data() + 5, byte, 16);
  return error == std::errc() && end == spelling.data() + 5 ? static_cast<int>(byte) : -1;
}

void DefinitionBuilder::finish_characters() {
  CharacterTokens& characters = *definition_.characters;
  characters.spelled.resize(definition_.token_bytes.size());
  for (const Token& token : tokens_) {
    if (token.origin == Origin::vocabulary) characters.spelled[token.id] = token.spelling;
    if (const int byte = byte_of(token.spelling); definition_.decoder.joins_bytes && byte >= 0) {
      definition_.token_bytes[token.id] = std::string(1, static_cast<char>(byte));
      definition_.decodes_to_byte.resize(definition_.token_bytes.size());
      definition_.decodes_to_byte[token.id] = true;
    }
  }
  if (!unknown_) return;
  const auto found = token_of_spelling_.find(*unknown_);
  require<InputError>(found != token_of_spelling_.end() && tokens_[found->second].origin == Origin::vocabulary,
                      "{}: model: unk_token {} is not in the vocabulary: restore it", where(vocabulary_file_),
                      shown_token(*unknown_));
  characters.unknown = static_cast<std::int32_t>(tokens_[found->second].id);
}

/// Ids without a token may lie beyond the vocabulary, before added tokens; in vocab.json a gap inside it means that
/// tokens are lost. tokenizer.json may leave gaps.
void DefinitionBuilder::check_gaps(const std::vector<const Token*>& by_id) const {
  const auto last = std::ranges::find_if(by_id.rbegin(), by_id.rend(),
                                         [](const Token* token) { return token->origin == Origin::vocabulary; });
  // The ids differ, so a gap below means an id beyond the last.
  const auto needed = files_.tokenizer_json ? 0 : by_id.rend() - last;
  for (std::ptrdiff_t i = 0; i < needed; ++i)
    if (by_id[i]->id != i)
      throw_error<InputError>("{}: token {} has id {}, but the {} tokens must have the ids 0 to {}, and none has id {}",
                              where((*last)->file), shown_token((*last)->spelling), (*last)->id, needed, needed - 1, i);
  constexpr std::int64_t kMostWithoutToken = 1 << 20;
  const Token& highest = *by_id.back();
  if (highest.id - std::ssize(by_id) >= kMostWithoutToken)
    throw_error<InputError>("{}: token {} has id {}, but there are {} tokens: give it a lower id", where(highest.file),
                            shown_token(highest.spelling), highest.id, by_id.size());
}

void DefinitionBuilder::finish_byte_tokens() {
  definition_.byte_tokens.fill(-1);
  for (const Token& token : tokens_) {
    if (!token.bytes || token.bytes->size() != 1) continue;
    definition_.byte_tokens[static_cast<unsigned char>((*token.bytes)[0])] = static_cast<std::int32_t>(token.id);
  }
  for (int byte = 0; !spells_bytes() && falls_back_to_bytes_ && byte < 256; ++byte) {
    const auto found = token_of_spelling_.find(fmt::format("<0x{:02X}>", byte));
    if (found != token_of_spelling_.end() && tokens_[found->second].origin == Origin::vocabulary)
      definition_.byte_tokens[byte] = static_cast<std::int32_t>(tokens_[found->second].id);
  }
  const auto missing = std::ranges::find(definition_.byte_tokens, -1);
  const auto byte = missing - definition_.byte_tokens.begin();
  if (missing == definition_.byte_tokens.end() || (!spells_bytes() && unknown_)) return;
  throw_error<InputError>(
      "{}: no token stands for the byte 0x{:02X}: {}", where(vocabulary_file_), byte,
      spells_bytes() ? "a byte-level vocabulary needs all 256" : "without an unk_token, byte_fallback needs all 256");
}

/// A merge list that was cut short still parses, and then encodes quietly into other ids: so every token of several
/// bytes or characters must be made by some merge. Tokens in angle or square brackets are markers, which often stand in
/// the vocabulary alone.
void DefinitionBuilder::check_merges_make_vocabulary() const {
  const auto is_marker = [](const std::string& s) {
    return (s.front() == '<' && s.back() == '>') || (s.front() == '[' && s.back() == ']');
  };
  const Token* example = nullptr;
  std::size_t unmade = 0;
  for (const Token& token : tokens_) {
    const bool is_one =
        token.bytes ? token.bytes->size() == 1 : utf8::decode(token.spelling, 0).length == token.spelling.size();
    const bool spells = token.bytes || (!spells_bytes() && token.origin == Origin::vocabulary);
    const bool expected = spells && !is_one && !is_marker(token.spelling);
    if (!expected || token.is_merged || added_of_content_.contains(token.spelling)) continue;
    if (unmade++ == 0) example = &token;
  }
  if (unmade > 0)
    throw_error<InputError>(
        "{}: no merge makes {} of the vocabulary's tokens, such as {}: the list is cut short or of "
        "another model; restore it",
        where(merges_file_), unmade, shown_token(example->spelling));
}

/// The classes whose fast tokenizer makes its template of `add_bos_token` and `add_eos_token`, whatever the
/// post-processor says, and whether it adds these tokens where the fields are absent (transformers 4.44).
struct TemplateRule {
  std::string_view tokenizer_class;
  bool adds_bos, adds_eos;
  std::string_view bos, eos;
};
constexpr TemplateRule kTemplateRules[] = {{"LlamaTokenizer", true, false, "<s>", "</s>"},
                                           {"LlamaTokenizerFast", true, false, "<s>", "</s>"},
                                           {"GPTNeoXTokenizer", false, false, kEndOfText, kEndOfText},
                                           {"GPTNeoXTokenizerFast", false, false, kEndOfText, kEndOfText}};

/// The token that a class puts before (`bos`) or behind (`eos`) every text, if it does.
std::vector<std::int32_t> DefinitionBuilder::template_token(const Json& config, const std::string& field, bool absent,
                                                            std::string_view spelling, const std::string& place) const {
  const std::string flag = fmt::format("add_{}", field);
  if (!(config.contains(flag) ? json_bool_or(config, flag, false, place) : absent)) return {};
  std::string name(spelling);
  if (json_has(config, field)) {
    const Json& value = json_field(config, field, place);
    name = value.is_string() ? value.get<std::string>() : json_string(value, "content", place + ": " + field);
  }
  const auto found = token_of_spelling_.find(name);
  if (found == token_of_spelling_.end())
    throw_error<InputError>("{}: {} is true, but the {} {} is no token: set {} to false or name a token", place, flag,
                            field, shown_token(name), flag);
  return {static_cast<std::int32_t>(tokens_[found->second].id)};
}

/// What tokenizer_config.json says about tokens around every text. GPT-2's slow and fast tokenizers treat the fields
/// differently; other classes take the post-processor.
void DefinitionBuilder::finish_template(const Json& config, const std::string& place) {
  const std::string name = json_string_or(config, "tokenizer_class", "", place);
  TextTemplate& made = definition_.text_template;
  if (const auto rule = std::ranges::find(kTemplateRules, name, &TemplateRule::tokenizer_class);
      rule != std::end(kTemplateRules)) {
    made = {template_token(config, "bos_token", rule->adds_bos, rule->bos, place),
            template_token(config, "eos_token", rule->adds_eos, rule->eos, place)};
    return;
  }
  const bool is_gpt2 = name.empty() || name == "GPT2Tokenizer" || name == "GPT2TokenizerFast";
  const auto check = [&](const char* field, const std::vector<std::int32_t>& tokens) {
    const bool adds = json_bool_or(config, field, false, place);
    require<InputError>(
        !is_gpt2 || !adds || !tokens.empty(),
        "{}: field \"{}\" is true, so a token would be added to every text, which transformers' two "
        "tokenizers of this class do differently: set it to false, and write the token into the prompts "
        "and texts that should have it",
        place, field);
  };
  check("add_bos_token", made.before);
  check("add_eos_token", made.behind);
}

/// Tokens of the second pass are looked for as the normalizer leaves them.
void DefinitionBuilder::normalize_added() {
  for (AddedToken& token : definition_.added) {
    if (!token.second_pass) continue;
    NormalizedText text(token.content);
    for (const NormalizerStep& step : definition_.normalizer) text.apply(step);
    std::string sought(text.text());
    token.content = std::move(sought);
  }
  std::erase_if(definition_.added, [](const AddedToken& token) { return token.content.empty(); });
}

void DefinitionBuilder::check_template() const {
  for (const std::vector<std::int32_t>* ids : {&definition_.text_template.before, &definition_.text_template.behind})
    for (const std::int32_t id : *ids)
      require<InputError>(id < std::ssize(definition_.token_bytes) && !definition_.token_bytes[id].empty(),
                          "{}: post_processor: a token of id {} is added to every text, but no token has this id: "
                          "restore it",
                          where(vocabulary_file_), id);
}

TokenizerDefinition DefinitionBuilder::build() {
  parsed_.reserve(5);  // parse() hands out references into it
  if (files_.tokenizer_json) {
    read_tokenizer_json(parse(*files_.tokenizer_json, "tokenizer.json"));
  } else {
    require<InputError>(files_.vocab_json && files_.merges_txt,
                        "{}: no tokenizer: the folder must hold tokenizer.json, or both vocab.json and merges.txt",
                        files_.folder);
    vocabulary_file_ = "vocab.json";
    merges_file_ = "merges.txt";
    read_vocabulary(parse(*files_.vocab_json, "vocab.json"), "vocab.json");
    read_merges_text(*files_.merges_txt);
  }
  if (files_.added_tokens_json) read_added_map(parse(*files_.added_tokens_json, "added_tokens.json"));
  const Json* config =
      files_.tokenizer_config_json ? &parse(*files_.tokenizer_config_json, "tokenizer_config.json") : nullptr;
  const std::string config_place = where("tokenizer_config.json");
  if (config && json_has(*config, "added_tokens_decoder"))
    read_added_decoder(json_object(*config, "added_tokens_decoder", config_place));
  if (files_.special_tokens_map_json)
    read_special_fields(parse(*files_.special_tokens_map_json, "special_tokens_map.json"), "special_tokens_map.json");
  if (config) {
    read_special_fields(*config, "tokenizer_config.json");
    definition_.cleans_up_spaces = json_bool_or(*config, "clean_up_tokenization_spaces", false, config_place);
    require<InputError>(!spells_bytes() || !json_bool_or(*config, "add_prefix_space", false, config_place),
                        "{}: add_prefix_space is true: set it to false and write the leading space into the text",
                        config_place);
    finish_template(*config, config_place);
  }
  mark_end_of_text();
  finish_tokens();
  finish_byte_tokens();
  normalize_added();
  check_template();
  if (!ignores_merges_) check_merges_make_vocabulary();
  return std::move(definition_);
}

}  // namespace

TokenizerFiles TokenizerFiles::read(const std::filesystem::path& folder) {
  std::error_code error;
  require<InputError>(std::filesystem::is_directory(folder, error),
                      "{}: is not a folder: give a Hugging Face model directory", folder.string());
  TokenizerFiles files;
  files.folder = folder.string();
  const auto read_if_there = [&folder](const char* name) -> std::optional<std::string> {
    std::error_code ignored;
    if (!std::filesystem::exists(folder / name, ignored)) return std::nullopt;
    return read_text_file(folder / name);
  };
  files.tokenizer_json = read_if_there("tokenizer.json");
  files.added_tokens_json = read_if_there("added_tokens.json");
  files.special_tokens_map_json = read_if_there("special_tokens_map.json");
  files.tokenizer_config_json = read_if_there("tokenizer_config.json");
  if (files.tokenizer_json) return files;
  files.vocab_json = read_if_there("vocab.json");
  files.merges_txt = read_if_there("merges.txt");
  return files;
}

TokenizerDefinition parse_tokenizer(const TokenizerFiles& files) { return DefinitionBuilder(files).build(); }

}  // namespace loci
