#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "model/train/trainer.h"
#include "runtime/jobs/interruption.h"
#include "runtime/jobs/unit_store.h"

namespace loci {

/// What `loci train` does. The folder `output` receives a Hugging Face model (config.json, model.safetensors, tokenizer
/// files) and `training.json`: configuration, provenance, losses. While training runs it holds `training.h5`, from
/// which an interrupted job continues exactly; other files appear only at the end.
struct TrainingJob {
  TrainingConfig config;
  std::filesystem::path output;
  OnExisting on_existing = OnExisting::resume;
  std::function<void(const StepReport&)> on_step;  ///< after each step, on each rank; what it throws ends the job
};

/// Where a training keeps the state that it continues from.
std::filesystem::path training_state(const std::filesystem::path& output);

/// The ranks that do the job.
struct TrainingRanks {
  DeviceCommunicator* communicator = nullptr;  ///< null: one rank alone
  const Interruption* interruption = nullptr;  ///< looked at after every step
};

struct LossPoint {
  int64_t step = 0;
  double training = 0;    ///< mean over the steps since the point before
  double validation = 0;  ///< NaN where nothing is held out
};

struct TrainingSummary {
  enum class Outcome { trained, found_complete } outcome = Outcome::trained;
  int64_t steps = 0;
  int64_t tokens = 0;
  std::vector<LossPoint> losses;  ///< every validate_every steps and at the end
  double seconds = 0;             ///< of this run
  double tokens_per_second = 0;   ///< of this run
};

/// Collective. Each rank reads the text and the tokenizer; rank 0 alone reads and writes `output` and the initial
/// weights. The bits of the result depend neither on the number of ranks nor on interruptions. Throws InputError for a
/// configuration or data that cannot be trained on or that differ between ranks, and for an output that belongs to
/// another training or holds a model of other origin (unless OnExisting::overwrite); NumericalError where training
/// diverges; InterruptedError, after a checkpoint, where a rank was asked to stop.
TrainingSummary run_training(Context& context, const TrainingJob& job, const TrainingRanks& ranks = {});

}  // namespace loci
