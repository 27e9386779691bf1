#include "trace/facts.h"

#include <unordered_map>

#include "runtime/utf8.h"
#include "runtime/atomic_file.h"
#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/sha256.h"

namespace loci {
namespace {

/// Python's str.isspace() for the characters that str.strip() removes.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Fact parse_fact(const Json& record, std::string_view where, const Tokenizer& tokenizer, int64_t max_tokens) {
  Fact fact;
  fact.known_id = json_int(record, "known_id", where);
  fact.subject = json_text(record, "subject", where);
  require<InputError>(!strip(fact.subject).empty(), "{}: field \"subject\" is empty", where);
  fact.attribute = json_text(record, "attribute", where);
  fact.prompt = json_text(record, "prompt", where);
  fact.relation_id = json_text_or(record, "relation_id", "", where);
  fact.prediction = json_string_or(record, "prediction", "", where);
  json_string_or(record, "template", "", where);
  const Encoding encoding = tokenizer.encode(fact.prompt);
  fact.tokens = encoding.ids;
  require<InputError>(static_cast<int64_t>(fact.tokens.size()) <= max_tokens,
                      "{}: field \"prompt\" has {} tokens, the model's context holds {}", where, fact.tokens.size(),
                      max_tokens);
  fact.subject_range = token_range(encoding, fact.prompt, fact.subject, fmt::format("{}: field \"subject\"", where));
  return fact;
}

void check_id(std::unordered_map<int64_t, size_t>& records_of, int64_t known_id, size_t record,
              std::string_view where) {
  const auto [place, is_new] = records_of.emplace(known_id, record);
  require<InputError>(is_new, "{}: field \"known_id\": {} is already the id of record {}", where, known_id,
                      place->second);
}

}  // namespace

std::string_view strip(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const auto step = utf8::decode(text, begin);
    if (!step.well_formed || !is_space(step.code_point)) break;
    begin += step.length;
  }
  size_t end = begin;  // behind the last character that is no space
  for (size_t at = begin; at < text.size();) {
    const auto step = utf8::decode(text, at);
    at += step.length;
    if (!step.well_formed || !is_space(step.code_point)) end = at;
  }
  return text.substr(begin, end - begin);
}

TokenRange token_range(const Encoding& encoding, std::string_view text, std::string_view part, std::string_view where) {
  const size_t found = text.find(part);
  require<InputError>(found != std::string_view::npos, "{}: \"{}\" does not occur in the prompt \"{}\"", where, part,
                      text);
  const auto first = static_cast<int64_t>(found);
  const auto last = static_cast<int64_t>(found + part.size());
  TokenRange range{-1, -1};
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    if (range.begin < 0 && encoding.offsets[i].end > first) range.begin = static_cast<int64_t>(i);
    if (encoding.offsets[i].end < last) continue;
    range.end = static_cast<int64_t>(i) + 1;
    break;
  }
  return range;
}

FactFile parse_facts(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t max_tokens,
                     OnInvalid on_invalid) {
  const Json list = parse_json(text, name);
  require<InputError>(list.is_array(), "{}: the file must hold a list of facts", name);
  FactFile file;
  file.sha256 = sha256_hex(text);
  std::unordered_map<int64_t, size_t> records_of;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("{}: record {}", name, i);
    require<InputError>(list[i].is_object(), "{} must be an object with \"known_id\", \"subject\" and so on", where);
    if (const auto subject = list[i].find("subject"); subject != list[i].end() && subject->is_string())
      if (auto value = subject->get<std::string>(); !value.empty()) file.subjects.push_back(std::move(value));
    try {
      Fact fact = parse_fact(list[i], where, tokenizer, max_tokens);
      check_id(records_of, fact.known_id, i, where);
      fact.record = static_cast<int64_t>(i);
      file.facts.push_back(std::move(fact));
    } catch (const InputError& error) {
      refuse_or_skip(on_invalid, error, file.skipped);
    }
  }
  require<InputError>(!file.facts.empty(), "{}: there is no fact in it that can be traced", name);
  return file;
}

FactFile read_facts(const std::filesystem::path& path, const Tokenizer& tokenizer, int64_t max_tokens,
                    OnInvalid on_invalid) {
  return parse_facts(read_text_file(path), path.string(), tokenizer, max_tokens, on_invalid);
}

}  // namespace loci
