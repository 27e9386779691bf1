#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/common.h"
#include "model/text/tokenizer.h"
#include "records/record_list.h"
#include "runtime/cuda_device.h"
#include "runtime/jobs/rank_log.h"
#include "runtime/ranks/communicator.h"

/// The ranks that a subcommand runs as: processes that mpirun or srun started, or threads of this one (`--ranks N`).
namespace loci::app {

/// --ranks and --rank-timeout of subcommands that several ranks can share.
struct RankOptions {
  int ranks = 1;
  double timeout_seconds = 1800;
};
void add_rank_options(Command& command, RankOptions& options);

/// The device of this rank: of several GPUs, `auto` and `cuda` give rank r of a machine the one of number r modulo
/// their count. Collective. CPU threads and memory that are not given are this rank's share of what its machine has;
/// more threads than that are not taken, of which a warning tells.
/// Throws as CommonOptions::make_context().
Context make_rank_context(const Ranks& ranks, const CommonOptions& options);
/// How many ranks take memory of the same GPU, whatever number it has in each process (launchers may show each rank its
/// own as cuda:0), or, of the ranks without one, of the same machine. Collective.
int count_sharers(Communicator& communicator, const std::optional<CudaDevice::Identity>& gpu);

/// What a model directory holds, and when it had been read.
struct LoadedModel {
  Model model;
  Tokenizer tokenizer;
  std::chrono::steady_clock::time_point loaded_at;
};
/// The model that all ranks use, its weights hashed, and its tokenizer, read side by side.
LoadedModel load_rank_model(const Ranks& ranks, Context& context, const CommonOptions& options);

/// What this run of a job took, beside its result.
struct Spending {
  double matrix_flop = 0;  ///< operations in matrix products, of all ranks
  double seconds = 0;      ///< of this rank, from the loaded model to now
};
/// Collective.
Spending spending_of_all(const Ranks& ranks, const Context& context, const LoadedModel& loaded);
/// Adds `matrix_flop` and `seconds` to a job's JSON summary.
void add_spending(Json& summary, const Spending& spending);

/// Says on rank 0's log, as warnings, why records were left out.
void log_skipped(const Ranks& ranks, const std::vector<std::string>& reasons);
/// Says on rank 0's log what there is to tell about the records that were read.
void log_records(const Ranks& ranks, const RecordReport& report);

/// Starts the ranks of subcommands. One per process; says on the log who speaks.
class Launcher {
 public:
  /// `launched`: this process among those that a launcher started; null where it was started alone.
  explicit Launcher(Communicator* launched);

  /// Runs `rank_main` once per rank of this process and returns when all have returned. Errors of a rank are thrown.
  /// Throws UsageError for --ranks where a launcher has started several.
  void run(const RankOptions& options, const std::function<void(const Ranks&)>& rank_main);
  /// Throws UsageError for a command without --ranks where a launcher has started several processes.
  void require_shareable(const Command& command) const;
  /// What is said from now on. Throws InputError where the log file cannot be written.
  void configure_log(const LogOptions& options) { log_->configure(options); }

 private:
  Communicator* launched_;
  std::shared_ptr<RankLog> log_;
};

}  // namespace loci::app
