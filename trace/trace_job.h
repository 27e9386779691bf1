#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/loaded_model.h"
#include "records/facts.h"
#include "runtime/jobs/unit_runner.h"
#include "trace/averages.h"
#include "trace/results.h"
#include "trace/sweep.h"

namespace loci {

/// Facts in, traces out.
struct TraceJobOptions {
  TraceOptions trace;  ///< without its noise, which the job measures
  std::string noise = "s3";
  std::string noise_text;  ///< the file whose embeddings rules such as m and t3 follow
  uint32_t noise_seed = 1;
  int64_t limit = 0;  ///< the first facts only; 0: all. The noise level comes from every subject all the same
  std::string base_edits_sha256;  ///< of edits that the model has: EditChain::sha256()
};

struct TraceJobOutcome {
  TraceOptions options;             ///< with the noise
  std::vector<StoredTrace> traces;  ///< on rank 0: all that the output holds
  int64_t facts = 0;                ///< that were to be traced
  int64_t before = 0;               ///< facts that earlier runs have done
  Spending spending;
};

/// How averages count rows, by the quirks.
RowRule row_rule(const TraceOptions& options);

/// Runs the job, or continues it; collective. Afterwards the output is whole. Throws InputError for input that does not
/// fit, before any work.
TraceJobOutcome run_trace_job(const Ranks& ranks, Context& context, const LoadedModel& loaded, const FactFile& facts,
                              const JobDescription& description, const TraceJobOptions& options);

}  // namespace loci
