#include "eval/datasets.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "runtime/error.h"

namespace loci {
namespace {

void add_prompts(EvalRecord& record, PromptKind kind, const std::vector<std::string>& texts,
                 const std::vector<std::string>& targets) {
  for (const std::string& text : texts) record.prompts.push_back({kind, text, targets});
}

Json to_rewrite(const EditRequest& request) {
  return {{"prompt", request.prompt},
          {"subject", request.subject},
          {"target_new", {{"str", request.target_new}}},
          {"target_true", {{"str", request.target_true}}}};
}

/// CounterFact as published: `requested_rewrite` and lists of prompts.
void add_lists(EvalRecord& record, const Json& json, const std::string& where) {
  record.request = json_object(json, "requested_rewrite", where);
  const std::vector<std::string> targets = {record.edit.target_new, record.edit.target_true};
  add_prompts(record, PromptKind::rewrite, {bare_prompt(record.edit)}, targets);
  add_prompts(record, PromptKind::paraphrase, json_texts(json, "paraphrase_prompts", where), targets);
  add_prompts(record, PromptKind::neighborhood, json_texts(json, "neighborhood_prompts", where), targets);
  if (json_has(json, "attribute_prompts"))
    add_prompts(record, PromptKind::attribute, json_texts(json, "attribute_prompts", where), targets);
}

/// EasyEdit's flat record: one rephrasing, one neighbour with its own answer.
void add_flat(EvalRecord& record, const Json& json, const std::string& where, Dataset dataset) {
  record.request = to_rewrite(record.edit);
  const std::string rephrase = json_text(json, "rephrase_prompt", where);
  const std::string locality = json_text(json, "locality_prompt", where);
  const std::string locality_truth = json_text(json, "locality_ground_truth", where);
  const bool pairs = dataset == Dataset::counterfact;
  const auto targets = [&](const std::string& truth) {
    return pairs ? std::vector<std::string>{record.edit.target_new, truth}
                 : std::vector<std::string>{record.edit.target_new};
  };
  add_prompts(record, PromptKind::rewrite, {bare_prompt(record.edit)}, targets(record.edit.target_true));
  add_prompts(record, PromptKind::paraphrase, {rephrase}, targets(record.edit.target_true));
  record.prompts.push_back(
      {PromptKind::neighborhood, locality, pairs ? targets(locality_truth) : std::vector<std::string>{locality_truth}});
}

/// zsRE as the reference reads it: the unrelated question gets its question mark here.
void add_questions(EvalRecord& record, const Json& json, const std::string& where) {
  record.edit.target_true = "<|endoftext|>";
  record.request = to_rewrite(record.edit);
  add_prompts(record, PromptKind::rewrite, {bare_prompt(record.edit)}, {record.edit.target_new});
  add_prompts(record, PromptKind::paraphrase, {json_text(json, "rephrase", where)}, {record.edit.target_new});
  add_prompts(record, PromptKind::neighborhood, {json_text(json, "loc", where) + "?"},
              {json_text(json, "loc_ans", where)});
}

EvalRecord read_record(const Json& json, const std::string& where, const RecordOptions& options, int64_t index) {
  const bool is_counterfact = options.dataset == Dataset::counterfact;
  require<InputError>(json.is_object(), "{}: a record must be an object", where);
  const bool is_mend = !is_counterfact && json_has(json, "src");
  EvalRecord record;
  record.edit = parse_request(json, index, where, options.zsre_target);
  if (is_counterfact) json_int(json, "case_id", where);  // which names the record's results
  if (is_mend) {
    add_questions(record, json, where);
    return record;
  }
  require<InputError>(!record.edit.target_true.empty(), "{}: field \"{}\" is missing: the object that was true before",
                      where, json_has(json, "requested_rewrite") ? "target_true" : "ground_truth");
  if (is_counterfact && json_has(json, "requested_rewrite"))
    add_lists(record, json, where);
  else
    add_flat(record, json, where, options.dataset);
  return record;
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

}  // namespace

Dataset dataset_from_name(std::string_view name) {
  if (name == "counterfact") return Dataset::counterfact;
  if (name == "zsre") return Dataset::zsre;
  throw_error<InputError>("data set \"{}\" is unknown; use counterfact or zsre", name);
}

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
    const std::string where = record_place(path.string(), json[i], index);
    try {
      EvalRecord record = read_record(json[i], where, options, index);
      check_lengths(record, where, tokenizer, config);
      const auto [earlier, is_new] = index_of_case.emplace(record.edit.case_id, index);
      require<InputError>(is_new, "{}: field \"case_id\" repeats that of record {}", where, earlier->second);
      loaded.records.push_back(std::move(record));
    } catch (const InputError& error) {
      refuse_or_skip(options.on_invalid, error, loaded.skipped);
    }
  }
  require<InputError>(!loaded.records.empty(), "{}: the file holds no valid record", path.string());
  if (options.limit > 0 && static_cast<int64_t>(loaded.records.size()) > options.limit) {
    loaded.records.erase(loaded.records.begin() + options.limit, loaded.records.end());
  }
  return loaded;
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
    prepared.target_tokens.push_back(tokenizer.encode_ids(spaced_target(target)));
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
