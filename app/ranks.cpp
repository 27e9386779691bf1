#include "app/ranks.h"

#include <sched.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <future>
#include <numeric>

#include "kernels/gemm.h"
#include "runtime/error.h"
#include "runtime/jobs/progress.h"
#include "runtime/processors.h"
#include "runtime/ranks/communicator_threads.h"
#include "runtime/ranks/device_communicator.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

/// Where a rank runs.
struct Place {
  std::array<char, 256> host{};
  cpu_set_t cores{};
  double quota = 0;   ///< of its control group, in processors
  size_t cgroup = 0;  ///< ranks of a machine with the same one share its quota
};

Place this_place() {
  Place place;
  ::gethostname(place.host.data(), place.host.size() - 1);
  CPU_ZERO(&place.cores);
  if (::sched_getaffinity(0, sizeof(place.cores), &place.cores) != 0) CPU_SET(0, &place.cores);
  place.quota = processor_quota();
  place.cgroup = std::hash<std::string>()(cgroup_membership());
  return place;
}

/// This rank's share of the cores that it may use: launchers give ranks cores of their own, or the same ones to all.
int fair_threads(Communicator& communicator) {
  const Place mine = this_place();
  const std::vector<Place> places = communicator.all_gather_value(mine, "the sharing of cores");
  double share = 0;
  for (size_t core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &mine.cores)) continue;
    int users = 0;
    for (const Place& place : places) users += place.host == mine.host && CPU_ISSET(core, &place.cores);
    share += 1.0 / users;
  }
  const auto shares_quota = [&](const Place& place) { return place.host == mine.host && place.cgroup == mine.cgroup; };
  share = std::min(share, std::ceil(mine.quota) / static_cast<double>(std::ranges::count_if(places, shares_quota)));
  return std::max(1, static_cast<int>(share + 1e-6));
}

/// What a rank's tensors take memory of.
struct Memory {
  std::array<char, 256> host{};
  bool on_gpu = false;
  CudaDevice::Identity gpu{};
};

}  // namespace

int count_sharers(Communicator& communicator, const std::optional<CudaDevice::Identity>& gpu) {
  const Memory own{this_place().host, gpu.has_value(), gpu.value_or(CudaDevice::Identity{})};
  const std::vector<Memory> all = communicator.all_gather_value(own, "the sharing of memory");
  return static_cast<int>(std::ranges::count_if(all, [&](const Memory& other) {
    return other.on_gpu == own.on_gpu && (own.on_gpu ? other.gpu == own.gpu : other.host == own.host);
  }));
}

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

namespace {

/// This rank's share of the processors where no number is given, and at most that.
int rank_threads(const Ranks& ranks, int wanted) {
  const int share = fair_threads(ranks.communicator);
  if (wanted == 0) return share;
  if (wanted > share && ranks.is_root())
    spdlog::warn("--threads {}: a rank may use {} here, so it runs as many threads; more would only slow it down",
                 wanted, count(share, "processor"));
  return std::min(wanted, share);
}

}  // namespace

Context make_rank_context(const Ranks& ranks, const CommonOptions& common) {
  Communicator& communicator = ranks.communicator;
  const bool spread = common.device == "auto" || common.device == "cuda";
  Device device = common.resolved_device();
  const int devices = device.type == DeviceType::cuda ? CudaDevice::count() : 1;
  if (device.type == DeviceType::cuda && spread) device.index = communicator.local_rank() % devices;
  CommonOptions shared = common;
  shared.threads = rank_threads(ranks, common.threads);
  ContextOptions options = shared.context_options();
  options.device = device;
  std::optional<CudaDevice::Identity> gpu;
  if (device.type == DeviceType::cuda) gpu = CudaDevice::identity(device.index);
  options.sharers = count_sharers(communicator, gpu);
  return Context(options);
}

LoadedModel load_rank_model(const Ranks& ranks, Context& context, const CommonOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  std::future<Tokenizer> tokenizer = std::async(std::launch::async, [&] { return Tokenizer::load(options.model); });
  Model model = Model::load(context, options.model, *make_device_communicator(ranks.communicator, context));
  model.checkpoint().weights_sha256(&context.threads());  // kept: every job's configuration holds it
  prepare_products(context);
  LoadedModel loaded{std::move(model), tokenizer.get(), std::chrono::steady_clock::now()};
  const std::chrono::duration<double> taken = loaded.loaded_at - begin;
  spdlog::debug("{}: read in {}", options.model, duration_text(taken.count()));
  loaded.tokenizer.limit_to_embedding(loaded.model.config().vocabulary, options.model);
  return loaded;
}

Spending spending_of_all(const Ranks& ranks, const Context& context, const LoadedModel& loaded) {
  const auto all = ranks.communicator.all_gather_value(context.matrix_flop(), "the count of arithmetic");
  return {std::accumulate(all.begin(), all.end(), 0.0), seconds_since(loaded.loaded_at)};
}

void add_spending(Json& summary, const Spending& spending) {
  summary["matrix_flop"] = spending.matrix_flop;
  summary["seconds"] = spending.seconds;
}

void log_skipped(const Ranks& ranks, const std::vector<std::string>& reasons) {
  if (!ranks.is_root()) return;
  for (const std::string& reason : reasons) spdlog::warn("skipped: {}", reason);
}

void log_records(const Ranks& ranks, const RecordReport& report) {
  constexpr size_t kMost = 10;
  if (!ranks.is_root()) return;
  if (!report.trimmed.empty()) spdlog::info("{}", report.trimmed);
  for (size_t i = 0; i < std::min(kMost, report.warnings.size()); ++i) spdlog::warn("{}", report.warnings[i]);
  if (report.warnings.size() > kMost) spdlog::warn("and {} more records like these", report.warnings.size() - kMost);
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
