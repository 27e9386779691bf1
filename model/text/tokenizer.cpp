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

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  return Tokenizer(parse_tokenizer(TokenizerFiles::read(folder)));
}

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : definition_(std::move(definition)), merge_table_(definition_.merges) {
  id_of_bytes_.reserve(definition_.token_bytes.size());
  for (const AddedToken& token : definition_.added) id_of_bytes_.emplace(definition_.token_bytes[token.id], token.id);
  for (std::int32_t id = 0; id < vocabulary_size(); ++id)
    if (has_token(id)) id_of_bytes_.emplace(definition_.token_bytes[id], id);
  for (const std::int32_t id : definition_.whole_pieces) id_of_whole_piece_.emplace(definition_.token_bytes[id], id);
  for (std::size_t i = 0; i < definition_.added.size(); ++i)
    added_by_first_byte_[static_cast<unsigned char>(definition_.added[i].content[0])].push_back(
        static_cast<std::int32_t>(i));
  for (std::vector<std::int32_t>& bucket : added_by_first_byte_)
    std::ranges::stable_sort(bucket, std::greater<>(),
                             [this](std::int32_t i) { return definition_.added[i].content.size(); });
}

void Tokenizer::limit_to_embedding(std::int64_t rows, std::string_view model) {
  std::vector<bool> is_added(definition_.token_bytes.size());
  for (const AddedToken& token : definition_.added) is_added[token.id] = true;
  for (std::int64_t id = vocabulary_size() - 1; id >= rows; --id)
    require<InputError>(
        is_added[id] || !has_token(id),
        "{}: the tokenizer has {} tokens, but the embedding only {} rows; both must come from one model", model,
        vocabulary_size(), rows);
  embedding_rows_ = rows;
}

// ---- added tokens ----

const AddedToken* Tokenizer::longest_added(std::string_view rest, SpecialTokens special, bool second_pass) const {
  for (const std::int32_t i : added_by_first_byte_[static_cast<unsigned char>(rest[0])]) {
    const AddedToken& token = definition_.added[i];
    if (token.second_pass != second_pass || (token.special && special == SpecialTokens::as_text)) continue;
    if (rest.starts_with(token.content)) return &token;
  }
  return nullptr;
}

void Tokenizer::cut_added(std::string_view text, Section section, SpecialTokens special, bool second_pass,
                          std::vector<Section>& sections) const {
  std::size_t done = section.begin;
  for (std::size_t i = section.begin; i < section.end;) {
    const AddedToken* token = longest_added(text.substr(i, section.end - i), special, second_pass);
    if (!token) {
      ++i;
      continue;
    }
    const std::size_t begin = token->takes_space_left ? spaces_begin(text, done, i) : i;
    const std::size_t after = i + token->content.size();
    const std::size_t end = token->takes_space_right ? spaces_end(text, after, section.end) : after;
    if (done < begin) sections.push_back({done, begin, -1});
    sections.push_back({begin, end, token->id});
    i = done = end;
  }
  if (done < section.end) sections.push_back({done, section.end, -1});
}

std::vector<Tokenizer::Section> Tokenizer::sections_of(std::string_view text, SpecialTokens special) const {
  std::vector<Section> sections;
  if (text.empty()) return sections;
  if (definition_.added.empty()) return {{0, text.size(), -1}};
  std::vector<Section> first;
  cut_added(text, {0, text.size(), -1}, special, false, first);
  for (const Section& section : first) {
    if (section.id >= 0) {
      sections.push_back(section);
    } else {
      cut_added(text, section, special, true, sections);
    }
  }
  return sections;
}

// ---- encoding ----

void Tokenizer::encode_ordinary(std::string_view text, std::int64_t limit, std::vector<std::int32_t>& ids) const {
  MergeScratch scratch;
  std::vector<std::int32_t> piece;
  std::optional<SplitPattern::Pieces> pieces;
  if (definition_.split) pieces.emplace(*definition_.split, text);
  for (std::size_t begin = 0, end = 0; begin < text.size() && std::ssize(ids) < limit; begin = end) {
    end = pieces ? pieces->next() : piece_end(text, begin);
    if (const auto whole = id_of_whole_piece_.find(text.substr(begin, end - begin));
        whole != id_of_whole_piece_.end()) {
      ids.push_back(whole->second);
      continue;
    }
    piece.clear();
    for (std::size_t i = begin; i < end; ++i)
      piece.push_back(definition_.byte_tokens[static_cast<unsigned char>(text[i])]);
    scratch.merge(merge_table_, piece);
    ids.insert(ids.end(), piece.begin(), piece.end());
  }
}

std::vector<std::int32_t> Tokenizer::encode_ids(std::string_view text, SpecialTokens special,
                                                std::int64_t limit) const {
  require<InputError>(text.size() < std::size_t{1} << 31,
                      "a text of {} bytes is too long to encode: split it below 2 GiB", text.size());
  std::vector<std::int32_t> ids;
  for (const Section& section : sections_of(text, special)) {
    if (std::ssize(ids) >= limit) break;
    if (section.id >= 0) {
      require_row(section.id, text);
      ids.push_back(section.id);
    } else {
      encode_ordinary(text.substr(section.begin, section.end - section.begin), limit, ids);
    }
  }
  if (std::ssize(ids) > limit) ids.resize(static_cast<std::size_t>(std::max<std::int64_t>(limit, 0)));
  return ids;
}

Encoding Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  require<InputError>(text.size() < std::size_t{1} << 31,
                      "a text of {} bytes is too long to encode: split it below 2 GiB", text.size());
  Encoding encoding;
  for (const Section& section : sections_of(text, special)) {
    auto begin = static_cast<std::int64_t>(section.begin);
    if (section.id >= 0) {
      require_row(section.id, text);
      encoding.ids.push_back(section.id);
      encoding.offsets.push_back({begin, static_cast<std::int64_t>(section.end)});
      continue;
    }
    encode_ordinary(text.substr(section.begin, section.end - section.begin), kNoLimit, encoding.ids);
    for (std::size_t i = encoding.offsets.size(); i < encoding.ids.size(); ++i) {
      const std::int64_t end = begin + std::ssize(definition_.token_bytes[encoding.ids[i]]);
      encoding.offsets.push_back({begin, end});
      begin = end;
    }
  }
  return encoding;
}

// ---- decoding ----

void Tokenizer::require_id(std::int32_t id) const {
  if (!has_token(id))
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
  return definition_.token_bytes[id];
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const std::int32_t id : ids) bytes.append(decode_token(id));
  return bytes;
}

std::string Tokenizer::decode_text(std::span<const std::int32_t> ids, TextCleanUp clean_up) const {
  std::string text = utf8::replace_ill_formed(decode(ids));
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
    added.push_back(
        fmt::format("{} {} {} {}\n", token.id, token.takes_space_left, token.takes_space_right, token.special));
  std::ranges::sort(added);
  for (const std::string& line : added) hash.update(line);
  // Nothing for GPT-2's own: results name tokenizers by this hash.
  if (definition_.split) hash.update(fmt::format("split {}\n", definition_.split->pattern()));
  if (!definition_.whole_pieces.empty()) hash.update("ignore_merges\n");
  return hash.hex();
}

}  // namespace loci
