#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "edit/given_edits.h"
#include "edit/resources.h"
#include "eval/datasets.h"
#include "model/loaded_model.h"
#include "runtime/jobs/unit_runner.h"

namespace loci {

/// What the records are scored with.
enum class Scored {
  model,        ///< as it is
  given_edits,  ///< the model without the given edits, and with them
  own_edits,    ///< each record's own edit, or all of them in sequence
};

/// Records in, an evaluation out.
struct EvalJobOptions {
  std::filesystem::path records;
  RecordOptions record_options;
  Scored scored = Scored::model;
  EditMode mode = EditMode::independent;   ///< of own edits
  std::optional<int64_t> batch_size = {};  ///< as EditJobOptions::batch_size
  EditOptions edit;                        ///< its forcing also says how targets are scored
  GivenEdits given;                        ///< what is scored, or what the model has before its own edits
};

struct EvalJobOutcome {
  int64_t before = 0;  ///< records that earlier runs have done
  Spending spending;
};

/// Runs the job, or continues it; collective. Afterwards the output is whole. `loaded` gets the given edits where own
/// ones are made on top of them. Throws InputError for input that does not fit, before any work.
EvalJobOutcome run_eval_job(const Ranks& ranks, Context& context, LoadedModel& loaded,
                            const JobDescription& description, const EvalJobOptions& options);

}  // namespace loci
