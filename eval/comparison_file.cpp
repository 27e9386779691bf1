#include "eval/comparison_file.h"

#include <cmath>

#include "runtime/error.h"

namespace loci {
namespace {

struct RowTable {
  std::vector<std::string> method, failure;
  std::vector<int64_t> edits, text_tokens, chunks, measured_chunks, peak_memory_bytes;
  std::vector<double> score, score_interval, nll, perplexity, nll_sum, change, edit_seconds;
};

RowTable columns_of(const Comparison& comparison) {
  RowTable table;
  for (const ComparisonRow& row : comparison.rows) {
    const Estimate score = row.score();
    table.method.push_back(row.method);
    table.failure.push_back(row.failure);
    table.edits.push_back(row.edits);
    table.text_tokens.push_back(row.text_tokens);
    table.chunks.push_back(row.chunks);
    table.measured_chunks.push_back(row.measured_chunks);
    table.peak_memory_bytes.push_back(row.peak_memory_bytes);
    table.score.push_back(score.mean);
    table.score_interval.push_back(score.interval);
    table.nll.push_back(row.nll());
    table.perplexity.push_back(row.perplexity());
    table.nll_sum.push_back(row.nll_sum);
    table.change.push_back(row.largest_change());
    table.edit_seconds.push_back(row.edit_seconds);
  }
  return table;
}

void write_rows(H5File& file, const Comparison& comparison) {
  const RowTable table = columns_of(comparison);
  const std::vector<int64_t> shape = {std::ssize(comparison.rows)};
  const auto numbers = [&](const char* name, const auto& values, const char* units, const char* long_name) {
    write_dataset(file, std::string("/rows/") + name, values, shape, {.units = units, .long_name = long_name});
  };
  write_strings(file, "/rows/method", table.method, shape, {.long_name = "method; unedited: the model as it is"});
  write_strings(file, "/rows/failure", table.failure, shape, {.long_name = "why there are no numbers, else empty"});
  numbers("edits", table.edits, "1", "edits of a chunk, or of the sequence so far");
  numbers("score", table.score, "1", "harmonic mean of efficacy, paraphrase and neighborhood");
  numbers("score_interval", table.score_interval, "1", "half width of its 95 % confidence interval");
  numbers("nll", table.nll, "nat", "mean over the text's tokens of -log p");
  numbers("perplexity", table.perplexity, "1", "exp(nll)");
  numbers("nll_sum", table.nll_sum, "nat", "sum over the text's tokens and the measured chunks of -log p");
  numbers("text_tokens", table.text_tokens, "1", "tokens of that sum");
  numbers("chunks", table.chunks, "1", "groups of edits, each made from the original model");
  numbers("measured_chunks", table.measured_chunks, "1", "the first of them, over which nll and change are means");
  numbers("change", table.change, "1", "|W' - W| / |W| of the layer that changes most");
  numbers("edit_seconds", table.edit_seconds, "s", "mean time of an edit; of a sequence since the row before");
  numbers("peak_memory_bytes", table.peak_memory_bytes, "byte", "most that arrays took while edits were made");
}

void write_values(H5File& file, const Comparison& comparison) {
  const auto rows = std::ssize(comparison.rows), metrics = std::ssize(comparison.metrics),
             records = std::ssize(comparison.case_ids);
  std::vector<double> mean, interval, values(static_cast<size_t>(rows * metrics * records), kNone);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < metrics; ++k) {
      const Estimate one = comparison.rows[r].metric(static_cast<size_t>(k));
      mean.push_back(one.mean);
      interval.push_back(one.interval);
      if (comparison.rows[r].values.empty()) continue;
      const std::vector<double>& column = comparison.rows[r].values.at(static_cast<size_t>(k));
      require<ShapeError>(std::ssize(column) <= records, "{} values of {} records", column.size(), records);
      std::ranges::copy(column, values.begin() + (r * metrics + k) * records);
    }
  write_dataset(file, "/mean", mean, {rows, metrics}, {.units = "1", .long_name = "mean over records"});
  write_dataset(file, "/interval", interval, {rows, metrics},
                {.units = "1", .long_name = "half width of the 95 % confidence interval"});
  write_dataset(file, "/values", values, {rows, metrics, records},
                {.units = "1", .long_name = "each record's mean over its prompts; NaN where it was not scored"});
}

void write_changes(H5File& file, const Comparison& comparison) {
  std::vector<int64_t> rows, layers;
  std::vector<double> changes;
  for (size_t r = 0; r < comparison.rows.size(); ++r)
    for (const auto& [layer, change] : comparison.rows[r].changes) {
      rows.push_back(static_cast<int64_t>(r));
      layers.push_back(layer);
      changes.push_back(change);
    }
  const std::vector<int64_t> shape = {std::ssize(rows)};
  write_dataset(file, "/changes/row", rows, shape, {.units = "1", .long_name = "row of /rows"});
  write_dataset(file, "/changes/layer", layers, shape, {.units = "1", .long_name = "layer"});
  write_dataset(file, "/changes/relative_change", changes, shape,
                {.units = "1", .long_name = "|W' - W| / |W| of the layer's changed matrices, Frobenius"});
}

void write_retention(H5File& file, const Comparison& comparison) {
  std::vector<double> tables;
  for (int64_t m = 0; m < std::ssize(comparison.methods); ++m) {
    const std::vector<double> one = retention(comparison, m);
    tables.insert(tables.end(), one.begin(), one.end());
  }
  const auto points = std::ssize(comparison.edits_at);
  write_dataset(
      file, "/retention", tables, {std::ssize(comparison.methods), points, points},
      {.units = "1", .long_name = "efficacy at each point (second axis) of the edits since the point before"});
}

void read_rows_of(const H5File& file, Comparison& comparison) {
  const int64_t rows = 1 + std::ssize(comparison.methods) * std::ssize(comparison.edits_at);
  const std::vector<std::string> method = read_text_column(file, "/rows/method", rows),
                                 failure = read_text_column(file, "/rows/failure", rows);
  const auto edits = read_column<int64_t>(file, "/rows/edits", rows),
             tokens = read_column<int64_t>(file, "/rows/text_tokens", rows),
             chunks = read_column<int64_t>(file, "/rows/chunks", rows),
             measured = read_column<int64_t>(file, "/rows/measured_chunks", rows),
             peak = read_column<int64_t>(file, "/rows/peak_memory_bytes", rows);
  const auto nll = read_column<double>(file, "/rows/nll_sum", rows),
             seconds = read_column<double>(file, "/rows/edit_seconds", rows);
  for (int64_t r = 0; r < rows; ++r)
    comparison.rows.push_back({.method = method[r],
                               .edits = edits[r],
                               .failure = failure[r],
                               .values = {},
                               .nll_sum = nll[r],
                               .text_tokens = tokens[r],
                               .chunks = chunks[r],
                               .measured_chunks = measured[r],
                               .edit_seconds = seconds[r],
                               .peak_memory_bytes = peak[r]});
}

void check_edits(const H5File& file, const Comparison& comparison) {
  int64_t before = 0;
  for (size_t p = 0; p < comparison.edits_at.size(); ++p) {
    const int64_t edits = comparison.edits_at[p];
    bool fits = edits > before && edits <= std::ssize(comparison.case_ids);
    for (size_t m = 0; m < comparison.methods.size(); ++m)
      fits = fits && comparison.row(static_cast<int64_t>(m), static_cast<int64_t>(p)).edits == edits;
    require<InputError>(fits, "{}: /edits_at holds {}, which does not fit the records, or /rows", file.path().string(),
                        edits);
    before = edits;
  }
}

void read_values(const H5File& file, Comparison& comparison) {
  const auto rows = std::ssize(comparison.rows), metrics = std::ssize(comparison.metrics),
             records = std::ssize(comparison.case_ids);
  const std::vector<double> values = read_dataset<double>(file, "/values", {rows, metrics, records}).values;
  const bool sequential = comparison.mode == EditMode::sequential;
  for (int64_t r = 0; r < rows; ++r) {
    ComparisonRow& row = comparison.rows[r];
    if (row.failed()) continue;
    const int64_t scored = !sequential ? records : row.method == kUnedited ? comparison.edits_at.back() : row.edits;
    for (int64_t k = 0; k < metrics; ++k) {
      const auto begin = values.begin() + (r * metrics + k) * records;
      row.values.emplace_back(begin, begin + scored);
    }
  }
}

void read_changes(const H5File& file, Comparison& comparison) {
  const int64_t count = dataset_info(file, "/changes/row").count();
  const auto rows = read_column<int64_t>(file, "/changes/row", count),
             layers = read_column<int64_t>(file, "/changes/layer", count);
  const auto changes = read_column<double>(file, "/changes/relative_change", count);
  for (size_t i = 0; i < rows.size(); ++i) {
    require<InputError>(rows[i] >= 0 && rows[i] < std::ssize(comparison.rows),
                        "{}: /changes/row holds {}, which is no row", file.path().string(), rows[i]);
    comparison.rows[rows[i]].changes[layers[i]] = changes[i];
  }
}

}  // namespace

void write_comparison(H5File& file, const Comparison& comparison) {
  write_attribute(file, "/", "kind", "comparison");
  write_attribute(file, "/", "dataset", dataset_name(comparison.dataset));
  write_attribute(file, "/", "mode", edit_mode_name(comparison.mode));
  write_attribute(file, "/", "model_name", comparison.model_name);
  const auto metrics = std::ssize(comparison.metrics);
  write_strings(file, "/methods", comparison.methods, {std::ssize(comparison.methods)}, {.long_name = "methods"});
  write_dataset(file, "/edits_at", comparison.edits_at, {std::ssize(comparison.edits_at)},
                {.units = "1", .long_name = "numbers of edits at which methods are compared"});
  write_strings(file, "/metrics/name", comparison.metrics, {metrics}, {.long_name = "metric"});
  write_strings(file, "/metrics/long_name", comparison.metric_long_names, {metrics},
                {.long_name = "what the metric says"});
  write_dataset(file, "/records/case_id", comparison.case_ids, {std::ssize(comparison.case_ids)},
                {.units = "1", .long_name = "id of the record in its file"});
  write_rows(file, comparison);
  write_values(file, comparison);
  write_changes(file, comparison);
  if (comparison.mode == EditMode::sequential) write_retention(file, comparison);
}

Comparison read_comparison(const H5File& file) {
  const std::string name = file.path().string();
  require<InputError>(has_attribute(file, "/", "kind") && read_string_attribute(file, "/", "kind") == "comparison",
                      "{}: is not a comparison of methods", name);
  const std::string mode = read_string_attribute(file, "/", "mode");
  require<InputError>(mode == "independent" || mode == "sequential", "{}: attribute \"mode\" is \"{}\"", name, mode);
  Comparison comparison{.dataset = dataset_from_name(read_string_attribute(file, "/", "dataset")),
                        .mode = mode == "sequential" ? EditMode::sequential : EditMode::independent,
                        .model_name = read_string_attribute(file, "/", "model_name"),
                        .methods = read_text_column(file, "/methods"),
                        .edits_at = read_dataset<int64_t>(file, "/edits_at", {kAnyExtent}).values,
                        .metrics = read_text_column(file, "/metrics/name"),
                        .case_ids = read_dataset<int64_t>(file, "/records/case_id", {kAnyExtent}).values};
  comparison.metric_long_names = read_text_column(file, "/metrics/long_name", std::ssize(comparison.metrics));
  require<InputError>(comparison.metrics.size() >= 3 && !comparison.edits_at.empty(),
                      "{}: /metrics or /edits_at holds too little for a comparison", name);
  read_rows_of(file, comparison);
  check_edits(file, comparison);
  read_values(file, comparison);
  read_changes(file, comparison);
  return comparison;
}

}  // namespace loci
