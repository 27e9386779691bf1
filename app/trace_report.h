#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/ranks.h"
#include "trace/results.h"

/// What `loci trace` says about its result.
namespace loci::app {

/// A whole result, as its file holds it.
struct TraceResult {
  std::string output;
  const TraceOptions& options;
  RowRule row_rule;
  const std::vector<StoredTrace>& traces;
  int64_t layers = 0;
  int64_t skipped = 0;     ///< records that could not be traced
  bool of_prompt = false;  ///< made with --prompt: its one fact is told, not averages

  int64_t traced() const;
};

/// As one JSON object.
Json trace_summary(const TraceResult& result);
/// As text, on standard output.
void print_trace(const TraceResult& result);

}  // namespace loci::app
