#include "model/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "model/text/pretokenizer.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/shown_text.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

bool is_space(std::string_view text, std::size_t index, std::size_t* length) {
  const utf8::Step step = utf8::decode(text, index);
  *length = step.length;
  return step.well_formed && unicode::char_class(step.code_point) == unicode::CharClass::space;
}

/// First byte of the white space that ends at `end`, no further left than `begin`.
std::size_t spaces_begin(std::string_view text, std::size_t begin, std::size_t end) {
  while (end > begin) {
    std::size_t start = end - 1;
    while (start > begin && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    std::size_t length = 0;
    if (!is_space(text, start, &length) || start + length != end) break;
    end = start;
  }
  return end;
}

/// End of the white space that begins at `begin`, no further right than `end`.
std::size_t spaces_end(std::string_view text, std::size_t begin, std::size_t end) {
  for (std::size_t length = 0; begin < end && is_space(text, begin, &length);) begin += length;
  return begin;
}

/// Whether a word goes on to the left or right of these bytes.
bool is_inside_word(std::string_view text, std::size_t begin, std::size_t end) {
  const auto is_word_at = [text](std::size_t at) {
    const utf8::Step step = utf8::decode(text, at);
    return step.well_formed && unicode::is_of_word(step.code_point);
  };
  std::size_t before = begin;
  while (before > 0 && begin - before < 4 &&
         (before == begin || (static_cast<unsigned char>(text[before]) & 0xC0) == 0x80))
    --before;
  return (begin > 0 && is_word_at(before)) || (end < text.size() && is_word_at(end));
}

/// Takes a character off the ends of a text, as often as it stands there but not more often than said.
std::string_view stripped(std::string_view text, std::string_view character, std::int64_t begin, std::int64_t end) {
  for (; begin > 0 && text.starts_with(character); --begin) text.remove_prefix(character.size());
  for (; end > 0 && text.ends_with(character); --end) text.remove_suffix(character.size());
  return text;
}

/// What Hugging Face's clean_up_tokenization does, in its order.
std::string without_spaces_before_punctuation(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> kReplacements[] = {
      {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
      {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kReplacements) {
    std::string result;
    std::size_t begin = 0;
    for (std::size_t hit; (hit = text.find(from, begin)) != std::string::npos; begin = hit + from.size())
      result.append(text, begin, hit - begin).append(to);
    text = result.append(text, begin);
  }
  return text;
}

/// What differs from GPT-2's components, in words.
std::string components_text(const TokenizerDefinition& definition) {
  std::string text;
  const PreTokenizer& pre = definition.pre_tokenizer;
  if (pre.splits.size() != 1 || pre.splits[0])
    for (const auto& split : pre.splits) text += fmt::format("split {}\n", split ? split->pattern() : kGpt2Pattern);
  if (pre.spells_bytes && pre.splits.empty()) text += "unsplit\n";
  for (const NormalizerStep& step : definition.normalizer)
    text += fmt::format("normalizer {} {}:{} {}\n", static_cast<int>(step.kind), step.from.size(), step.from, step.to);
  if (pre.metaspace)
    text += fmt::format("metaspace {} {} {}\n", pre.metaspace->replacement, static_cast<int>(pre.metaspace->prepend),
                        pre.metaspace->split);
  if (const auto& characters = definition.characters) {
    text += fmt::format("characters {} {}\n", characters->unknown.value_or(-1), characters->fuses_unknown);
    for (const std::int32_t id : definition.byte_tokens) text += fmt::format("{} ", id);
    for (const std::string& spelled : characters->spelled) text += fmt::format("{}:{}", spelled.size(), spelled);
  }
  for (const std::int32_t id : definition.text_template.before) text += fmt::format("begins with {}\n", id);
  for (const std::int32_t id : definition.text_template.behind) text += fmt::format("ends with {}\n", id);
  return text;
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  return Tokenizer(parse_tokenizer(TokenizerFiles::read(folder)));
}

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : definition_(std::move(definition)), merge_table_(definition_.merges) {
  id_of_bytes_.reserve(definition_.token_bytes.size());
  const std::vector<bool>& is_byte = definition_.decodes_to_byte;
  for (const AddedToken& token : definition_.added) id_of_bytes_.emplace(definition_.token_bytes[token.id], token.id);
  for (const bool bytes : {false, true})  // "A" before <0x41>
    for (std::int32_t id = 0; id < vocabulary_size(); ++id)
      if (has_token(id) && (!is_byte.empty() && is_byte[id]) == bytes)
        id_of_bytes_.emplace(definition_.token_bytes[id], id);
  const std::vector<std::string>& pieces =
      definition_.characters ? definition_.characters->spelled : definition_.token_bytes;
  for (const std::int32_t id : definition_.whole_pieces) id_of_whole_piece_.emplace(pieces[id], id);
  if (definition_.characters) character_encoder_.emplace(definition_);
  for (std::size_t i = 0; i < definition_.added.size(); ++i) {
    const AddedToken& token = definition_.added[i];
    has_added_[token.second_pass] = true;
    added_by_first_byte_[token.second_pass][static_cast<unsigned char>(token.content[0])].push_back(
        static_cast<std::int32_t>(i));
  }
  for (auto& pass : added_by_first_byte_)
    for (std::vector<std::int32_t>& bucket : pass)
      std::ranges::stable_sort(bucket, std::greater<>(),
                               [this](std::int32_t i) { return definition_.added[i].content.size(); });
}

void Tokenizer::limit_to_embedding(std::int64_t rows, std::string_view model) {
  std::vector<bool> is_added(definition_.token_bytes.size());
  for (const AddedToken& token : definition_.added) is_added[token.id] = true;
  for (const std::vector<std::int32_t>* ids : {&definition_.text_template.before, &definition_.text_template.behind})
    for (const std::int32_t id : *ids) is_added[id] = false;  // every text holds them
  for (std::int64_t id = vocabulary_size() - 1; id >= rows; --id)
    require<InputError>(
        is_added[id] || !has_token(id),
        "{}: the tokenizer has {} tokens, but the embedding only {} rows; both must come from one model", model,
        vocabulary_size(), rows);
  embedding_rows_ = rows;
}

// ---- added tokens ----

const AddedToken* Tokenizer::longest_added(std::string_view rest, SpecialTokens special, bool second_pass) const {
  for (const std::int32_t i : added_by_first_byte_[second_pass][static_cast<unsigned char>(rest[0])]) {
    const AddedToken& token = definition_.added[i];
    if (token.special && special == SpecialTokens::as_text) continue;
    if (rest.starts_with(token.content)) return &token;
  }
  return nullptr;
}

/// Cuts a text at its added tokens, from left to right, the longest at each place.
std::vector<Tokenizer::Section> Tokenizer::cut_added(std::string_view text, SpecialTokens special,
                                                     bool second_pass) const {
  std::vector<Section> sections;
  if (!has_added_[second_pass] && !text.empty()) return {{0, text.size(), -1}};
  std::size_t done = 0;
  for (std::size_t i = 0; i < text.size();) {
    const AddedToken* token = longest_added(text.substr(i), special, second_pass);
    if (!token) {
      ++i;
      continue;
    }
    const std::size_t after = i + token->content.size();
    if (token->whole_word && is_inside_word(text, i, after)) {
      i = after;  // as in Hugging Face's, no shorter token is looked for
      continue;
    }
    const std::size_t begin = token->takes_space_left ? spaces_begin(text, done, i) : i;
    const std::size_t end = token->takes_space_right ? spaces_end(text, after, text.size()) : after;
    if (done < begin) sections.push_back({done, begin, -1});
    sections.push_back({begin, end, token->id});
    i = done = end;
  }
  if (done < text.size()) sections.push_back({done, text.size(), -1});
  return sections;
}

// ---- encoding ----

class Tokenizer::Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, std::string_view text, SpecialTokens special, TextKind kind, std::int64_t limit)
      : tokenizer_(tokenizer), definition_(tokenizer.definition_), text_(text), special_(special), kind_(kind) {
    require<InputError>(text.size() < std::size_t{1} << 31,
                        "a text of {} bytes is too long to encode: split it below 2 GiB", text.size());
    tokens_.limit = std::max<std::int64_t>(limit, 0);
  }

  std::vector<std::int32_t> ids() {
    encode();
    if (tokens_.is_full()) tokens_.ids.resize(static_cast<std::size_t>(tokens_.limit));
    return std::move(tokens_.ids);
  }
  Encoding ids_and_offsets() {
    tokens_.with_ends = true;
    encode();
    return {std::move(tokens_.ids), std::move(offsets_)};
  }

 private:
  void encode() {
    const auto size = static_cast<std::int64_t>(text_.size());
    if (kind_ == TextKind::whole)
      for (const std::int32_t id : definition_.text_template.before) add(id, {0, 0});
    for (const Section& section : tokenizer_.cut_added(text_, special_, false)) {
      if (tokens_.is_full()) break;
      if (section.id < 0) {
        encode_section(section);
      } else {
        tokenizer_.require_row(section.id, text_);
        add(section.id, range(section));
      }
    }
    if (kind_ == TextKind::whole)
      for (const std::int32_t id : definition_.text_template.behind) add(id, {size, size});
  }

  static ByteRange range(const Section& section) {
    return {static_cast<std::int64_t>(section.begin), static_cast<std::int64_t>(section.end)};
  }
  static ByteRange moved(ByteRange bytes, std::int64_t by) { return {bytes.begin + by, bytes.end + by}; }
  void add(std::int32_t id, ByteRange bytes) {
    tokens_.ids.push_back(id);
    if (tokens_.with_ends) offsets_.push_back(bytes);
  }

  /// What lies between two added tokens of the first pass.
  void encode_section(const Section& section) {
    NormalizedText normalized(text_.substr(section.begin, section.end - section.begin));
    const bool continues = section.begin == 0 && kind_ == TextKind::continuation;
    for (const NormalizerStep& step : definition_.normalizer)
      if (!continues || step.kind != NormalizerStep::Kind::prepend) normalized.apply(step);
    const auto shift = static_cast<std::int64_t>(section.begin);
    for (const Section& part : tokenizer_.cut_added(normalized.text(), special_, true)) {
      if (tokens_.is_full()) return;
      if (part.id < 0) {
        encode_stretch(normalized, part, shift);
      } else {
        tokenizer_.require_row(part.id, text_);
        add(part.id, moved(normalized.original(range(part)), shift));
      }
    }
  }

  /// What lies between any two added tokens. `shift` is where the original of `normalized` begins.
  void encode_stretch(const NormalizedText& normalized, const Section& part, std::int64_t shift) {
    NormalizedText stretch(normalized.text().substr(part.begin, part.end - part.begin));
    const std::optional<Metaspace>& metaspace = definition_.pre_tokenizer.metaspace;
    if (metaspace) {
      const bool is_first = shift + normalized.original(range(part)).begin == 0;
      show_spaces(*metaspace, is_first, stretch);
    }
    tokens_.ends.clear();
    if (metaspace && metaspace->split) {
      encode_words(stretch.text(), metaspace->replacement);
    } else {
      encode_pieces(stretch.text(), 0);
    }
    const auto begin_of_part = static_cast<std::int64_t>(part.begin);
    std::int64_t begin = 0;
    for (const std::int64_t end : tokens_.ends) {
      const ByteRange bytes = moved(stretch.original({begin, end}), begin_of_part);
      offsets_.push_back(moved(normalized.original(bytes), shift));
      begin = end;
    }
  }

  void show_spaces(const Metaspace& metaspace, bool is_first, NormalizedText& stretch) const {
    stretch.replace(" ", metaspace.replacement);
    const bool prepends =
        metaspace.prepend == Metaspace::Prepend::always || (metaspace.prepend == Metaspace::Prepend::first && is_first);
    const bool continues = is_first && kind_ == TextKind::continuation;
    if (prepends && !continues && !stretch.text().starts_with(metaspace.replacement))
      stretch.prepend(metaspace.replacement);
  }

  /// A piece begins at every replaced space.
  void encode_words(std::string_view text, std::string_view space) {
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = std::min(text.find(space, begin + 1), text.size());
      encode_piece(text.substr(begin, end - begin));
    }
  }

  /// The pieces of split `level`, each cut further by those behind it.
  void encode_pieces(std::string_view text, std::size_t level) {
    const auto& splits = definition_.pre_tokenizer.splits;
    if (level == splits.size()) return encode_piece(text);
    const bool is_last = level + 1 == splits.size();
    std::optional<SplitPattern::Pieces> pieces;
    if (splits[level]) pieces.emplace(*splits[level], text);
    for (std::size_t begin = 0, end = 0; begin < text.size() && !tokens_.is_full(); begin = end) {
      end = pieces ? pieces->next() : piece_end(text, begin);
      const std::string_view piece = text.substr(begin, end - begin);
      is_last ? encode_piece(piece) : encode_pieces(piece, level + 1);
    }
  }

  void encode_piece(std::string_view piece) {
    if (const auto whole = tokenizer_.id_of_whole_piece_.find(piece); whole != tokenizer_.id_of_whole_piece_.end())
      return tokens_.add(whole->second, piece.size());
    if (const auto& encoder = tokenizer_.character_encoder_)
      return encoder->encode(piece, tokenizer_.merge_table_, scratch_, tokens_);
    symbols_.resize(piece.size());
    std::ranges::transform(piece, symbols_.begin(),
                           [this](char byte) { return definition_.byte_tokens[static_cast<unsigned char>(byte)]; });
    scratch_.merge(tokenizer_.merge_table_, symbols_);
    if (tokens_.with_ends) {
      for (const std::int32_t id : symbols_) tokens_.add(id, definition_.token_bytes[id].size());
    } else {
      tokens_.ids.insert(tokens_.ids.end(), symbols_.begin(), symbols_.end());
    }
  }

  const Tokenizer& tokenizer_;
  const TokenizerDefinition& definition_;
  std::string_view text_;
  SpecialTokens special_;
  TextKind kind_;
  EncodedText tokens_;  // ends count from the begin of the stretch at work
  std::vector<ByteRange> offsets_;
  std::vector<std::int32_t> symbols_;
  MergeScratch scratch_;
};

std::vector<std::int32_t> Tokenizer::encode_ids(std::string_view text, SpecialTokens special, std::int64_t limit,
                                                TextKind kind) const {
  return Encoder(*this, text, special, kind, limit).ids();
}

Encoding Tokenizer::encode(std::string_view text, SpecialTokens special, TextKind kind) const {
  return Encoder(*this, text, special, kind, kNoLimit).ids_and_offsets();
}

std::vector<std::int32_t> Tokenizer::encode_continuation(std::string_view prompt, std::string_view text,
                                                         SpecialTokens special) const {
  const std::vector<std::int32_t> before = encode_ids(prompt, special, kNoLimit, TextKind::bare);
  std::vector<std::int32_t> both = encode_ids(std::string(prompt).append(text), special, kNoLimit, TextKind::bare);
  if (!std::ranges::equal(before, std::span(both).first(std::min(before.size(), both.size()))))
    return encode_ids(text, special, kNoLimit, TextKind::continuation);
  both.erase(both.begin(), both.begin() + std::ssize(before));
  return both;
}

// ---- decoding ----

void Tokenizer::require_id(std::int32_t id) const {
  const bool is_row = id >= 0 && embedding_rows_ != kNoLimit && has_row(id);
  if (!has_token(id) && !is_row)
    throw_error<InputError>("token id {} is outside the tokenizer's vocabulary of {}: use ids from 0 to {}{}", id,
                            vocabulary_size(), vocabulary_size() - 1,
                            id >= 0 && id < vocabulary_size() ? " that have a token" : "");
}

void Tokenizer::require_row(std::int32_t id, std::string_view text) const {
  if (id >= embedding_rows_)
    throw_error<InputError>(
        "the text {} holds the added token {} (id {}), but the model's embedding has {} rows: take the token out of "
        "the "
        "text, or give the model a row for it (resize_token_embeddings)",
        shown(text), shown(definition_.token_bytes[id]), id, embedding_rows_);
}

std::string_view Tokenizer::decode_token(std::int32_t id) const {
  require_id(id);
  return id < vocabulary_size() ? std::string_view(definition_.token_bytes[id]) : std::string_view();
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const std::int32_t id : ids) bytes.append(decode_token(id));
  return bytes;
}

/// decode() as text, where tokens in a row that are bytes but no UTF-8 become U+FFFD each (`ByteFallback`).
std::string Tokenizer::decode_with_bytes(std::span<const std::int32_t> ids) const {
  const auto is_byte = [this](std::int32_t id) {
    return id < std::ssize(definition_.decodes_to_byte) && definition_.decodes_to_byte[id];
  };
  std::string text;
  for (std::size_t i = 0; i < ids.size();) {
    std::string bytes;
    const std::size_t begin = i;
    for (; i < ids.size() && (i == begin || is_byte(ids[begin])) && is_byte(ids[i]) == is_byte(ids[begin]); ++i)
      bytes += decode_token(ids[i]);
    if (utf8::replace_ill_formed(bytes) == bytes) {
      text += bytes;
    } else {
      for (std::size_t byte = begin; byte < i; ++byte) utf8::append(text, 0xFFFD);
    }
  }
  return text;
}

std::string Tokenizer::decode_text(std::span<const std::int32_t> ids, TextCleanUp clean_up,
                                   LeadingSpace leading_space) const {
  std::string text =
      definition_.decodes_to_byte.empty() ? utf8::replace_ill_formed(decode(ids)) : decode_with_bytes(ids);
  const Decoder& decoder = definition_.decoder;
  if (leading_space == LeadingSpace::as_configured && decoder.drops_first_spaces && !ids.empty()) {
    std::string first(decode_token(ids[0]));
    const std::size_t length = first.size();
    std::erase(first, ' ');
    text.replace(0, length, first);
  }
  if (leading_space == LeadingSpace::as_configured && !decoder.stripped.empty())
    text = stripped(text, decoder.stripped, decoder.strip_begin, decoder.strip_end);
  if (clean_up == TextCleanUp::none || !definition_.cleans_up_spaces) return text;
  return without_spaces_before_punctuation(std::move(text));
}

std::optional<std::int32_t> Tokenizer::find(std::string_view bytes) const {
  const auto found = id_of_bytes_.find(bytes);
  if (found == id_of_bytes_.end()) return std::nullopt;
  return found->second;
}

std::string Tokenizer::sha256() const {
  Sha256 hash;
  for (const std::string& bytes : definition_.token_bytes) hash.update(fmt::format("{}:", bytes.size())).update(bytes);
  for (const Merge& merge : definition_.merges) hash.update(fmt::format("{} {}\n", merge.left, merge.right));
  std::vector<std::string> added;
  for (const AddedToken& token : definition_.added)
    added.push_back(fmt::format("{} {} {} {}{}{}\n", token.id, token.takes_space_left, token.takes_space_right,
                                token.special, token.whole_word ? " whole word" : "",
                                token.second_pass && !definition_.normalizer.empty() ? " normalized" : ""));
  std::ranges::sort(added);
  for (const std::string& line : added) hash.update(line);
  // Nothing for GPT-2's own components: results name tokenizers by this hash.
  hash.update(components_text(definition_));
  if (!definition_.whole_pieces.empty()) hash.update("ignore_merges\n");
  return hash.hex();
}

}  // namespace loci
