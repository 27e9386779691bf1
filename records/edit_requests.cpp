#include "records/edit_requests.h"

#include <fmt/format.h>

#include "runtime/error.h"
#include "runtime/io/standard_input.h"
#include "runtime/shown_text.h"

namespace loci {
namespace {

/// The prompt with `{}` at its subject, which it may hold as it is.
std::string marked_prompt(Record& record, const Json& object, const std::string& subject, std::string_view key,
                          std::string_view where) {
  const std::string prompt = record.prompt(object, key, where);
  const int64_t marks = count_occurrences(prompt, kSubjectMark);
  require<InputError>(marks <= 1, "{}: field \"{}\" must hold exactly one {{}} for its subject, got {}", where, key,
                      marks);
  if (marks == 1) return keep_words_apart(prompt, json_string(object, "subject", where));
  const SubjectPlace place = find_subject(prompt, subject, SubjectChoice::whole_word);
  require<InputError>(place.candidates > 0, "{}: field \"{}\" holds neither {{}} nor the subject {}: it is {}", where,
                      key, shown(subject), shown(prompt));
  require<InputError>(place.candidates == 1, "{}: field \"{}\" holds the subject {} {} times; mark its place by {{}}",
                      where, key, shown(subject), place.candidates);
  if (!place.whole_word)
    record.warnings.push_back(fmt::format("the subject is taken inside another word, {}; mark its place by {{}}",
                                          show_place(prompt, place.bytes)));
  return std::string(prompt).replace(static_cast<size_t>(place.bytes.begin), subject.size(), kSubjectMark);
}

/// Whether a target begins with a space: a text, the first of a list, or the text `str` of an object.
bool begins_with_space(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return false;
  const Json& value = found->is_array() && !found->empty() ? found->front() : *found;
  const Json& text = value.is_object() && value.contains("str") ? value.at("str") : value;
  return text.is_string() && text.get_ref<const std::string&>().starts_with(' ');
}

/// Those of CounterFact, EasyEdit or zsRE; none where the record has no field for them.
std::vector<std::string> paraphrases_of(Record& record) {
  const Json& value = record.value;
  if (json_has(value, "paraphrase_prompts")) {
    std::vector<std::string> paraphrases;
    for (const std::string& text : json_strings(value, "paraphrase_prompts", record.where))
      paraphrases.emplace_back(strip(text));
    return paraphrases;
  }
  for (const char* key : {"rephrase_prompt", "rephrase"})
    if (json_has(value, key) && value.at(key).is_string()) return {record.text(value, key, record.where)};
  return {};
}

EditRequest zsre_request(Record& record, ZsreTarget target) {
  EditRequest request;
  request.subject = record.text(record.value, "subject", record.where);
  request.prompt = marked_prompt(record, record.value, request.subject, "src", record.where);
  if (target == ZsreTarget::answer) json_strings(record.value, "answers", record.where);
  request.target_new = record.target(record.value, target == ZsreTarget::answer ? "answers" : "alt", record.where);
  return request;
}

EditRequest rewrite_request(Record& record, const Json& object, const std::string& where) {
  EditRequest request;
  request.subject = record.text(object, "subject", where);
  request.prompt = marked_prompt(record, object, request.subject, "prompt", where);
  request.target_new = record.target(object, "target_new", where);
  const char* key = json_has(object, "target_true") ? "target_true" : "ground_truth";
  request.target_true = record.target_or_empty(object, key, where);
  request.spaced_targets = begins_with_space(object, "target_new");
  return request;
}

}  // namespace

EditRequest parse_request(Record& record, ZsreTarget zsre_target) {
  const Json& value = record.value;
  EditRequest request;
  if (json_has(value, "requested_rewrite"))
    request = rewrite_request(record, json_object(value, "requested_rewrite", record.where),
                              record.where + " requested_rewrite");
  else
    request = json_has(value, "src") ? zsre_request(record, zsre_target) : rewrite_request(record, value, record.where);
  request.case_id = json_int_or(value, "case_id", record.index, record.where);
  request.paraphrases = paraphrases_of(record);
  return request;
}

std::string bare_prompt(const EditRequest& request) { return fill_subject(request.prompt, request.subject); }

std::string spaced_target(std::string_view target) {
  return target.starts_with(' ') ? std::string(target) : " " + std::string(target);
}

std::vector<int32_t> target_tokens(const Tokenizer& tokenizer, std::string_view prompt, std::string_view target) {
  return tokenizer.encode_continuation(prompt, spaced_target(target));
}

void check_request(const EditRequest& request, const Tokenizer& tokenizer, const Architecture& config,
                   std::string_view where) {
  const int64_t marks = count_occurrences(request.prompt, kSubjectMark);
  require<InputError>(marks == 1, "{}: field \"prompt\" must hold exactly one {{}} for its subject, got {}", where,
                      marks);
  require<InputError>(!strip(request.subject).empty(), "{}: field \"subject\" is empty", where);
  require<InputError>(!strip(request.target_new).empty(), "{}: field \"target_new\" is empty", where);
  const size_t length = tokenizer.encode_ids(bare_prompt(request) + spaced_target(request.target_new)).size();
  require<InputError>(static_cast<int64_t>(length) <= config.positions,
                      "{}: the prompt and its target take {} tokens, but the model reads {}; shorten the prompt", where,
                      length, config.positions);
}

LoadedRequests parse_requests(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                              const Architecture& config, OnInvalid on_invalid, ZsreTarget zsre_target) {
  LoadedRequests loaded;
  loaded.requests = read_all_records(text, name, "case_id", on_invalid, loaded, [&](Record& record) {
    EditRequest request = parse_request(record, zsre_target);
    check_request(request, tokenizer, config, record.where);
    return request;
  });
  require<InputError>(!loaded.requests.empty(), "{}: there is no edit request in it that can be run", name);
  return loaded;
}

LoadedRequests read_requests(const std::filesystem::path& path, const Tokenizer& tokenizer, const Architecture& config,
                             OnInvalid on_invalid, ZsreTarget zsre_target) {
  return parse_requests(read_record_text(path), input_name(path), tokenizer, config, on_invalid, zsre_target);
}

}  // namespace loci
