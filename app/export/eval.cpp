#include "app/export/eval.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/export/csv.h"
#include "app/export/markup.h"
#include "eval/eval_file.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"

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
  const std::vector<RecordResult> records = read_records(file);
  const bool edited = scored_after(records);
  for (const RecordResult& record : records) {
    Json object = {{"case_id", record.case_id},
                   {"requested_rewrite", record.request},
                   {"pre", phase_to_json(file, dataset, record, Phase::before)}};
    if (edited)
      object.update({{"time", record.edit_seconds},
                     {"update_norm", record.update_norm},
                     {"post", phase_to_json(file, dataset, record, Phase::after)}});
    files.emplace_back(folder / fmt::format("case_{}.json", record.case_id), object.dump(1) + "\n");
  }
  for (const auto& [path, text] : files) write_file_atomically(path, text);
  return std::ssize(files);
}

/// One line per prompt and target. Of a model scored as it is, the fields of `after` are empty.
std::string prompt_lines(const RecordResult& record) {
  std::string lines;
  for (const PromptResult& prompt : record.prompts) {
    for (size_t t = 0; t < prompt.targets.size(); ++t) {
      const std::vector<int32_t>& tokens = prompt.target_tokens[t];
      const bool edited = !prompt.after.empty();
      lines +=
          fmt::format("{},{},{},{},{},{},{},{},{}\n", record.case_id, prompt_kind_name(prompt.kind),
                      csv_quoted(prompt.text), csv_quoted(prompt.targets[t]), tokens.size(), mean_nll(prompt.before[t]),
                      edited ? fmt::format("{}", mean_nll(prompt.after[t])) : "",
                      correct_count(prompt.before[t], tokens), edited ? correct_count(prompt.after[t], tokens) : "");
    }
  }
  return lines;
}

int64_t export_csv(const H5File& file, const std::filesystem::path& folder) {
  const std::vector<RecordResult> records = read_records(file);
  std::string prompts =
      "case_id,kind,prompt,target,tokens,nll_before,nll_after,correct_tokens_before,correct_tokens_after\n";
  for (const RecordResult& record : records) prompts += prompt_lines(record);
  std::string summary = "metric,before,before_interval,after,after_interval,records,long_name\n";
  const bool edited = scored_after(records);
  for (const MetricSummary& row : summarize(dataset_of(file), records)) {
    const std::string after = edited ? fmt::format("{},{}", row.after.mean, row.after.interval) : ",";
    summary += fmt::format("{},{},{},{},{},{}\n", row.name, row.before.mean, row.before.interval, after,
                           row.before.records, csv_quoted(row.long_name));
  }
  write_file_atomically(folder / "prompts.csv", prompts);
  write_file_atomically(folder / "summary.csv", summary);
  return 2;
}

// --- Tables for a paper ----------------------------------------------------------------------------------------------

/// What a table needs in its caption.
struct Caption {
  std::string model, dataset, method;
};

std::string json_text_at(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

Caption caption_of(const H5File& file) {
  const auto text = [&](const char* name) {
    return has_attribute(file, "/", name) ? read_string_attribute(file, "/", name) : std::string();
  };
  const Json config = has_attribute(file, "/", "config")
                          ? parse_json(text("config"), file.path().string() + ": attribute \"config\"")
                          : Json::object();
  std::string method = json_text_at(config.contains("edit") ? config["edit"] : config, "method");
  if (config.contains("edits_sha256")) method = "given edits";
  const std::string model = text("model_name");
  return {model.empty() ? "model" : model, text("dataset"), method.empty() ? "none" : method};
}

/// The rows of a table as cells: metric, before, after (where there was an edit), records, meaning.
std::vector<std::vector<std::string>> table_cells(std::span<const MetricSummary> summary, const Markup& markup) {
  const bool edited = has_after(summary);
  const auto value = [&](const Estimate& one) {
    if (one.records == 0) return std::string("--");
    return markup.estimate(percent_text(one.mean), percent_text(one.interval));
  };
  std::vector<std::vector<std::string>> rows;
  for (const MetricSummary& row : summary) {
    rows.push_back({markup.escaped(row.name), value(row.before)});
    if (edited) rows.back().push_back(value(row.after));
    rows.back().push_back(std::to_string(row.before.records));
    rows.back().push_back(markup.escaped(row.long_name));
  }
  return rows;
}

constexpr std::string_view kCaption =
    "{}, {}, method {}. Per cent: mean over n records with its 95 {} confidence interval.";

std::string markdown_table(const Caption& caption, std::span<const MetricSummary> summary) {
  const bool edited = has_after(summary);
  std::string text = fmt::format(fmt::runtime(kCaption), escaped_for_markdown(caption.model),
                                 escaped_for_markdown(caption.dataset), escaped_for_markdown(caption.method), "%");
  text += edited ? "\n\n| metric | before | after | n | meaning |\n|---|---:|---:|---:|---|\n"
                 : "\n\n| metric | value | n | meaning |\n|---|---:|---:|---|\n";
  for (const auto& cells : table_cells(summary, kMarkdown)) text += fmt::format("| {} |\n", fmt::join(cells, " | "));
  return text;
}

std::string latex_table(const Caption& caption, std::span<const MetricSummary> summary) {
  const bool edited = has_after(summary);
  std::string text = "% Needs \\usepackage{booktabs}.\n\\begin{table}\n\\centering\n";
  text += fmt::format("\\begin{{tabular}}{{l{}rl}}\n\\toprule\n", edited ? "rr" : "r");
  text += edited ? "metric & before & after & $n$ & meaning \\\\\n\\midrule\n"
                 : "metric & value & $n$ & meaning \\\\\n\\midrule\n";
  for (const auto& cells : table_cells(summary, kLatex)) text += fmt::format("{} \\\\\n", fmt::join(cells, " & "));
  text += "\\bottomrule\n\\end{tabular}\n\\caption{";
  text += fmt::format(fmt::runtime(kCaption), escaped_for_latex(caption.model), escaped_for_latex(caption.dataset),
                      escaped_for_latex(caption.method), "\\%");
  return text + "}\n\\end{table}\n";
}

int64_t export_table(const H5File& file, const std::string& format, const std::filesystem::path& folder) {
  const std::vector<MetricSummary> summary = summarize(dataset_of(file), read_records(file));
  const Caption caption = caption_of(file);
  if (format == "markdown")
    write_file_atomically(folder / "summary.md", markdown_table(caption, summary));
  else
    write_file_atomically(folder / "summary.tex", latex_table(caption, summary));
  return 1;
}

}  // namespace

int64_t export_eval(const H5File& file, const std::string& format, const std::filesystem::path& folder) {
  if (format == "cases") return export_cases(file, folder);
  if (format == "csv") return export_csv(file, folder);
  if (format == "markdown" || format == "latex") return export_table(file, format, folder);
  throw_error<InputError>("{}: an evaluation is exported as cases, csv, markdown or latex, not as {}",
                          file.path().string(), format);
}

}  // namespace loci::app
