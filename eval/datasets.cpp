#include "eval/datasets.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "runtime/error.h"

namespace loci {
namespace {

constexpr std::string_view kPlace = "{}";

int64_t count_of(std::string_view text, std::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

std::string replace_once(std::string text, std::string_view part, std::string_view by) {
  return text.replace(text.find(part), part.size(), by);
}

std::string text_field(const Json& object, std::string_view key, std::string_view where) {
  std::string text = json_string(object, key, where);
  require<InputError>(!text.empty(), "{}: field \"{}\" is empty", where, key);
  return text;
}

std::vector<std::string> text_list(const Json& object, std::string_view key, std::string_view where) {
  std::vector<std::string> texts = json_strings(object, key, where);
  for (const std::string& text : texts) {
    require<InputError>(!text.empty(), "{}: field \"{}\" holds an empty text", where, key);
  }
  return texts;
}

/// The prompt with its subject's place marked, from a prompt that holds the subject itself.
std::string mark_subject(const std::string& prompt, const std::string& subject, std::string_view key,
                         std::string_view where) {
  const int64_t count = count_of(prompt, subject);
  require<InputError>(count > 0, "{}: field \"{}\" does not contain the subject \"{}\"", where, key, subject);
  require<InputError>(count == 1, "{}: field \"{}\" contains the subject \"{}\" {} times; it must hold it once", where,
                      key, subject, count);
  std::string marked = replace_once(prompt, subject, kPlace);
  require<InputError>(count_of(marked, kPlace) == 1, "{}: field \"{}\" must not contain {{}}", where, key);
  return marked;
}

void add_prompts(EvalRecord& record, PromptKind kind, const std::vector<std::string>& texts,
                 const std::vector<std::string>& targets) {
  for (const std::string& text : texts) record.prompts.push_back({kind, text, targets});
}

Json make_request(const EvalRecord& record) {
  return {{"prompt", record.prompt},
          {"subject", record.subject},
          {"target_new", {{"str", record.target_new}}},
          {"target_true", {{"str", record.target_true}}}};
}

/// CounterFact as published: `requested_rewrite` and lists of prompts.
EvalRecord nested_counterfact(const Json& json, const std::string& where) {
  EvalRecord record;
  record.case_id = json_int(json, "case_id", where);
  record.request = json_object(json, "requested_rewrite", where);
  const std::string inside = where + " requested_rewrite";
  record.prompt = text_field(record.request, "prompt", inside);
  record.subject = text_field(record.request, "subject", inside);
  record.target_new = text_field(json_object(record.request, "target_new", inside), "str", inside + ".target_new");
  record.target_true = text_field(json_object(record.request, "target_true", inside), "str", inside + ".target_true");
  const int64_t places = count_of(record.prompt, kPlace);
  require<InputError>(places == 1, "{}: field \"prompt\" must hold exactly one {{}} for its subject, got {}", inside,
                      places);
  const std::vector<std::string> targets = {record.target_new, record.target_true};
  add_prompts(record, PromptKind::rewrite, {replace_once(record.prompt, kPlace, record.subject)}, targets);
  add_prompts(record, PromptKind::paraphrase, text_list(json, "paraphrase_prompts", where), targets);
  add_prompts(record, PromptKind::neighborhood, text_list(json, "neighborhood_prompts", where), targets);
  if (json_has(json, "attribute_prompts")) {
    add_prompts(record, PromptKind::attribute, text_list(json, "attribute_prompts", where), targets);
  }
  return record;
}

/// EasyEdit's record: the prompt holds the subject itself, one rephrasing, one neighbour with its own answer.
EvalRecord flat_record(const Json& json, const std::string& where, Dataset dataset, int64_t index) {
  EvalRecord record;
  record.case_id =
      dataset == Dataset::zsre ? json_int_or(json, "case_id", index, where) : json_int(json, "case_id", where);
  record.subject = text_field(json, "subject", where);
  const std::string prompt = text_field(json, "prompt", where);
  record.prompt = mark_subject(prompt, record.subject, "prompt", where);
  record.target_new = text_field(json, "target_new", where);
  record.target_true = text_field(json, "ground_truth", where);
  const std::string rephrase = text_field(json, "rephrase_prompt", where);
  const std::string locality = text_field(json, "locality_prompt", where);
  const std::string locality_truth = text_field(json, "locality_ground_truth", where);
  record.request = make_request(record);
  const bool pairs = dataset == Dataset::counterfact;
  const auto targets = [&](const std::string& truth) {
    return pairs ? std::vector<std::string>{record.target_new, truth} : std::vector<std::string>{record.target_new};
  };
  add_prompts(record, PromptKind::rewrite, {prompt}, targets(record.target_true));
  add_prompts(record, PromptKind::paraphrase, {rephrase}, targets(record.target_true));
  record.prompts.push_back(
      {PromptKind::neighborhood, locality, pairs ? targets(locality_truth) : std::vector<std::string>{locality_truth}});
  return record;
}

/// zsRE as the reference reads it: the unrelated question gets its question mark here.
EvalRecord mend_record(const Json& json, const std::string& where, ZsreTarget target, int64_t index) {
  EvalRecord record;
  record.case_id = json_int_or(json, "case_id", index, where);
  record.subject = text_field(json, "subject", where);
  const std::string question = text_field(json, "src", where);
  record.prompt = mark_subject(question, record.subject, "src", where);
  if (target == ZsreTarget::alternative) {
    record.target_new = text_field(json, "alt", where);
  } else {
    const std::vector<std::string> answers = text_list(json, "answers", where);
    require<InputError>(!answers.empty(), "{}: field \"answers\" is empty", where);
    record.target_new = answers[0];
  }
  record.target_true = "<|endoftext|>";
  record.request = make_request(record);
  add_prompts(record, PromptKind::rewrite, {question}, {record.target_new});
  add_prompts(record, PromptKind::paraphrase, {text_field(json, "rephrase", where)}, {record.target_new});
  add_prompts(record, PromptKind::neighborhood, {text_field(json, "loc", where) + "?"},
              {text_field(json, "loc_ans", where)});
  return record;
}

EvalRecord read_record(const Json& json, const std::string& where, const RecordOptions& options, int64_t index) {
  require<InputError>(json.is_object(), "{}: a record must be an object", where);
  if (options.dataset == Dataset::counterfact) {
    return json_has(json, "requested_rewrite") ? nested_counterfact(json, where)
                                               : flat_record(json, where, options.dataset, index);
  }
  return json_has(json, "src") ? mend_record(json, where, options.zsre_target, index)
                               : flat_record(json, where, options.dataset, index);
}

void check_lengths(const EvalRecord& record, const std::string& where, const Tokenizer& tokenizer,
                   const GptConfig& config) {
  for (const EvalPrompt& prompt : record.prompts) {
    const PreparedPrompt prepared = prepare_prompt(prompt, tokenizer, TeacherForcing::tokens);
    for (const auto& target : prepared.target_tokens) {
      const size_t length = prepared.parts[0].tokens.size() + target.size();
      require<InputError>(static_cast<int64_t>(length) <= config.positions,
                          "{}: the {} prompt \"{}\" and its target take {} tokens, but the model reads {}", where,
                          prompt_kind_name(prompt.kind), prompt.text, length, config.positions);
    }
  }
}

std::string place_of(const std::filesystem::path& path, const Json& json, int64_t index) {
  if (json.is_object() && json.contains("case_id") && json["case_id"].is_number_integer()) {
    return fmt::format("{}: record {} (case_id {})", path.string(), index, json["case_id"].dump());
  }
  return fmt::format("{}: record {}", path.string(), index);
}

}  // namespace

Dataset dataset_from_name(std::string_view name) {
  if (name == "counterfact") return Dataset::counterfact;
  if (name == "zsre") return Dataset::zsre;
  throw_error<InputError>("data set \"{}\" is unknown; use counterfact or zsre", name);
}

std::string_view dataset_name(Dataset dataset) { return dataset == Dataset::counterfact ? "counterfact" : "zsre"; }

std::string_view prompt_kind_name(PromptKind kind) {
  switch (kind) {
    case PromptKind::rewrite:
      return "rewrite";
    case PromptKind::paraphrase:
      return "paraphrase";
    case PromptKind::neighborhood:
      return "neighborhood";
    case PromptKind::attribute:
      return "attribute";
  }
  return "";
}

LoadedRecords read_records(const std::filesystem::path& path, const RecordOptions& options, const Tokenizer& tokenizer,
                           const GptConfig& config) {
  const Json json = parse_json_file(path);
  require<InputError>(json.is_array(), "{}: the file must hold a list of records", path.string());
  LoadedRecords loaded;
  std::map<int64_t, int64_t> index_of_case;
  for (size_t i = 0; i < json.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    const std::string where = place_of(path, json[i], index);
    try {
      EvalRecord record = read_record(json[i], where, options, index);
      check_lengths(record, where, tokenizer, config);
      const auto [earlier, is_new] = index_of_case.emplace(record.case_id, index);
      require<InputError>(is_new, "{}: field \"case_id\" repeats that of record {}", where, earlier->second);
      loaded.records.push_back(std::move(record));
    } catch (const InputError& error) {
      if (options.on_invalid == OnInvalid::refuse) throw;
      loaded.skipped.push_back(error.what());
    }
  }
  require<InputError>(!loaded.records.empty(), "{}: the file holds no valid record", path.string());
  if (options.limit > 0 && static_cast<int64_t>(loaded.records.size()) > options.limit) {
    loaded.records.erase(loaded.records.begin() + options.limit, loaded.records.end());
  }
  return loaded;
}

std::string continuation_text(std::string_view target) {
  return target.starts_with(' ') ? std::string(target) : " " + std::string(target);
}

PromptScore PreparedPrompt::join(std::span<const PromptScore> part_scores) const {
  require<ShapeError>(part_scores.size() == parts.size(), "{} scores for {} parts of a prompt", part_scores.size(),
                      parts.size());
  if (parts.size() == 1) return part_scores[0];
  PromptScore joined(1);
  for (const PromptScore& part : part_scores) {
    joined[0].log_probabilities.push_back(part[0].log_probabilities[0]);
    joined[0].best.push_back(part[0].best[0]);
  }
  return joined;
}

PreparedPrompt prepare_prompt(const EvalPrompt& prompt, const Tokenizer& tokenizer, TeacherForcing forcing) {
  PreparedPrompt prepared;
  const std::vector<int32_t> tokens = tokenizer.encode_ids(prompt.text);
  for (const std::string& target : prompt.targets) {
    prepared.target_tokens.push_back(tokenizer.encode_ids(continuation_text(target)));
  }
  prepared.parts.push_back({tokens, prepared.target_tokens});
  if (forcing == TeacherForcing::tokens || prompt.targets.size() != 1) return prepared;

  // The published code decodes the target's first i tokens, appends the text and encodes the whole again.
  const std::vector<int32_t> target = prepared.target_tokens[0];
  PreparedPrompt by_text;
  by_text.target_tokens.resize(1);
  bool same = true;
  std::vector<int32_t> forced = tokens;
  for (size_t i = 0; i < target.size(); ++i) {
    const std::span<const int32_t> all(target);
    const std::string seen = tokenizer.decode_text(all.first(i), TextCleanUp::as_configured);
    const std::string wanted = tokenizer.decode_text(all.subspan(i, 1), TextCleanUp::as_configured);
    const std::vector<int32_t> wanted_tokens = tokenizer.encode_ids(wanted);
    const int32_t first = wanted_tokens.empty() ? target[i] : wanted_tokens[0];
    std::vector<int32_t> part = tokenizer.encode_ids(prompt.text + seen);
    same = same && first == target[i] && part == forced;
    by_text.target_tokens[0].push_back(first);
    by_text.parts.push_back({std::move(part), {{first}}});
    forced.push_back(target[i]);
  }
  return same ? prepared : by_text;
}

}  // namespace loci
