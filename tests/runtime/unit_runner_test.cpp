// The runner of units over ranks that are threads; ThreadSanitizer sees it.
#include "runtime/jobs/unit_runner.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <array>
#include <atomic>
#include <mutex>

#include "runtime/ranks/communicator_threads.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::canonical_hash;
using test::error_of;
using test::expect_message;
using test::TemporaryDir;

const Units kUnits{25, 2};
const Json kConfig = {{"command", "count"}, {"items", 25}};

/// A job that writes down which rank did which unit.
class CountingJob {
 public:
  explicit CountingJob(std::string path) : output_{.path = std::move(path), .overwrite = false} {}

  void run(const Ranks& ranks) {
    run_units(ranks, output_, kConfig,
              {.name = "count",
               .items = "items",
               .units = units,
               .compute = [&](const UnitStore&, int64_t unit) { return compute(ranks, unit); },
               .resume =
                   [&](const UnitStore& store, int64_t unit) {
                     EXPECT_TRUE(store.is_done(unit));
                     ++resumed;
                     ++resumed_by.at(static_cast<size_t>(ranks.communicator.rank()));
                   },
               .merge = {.start = [&](H5File&) { merge_started(ranks); },
                         .unit = [&](H5File& output, const H5File& shard) { merge_unit(output, shard); },
                         .finish = [&](H5File&) { ++merged; }}});
  }
  void run_as(int ranks) {
    const Interruption interruption;
    run_threads(ranks, {}, [&](Communicator& communicator) { run({communicator, interruption}); });
  }

  const std::string& path() const { return output_.path; }

  Units units = kUnits;
  std::function<void(const Ranks& ranks, int64_t unit)> before_unit = {};
  std::vector<std::pair<int, int64_t>> done;  ///< rank and unit, in order
  std::atomic<int> resumed = 0, merged = 0;
  std::array<std::atomic<int>, 8> resumed_by = {};
  int64_t units_merged = 0, merged_early = 0;  ///< the latter while some were not computed

 private:
  WriteShard compute(const Ranks& ranks, int64_t unit) {
    if (before_unit) before_unit(ranks, unit);
    {
      std::lock_guard lock(mutex_);
      done.emplace_back(ranks.communicator.rank(), unit);
    }
    return [unit, size = units.size(unit)](H5File& shard) {
      const std::vector<int64_t> values(static_cast<size_t>(size), unit);
      write_dataset(shard, "/values", values, {size});
    };
  }

  void merge_started(const Ranks& ranks) {
    EXPECT_TRUE(ranks.is_root());
    units_merged = merged_early = 0;
  }

  void merge_unit(H5File& output, const H5File& shard) {
    EXPECT_EQ(read_dataset<int64_t>(shard, "/values").values.at(0), units_merged);  // in order
    copy_object(shard, "/values", output, fmt::format("/values_{}", units_merged++));
    std::lock_guard lock(mutex_);
    if (std::ssize(done) < kUnits.count()) ++merged_early;
  }

  JobOutput output_;
  std::mutex mutex_;
};

class UnitRunner : public testing::Test {
 protected:
  std::string whole() {
    CountingJob job(dir_.file("whole.h5"));
    job.run_as(1);
    return canonical_hash(job.path());
  }
  TemporaryDir dir_;
};

TEST(SeveralPasses, HaveUnitsOfTheirOwn) {
  const Units units({{25, 10, UnitOrder::one_by_one}, {25, 10}, {0, 3}, {7, 1}, {4, 6}});
  ASSERT_EQ(units.count(), 3 + 3 + 0 + 7 + 1);
  EXPECT_EQ(units.items(), 25 + 25 + 7 + 4);
  std::vector<std::vector<int64_t>> seen(5);  // items of each pass
  for (int64_t unit = 0; unit < units.count(); ++unit) {
    const int64_t pass = units.pass(unit);
    EXPECT_TRUE(units.first_unit(pass) <= unit && unit < units.end_unit(pass)) << unit;
    for (int64_t item = 0; item < units.size(unit); ++item) seen[pass].push_back(units.first(unit) + item);
  }
  for (size_t pass = 0; pass < seen.size(); ++pass) {
    ASSERT_EQ(std::ssize(seen[pass]), units.passes()[pass].items);
    for (size_t i = 0; i < seen[pass].size(); ++i) EXPECT_EQ(seen[pass][i], static_cast<int64_t>(i));
  }
}

TEST_F(UnitRunner, EachUnitIsDoneOnceWhateverTheNumberOfRanks) {
  const std::string hash = whole();
  for (const int ranks : {1, 2, 3, 4}) {
    CountingJob job(dir_.file(std::to_string(ranks) + ".h5"));
    job.run_as(ranks);
    std::set<int64_t> units;
    for (const auto& [rank, unit] : job.done) EXPECT_TRUE(units.insert(unit).second) << unit;
    EXPECT_EQ(std::ssize(units), kUnits.count());
    EXPECT_EQ(job.merged, 1);
    EXPECT_EQ(canonical_hash(job.path()), hash);
    CountingJob again(job.path());
    again.run_as(ranks);
    EXPECT_TRUE(again.done.empty() && again.merged == 0);
  }
}

TEST_F(UnitRunner, SeveralRanksTakePart) {
  CountingJob job(dir_.file("out.h5"));
  job.before_unit = [](const Ranks&, int64_t) { usleep(5000); };
  job.run_as(3);
  std::set<int> ranks;
  for (const auto& [rank, unit] : job.done) ranks.insert(rank);
  EXPECT_EQ(ranks, (std::set<int>{0, 1, 2}));
  EXPECT_GT(job.merged_early, 0);
  EXPECT_EQ(job.units_merged, kUnits.count());
}

TEST_F(UnitRunner, ASignalStopsAllRanksBetweenUnits) {
  CountingJob job(dir_.file("out.h5"));
  std::atomic<int> started = 0;
  job.before_unit = [&](const Ranks& ranks, int64_t) {
    if (++started == 5) kill(getpid(), SIGUSR1);
    for (int i = 0; started >= 5 && i < 10000 && ranks.interruption.signal() == 0; ++i) usleep(1000);
  };
  const std::string message = error_of<InterruptedError>([&] { job.run_as(3); });
  expect_message(message, {"count", "SIGUSR1", "run the same command again"});
  EXPECT_GE(job.done.size(), 5u);
  EXPECT_LT(std::ssize(job.done), kUnits.count());
  EXPECT_EQ(job.merged, 0);
  const size_t before = job.done.size();
  job.before_unit = {};
  job.run_as(2);
  EXPECT_EQ(std::ssize(job.done), kUnits.count());
  EXPECT_EQ(static_cast<size_t>(job.resumed), 2 * before);  // by each of the two ranks
  EXPECT_EQ(canonical_hash(job.path()), whole());
}

TEST_F(UnitRunner, AnErrorInOneRankEndsAll) {
  CountingJob job(dir_.file("out.h5"));
  job.before_unit = [&](const Ranks&, int64_t unit) {
    if (unit == 7) throw NumericalError("unit 7 diverges");
  };
  expect_message(error_of<NumericalError>([&] { job.run_as(3); }), {"unit 7 diverges"});
  EXPECT_EQ(job.merged, 0);
  job.before_unit = {};
  job.done.clear();
  job.run_as(4);
  EXPECT_FALSE(job.done.empty());
  EXPECT_EQ(canonical_hash(job.path()), whole());
}

TEST_F(UnitRunner, UnitsThatDependOnEachOtherAreRankZeros) {
  CountingJob job(dir_.file("out.h5"));
  job.units = Units(25, 2, UnitOrder::one_by_one);
  job.before_unit = [&](const Ranks&, int64_t unit) {
    if (unit == 4) throw NumericalError("unit 4 diverges");
  };
  error_of<NumericalError>([&] { job.run_as(3); });
  job.before_unit = {};
  job.run_as(3);
  EXPECT_EQ(job.resumed, 4);
  ASSERT_EQ(std::ssize(job.done), kUnits.count());
  for (int64_t unit = 0; unit < kUnits.count(); ++unit) EXPECT_EQ(job.done[unit], (std::pair<int, int64_t>(0, unit)));
  EXPECT_EQ(canonical_hash(job.path()), whole());
}

// A first pass by rank 0 alone, whose results all ranks take up before they share the second.
TEST_F(UnitRunner, ASecondPassIsSharedByAllRanks) {
  CountingJob one(dir_.file("one.h5")), job(dir_.file("out.h5"));
  for (CountingJob* two_passes : {&one, &job})
    two_passes->units = Units({{25, 2, UnitOrder::one_by_one}, {11, 1, UnitOrder::any}});
  one.run_as(1);
  const int64_t per_pass = job.units.end_unit(0);
  std::atomic<int> early = 0;
  job.before_unit = [&](const Ranks& ranks, int64_t unit) {
    if (unit < per_pass) return;
    if (unit == per_pass + 5) throw NumericalError("the second pass diverges");
    const int rank = ranks.communicator.rank();  // rank 0 has computed the first pass itself
    early += rank > 0 && job.resumed_by.at(static_cast<size_t>(rank)) < per_pass;
    usleep(5000);
  };
  error_of<NumericalError>([&] { job.run_as(3); });
  job.before_unit = {};
  job.done.clear();
  job.resumed = 0;
  job.before_unit = [](const Ranks&, int64_t) { usleep(5000); };
  job.run_as(3);
  EXPECT_EQ(early, 0);
  std::set<int> ranks;
  for (const auto& [rank, unit] : job.done) {
    EXPECT_GE(unit, per_pass) << "the first pass was done before";
    ranks.insert(rank);
  }
  EXPECT_EQ(ranks, (std::set<int>{0, 1, 2}));
  EXPECT_GE(job.resumed, 3 * per_pass) << "of the first pass, by each rank";
  EXPECT_EQ(canonical_hash(job.path()), canonical_hash(one.path()));
}

TEST_F(UnitRunner, RefusalsOfTheStoreEndAllRanks) {
  CountingJob job(dir_.file("out.h5"));
  const UnitStore other(job.path(), kConfig, OnExisting::resume);
  expect_message(error_of<SystemError>([&] { job.run_as(3); }), {"another job"});
  EXPECT_TRUE(job.done.empty());
}

}  // namespace
}  // namespace loci
