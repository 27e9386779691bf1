#include "runtime/processors.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <thread>

namespace loci {
namespace {

namespace fs = std::filesystem;
constexpr double kNoQuota = std::numeric_limits<double>::infinity();

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// "200000 100000" of cpu.max: microseconds in a period of so many. "max 100000": none.
double quota_of(const std::string& text) {
  std::istringstream words(text);
  double quota = 0, period = 0;
  return words >> quota >> period && quota > 0 && period > 0 ? quota / period : kNoQuota;
}

double quota_of_folder(const fs::path& folder) {
  const double version_2 = quota_of(text_of(folder / "cpu.max"));
  const double version_1 = quota_of(text_of(folder / "cpu.cfs_quota_us") + " " + text_of(folder / "cpu.cfs_period_us"));
  return std::min(version_2, version_1);
}

/// The smallest quota of `mount`/`path` and the folders above it up to `mount`.
double quota_up_from(const fs::path& mount, const std::string& path) {
  double smallest = quota_of_folder(mount);
  fs::path folder = mount;
  for (const fs::path& part : fs::path(path).relative_path()) {
    folder /= part;
    smallest = std::min(smallest, quota_of_folder(folder));
  }
  return smallest;
}

}  // namespace

double processor_quota(const std::string& membership, const fs::path& root) {
  double smallest = kNoQuota;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "4:cpu,cpuacct:/path", or "0::/path" for version 2
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,")
      smallest = std::min(smallest, quota_up_from(root, path));
    else if (controllers.find(",cpu,") != controllers.npos)
      smallest = std::min(smallest, quota_up_from(root / "cpu", path));
  }
  return smallest;
}

double processor_quota() { return processor_quota(cgroup_membership(), "/sys/fs/cgroup"); }

std::string cgroup_membership() { return text_of("/proc/self/cgroup"); }

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool known = ::sched_getaffinity(0, sizeof(set), &set) == 0;
  const double allowed = known ? CPU_COUNT(&set) : std::thread::hardware_concurrency();
  return static_cast<int>(std::max(1.0, std::min(allowed, std::ceil(processor_quota()))));
}

}  // namespace loci
