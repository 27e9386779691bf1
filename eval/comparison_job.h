#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "edit/given_edits.h"
#include "edit/resources.h"
#include "eval/datasets.h"
#include "model/loaded_model.h"
#include "runtime/jobs/unit_runner.h"

namespace loci {

/// Records and methods in, a comparison out (eval/comparison.h).
///
/// Independent: for each n of `edits_at` the records are cut into chunks of n (the last may be smaller). Each chunk is
/// edited from the original model, and each record is scored on the model with all edits of its chunk (Meng et al.
/// 2023, section 5.2). Methods that take batches write a chunk as one batch, or in batches of `batch_size` in sequence;
/// the others request by request, each on the model as changed so far.
///
/// Sequential: each method makes one sequence of edits over the records, in batches. Where n edits are reached, the
/// first n records are scored on the model with all of them (Fang et al. 2025, section 4).
struct ComparisonOptions {
  std::filesystem::path records;
  RecordOptions record_options;
  EditMode mode = EditMode::independent;
  std::vector<EditOptions> methods;  ///< each a method with its files; their forcing also says how targets are scored
  std::vector<int64_t> edits_at;     ///< rising
  std::optional<int64_t> batch_size = {};  ///< of methods that take batches; 0: all
  std::filesystem::path text = {};         ///< whose perplexity is measured; empty: none
  int64_t text_limit = 0;                  ///< its first tokens only; 0: all
  GivenEdits given = {};                   ///< edits that the model has before
};

struct ComparisonOutcome {
  int64_t before = 0;  ///< units that earlier runs have done
  int64_t units = 0;   ///< all
  Spending spending;
};

/// Runs the job, or continues it; collective. Afterwards the output is whole. A method that fails numerically does not
/// end the job: its row says why. `loaded` gets the given edits. Throws InputError for input that does not fit, before
/// any work.
ComparisonOutcome run_comparison_job(const Ranks& ranks, Context& context, LoadedModel& loaded,
                                     const JobDescription& description, const ComparisonOptions& options);

}  // namespace loci
