#include "eval/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/wording.h"

namespace loci {
namespace {

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

TableCell percent_cell(const Estimate& one) {
  if (one.records == 0) return {"-"};
  return {percent_text(one.mean), percent_text(one.interval)};
}

TableCell number_cell(double value, const char* format) {
  return {std::isfinite(value) ? fmt::format(fmt::runtime(format), value) : "-"};
}

/// Characters that a text takes on a terminal.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string plain(const TableCell& cell) {
  return cell.interval.empty() ? cell.text : fmt::format("{} ±{:>5}", cell.text, cell.interval);
}

/// The first column to the left, the others to the right.
std::string format_table(const TextTable& table) {
  std::vector<std::vector<std::string>> lines = {table.header};
  for (const std::vector<TableCell>& row : table.rows) {
    std::vector<std::string>& line = lines.emplace_back();
    for (const TableCell& cell : row) line.push_back(plain(cell));
  }
  std::vector<size_t> widths(table.header.size());
  for (const std::vector<std::string>& line : lines)
    for (size_t c = 0; c < line.size(); ++c) widths[c] = std::max(widths[c], width_of(line[c]));
  std::string text;
  for (const std::vector<std::string>& line : lines) {
    for (size_t c = 0; c < line.size(); ++c) {
      const std::string space(widths[c] - width_of(line[c]), ' ');
      text += c == 0 ? line[c] + (line.size() > 1 ? space : "") : "  " + space + line[c];
    }
    text += "\n";
  }
  return text;
}

}  // namespace

Estimate ComparisonRow::metric(size_t index) const {
  return values.empty() ? Estimate{kNone, kNone, 0} : estimate(values.at(index));
}

Estimate ComparisonRow::score() const {
  if (values.empty()) return {kNone, kNone, 0};
  return harmonic_mean(std::array<std::span<const double>, 3>{values.at(0), values.at(1), values.at(2)});
}

double ComparisonRow::nll() const {
  return text_tokens > 0 && !failed() ? nll_sum / static_cast<double>(text_tokens) : kNone;
}

double ComparisonRow::perplexity() const { return std::exp(nll()); }

double ComparisonRow::largest_change() const {
  double largest = 0;
  for (const auto& [layer, change] : changes) largest = std::max(largest, change);
  return failed() ? kNone : largest;
}

std::vector<double> retention(const Comparison& comparison, int64_t method) {
  const auto points = std::ssize(comparison.edits_at);
  std::vector<double> table(static_cast<size_t>(points * points), kNone);
  for (int64_t at = 0; at < points; ++at) {
    const ComparisonRow& row = comparison.row(method, at);
    if (row.values.empty()) continue;
    int64_t first = 0;
    for (int64_t group = 0; group <= at; ++group) {
      const int64_t end = comparison.edits_at[group];
      const auto of_group =
          std::span(row.values[0]).subspan(static_cast<size_t>(first), static_cast<size_t>(end - first));
      table[at * points + group] = estimate(of_group).mean;
      first = end;
    }
  }
  return table;
}

TextTable comparison_table(const Comparison& comparison) {
  const bool has_text =
      std::ranges::any_of(comparison.rows, [](const ComparisonRow& row) { return row.text_tokens > 0; });
  TextTable table{{"method", "edits"}, {}};
  for (size_t k = 0; k < 3; ++k) table.header.push_back(comparison.metrics.at(k) + " [%]");
  table.header.emplace_back("score [%]");
  if (has_text) table.header.emplace_back("perplexity");
  table.header.insert(table.header.end(), {"change [%]", "s/edit", "MiB"});
  for (const ComparisonRow& row : comparison.rows) {
    std::vector<TableCell>& cells = table.rows.emplace_back();
    cells = {{row.method}, {fmt::format("{}", row.edits)}};
    if (row.failed()) {
      cells.push_back({"failed"});
      continue;
    }
    for (size_t k = 0; k < 3; ++k) cells.push_back(percent_cell(row.metric(k)));
    cells.push_back(percent_cell(row.score()));
    if (has_text) cells.push_back(number_cell(row.perplexity(), "{:.4g}"));
    const bool edited = row.edits > 0;
    cells.push_back(number_cell(edited ? 100 * row.largest_change() : kNone, "{:.3g}"));
    cells.push_back(number_cell(edited ? row.edit_seconds : kNone, "{:.3g}"));
    cells.push_back(number_cell(edited ? static_cast<double>(row.peak_memory_bytes) / 1048576 : kNone, "{:.0f}"));
  }
  return table;
}

TextTable retention_table(const Comparison& comparison, int64_t method) {
  const std::vector<double> values = retention(comparison, method);
  const size_t points = comparison.edits_at.size();
  TextTable table{{"after"}, {}};
  int64_t first = 1;
  for (const int64_t end : comparison.edits_at) {
    table.header.push_back(fmt::format("{}-{}", first, end));
    first = end + 1;
  }
  for (size_t at = 0; at < points; ++at) {
    std::vector<TableCell>& cells = table.rows.emplace_back();
    cells.push_back({fmt::format("{}", comparison.edits_at[at])});
    for (size_t group = 0; group < points; ++group) {
      const double value = values[at * points + group];
      cells.push_back({std::isnan(value) ? (group > at ? "" : "-") : percent_text(value)});
    }
  }
  return table;
}

std::string format_comparison(const Comparison& comparison) {
  std::string text = format_table(comparison_table(comparison));
  for (const ComparisonRow& row : comparison.rows)
    if (row.failed()) text += fmt::format("{} at {} failed: {}\n", row.method, count(row.edits, "edit"), row.failure);
  if (comparison.mode != EditMode::sequential) return text;
  for (size_t m = 0; m < comparison.methods.size(); ++m)
    text += fmt::format("\n{}: {} [%] of each group of edits, after so many\n{}", comparison.methods[m],
                        comparison.metrics.at(0), format_table(retention_table(comparison, static_cast<int64_t>(m))));
  return text;
}

namespace {

Json row_to_json(const Comparison& comparison, const ComparisonRow& row) {
  Json json = {{"method", row.method}, {"edits", row.edits}};
  if (row.failed()) {
    json["failure"] = row.failure;
    return json;
  }
  const auto add = [&](const std::string& name, const Estimate& one) {
    json[name] = number(one.mean);
    json[name + "_interval"] = number(one.interval);
  };
  for (size_t k = 0; k < comparison.metrics.size(); ++k) add(comparison.metrics[k], row.metric(k));
  add("score", row.score());
  json["records"] = row.score().records;
  if (row.text_tokens > 0) json.update({{"nll", number(row.nll())}, {"perplexity", number(row.perplexity())}});
  if (row.edits == 0) return json;
  json.update({{"chunks", row.chunks},
               {"measured_chunks", row.measured_chunks},
               {"edit_seconds", row.edit_seconds},
               {"peak_memory_bytes", row.peak_memory_bytes},
               {"changes", Json::object()}});
  for (const auto& [layer, change] : row.changes) json["changes"][std::to_string(layer)] = number(change);
  return json;
}

}  // namespace

Json comparison_to_json(const Comparison& comparison) {
  Json json = {{"dataset", dataset_name(comparison.dataset)},
               {"mode", edit_mode_name(comparison.mode)},
               {"records", comparison.case_ids.size()},
               {"edits_at", comparison.edits_at},
               {"rows", Json::array()}};
  for (const ComparisonRow& row : comparison.rows) json["rows"].push_back(row_to_json(comparison, row));
  if (comparison.mode != EditMode::sequential) return json;
  const size_t points = comparison.edits_at.size();
  for (size_t m = 0; m < comparison.methods.size(); ++m) {
    const std::vector<double> values = retention(comparison, static_cast<int64_t>(m));
    Json& table = json["retention"][comparison.methods[m]] = Json::array();
    for (size_t at = 0; at < points; ++at) {
      table.push_back(Json::array());
      for (size_t group = 0; group < points; ++group) table.back().push_back(number(values[at * points + group]));
    }
  }
  return json;
}

}  // namespace loci
