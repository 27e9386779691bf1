#pragma once

#include "eval/comparison.h"
#include "runtime/io/hdf5.h"

/// Comparisons in HDF5, beside provenance and the root attributes `dataset`, `mode` and `model_name`:
///   /methods, /edits_at, /metrics/name, /metrics/long_name, /records/case_id
///   /rows: method, edits, failure, score, score_interval, nll, perplexity, nll_sum, text_tokens, chunks,
///          measured_chunks, change, edit_seconds, peak_memory_bytes                                           [rows]
///   /mean, /interval                                                                                [rows, metrics]
///   /values                                                                                [rows, metrics, records]
///   /changes: row, layer, relative_change                                                           [changed layers]
///   /retention, of sequences                                                               [methods, points, points]
namespace loci {

void write_comparison(H5File& file, const Comparison& comparison);

/// Reads it back. Throws InputError for a file of another kind, or whose tables contradict each other.
Comparison read_comparison(const H5File& file);

}  // namespace loci
