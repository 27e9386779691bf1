#include "eval/datasets.h"

#include <fmt/format.h>

#include "runtime/error.h"
#include "runtime/io/standard_input.h"

namespace loci {
namespace {

void add_prompts(EvalRecord& record, PromptKind kind, const std::vector<std::string>& texts,
                 const std::vector<std::string>& targets) {
  for (const std::string& text : texts) record.prompts.push_back({kind, text, targets});
}

/// The reference's `requested_rewrite` object with the texts as they are used; what else it holds stays.
Json to_rewrite(const EditRequest& request, Json rewrite = Json::object()) {
  const auto put = [&rewrite](const char* key, const std::string& text) {
    if (!rewrite.contains(key) || !rewrite[key].is_object()) rewrite[key] = Json::object();
    rewrite[key]["str"] = text;
  };
  rewrite["prompt"] = request.prompt;
  rewrite["subject"] = request.subject;
  put("target_new", request.target_new);
  put("target_true", request.target_true);
  return rewrite;
}

/// CounterFact as published: `requested_rewrite` and lists of prompts.
void add_lists(EvalRecord& made, Record& record) {
  const Json& json = record.value;
  made.request = to_rewrite(made.edit, json_object(json, "requested_rewrite", record.where));
  const std::vector<std::string> targets = {made.edit.target_new, made.edit.target_true};
  const auto add = [&](PromptKind kind, const char* key) {
    add_prompts(made, kind, record.prompts(json, key, record.where), targets);
  };
  add_prompts(made, PromptKind::rewrite, {bare_prompt(made.edit)}, targets);
  add(PromptKind::paraphrase, "paraphrase_prompts");
  add(PromptKind::neighborhood, "neighborhood_prompts");
  if (json_has(json, "attribute_prompts")) add(PromptKind::attribute, "attribute_prompts");
}

/// EasyEdit's flat record: one rephrasing, one neighbour with its own answer.
void add_flat(EvalRecord& made, Record& record, Dataset dataset) {
  made.request = to_rewrite(made.edit);
  const std::string rephrase = record.prompt(record.value, "rephrase_prompt", record.where);
  const std::string locality = record.prompt(record.value, "locality_prompt", record.where);
  const std::string locality_truth = record.target(record.value, "locality_ground_truth", record.where);
  const bool pairs = dataset == Dataset::counterfact;
  const auto targets = [&](const std::string& truth) {
    return pairs ? std::vector<std::string>{made.edit.target_new, truth}
                 : std::vector<std::string>{made.edit.target_new};
  };
  add_prompts(made, PromptKind::rewrite, {bare_prompt(made.edit)}, targets(made.edit.target_true));
  add_prompts(made, PromptKind::paraphrase, {rephrase}, targets(made.edit.target_true));
  made.prompts.push_back(
      {PromptKind::neighborhood, locality, pairs ? targets(locality_truth) : std::vector<std::string>{locality_truth}});
}

/// zsRE as the reference reads it: the unrelated question gets its question mark here.
void add_questions(EvalRecord& made, Record& record) {
  const auto prompt = [&](const char* key) { return record.prompt(record.value, key, record.where); };
  made.edit.target_true = "<|endoftext|>";
  made.request = to_rewrite(made.edit);
  add_prompts(made, PromptKind::rewrite, {bare_prompt(made.edit)}, {made.edit.target_new});
  add_prompts(made, PromptKind::paraphrase, {prompt("rephrase")}, {made.edit.target_new});
  add_prompts(made, PromptKind::neighborhood, {prompt("loc") + "?"},
              {record.target(record.value, "loc_ans", record.where)});
}

EvalRecord read_record(Record& record, const RecordOptions& options) {
  const bool is_counterfact = options.dataset == Dataset::counterfact;
  const bool is_nested = json_has(record.value, "requested_rewrite");
  EvalRecord made;
  made.edit = parse_request(record, options.zsre_target);
  if (!is_counterfact && json_has(record.value, "src")) {
    add_questions(made, record);
    return made;
  }
  require<InputError>(!made.edit.target_true.empty(), "{}: field \"{}\" is missing: the object that was true before",
                      record.where, is_nested ? "target_true" : "ground_truth");
  if (is_counterfact && is_nested)
    add_lists(made, record);
  else
    add_flat(made, record, options.dataset);
  return made;
}

void check_lengths(const EvalRecord& record, const std::string& where, const Tokenizer& tokenizer,
                   const Architecture& config) {
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

std::string_view dataset_name(Dataset dataset) { return dataset == Dataset::zsre ? "zsre" : "counterfact"; }

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
                           const Architecture& config) {
  const std::string text = read_record_text(path), name = input_name(path);
  LoadedRecords loaded;
  loaded.records = read_all_records(text, name, "case_id", options.on_invalid, loaded, [&](Record& record) {
    EvalRecord made = read_record(record, options);
    check_lengths(made, record.where, tokenizer, config);
    return made;
  });
  require<InputError>(!loaded.records.empty(), "{}: the file holds no valid record", name);
  if (options.limit > 0 && std::ssize(loaded.records) > options.limit)
    loaded.records.erase(loaded.records.begin() + options.limit, loaded.records.end());
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
  for (const std::string& target : prompt.targets)
    prepared.target_tokens.push_back(target_tokens(tokenizer, prompt.text, target));
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
    const std::vector<int32_t> wanted_tokens =
        tokenizer.encode_ids(wanted, SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::continuation);
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
