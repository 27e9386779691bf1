#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "edit/edit_file.h"
#include "edit/given_edits.h"
#include "edit/resources.h"
#include "model/loaded_model.h"
#include "records/edit_requests.h"
#include "runtime/jobs/unit_runner.h"

namespace loci {

/// Requests in, an edit file out.
struct EditJobOptions {
  std::filesystem::path requests;
  ZsreTarget zsre_target = ZsreTarget::answer;
  OnInvalid on_invalid = OnInvalid::refuse;
  int64_t limit = 0;  ///< the first requests only; 0: all
  EditMode mode = EditMode::independent;
  std::optional<int64_t> batch_size = {};  ///< requests that are written together; 0: all; none: the method's own
  EditOptions edit;
  GivenEdits base;  ///< edits that the model has before
};

struct EditJobOutcome {
  int64_t before = 0;  ///< requests that earlier runs have done
  Spending spending;
};

/// Runs the job, or continues it; collective. Afterwards the output is whole. `loaded` gets the edits of `base`, and in
/// sequential mode on rank 0 those that are made. Throws InputError for input that does not fit, before any work.
EditJobOutcome run_edit_job(const Ranks& ranks, Context& context, LoadedModel& loaded,
                            const JobDescription& description, const EditJobOptions& options);

}  // namespace loci
