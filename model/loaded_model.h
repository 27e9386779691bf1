#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "model/model.h"
#include "model/text/tokenizer.h"
#include "runtime/jobs/provenance.h"
#include "runtime/jobs/unit_runner.h"

/// What jobs on a model share.
namespace loci {

/// What a model directory holds, and when it had been read.
struct LoadedModel {
  Model model;
  Tokenizer tokenizer;
  std::chrono::steady_clock::time_point loaded_at;
};
/// The model that all ranks use, its weights hashed, and its tokenizer, read side by side; collective. Throws
/// InputError where they do not fit each other.
LoadedModel load_rank_model(Communicator& communicator, Context& context, const std::filesystem::path& folder);

/// What this run of a job took, beside its result.
struct Spending {
  double matrix_flop = 0;  ///< operations in matrix products, of all ranks
  double seconds = 0;      ///< of this rank, from the loaded model to now
};
/// Collective.
Spending spending_of_all(Communicator& communicator, const Context& context, const LoadedModel& loaded);

/// Where a result made with this model, with these edits in memory, on this context's device, by so many ranks, comes
/// from. `inputs`: Provenance::inputs.
Provenance job_provenance(const Json& inputs, const Context& context, const Model& model, int64_t ranks = 1,
                          const std::string& base_edits_sha256 = {});

}  // namespace loci
