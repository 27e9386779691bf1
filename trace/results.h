#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/io/hdf5.h"
#include "trace/averages.h"
#include "trace/sweep.h"

/// Traces in HDF5 files (docs/tracing.md has the layout).
namespace loci {

/// A traced fact as it stands in a file: /facts/{known_id}.
struct StoredTrace {
  int64_t known_id = 0;
  int64_t record = 0;
  std::string subject, attribute, prompt, relation_id;
  std::vector<int32_t> input_ids;
  std::vector<std::string> input_tokens;  ///< decoded one by one
  TokenRange subject_range;
  std::string answer;
  int64_t window = 0;
  FactTrace trace;

  int64_t tokens() const { return std::ssize(input_ids); }
};

void write_trace(H5File& file, const StoredTrace& stored);
/// Throws InputError where the group is not as write_trace leaves it.
StoredTrace read_trace(const H5File& file, const std::string& group);
/// Names the axes of a trace's datasets: tokens, and the layers of /layer.
void label_trace(H5File& file, const std::string& group);
/// All traces of a file, in the order of the fact file.
std::vector<StoredTrace> read_traces(const H5File& file);

/// Averages of the correct traces of one kind; of the severed graph's variants see below.
Averages average_kind(const std::vector<StoredTrace>& traces, TraceKind kind, int64_t layers, RowRule rule);
/// /averages/{kind}.
void write_averages(H5File& file, TraceKind kind, const Averages& averages);

/// Mean effect of restoring the subject's last token by layer, low_score taken off, with a module severed or not.
struct SeveredMean {
  std::vector<double> effect;      ///< [layers]; empty where not traced
  std::vector<double> confidence;  ///< [layers], 1.96 sigma / sqrt(cases)
};
struct SeveredAverages : SeveredSeries<SeveredMean> {
  int64_t cases = 0;
};
SeveredAverages average_severed(const std::vector<StoredTrace>& traces, int64_t layers);
/// /averages/severed.
void write_severed_averages(H5File& file, const SeveredAverages& averages);

}  // namespace loci
