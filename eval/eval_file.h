#pragma once

#include <span>
#include <vector>

#include "eval/metrics.h"
#include "runtime/io/hdf5.h"

/// Evaluations in HDF5. Ragged data lies in flat tables that point upwards:
///   /records: case_id, request (JSON), update_norm, edit_seconds, score_seconds                           [records]
///   /prompts: record, kind (0 rewrite, 1 paraphrase, 2 neighborhood, 3 attribute), text                   [prompts]
///   /targets: prompt, text, nll_before, nll_after                                                         [targets]
///   /tokens:  target, id, log_probability_before, log_probability_after, best_before, best_after          [tokens]
///   /summary: name, long_name, before, before_interval, after, after_interval, records                    [metrics]
/// Of a model scored as it is there is nothing of `after`, and neither update_norm nor edit_seconds.
namespace loci {

/// Writes the four tables of records.
void write_records(H5File& file, std::span<const RecordResult> records);

/// Reads them back. Throws InputError where the tables contradict each other.
std::vector<RecordResult> read_records(const H5File& file);

void write_summary(H5File& file, std::span<const MetricSummary> summary);

}  // namespace loci
