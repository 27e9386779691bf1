#include "edit/requests.h"

#include <fmt/format.h>

#include <map>

#include "runtime/atomic_file.h"
#include "runtime/error.h"
#include "runtime/sha256.h"

namespace loci {
namespace {

constexpr std::string_view kPlace = "{}";

std::string filled(const Json& record, std::string_view key, std::string_view where) {
  std::string text = json_string(record, key, where);
  require<InputError>(!text.empty(), "{}: field \"{}\" is empty", where, key);
  return text;
}

/// A text, or an object that holds it as `str`.
std::string target_text(const Json& record, std::string_view key, std::string_view where) {
  const Json& value = json_field(record, key, where);
  if (!value.is_object()) return filled(record, key, where);
  return filled(value, "str", fmt::format("{}: {}", where, key));
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

EditRequest zsre_request(const Json& record, std::string_view where) {
  EditRequest request;
  request.subject = filled(record, "subject", where);
  request.prompt = marked_prompt(filled(record, "src", where), request.subject, "src", where);
  const std::vector<std::string> answers = json_strings(record, "answers", where);
  require<InputError>(!answers.empty() && !answers[0].empty(), "{}: field \"answers\" holds no answer", where);
  request.target_new = answers[0];
  return request;
}

EditRequest rewrite_request(const Json& record, std::string_view where) {
  EditRequest request;
  request.subject = filled(record, "subject", where);
  request.prompt = marked_prompt(filled(record, "prompt", where), request.subject, "prompt", where);
  request.target_new = target_text(record, "target_new", where);
  if (json_has(record, "target_true"))
    request.target_true = target_text(record, "target_true", where);
  else
    request.target_true = json_string_or(record, "ground_truth", "", where);
  return request;
}

EditRequest parse_request(const Json& record, int64_t index, const std::string& where) {
  EditRequest request;
  if (json_has(record, "requested_rewrite")) {
    request = rewrite_request(json_object(record, "requested_rewrite", where), where + " requested_rewrite");
  } else {
    request = json_has(record, "src") ? zsre_request(record, where) : rewrite_request(record, where);
  }
  request.case_id = json_int_or(record, "case_id", index, where);
  return request;
}

std::string place_of(const std::string& name, const Json& record, int64_t index) {
  if (record.is_object() && record.contains("case_id") && record["case_id"].is_number_integer())
    return fmt::format("{}: record {} (case_id {})", name, index, record["case_id"].dump());
  return fmt::format("{}: record {}", name, index);
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == text.npos; }

}  // namespace

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
  std::string text = request.prompt;
  text.replace(text.find(kPlace), kPlace.size(), request.subject);
  const size_t length = tokenizer.encode_ids(text + spaced_target(request.target_new)).size();
  require<InputError>(static_cast<int64_t>(length) <= config.positions,
                      "{}: the prompt and its target take {} tokens, but the model reads {}; shorten the prompt", where,
                      length, config.positions);
}

LoadedRequests parse_requests(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                              const GptConfig& config, InvalidRequests invalid) {
  Json list = parse_json(text, name);
  if (list.is_object()) list = Json::array({std::move(list)});
  require<InputError>(list.is_array(), "{}: the file must hold a list of edit requests", name);
  LoadedRequests loaded;
  loaded.sha256 = sha256_hex(text);
  std::map<int64_t, int64_t> index_of_case;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const std::string where = place_of(name, list[i], index);
    try {
      require<InputError>(list[i].is_object(), "{}: must be an object with the fields of an edit request", where);
      EditRequest request = parse_request(list[i], index, where);
      check_request(request, tokenizer, config, where);
      const auto [earlier, is_new] = index_of_case.emplace(request.case_id, index);
      require<InputError>(is_new, "{}: field \"case_id\" repeats that of record {}", where, earlier->second);
      loaded.requests.push_back(std::move(request));
    } catch (const InputError& error) {
      if (invalid == InvalidRequests::refuse)
        throw_error<InputError>("{}; mend it, or leave such records out with --skip-invalid", error.what());
      loaded.skipped.push_back(error.what());
    }
  }
  require<InputError>(!loaded.requests.empty(), "{}: there is no edit request in it that can be run", name);
  return loaded;
}

LoadedRequests read_requests(const std::filesystem::path& path, const Tokenizer& tokenizer, const GptConfig& config,
                             InvalidRequests invalid) {
  return parse_requests(read_text_file(path), path.string(), tokenizer, config, invalid);
}

}  // namespace loci
