#include "runtime/ranks/rank_context.h"

#include <sched.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "runtime/processors.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// Where a rank runs.
struct RankCores {
  std::array<char, 256> host{};
  cpu_set_t cores{};
  double quota = 0;   ///< of its control group, in processors
  size_t cgroup = 0;  ///< ranks of a machine with the same one share its quota
};

RankCores this_place() {
  RankCores place;
  ::gethostname(place.host.data(), place.host.size() - 1);
  CPU_ZERO(&place.cores);
  if (::sched_getaffinity(0, sizeof(place.cores), &place.cores) != 0) CPU_SET(0, &place.cores);
  place.quota = processor_quota();
  place.cgroup = std::hash<std::string>()(cgroup_membership());
  return place;
}

/// This rank's share of the cores that it may use: launchers give ranks cores of their own, or the same ones to all.
int fair_threads(Communicator& communicator) {
  const RankCores mine = this_place();
  const std::vector<RankCores> places = communicator.all_gather_value(mine, "the sharing of cores");
  double share = 0;
  for (size_t core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &mine.cores)) continue;
    int users = 0;
    for (const RankCores& place : places) users += place.host == mine.host && CPU_ISSET(core, &place.cores);
    share += 1.0 / users;
  }
  const auto shares_quota = [&](const RankCores& place) {
    return place.host == mine.host && place.cgroup == mine.cgroup;
  };
  share = std::min(share, std::ceil(mine.quota) / static_cast<double>(std::ranges::count_if(places, shares_quota)));
  return std::max(1, static_cast<int>(share + 1e-6));
}

/// What a rank's tensors take memory of.
struct Memory {
  std::array<char, 256> host{};
  bool on_gpu = false;
  CudaDevice::Identity gpu{};
};

/// This rank's share of the processors where no number is given, and at most that.
int rank_threads(Communicator& communicator, int wanted) {
  const int share = fair_threads(communicator);
  if (wanted == 0) return share;
  if (wanted > share && communicator.is_root())
    spdlog::warn("{} {}: a rank may use {} here, so it runs as many threads; more would only slow it down",
                 option("threads"), wanted, count(share, "processor"));
  return std::min(wanted, share);
}

}  // namespace

int count_sharers(Communicator& communicator, const std::optional<CudaDevice::Identity>& gpu) {
  const Memory own{this_place().host, gpu.has_value(), gpu.value_or(CudaDevice::Identity{})};
  const std::vector<Memory> all = communicator.all_gather_value(own, "the sharing of memory");
  return static_cast<int>(std::ranges::count_if(all, [&](const Memory& other) {
    return other.on_gpu == own.on_gpu && (own.on_gpu ? other.gpu == own.gpu : other.host == own.host);
  }));
}

Context make_rank_context(Communicator& communicator, ContextOptions options, GpuChoice choice) {
  std::optional<CudaDevice::Identity> gpu;
  if (options.device.type == DeviceType::cuda) {
    if (choice == GpuChoice::one_a_rank) options.device.index = communicator.local_rank() % CudaDevice::count();
    gpu = CudaDevice::identity(options.device.index);
  }
  options.threads = rank_threads(communicator, options.threads);
  options.sharers = count_sharers(communicator, gpu);
  return Context(options);
}

}  // namespace loci
