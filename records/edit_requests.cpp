#include "records/edit_requests.h"

#include <fmt/format.h>

#include <map>

#include "runtime/atomic_file.h"
#include "runtime/error.h"
#include "runtime/sha256.h"

namespace loci {
namespace {

constexpr std::string_view kPlace = "{}";

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == text.npos; }

/// A text, or an object that holds it as `str`.
std::string target_text(const Json& record, std::string_view key, std::string_view where) {
  const Json& value = json_field(record, key, where);
  if (!value.is_object()) return json_text(record, key, where);
  return json_text(value, "str", fmt::format("{}: {}", where, key));
}

/// The prompt with `{}` at its subject, which it may hold as it is.
std::string marked_prompt(std::string prompt, const std::string& subject, std::string_view key,
                          std::string_view where) {
  const int64_t places = count_occurrences(prompt, kPlace);
  require<InputError>(places <= 1, "{}: field \"{}\" must hold exactly one {{}} for its subject, got {}", where, key,
                      places);
  if (places == 1) return prompt;
  const int64_t count = count_occurrences(prompt, subject);
  require<InputError>(count > 0, "{}: field \"{}\" holds neither {{}} nor the subject \"{}\"", where, key, subject);
  require<InputError>(count == 1, "{}: field \"{}\" holds the subject \"{}\" {} times; mark its place by {{}}", where,
                      key, subject, count);
  return prompt.replace(prompt.find(subject), subject.size(), kPlace);
}

EditRequest zsre_request(const Json& record, std::string_view where, ZsreTarget target) {
  EditRequest request;
  request.subject = json_text(record, "subject", where);
  request.prompt = marked_prompt(json_text(record, "src", where), request.subject, "src", where);
  if (target == ZsreTarget::alternative) {
    request.target_new = json_text(record, "alt", where);
  } else {
    const std::vector<std::string> answers = json_strings(record, "answers", where);
    require<InputError>(!answers.empty(), "{}: field \"answers\" is empty", where);
    request.target_new = answers[0];
  }
  const std::string_view key = target == ZsreTarget::alternative ? "alt" : "answers";
  require<InputError>(!is_blank(request.target_new), "{}: field \"{}\" holds a blank target", where, key);
  require<InputError>(request.target_new.find('\0') == std::string::npos,
                      "{}: field \"{}\" holds the character U+0000; remove it", where, key);
  return request;
}

EditRequest rewrite_request(const Json& record, std::string_view where) {
  EditRequest request;
  request.subject = json_text(record, "subject", where);
  request.prompt = marked_prompt(json_text(record, "prompt", where), request.subject, "prompt", where);
  request.target_new = target_text(record, "target_new", where);
  require<InputError>(!is_blank(request.target_new), "{}: field \"target_new\" is empty", where);
  if (json_has(record, "target_true"))
    request.target_true = target_text(record, "target_true", where);
  else
    request.target_true = json_text_or(record, "ground_truth", "", where);
  return request;
}

}  // namespace

EditRequest parse_request(const Json& record, int64_t index, const std::string& where, ZsreTarget zsre_target) {
  require<InputError>(record.is_object(), "{}: must be an object with the fields of an edit request", where);
  EditRequest request;
  if (json_has(record, "requested_rewrite")) {
    request = rewrite_request(json_object(record, "requested_rewrite", where), where + " requested_rewrite");
  } else {
    request = json_has(record, "src") ? zsre_request(record, where, zsre_target) : rewrite_request(record, where);
  }
  request.case_id = json_int_or(record, "case_id", index, where);
  require<InputError>(!is_blank(request.subject), "{}: field \"subject\" is empty", where);
  return request;
}

std::string record_place(std::string_view file, const Json& record, int64_t index) {
  if (record.is_object() && record.contains("case_id") && record["case_id"].is_number_integer())
    return fmt::format("{}: record {} (case_id {})", file, index, record["case_id"].dump());
  return fmt::format("{}: record {}", file, index);
}

std::string bare_prompt(const EditRequest& request) {
  std::string text = request.prompt;
  return text.replace(text.find(kPlace), kPlace.size(), request.subject);
}

int64_t count_occurrences(std::string_view text, std::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

std::string spaced_target(std::string_view target) {
  return target.starts_with(' ') ? std::string(target) : " " + std::string(target);
}

void check_request(const EditRequest& request, const Tokenizer& tokenizer, const GptConfig& config,
                   std::string_view where) {
  const int64_t places = count_occurrences(request.prompt, kPlace);
  require<InputError>(places == 1, "{}: field \"prompt\" must hold exactly one {{}} for its subject, got {}", where,
                      places);
  require<InputError>(!is_blank(request.subject), "{}: field \"subject\" is empty", where);
  require<InputError>(!is_blank(request.target_new), "{}: field \"target_new\" is empty", where);
  const size_t length = tokenizer.encode_ids(bare_prompt(request) + spaced_target(request.target_new)).size();
  require<InputError>(static_cast<int64_t>(length) <= config.positions,
                      "{}: the prompt and its target take {} tokens, but the model reads {}; shorten the prompt", where,
                      length, config.positions);
}

LoadedRequests parse_requests(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                              const GptConfig& config, OnInvalid on_invalid, ZsreTarget zsre_target) {
  Json list = parse_json(text, name);
  if (list.is_object()) list = Json::array({std::move(list)});
  require<InputError>(list.is_array(), "{}: the file must hold a list of edit requests", name);
  LoadedRequests loaded;
  loaded.sha256 = sha256_hex(text);
  std::map<int64_t, int64_t> index_of_case;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const std::string where = record_place(name, list[i], index);
    try {
      EditRequest request = parse_request(list[i], index, where, zsre_target);
      check_request(request, tokenizer, config, where);
      const auto [earlier, is_new] = index_of_case.emplace(request.case_id, index);
      require<InputError>(is_new, "{}: field \"case_id\" repeats that of record {}", where, earlier->second);
      loaded.requests.push_back(std::move(request));
    } catch (const InputError& error) {
      refuse_or_skip(on_invalid, error, loaded.skipped);
    }
  }
  require<InputError>(!loaded.requests.empty(), "{}: there is no edit request in it that can be run", name);
  return loaded;
}

LoadedRequests read_requests(const std::filesystem::path& path, const Tokenizer& tokenizer, const GptConfig& config,
                             OnInvalid on_invalid, ZsreTarget zsre_target) {
  return parse_requests(read_text_file(path), path.string(), tokenizer, config, on_invalid, zsre_target);
}

}  // namespace loci
