#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "app/common.h"
#include "model/loaded_model.h"
#include "runtime/jobs/rank_log.h"
#include "runtime/ranks/communicator.h"
#include "runtime/ranks/rank_context.h"

/// The ranks that a subcommand runs as: processes that mpirun or srun started, or threads of this one (`--ranks N`).
namespace loci::app {

/// --ranks and --rank-timeout of subcommands that several ranks can share.
struct RankOptions {
  int ranks = 1;
  double timeout_seconds = 1800;
};
void add_rank_options(Command& command, RankOptions& options);

/// The device of this rank (runtime/ranks/rank_context.h): `auto` and `cuda` give each rank a GPU of its own.
Context make_rank_context(const Ranks& ranks, const CommonOptions& options);

/// Adds `matrix_flop` and `seconds` to a job's JSON summary.
void add_spending(Json& summary, const Spending& spending);

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
