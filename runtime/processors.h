#pragma once

#include <filesystem>
#include <string>

namespace loci {

/// How many processors this process may use: its affinity, and the CPU quota of its control group (containers, batch
/// systems), rounded up.
int usable_processors();

/// The CPU quota of a control group and of those around it, in processors; infinite where there is none. `membership`
/// is the text of /proc/self/cgroup, `root` is where control groups are mounted. Versions 1 and 2.
double processor_quota(const std::string& membership, const std::filesystem::path& root);
/// Of this process.
double processor_quota();
/// The text of /proc/self/cgroup: processes with the same one share a quota.
std::string cgroup_membership();

}  // namespace loci
