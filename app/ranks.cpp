#include "app/ranks.h"

#include <spdlog/spdlog.h>

#include <chrono>

#include "runtime/error.h"
#include "runtime/jobs/progress.h"
#include "runtime/ranks/communicator_threads.h"

namespace loci::app {

void add_rank_options(Command& command, RankOptions& options) {
  command.add({.name = "ranks",
               .value = &options.ranks,
               .type = "N",
               .help = "run as N ranks in threads of this process, for example one per GPU; under mpirun or srun each "
                       "process is a rank, without this option",
               .role = Role::no_effect,
               .group = Group::machine,
               .min = 1,
               .max = 1024});
  command.add({.name = "rank-timeout",
               .value = &options.timeout_seconds,
               .type = "SECONDS",
               .help = "how long to wait for a rank that does not come before the job is given up",
               .role = Role::no_effect,
               .group = Group::machine,
               .min = 0,
               .max = 1e9,
               .above_min = true});
}

Context make_rank_context(const Ranks& ranks, const CommonOptions& common) {
  const bool spread = common.device == "auto" || common.device == "cuda";
  CommonOptions without_threads = common;
  without_threads.threads = 0;
  ContextOptions options = without_threads.context_options();
  options.threads = common.threads;
  return make_rank_context(ranks.communicator, options, spread ? GpuChoice::one_a_rank : GpuChoice::the_given);
}

void add_spending(Json& summary, const Spending& spending) {
  summary["matrix_flop"] = spending.matrix_flop;
  summary["seconds"] = spending.seconds;
}

Launcher::Launcher(Communicator* launched) : launched_(launched), log_(std::make_shared<RankLog>()) {
  if (launched_) log_->set_process_rank(launched_->rank());
  log_->set_pattern("%^%l%$: %v");
  auto logger = std::make_shared<spdlog::logger>("loci", log_);
  auto progress = std::make_shared<spdlog::logger>(kProgressLogger, log_);
  for (const auto& one : {logger, progress})
    one->set_level(spdlog::level::trace);  // the sink leaves out what is not wanted
  spdlog::set_default_logger(std::move(logger));
  spdlog::drop(kProgressLogger);
  spdlog::register_logger(std::move(progress));
}

void Launcher::run(const RankOptions& options, const std::function<void(const Ranks&)>& rank_main) {
  const auto limit = std::chrono::milliseconds(static_cast<int64_t>(options.timeout_seconds * 1000));
  const Interruption interruption;
  if (launched_ && launched_->size() > 1) {
    require<UsageError>(options.ranks == 1, "--ranks {}: {} ranks were launched already; leave --ranks out",
                        options.ranks, launched_->size());
    launched_->set_time_limit(limit);
    return rank_main({*launched_, interruption});
  }
  if (options.ranks == 1) {
    SelfCommunicator self;
    return rank_main({self, interruption});
  }
  run_threads(options.ranks, {.communicator = {.time_limit = limit}}, [&](Communicator& communicator) {
    log_->enter_thread(communicator.rank());
    try {
      rank_main({communicator, interruption});
    } catch (...) {
      log_->leave_thread();
      throw;
    }
    log_->leave_thread();
  });
}

void Launcher::require_shareable(const Command& command) const {
  if (!launched_ || launched_->size() == 1 || command.find("ranks") != nullptr) return;
  throw_error<UsageError>("loci {} runs as one process, but {} were launched; start it without the launcher",
                          command.name(), launched_->size());
}

}  // namespace loci::app
