#include "app/export/comparison.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "app/export/csv.h"
#include "app/export/markup.h"
#include "eval/comparison_file.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"

namespace loci::app {
namespace {

std::vector<std::string> cells_of(const std::vector<TableCell>& row, size_t columns, const Markup& markup) {
  std::vector<std::string> cells;
  for (const TableCell& cell : row)
    cells.push_back(cell.interval.empty() ? markup.escaped(cell.text) : markup.estimate(cell.text, cell.interval));
  cells.resize(columns);  // of a row that failed
  return cells;
}

std::vector<std::string> header_of(const TextTable& table, const Markup& markup) {
  std::vector<std::string> cells;
  for (const std::string& name : table.header) cells.push_back(markup.escaped(name));
  return cells;
}

std::string markdown(const TextTable& table, const std::string& caption) {
  std::string text =
      fmt::format("{}\n\n| {} |\n|---|", escaped_for_markdown(caption), fmt::join(header_of(table, kMarkdown), " | "));
  for (size_t c = 1; c < table.header.size(); ++c) text += "---:|";
  text += "\n";
  for (const std::vector<TableCell>& row : table.rows)
    text += fmt::format("| {} |\n", fmt::join(cells_of(row, table.header.size(), kMarkdown), " | "));
  return text;
}

std::string latex(const TextTable& table, const std::string& caption) {
  std::string text = fmt::format(
      "% Needs \\usepackage{{booktabs}}.\n\\begin{{table}}\n\\centering\n\\begin{{tabular}}{{l{}}}\n\\toprule\n{} "
      "\\\\\n\\midrule\n",
      std::string(table.header.size() - 1, 'r'), fmt::join(header_of(table, kLatex), " & "));
  for (const std::vector<TableCell>& row : table.rows)
    text += fmt::format("{} \\\\\n", fmt::join(cells_of(row, table.header.size(), kLatex), " & "));
  return text +
         fmt::format("\\bottomrule\n\\end{{tabular}}\n\\caption{{{}}}\n\\end{{table}}\n", escaped_for_latex(caption));
}

std::string caption_of(const Comparison& comparison) {
  std::string caption = fmt::format(
      "{}, {}, {} edits. Per cent: mean over records with its 95 % confidence interval; change: |W' - W| / |W| of the "
      "layer that changes most.",
      comparison.model_name.empty() ? "model" : comparison.model_name, dataset_name(comparison.dataset),
      edit_mode_name(comparison.mode));
  for (const ComparisonRow& row : comparison.rows)
    if (row.failed()) caption += fmt::format(" {} at {} edits failed: {}.", row.method, row.edits, row.failure);
  return caption;
}

std::string retention_caption(const Comparison& comparison, const std::string& method) {
  return fmt::format("{}, {}, method {}: {} in per cent of each group of edits, after so many edits in sequence.",
                     comparison.model_name.empty() ? "model" : comparison.model_name, dataset_name(comparison.dataset),
                     method, comparison.metrics.at(0));
}

// --- CSV -------------------------------------------------------------------------------------------------------------

/// A number, or an empty field for one that does not exist.
std::string field(double value) { return std::isnan(value) ? "" : fmt::format("{}", value); }

std::string csv_rows(const Comparison& comparison) {
  std::string text = "method,edits";
  for (const std::string& name : comparison.metrics) text += fmt::format(",{0},{0}_interval", name);
  text +=
      ",score,score_interval,records,nll,perplexity,text_tokens,chunks,measured_chunks,change,edit_seconds,"
      "peak_memory_bytes,failure\n";
  for (const ComparisonRow& row : comparison.rows) {
    text += fmt::format("{},{}", row.method, row.edits);
    for (size_t k = 0; k < comparison.metrics.size(); ++k)
      text += fmt::format(",{},{}", field(row.metric(k).mean), field(row.metric(k).interval));
    const Estimate score = row.score();
    text += fmt::format(",{},{},{},{},{},{},{},{},{},{},{},{}\n", field(score.mean), field(score.interval),
                        score.records, field(row.nll()), field(row.perplexity()), row.text_tokens, row.chunks,
                        row.measured_chunks, field(row.largest_change()), row.edit_seconds, row.peak_memory_bytes,
                        row.failed() ? csv_quoted(row.failure) : "");
  }
  return text;
}

std::string csv_retention(const Comparison& comparison) {
  std::string text = fmt::format("method,edits,first_edit,last_edit,{}\n", comparison.metrics.at(0));
  const size_t points = comparison.edits_at.size();
  for (size_t m = 0; m < comparison.methods.size(); ++m) {
    const std::vector<double> values = retention(comparison, static_cast<int64_t>(m));
    for (size_t at = 0; at < points; ++at)
      for (size_t group = 0; group <= at; ++group)
        text += fmt::format("{},{},{},{},{}\n", comparison.methods[m], comparison.edits_at[at],
                            group == 0 ? 1 : comparison.edits_at[group - 1] + 1, comparison.edits_at[group],
                            field(values[at * points + group]));
  }
  return text;
}

}  // namespace

int64_t export_comparison(const H5File& file, const std::string& format, const std::filesystem::path& folder) {
  const Comparison comparison = read_comparison(file);
  const bool sequential = comparison.mode == EditMode::sequential;
  if (format == "csv") {
    write_file_atomically(folder / "comparison.csv", csv_rows(comparison));
    if (sequential) write_file_atomically(folder / "retention.csv", csv_retention(comparison));
    return sequential ? 2 : 1;
  }
  require<InputError>(format == "markdown" || format == "latex",
                      "{}: a comparison is exported as csv, markdown or latex, not as {}", file.path().string(),
                      format);
  const auto write = format == "markdown" ? markdown : latex;
  const std::string ending = format == "markdown" ? ".md" : ".tex";
  write_file_atomically(folder / ("comparison" + ending), write(comparison_table(comparison), caption_of(comparison)));
  if (!sequential) return 1;
  for (size_t m = 0; m < comparison.methods.size(); ++m)
    write_file_atomically(folder / ("retention_" + comparison.methods[m] + ending),
                          write(retention_table(comparison, static_cast<int64_t>(m)),
                                retention_caption(comparison, comparison.methods[m])));
  return 1 + std::ssize(comparison.methods);
}

}  // namespace loci::app
