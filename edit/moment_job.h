#pragma once

#include <cstdint>
#include <filesystem>

#include "edit/given_edits.h"
#include "edit/moments/second_moments.h"
#include "model/loaded_model.h"
#include "runtime/jobs/unit_runner.h"

namespace loci {

/// A text in, its second moments out.
struct MomentJobOptions {
  std::filesystem::path text;    ///< documents; "-": standard input
  std::filesystem::path tokens;  ///< the same as loci tokenize wrote them; one of the two is given
  OnInvalid on_invalid = OnInvalid::refuse;
  SecondMomentOptions moments = {};  ///< all but `probe` and `skipped`
  std::filesystem::path probe;       ///< edit requests that SecondMomentOptions::until watches
  GivenEdits base = {};              ///< edits that the model has
};

/// Runs the job, or continues it; collective. Afterwards the output is whole. `loaded` gets the edits of `base`. Throws
/// InputError for input that does not fit, before any work, and what collect_second_moments() does.
Spending run_moment_job(const Ranks& ranks, Context& context, LoadedModel& loaded, const JobDescription& description,
                        const MomentJobOptions& options);

}  // namespace loci
