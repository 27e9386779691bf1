#include "eval/eval_file.h"

#include "runtime/error.h"

namespace loci {
namespace {

struct RecordTable {
  std::vector<int64_t> case_id;
  std::vector<std::string> request;
  std::vector<double> update_norm, edit_seconds, score_seconds;
};
struct PromptTable {
  std::vector<int64_t> record;
  std::vector<uint8_t> kind;
  std::vector<std::string> text;
};
struct TargetTable {
  std::vector<int64_t> prompt;
  std::vector<std::string> text;
  std::vector<double> nll_before, nll_after;
};
struct TokenTable {
  std::vector<int64_t> target;
  std::vector<int32_t> id, best_before, best_after;
  std::vector<float> log_probability_before, log_probability_after;
};
struct Tables {
  RecordTable records;
  PromptTable prompts;
  TargetTable targets;
  TokenTable tokens;
};

template <typename T>
int64_t size_of(const std::vector<T>& values) {
  return std::ssize(values);
}

void add_target(Tables& tables, const PromptResult& prompt, size_t t) {
  tables.targets.prompt.push_back(size_of(tables.prompts.record) - 1);
  tables.targets.text.push_back(prompt.targets.at(t));
  tables.targets.nll_before.push_back(mean_nll(prompt.before.at(t)));
  const bool edited = !prompt.after.empty();
  if (edited) tables.targets.nll_after.push_back(mean_nll(prompt.after.at(t)));
  for (size_t j = 0; j < prompt.target_tokens[t].size(); ++j) {
    tables.tokens.target.push_back(size_of(tables.targets.prompt) - 1);
    tables.tokens.id.push_back(prompt.target_tokens[t][j]);
    tables.tokens.log_probability_before.push_back(prompt.before[t].log_probabilities.at(j));
    tables.tokens.best_before.push_back(prompt.before[t].best.at(j));
    if (!edited) continue;
    tables.tokens.log_probability_after.push_back(prompt.after[t].log_probabilities.at(j));
    tables.tokens.best_after.push_back(prompt.after[t].best.at(j));
  }
}

Tables flatten(std::span<const RecordResult> records) {
  Tables tables;
  for (const RecordResult& record : records) {
    tables.records.case_id.push_back(record.case_id);
    tables.records.request.push_back(canonical_json(record.request));
    tables.records.update_norm.push_back(record.update_norm);
    tables.records.edit_seconds.push_back(record.edit_seconds);
    tables.records.score_seconds.push_back(record.score_seconds);
    for (const PromptResult& prompt : record.prompts) {
      tables.prompts.record.push_back(size_of(tables.records.case_id) - 1);
      tables.prompts.kind.push_back(static_cast<uint8_t>(prompt.kind));
      tables.prompts.text.push_back(prompt.text);
      for (size_t t = 0; t < prompt.target_tokens.size(); ++t) add_target(tables, prompt, t);
    }
  }
  return tables;
}

int64_t table_rows(const H5File& file, const std::string& path) {
  const DatasetInfo info = dataset_info(file, path);
  require<InputError>(info.shape.size() == 1, "{}: {} must be a list", file.path().string(), path);
  return info.shape[0];
}

/// The element of `parents` that a row belongs to; rows must come in the order of their parents.
template <typename T>
T& parent_of(const H5File& file, const std::string& path, std::vector<T>& parents, std::span<const int64_t> column,
             size_t row) {
  const int64_t at = column[row];
  require<InputError>(at >= 0 && at < size_of(parents) && (row == 0 || column[row - 1] <= at),
                      "{}: {} holds {} at row {}, which is no row of the table above it, in order",
                      file.path().string(), path, at, row);
  return parents[at];
}

struct TargetPlace {
  PromptResult* prompt;
  size_t target;
};

void read_prompts(const H5File& file, std::vector<RecordResult>& records) {
  const int64_t rows = table_rows(file, "/prompts/record");
  const auto record = read_column<int64_t>(file, "/prompts/record", rows);
  const auto kind = read_column<uint8_t>(file, "/prompts/kind", rows);
  auto text = read_text_column(file, "/prompts/text", rows);
  for (size_t p = 0; p < record.size(); ++p) {
    require<InputError>(kind[p] < kPromptKinds, "{}: /prompts/kind holds {} at row {}; kinds are 0 to {}",
                        file.path().string(), kind[p], p, kPromptKinds - 1);
    PromptResult prompt{static_cast<PromptKind>(kind[p]), std::move(text[p]), {}, {}, {}, {}};
    parent_of(file, "/prompts/record", records, record, p).prompts.push_back(std::move(prompt));
  }
}

std::vector<PromptResult*> all_prompts(std::vector<RecordResult>& records) {
  std::vector<PromptResult*> prompts;
  for (RecordResult& record : records) {
    for (PromptResult& prompt : record.prompts) prompts.push_back(&prompt);
  }
  return prompts;
}

/// Whether the records were scored after an edit as well.
bool holds_after(const H5File& file) { return h5_exists(file, "/tokens/best_after"); }

std::vector<TargetPlace> read_targets(const H5File& file, std::vector<PromptResult*> prompts) {
  const int64_t rows = table_rows(file, "/targets/prompt");
  const auto parent = read_column<int64_t>(file, "/targets/prompt", rows);
  auto text = read_text_column(file, "/targets/text", rows);
  const bool edited = holds_after(file);
  std::vector<TargetPlace> places;
  for (size_t t = 0; t < parent.size(); ++t) {
    PromptResult* prompt = parent_of(file, "/targets/prompt", prompts, parent, t);
    prompt->targets.push_back(std::move(text[t]));
    prompt->target_tokens.emplace_back();
    prompt->before.emplace_back();
    if (edited) prompt->after.emplace_back();
    places.push_back({prompt, prompt->targets.size() - 1});
  }
  return places;
}

void read_tokens(const H5File& file, std::vector<TargetPlace> targets) {
  const int64_t rows = table_rows(file, "/tokens/target");
  const auto parent = read_column<int64_t>(file, "/tokens/target", rows);
  const auto id = read_column<int32_t>(file, "/tokens/id", rows);
  const auto before = read_column<float>(file, "/tokens/log_probability_before", rows);
  const auto best_before = read_column<int32_t>(file, "/tokens/best_before", rows);
  const bool edited = holds_after(file);
  const auto after = edited ? read_column<float>(file, "/tokens/log_probability_after", rows) : std::vector<float>();
  const auto best_after = edited ? read_column<int32_t>(file, "/tokens/best_after", rows) : std::vector<int32_t>();
  for (size_t k = 0; k < parent.size(); ++k) {
    const TargetPlace place = parent_of(file, "/tokens/target", targets, parent, k);
    place.prompt->target_tokens[place.target].push_back(id[k]);
    TargetScore& score_before = place.prompt->before[place.target];
    score_before.log_probabilities.push_back(before[k]);
    score_before.best.push_back(best_before[k]);
    if (!edited) continue;
    TargetScore& score_after = place.prompt->after[place.target];
    score_after.log_probabilities.push_back(after[k]);
    score_after.best.push_back(best_after[k]);
  }
}

}  // namespace

void write_records(H5File& file, std::span<const RecordResult> records) {
  const Tables tables = flatten(records);
  const RecordTable& r = tables.records;
  const int64_t n = size_of(r.case_id);
  write_dataset(file, "/records/case_id", r.case_id, {n}, {.units = "1", .long_name = "id of the record in its file"});
  write_strings(file, "/records/request", r.request, {n}, {.long_name = "what was edited, JSON (requested_rewrite)"});
  const bool edited = scored_after(records);
  if (edited) {
    write_dataset(file, "/records/update_norm", r.update_norm, {n},
                  {.units = "1", .long_name = "Frobenius norm of the weight update"});
    write_dataset(file, "/records/edit_seconds", r.edit_seconds, {n},
                  {.units = "s", .long_name = "time of the edit; edits made together share theirs equally"});
  }
  write_dataset(file, "/records/score_seconds", r.score_seconds, {n},
                {.units = "s", .long_name = "time of scoring; records scored together share theirs equally"});
  const PromptTable& p = tables.prompts;
  const int64_t prompts = size_of(p.record);
  write_dataset(file, "/prompts/record", p.record, {prompts}, {.units = "1", .long_name = "row of /records"});
  write_dataset(file, "/prompts/kind", p.kind, {prompts},
                {.units = "1", .long_name = "0 rewrite, 1 paraphrase, 2 neighborhood, 3 attribute"});
  write_strings(file, "/prompts/text", p.text, {prompts}, {.long_name = "prompt"});
  const TargetTable& t = tables.targets;
  const int64_t targets = size_of(t.prompt);
  write_dataset(file, "/targets/prompt", t.prompt, {targets}, {.units = "1", .long_name = "row of /prompts"});
  write_strings(file, "/targets/text", t.text, {targets}, {.long_name = "continuation that was scored"});
  write_dataset(file, "/targets/nll_before", t.nll_before, {targets},
                {.units = "nat", .long_name = "mean over tokens of -log p, unedited model"});
  if (edited)
    write_dataset(file, "/targets/nll_after", t.nll_after, {targets},
                  {.units = "nat", .long_name = "mean over tokens of -log p, edited model"});
  const TokenTable& k = tables.tokens;
  const int64_t tokens = size_of(k.target);
  write_dataset(file, "/tokens/target", k.target, {tokens}, {.units = "1", .long_name = "row of /targets"});
  write_dataset(file, "/tokens/id", k.id, {tokens}, {.units = "1", .long_name = "token id"});
  write_dataset(file, "/tokens/log_probability_before", k.log_probability_before, {tokens},
                {.units = "nat", .long_name = "log p of the token, unedited model"});
  write_dataset(file, "/tokens/best_before", k.best_before, {tokens},
                {.units = "1", .long_name = "most probable token, unedited model"});
  if (!edited) return;
  write_dataset(file, "/tokens/log_probability_after", k.log_probability_after, {tokens},
                {.units = "nat", .long_name = "log p of the token, edited model"});
  write_dataset(file, "/tokens/best_after", k.best_after, {tokens},
                {.units = "1", .long_name = "most probable token, edited model"});
}

std::vector<RecordResult> read_records(const H5File& file) {
  const int64_t rows = table_rows(file, "/records/case_id");
  const auto case_id = read_column<int64_t>(file, "/records/case_id", rows);
  const auto request = read_text_column(file, "/records/request", rows);
  const auto of_edits = [&](const std::string& path) {
    return holds_after(file) ? read_column<double>(file, path, rows) : std::vector<double>(case_id.size());
  };
  const auto norm = of_edits("/records/update_norm"), edit_seconds = of_edits("/records/edit_seconds");
  const auto score_seconds = read_column<double>(file, "/records/score_seconds", rows);
  std::vector<RecordResult> records(case_id.size());
  for (size_t r = 0; r < records.size(); ++r) {
    records[r] = {.case_id = case_id[r],
                  .request = parse_json(request[r], file.path().string() + ": /records/request"),
                  .update_norm = norm[r],
                  .edit_seconds = edit_seconds[r],
                  .score_seconds = score_seconds[r],
                  .prompts = {}};
  }
  read_prompts(file, records);
  read_tokens(file, read_targets(file, all_prompts(records)));
  for (const PromptResult* prompt : all_prompts(records)) {
    for (const auto& tokens : prompt->target_tokens) {
      require<InputError>(!tokens.empty(), "{}: /targets has a row without tokens", file.path().string());
    }
  }
  return records;
}

void write_summary(H5File& file, std::span<const MetricSummary> summary) {
  std::vector<std::string> name, long_name;
  std::vector<double> before, before_interval, after, after_interval;
  std::vector<int64_t> records;
  for (const MetricSummary& row : summary) {
    name.push_back(row.name);
    long_name.push_back(row.long_name);
    before.push_back(row.before.mean);
    before_interval.push_back(row.before.interval);
    after.push_back(row.after.mean);
    after_interval.push_back(row.after.interval);
    records.push_back(row.before.records);
  }
  const std::vector<int64_t> shape = {size_of(name)};
  const DatasetOptions value{.units = "1", .long_name = "mean over records"};
  const DatasetOptions interval{.units = "1", .long_name = "half width of the 95 % confidence interval"};
  write_strings(file, "/summary/name", name, shape, {.long_name = "metric"});
  write_strings(file, "/summary/long_name", long_name, shape, {.long_name = "what the metric says"});
  write_dataset(file, "/summary/before", before, shape, value);
  write_dataset(file, "/summary/before_interval", before_interval, shape, interval);
  if (has_after(summary)) {
    write_dataset(file, "/summary/after", after, shape, value);
    write_dataset(file, "/summary/after_interval", after_interval, shape, interval);
  }
  write_dataset(file, "/summary/records", records, shape, {.units = "1", .long_name = "records that have the metric"});
}

}  // namespace loci
