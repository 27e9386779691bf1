#include "app/ranks.h"

#include <sched.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <numeric>

#include "app/rank_log.h"
#include "kernels/gemm.h"
#include "runtime/communicator_threads.h"
#include "runtime/device_communicator.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

/// Where a rank runs.
struct Place {
  std::array<char, 256> host{};
  cpu_set_t cores{};
};

Place this_place() {
  Place place;
  ::gethostname(place.host.data(), place.host.size() - 1);
  CPU_ZERO(&place.cores);
  if (::sched_getaffinity(0, sizeof(place.cores), &place.cores) != 0) CPU_SET(0, &place.cores);
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

void add_rank_options(CLI::App& command, RankOptions& options) {
  command
      .add_option(
          "--ranks", options.ranks,
          "run as N ranks in threads of this process, such as one a GPU; under mpirun or srun each process is a "
          "rank, without this flag")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--rank-timeout", options.timeout_seconds,
                  "seconds to wait for a rank that does not come before the job is given up")
      ->check(positive)
      ->capture_default_str();
}

Context make_rank_context(const Ranks& ranks, const CommonOptions& common) {
  Communicator& communicator = ranks.communicator;
  const bool spread = common.device == "auto" || common.device == "cuda";
  Device device = common.resolved_device();
  const int devices = device.type == DeviceType::cuda ? CudaDevice::count() : 1;
  if (device.type == DeviceType::cuda && spread) device.index = communicator.local_rank() % devices;
  ContextOptions options = common.context_options();
  options.device = device;
  if (common.threads == 0) options.threads = fair_threads(communicator);
  std::optional<CudaDevice::Identity> gpu;
  if (device.type == DeviceType::cuda) gpu = CudaDevice::identity(device.index);
  options.sharers = count_sharers(communicator, gpu);
  return Context(options);
}

LoadedModel load_rank_model(const Ranks& ranks, Context& context, const CommonOptions& options) {
  std::future<Tokenizer> tokenizer = std::async(std::launch::async, [&] { return Tokenizer::load(options.model); });
  Model model = Model::load(context, options.model, *make_device_communicator(ranks.communicator, context));
  model.checkpoint().weights_sha256(&context.threads());  // kept: every job's configuration holds it
  prepare_products(context);
  LoadedModel loaded{std::move(model), tokenizer.get(), std::chrono::steady_clock::now()};
  loaded.tokenizer.limit_to_embedding(loaded.model.config().vocabulary, options.model);
  return loaded;
}

Spending spending_of_all(const Ranks& ranks, const Context& context, const LoadedModel& loaded) {
  const auto all = ranks.communicator.all_gather_value(context.matrix_flop(), "the count of arithmetic");
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - loaded.loaded_at;
  return {std::accumulate(all.begin(), all.end(), 0.0), taken.count()};
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
  auto logger = std::make_shared<spdlog::logger>("loci", log_);
  logger->set_pattern("%^%l%$: %v");
  spdlog::set_default_logger(std::move(logger));
}

void Launcher::run(const RankOptions& options, const std::function<void(const Ranks&)>& rank_main) {
  const auto limit = std::chrono::milliseconds(static_cast<int64_t>(options.timeout_seconds * 1000));
  const Interruption interruption;
  if (launched_ && launched_->size() > 1) {
    require<InputError>(options.ranks == 1, "--ranks {}: {} ranks were launched already; leave --ranks out",
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

void Launcher::refuse_others(CLI::App& app) const {
  if (!launched_ || launched_->size() == 1) return;
  for (CLI::App* command : app.get_subcommands({})) {
    if (command->get_option_no_throw("--ranks") != nullptr) continue;
    command->preparse_callback([name = command->get_name(), size = launched_->size()](size_t) {
      throw_error<InputError>("loci {} runs as one process, but {} were launched; start it without the launcher", name,
                              size);
    });
  }
}

}  // namespace loci::app
