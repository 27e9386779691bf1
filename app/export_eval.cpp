#include "app/export_eval.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/csv.h"
#include "eval/eval_file.h"
#include "runtime/atomic_file.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

Dataset dataset_of(const H5File& file) { return dataset_from_name(read_string_attribute(file, "/", "dataset")); }

const PromptScore& score_of(const PromptResult& prompt, Phase phase) {
  return phase == Phase::before ? prompt.before : prompt.after;
}

/// [{"target_new": NLL, "target_true": NLL}] for each prompt.
Json probabilities(const H5File& file, const RecordResult& record, PromptKind kind, Phase phase) {
  Json list = Json::array();
  for (const PromptResult& prompt : record.prompts) {
    if (prompt.kind != kind) continue;
    const PromptScore& score = score_of(prompt, phase);
    require<InputError>(score.size() == 2, "{}: a prompt of case {} has {} targets where CounterFact has 2",
                        file.path().string(), record.case_id, score.size());
    list.push_back({{"target_new", mean_nll(score[0])}, {"target_true", mean_nll(score[1])}});
  }
  return list;
}

/// One flag a target token, prompts one after the other.
Json correct_flags(const RecordResult& record, PromptKind kind, Phase phase) {
  Json list = Json::array();
  for (const PromptResult& prompt : record.prompts) {
    if (prompt.kind != kind) continue;
    for (size_t t = 0; t < prompt.target_tokens.size(); ++t) {
      for (const bool flag : correct_tokens(score_of(prompt, phase)[t], prompt.target_tokens[t])) list.push_back(flag);
    }
  }
  return list;
}

Json phase_to_json(const H5File& file, Dataset dataset, const RecordResult& record, Phase phase) {
  Json object = Json::object();
  for (int k = 0; k < kPromptKinds; ++k) {
    const auto kind = static_cast<PromptKind>(k);
    const std::string name = std::string(prompt_kind_name(kind)) + "_prompts";
    if (dataset == Dataset::counterfact)
      object[name + "_probs"] = probabilities(file, record, kind, phase);
    else if (kind != PromptKind::attribute)
      object[name + "_correct"] = correct_flags(record, kind, phase);
  }
  return object;
}

std::string correct_count(const TargetScore& score, std::span<const int32_t> target) {
  const std::vector<bool> correct = correct_tokens(score, target);
  return fmt::format("{}", std::count(correct.begin(), correct.end(), true));
}

int64_t export_cases(const H5File& file, const std::filesystem::path& folder) {
  const Dataset dataset = dataset_of(file);
  std::vector<std::pair<std::filesystem::path, std::string>> files;
  for (const RecordResult& record : read_records(file)) {
    const Json object = {{"case_id", record.case_id},
                         {"requested_rewrite", record.request},
                         {"time", record.edit_seconds},
                         {"update_norm", record.update_norm},
                         {"pre", phase_to_json(file, dataset, record, Phase::before)},
                         {"post", phase_to_json(file, dataset, record, Phase::after)}};
    files.emplace_back(folder / fmt::format("case_{}.json", record.case_id), object.dump(1) + "\n");
  }
  for (const auto& [path, text] : files) write_file_atomically(path, text);
  return static_cast<int64_t>(files.size());
}

int64_t export_csv(const H5File& file, const std::filesystem::path& folder) {
  const std::vector<RecordResult> records = read_records(file);
  std::string prompts =
      "case_id,kind,prompt,target,tokens,nll_before,nll_after,correct_tokens_before,correct_tokens_after\n";
  for (const RecordResult& record : records) {
    for (const PromptResult& prompt : record.prompts) {
      for (size_t t = 0; t < prompt.targets.size(); ++t) {
        prompts += fmt::format("{},{},{},{},{},{},{},{},{}\n", record.case_id, prompt_kind_name(prompt.kind),
                               csv_quoted(prompt.text), csv_quoted(prompt.targets[t]), prompt.target_tokens[t].size(),
                               mean_nll(prompt.before[t]), mean_nll(prompt.after[t]),
                               correct_count(prompt.before[t], prompt.target_tokens[t]),
                               correct_count(prompt.after[t], prompt.target_tokens[t]));
      }
    }
  }
  std::string summary = "metric,before,before_interval,after,after_interval,records,long_name\n";
  for (const MetricSummary& row : summarize(dataset_of(file), records)) {
    summary += fmt::format("{},{},{},{},{},{},{}\n", row.name, row.before.mean, row.before.interval, row.after.mean,
                           row.after.interval, row.after.records, csv_quoted(row.long_name));
  }
  write_file_atomically(folder / "prompts.csv", prompts);
  write_file_atomically(folder / "summary.csv", summary);
  return 2;
}

}  // namespace

int64_t export_eval(const H5File& file, const std::string& format, const std::filesystem::path& folder) {
  if (format == "cases") return export_cases(file, folder);
  if (format == "csv") return export_csv(file, folder);
  throw_error<InputError>("{}: an evaluation is exported as cases or csv, not as {}", file.path().string(), format);
}

}  // namespace loci::app
