#include "runtime/processors.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/io/atomic_file.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

class ProcessorQuota : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = root_.path() / name;
    std::filesystem::create_directories(path.parent_path());
    write_file_atomically(path, text);
  }
  double quota(const std::string& membership) const { return processor_quota(membership, root_.path()); }

  TemporaryDir root_;
};

TEST_F(ProcessorQuota, IsInfiniteWhereNothingIsSaid) {
  EXPECT_TRUE(std::isinf(quota("")));
  EXPECT_TRUE(std::isinf(quota("0::/job\n")));
  write("job/cpu.max", "max 100000\n");
  EXPECT_TRUE(std::isinf(quota("0::/job\n")));
  EXPECT_TRUE(std::isinf(quota("nonsense\n")));
}

TEST_F(ProcessorQuota, OfVersion2IsTheSmallestOnTheWayUp) {
  write("cpu.max", "800000 100000\n");
  EXPECT_EQ(quota("0::/\n"), 8.0);
  write("slurm/job/cpu.max", "max 100000\n");
  write("slurm/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota("0::/slurm/job\n"), 1.5);
}

TEST_F(ProcessorQuota, OfVersion1) {
  write("cpu/docker/cpu.cfs_quota_us", "50000\n");
  write("cpu/docker/cpu.cfs_period_us", "25000\n");
  const std::string membership = "12:memory:/docker\n4:cpu,cpuacct:/docker\n3:cpuset:/docker\n0::/\n";
  EXPECT_EQ(quota(membership), 2.0);
  write("cpu/docker/cpu.cfs_quota_us", "-1\n");
  EXPECT_TRUE(std::isinf(quota(membership)));
}

TEST(UsableProcessors, IsAtLeastOne) { EXPECT_GE(usable_processors(), 1); }

}  // namespace
}  // namespace loci::test
