#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edit/edit_file.h"
#include "eval/metrics.h"
#include "runtime/io/json.h"

/// What a comparison of methods has found, and how it is told.
namespace loci {

inline constexpr const char* kUnedited = "unedited";

/// One method after so many edits.
struct ComparisonRow {
  std::string method;        ///< kUnedited for the first row
  int64_t edits = 0;         ///< of a chunk, or of the sequence so far
  std::string failure = {};  ///< why there are no numbers; empty where there are some
  /// [metrics][records], as RecordValues::columns; a sequence has its first `edits` records.
  std::vector<std::vector<double>> values = {};
  double nll_sum = 0;       ///< over the text's predicted tokens, over all measured chunks
  int64_t text_tokens = 0;  ///< 0: without a text
  int64_t chunks = 0;       ///< groups of edits, each made from the original model
  int64_t measured_chunks = 0;
  /// |W' - W| / |W| by layer, Frobenius norms over the layer's matrices that change; mean over the measured chunks.
  std::map<int64_t, double> changes = {};
  double edit_seconds = 0;        ///< mean per edit; of a sequence since the row before
  int64_t peak_memory_bytes = 0;  ///< that the device held for arrays while edits were made

  bool failed() const { return !failure.empty(); }
  Estimate metric(size_t index) const;
  /// The harmonic mean of efficacy, paraphrase and neighborhood.
  Estimate score() const;
  double nll() const;         ///< mean per token, in nats; NaN without a text
  double perplexity() const;  ///< exp of it
  double largest_change() const;
};

struct Comparison {
  Dataset dataset = Dataset::counterfact;
  EditMode mode = EditMode::independent;
  std::string model_name = {};
  std::vector<std::string> methods = {};
  std::vector<int64_t> edits_at = {};
  std::vector<std::string> metrics = {}, metric_long_names = {};  ///< efficacy, paraphrase, neighborhood, then others
  std::vector<int64_t> case_ids = {};                             ///< of the records
  std::vector<ComparisonRow> rows = {};                           ///< the unedited model, then methods by points

  const ComparisonRow& row(int64_t method, int64_t point) const {
    return rows.at(static_cast<size_t>(1 + method * std::ssize(edits_at) + point));
  }
};

/// Of a sequence: the efficacy [points, points] at each point (row) of each group of edits (column), which are those
/// since the point before; NaN for groups still to come, and where the method failed.
std::vector<double> retention(const Comparison& comparison, int64_t method);

/// A table as texts; a value may have an interval.
struct TableCell {
  std::string text;
  std::string interval = {};
};
struct TextTable {
  std::vector<std::string> header;
  std::vector<std::vector<TableCell>> rows;
};
/// One line per row. A row that failed has "failed" in its first cell after the number of edits, and nothing behind it.
TextTable comparison_table(const Comparison& comparison);
/// One line per point of a method.
TextTable retention_table(const Comparison& comparison, int64_t method);

/// All tables and failures, for people.
std::string format_comparison(const Comparison& comparison);
Json comparison_to_json(const Comparison& comparison);

}  // namespace loci
