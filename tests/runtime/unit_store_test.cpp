#include "runtime/jobs/unit_store.h"

#include <gtest/gtest.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <ostream>

#include <chrono>
#include <thread>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_checksums.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::canonical_hash;
using test::error_of;
using test::expect_message;
using test::TemporaryDir;
namespace fs = std::filesystem;

constexpr int64_t kStoredUnits = 6;
const Json kStoreConfig = {{"command", "trace"}, {"noise", {{"kind", "s"}, {"factor", 3.0}}}, {"samples", 10}};

void write_unit(UnitStore& store, int64_t unit) {
  store.commit(unit, [&](H5File& shard) {
    write_dataset(shard, "/scores", std::vector<float>(100, static_cast<float>(unit) * 0.1f), {100});
    write_attribute(shard, "/", "seconds", 1.0);
  });
}

/// The scores of all units, one row per unit.
void write_scores(H5File& file, const UnitStore::OpenUnit& open_unit) {
  std::vector<float> all;
  for (int64_t unit = 0; unit < kStoredUnits; ++unit) {
    const std::vector<float> scores = read_dataset<float>(open_unit(unit), "/scores").values;
    all.insert(all.end(), scores.begin(), scores.end());
  }
  write_dataset(file, "/scores", all, {kStoredUnits, 100});
}

/// One run of a job; stops after `limit` new units as if it were interrupted.
void run_job(const std::string& output, int64_t limit = kStoredUnits) {
  UnitStore store(output, kStoreConfig, OnExisting::resume);
  if (store.complete()) return;
  for (int64_t unit = 0; unit < kStoredUnits; ++unit) {
    if (store.is_done(unit)) continue;
    if (limit-- == 0) return;
    write_unit(store, unit);
  }
  store.finish([&](H5File& file, const UnitStore::OpenUnit& open_unit) {
    write_scores(file, open_unit);
    write_attribute(file, "/", "date", std::to_string(std::chrono::system_clock::now().time_since_epoch().count()));
  });
  EXPECT_TRUE(store.complete());
}

class UnitStoreTest : public testing::Test {
 protected:
  std::string shard(int64_t unit) const { return output_ + ".parts/unit_00000" + std::to_string(unit) + ".h5"; }
  std::string mark(int64_t unit) const { return output_ + ".parts/unit_00000" + std::to_string(unit) + ".done"; }
  TemporaryDir dir_;
  std::string output_ = dir_.file("out.h5");
};

TEST_F(UnitStoreTest, RunsToTheEndAndLeavesOnlyTheOutput) {
  run_job(output_);
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
  EXPECT_FALSE(fs::exists(output_ + ".tmp"));
  const H5File file = H5File::open_read(output_);
  EXPECT_EQ(read_config(file), kStoreConfig);
  EXPECT_EQ(dataset_info(file, "/scores").shape, (std::vector<int64_t>{kStoredUnits, 100}));
  const UnitStore again(output_, kStoreConfig, OnExisting::resume);
  EXPECT_TRUE(again.complete());
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
}

TEST_F(UnitStoreTest, InterruptedAndWholeRunsGiveTheSame) {
  run_job(output_);
  const std::string whole = canonical_hash(output_);
  const std::string other = dir_.file("interrupted.h5");
  for (int64_t stop : {0, 1, 2, 1}) {
    run_job(other, stop);
    EXPECT_FALSE(fs::exists(other));
  }
  {
    const UnitStore store(other, kStoreConfig, OnExisting::resume);
    EXPECT_EQ(store.done_units(), (std::set<int64_t>{0, 1, 2, 3}));
    EXPECT_TRUE(store.repaired().empty());
  }
  run_job(other);
  EXPECT_EQ(canonical_hash(other), whole);
}

TEST_F(UnitStoreTest, KilledJobsAreContinued) {
  const pid_t child = fork();
  if (child == 0) {
    UnitStore store(output_, kStoreConfig, OnExisting::resume);
    write_unit(store, 0);
    store.commit(1, [](H5File& file) {
      create_group(file, "/half");
      kill(getpid(), SIGKILL);
    });
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  {
    const UnitStore store(output_, kStoreConfig, OnExisting::resume);
    EXPECT_EQ(store.done_units(), std::set<int64_t>{0});
    EXPECT_TRUE(store.repaired().empty());
    EXPECT_FALSE(fs::exists(shard(1) + ".tmp"));
  }
  run_job(output_);
  EXPECT_TRUE(fs::exists(output_));
}

TEST_F(UnitStoreTest, AnotherConfigurationIsRefused) {
  Json other = kStoreConfig;
  other["noise"]["factor"] = 1.0;
  run_job(output_, 2);
  const auto open = [&](const Json& config) {
    return error_of<ConfigurationMismatch>([&] { UnitStore store(output_, config, OnExisting::resume); });
  };
  expect_message(open(other), {output_ + ".parts", "noise.factor", "3.0", "1.0", "overwrite"});
  other = kStoreConfig;
  other.erase("samples");
  expect_message(open(other), {"samples", "made with 10", "none"});
  other = kStoreConfig;
  other["window"] = 5;
  expect_message(open(other), {"window", "made without", "5"});
  run_job(output_);
  EXPECT_EQ(open(other),
            fmt::format("{0}: belongs to another configuration (window: it was made without, now it is 5); "
                        "give overwrite to replace it, or another output than {0}",
                        output_));
  EXPECT_TRUE(fs::exists(output_));
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
}

TEST_F(UnitStoreTest, OverwriteStartsAnewButKeepsTheOldOutputUntilTheEnd) {
  run_job(output_);
  const std::string before = canonical_hash(output_);
  Json other = kStoreConfig;
  other["samples"] = 3;
  {
    UnitStore store(output_, other, OnExisting::overwrite);
    EXPECT_FALSE(store.complete());
    EXPECT_TRUE(store.done_units().empty());
    write_unit(store, 0);
    EXPECT_EQ(canonical_hash(output_), before);
  }
  {
    UnitStore store(output_, other, OnExisting::overwrite);
    EXPECT_TRUE(store.done_units().empty());
    write_unit(store, 0);
    store.finish([](H5File& file, const UnitStore::OpenUnit& open_unit) {
      copy_object(open_unit(0), "/scores", file, "/scores");
    });
  }
  EXPECT_EQ(read_config(H5File::open_read(output_)), other);
  EXPECT_NE(canonical_hash(output_), before);
}

TEST_F(UnitStoreTest, OnlyOneJobAtATime) {
  const UnitStore store(output_, kStoreConfig, OnExisting::resume);
  expect_message(error_of<SystemError>([&] { UnitStore second(output_, kStoreConfig, OnExisting::resume); }),
                 {output_, "another job", "process " + std::to_string(getpid()) + " on "});
  expect_message(error_of<SystemError>([&] { UnitStore second(output_, kStoreConfig, OnExisting::overwrite); }),
                 {output_, "another job"});
  EXPECT_TRUE(fs::exists(output_ + ".parts/config.json"));
}

TEST_F(UnitStoreTest, LockEndsWithItsHolder) {
  { const UnitStore store(output_, kStoreConfig, OnExisting::resume); }
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
  EXPECT_NO_THROW(UnitStore(output_, kStoreConfig, OnExisting::resume));
}

TEST_F(UnitStoreTest, ErrorsInUnitAndMergeLeaveNothing) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  write_unit(store, 0);
  error_of<NumericalError>([&] { store.commit(1, [](H5File&) { throw NumericalError("nan"); }); });
  EXPECT_FALSE(store.is_done(1));
  EXPECT_FALSE(fs::exists(shard(1)));
  EXPECT_FALSE(fs::exists(shard(1) + ".tmp"));
  error_of<NumericalError>([&] {
    store.finish([](H5File& file, const UnitStore::OpenUnit&) {
      create_group(file, "/x");
      throw NumericalError("nan");
    });
  });
  EXPECT_FALSE(store.complete());
  EXPECT_FALSE(fs::exists(output_));
  EXPECT_FALSE(fs::exists(output_ + ".tmp"));
  EXPECT_TRUE(fs::exists(shard(0)));
  error_of<ShapeError>([&] { write_unit(store, 0); });
  error_of<ShapeError>([&] { store.open_unit(3); });
}

struct Damage {
  std::string name;
  std::function<void(const std::string& shard, const std::string& mark)> apply;
  std::string cause;
};

// Tests are listed by it.
void PrintTo(const Damage& value, std::ostream* out) { *out << value.name; }

class DamagedUnit : public testing::TestWithParam<Damage> {};

TEST_P(DamagedUnit, IsReportedAndDoneAgain) {
  const TemporaryDir dir;
  run_job(dir.file("whole.h5"));
  const std::string output = dir.file("out.h5");
  run_job(output, 4);
  const std::string shard = output + ".parts/unit_000002.h5";
  const std::string mark = output + ".parts/unit_000002.done";
  GetParam().apply(shard, mark);
  {
    const UnitStore store(output, kStoreConfig, OnExisting::resume);
    EXPECT_EQ(store.done_units(), (std::set<int64_t>{0, 1, 3}));
    ASSERT_EQ(store.repaired().size(), 1u);
    expect_message(store.repaired()[0], {"unit 2 is done again", "unit_000002", GetParam().cause});
    EXPECT_FALSE(fs::exists(shard));
    EXPECT_FALSE(fs::exists(mark));
  }
  run_job(output);
  EXPECT_EQ(canonical_hash(output), canonical_hash(dir.file("whole.h5")));
}

void flip_byte(const std::string& path) {
  std::string bytes = read_text_file(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x40);
  write_file_atomically(path, std::string_view(bytes));
}

INSTANTIATE_TEST_SUITE_P(
    UnitStore, DamagedUnit,
    testing::Values(
        Damage{"shard_missing", [](auto& shard, auto&) { fs::remove(shard); }, "missing"},
        Damage{"shard_empty", [](auto& shard, auto&) { fs::resize_file(shard, 0); }, "0 bytes"},
        Damage{"shard_short", [](auto& shard, auto&) { fs::resize_file(shard, fs::file_size(shard) - 1); }, "bytes"},
        Damage{"shard_long", [](auto& shard, auto&) { fs::resize_file(shard, fs::file_size(shard) + 1); }, "bytes"},
        Damage{"shard_flipped", [](auto& shard, auto&) { flip_byte(shard); }, "SHA-256"},
        Damage{"mark_empty", [](auto&, auto& mark) { fs::resize_file(mark, 0); }, "line 1"},
        Damage{"mark_truncated", [](auto&, auto& mark) { fs::resize_file(mark, fs::file_size(mark) / 2); }, "line 1"},
        Damage{"mark_list", [](auto&, auto& mark) { write_file_atomically(mark, std::string_view("[]")); }, "\"size\""},
        Damage{"mark_no_hash",
               [](auto&, auto& mark) { write_file_atomically(mark, std::string_view(R"({"size": 1})")); },
               "\"sha256\" is missing"},
        Damage{"mark_other_hash",
               [](auto& shard, auto& mark) {
                 const Json json = {{"size", fs::file_size(shard)}, {"sha256", std::string(64, '0')}};
                 write_file_atomically(mark, json.dump());
               },
               "SHA-256"},
        Damage{
            "mark_negative_size",
            [](auto&, auto& mark) { write_file_atomically(mark, std::string_view(R"({"size": -1, "sha256": "x"})")); },
            "\"size\" is -1"}),
    [](const auto& param) { return param.param.name; });

TEST_F(UnitStoreTest, ShardDamagedDuringTheRunStopsTheMerge) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  write_unit(store, 0);
  flip_byte(shard(0));
  const std::string message = error_of<SystemError>([&] {
    store.finish(
        [](H5File& file, const UnitStore::OpenUnit& open) { copy_object(open(0), "/scores", file, "/scores"); });
  });
  expect_message(message, {"unit_000000.h5", "SHA-256", "run the command again"});
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(UnitStoreTest, DiscardedUnitsAreGone) {
  {
    UnitStore store(output_, kStoreConfig, OnExisting::resume);
    write_unit(store, 0);
    write_unit(store, 1);
    store.discard(0);
    EXPECT_FALSE(store.is_done(0));
    EXPECT_FALSE(fs::exists(shard(0)));
    EXPECT_FALSE(fs::exists(mark(0)));
    error_of<ShapeError>([&] { store.discard(0); });
  }
  const UnitStore again(output_, kStoreConfig, OnExisting::resume);
  EXPECT_EQ(again.done_units(), std::set<int64_t>{1});
  EXPECT_TRUE(again.repaired().empty());
}

TEST_F(UnitStoreTest, OutputsThatAreNotOursAreRefused) {
  const auto refused = [&](const std::vector<std::string>& parts) {
    const std::string message =
        error_of<InputError>([&] { UnitStore store(output_, kStoreConfig, OnExisting::resume); });
    expect_message(message, {output_, "overwrite"});
    expect_message(message, parts);
    EXPECT_FALSE(fs::exists(output_ + ".parts"));
  };
  write_file_atomically(output_, std::string_view("my thesis"));
  refused({"not an HDF5 file"});
  EXPECT_EQ(read_text_file(output_), "my thesis");
  write_hdf5_atomically(output_, [](H5File& file) { create_group(file, "/x"); });
  refused({"\"config\"", "is missing"});
  write_hdf5_atomically(output_, [](H5File& file) { write_attribute(file, "/", "config", "{\"a\": 1, \"a\": 2}"); });
  refused({"occurs twice"});
  write_hdf5_atomically(output_, [](H5File& file) { write_attribute(file, "/", "config", "[]"); });
  refused({"not a JSON object"});
}

TEST_F(UnitStoreTest, DamagedConfigOfAnInterruptedRunIsRefused) {
  run_job(output_, 2);
  const std::string config = output_ + ".parts/config.json";
  write_file_atomically(config, std::string_view("{\"comm"));
  const auto open = [&] {
    return error_of<InputError>([&] { UnitStore store(output_, kStoreConfig, OnExisting::resume); });
  };
  expect_message(open(), {config, "overwrite"});
  fs::remove(config);
  expect_message(open(), {config, "missing", "overwrite"});
  EXPECT_NO_THROW(UnitStore(output_, kStoreConfig, OnExisting::overwrite));
}

TEST_F(UnitStoreTest, MissingFolderIsNamed) {
  expect_message(
      error_of<InputError>([&] { UnitStore store(dir_.file("no/out.h5"), kStoreConfig, OnExisting::resume); }),
      {dir_.file("no/out.h5"), "does not exist"});
}

// ---- several ranks ----

constexpr UnitStore::Patience kNoPatience{0};

/// Runs what is not done in child processes, as ranks of one launch do.
void run_in_children(const std::string& output, int children, const std::string& launch,
                     const std::set<int64_t>& done) {
  std::vector<pid_t> ids;
  for (int child = 0; child < children; ++child) {
    ids.push_back(fork());
    if (ids.back() != 0) continue;
    UnitStore store = UnitStore::join(output, kStoreConfig, launch, done);
    for (int64_t unit = 0; unit < kStoredUnits; ++unit)
      if (store.claim(unit)) write_unit(store, unit);
    _exit(0);
  }
  for (const pid_t id : ids) {
    int status = 0;
    waitpid(id, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

void merge_scores(UnitStore& store) {
  store.finish([&](H5File& file, const UnitStore::OpenUnit& open_unit) {
    write_scores(file, open_unit);
    write_attribute(file, "/", "date", "now");
  });
}

std::set<int64_t> all_units() {
  std::set<int64_t> units;
  for (int64_t unit = 0; unit < kStoredUnits; ++unit) units.insert(unit);
  return units;
}

TEST_F(UnitStoreTest, RanksShareTheUnits) {
  run_job(output_);
  const std::string shared = dir_.file("shared.h5");
  run_job(shared, 1);
  {
    UnitStore store(shared, kStoreConfig, OnExisting::resume);
    store.share("a");
    run_in_children(shared, 3, "a", store.done_units());
    for (int64_t unit = 0; unit < kStoredUnits; ++unit) EXPECT_FALSE(store.claim(unit)) << unit;
    EXPECT_EQ(store.marked_units(), all_units());
    EXPECT_EQ(store.done_units(), std::set<int64_t>{0});
    store.adopt(all_units());
    EXPECT_EQ(store.done_units(), all_units());
    merge_scores(store);
  }
  EXPECT_EQ(canonical_hash(shared), canonical_hash(output_));
  EXPECT_FALSE(fs::exists(shared + ".parts"));
}

TEST_F(UnitStoreTest, AUnitIsClaimedOnce) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  EXPECT_TRUE(store.claim(0));
  EXPECT_TRUE(store.claim(0));  // nobody else is there
  store.share("a");
  UnitStore other = UnitStore::join(output_, kStoreConfig, "a", {});
  EXPECT_TRUE(store.claim(0));
  EXPECT_FALSE(other.claim(0));
  EXPECT_TRUE(other.claim(1));
  EXPECT_FALSE(store.claim(1));
  write_unit(other, 1);
  EXPECT_FALSE(other.claim(1));
  EXPECT_TRUE(UnitStore::join(output_, kStoreConfig, "a", {}).claim(5));
  error_of<ShapeError>([&] { store.share("b"); });
  error_of<ShapeError>([&] { other.share("b"); });
}

TEST_F(UnitStoreTest, ARefusalTellsWhatElseIsClaimed) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  store.share("a");
  for (const int64_t unit : {0, 1, 3}) EXPECT_TRUE(store.claim(unit));
  UnitStore other = UnitStore::join(output_, kStoreConfig, "a", {});
  EXPECT_FALSE(other.claim(0));
  // It does not ask again: it would get these now.
  for (const int64_t unit : {0, 1, 3}) fs::remove(output_ + fmt::format(".parts/claims_a/unit_{:06}.claim", unit));
  for (const int64_t unit : {0, 1, 3}) EXPECT_FALSE(other.claim(unit)) << unit;
  EXPECT_TRUE(other.claim(2));
  // After the launch, nobody has claimed anything.
  store.adopt({});
  EXPECT_TRUE(store.claim(0));
}

TEST_F(UnitStoreTest, TheOutputGrowsWhileUnitsAreComputed) {
  const std::string growing = output_ + ".parts/output.h5.tmp";
  {
    UnitStore store(output_, kStoreConfig, OnExisting::resume);
    store.share("a");
    UnitStore other = UnitStore::join(output_, kStoreConfig, "a", {});
    EXPECT_FALSE(store.open_if_whole(0));
    write_unit(other, 0);
    const auto shard = store.open_if_whole(0);
    ASSERT_TRUE(shard);
    copy_object(*shard, "/scores", store.output_file(), "/scores");
    EXPECT_TRUE(fs::exists(growing));
    EXPECT_FALSE(fs::exists(output_));
    error_of<ShapeError>([&] { other.output_file(); });
    write_unit(other, 1);
    fs::resize_file(output_ + ".parts/unit_000001.h5", 100);
    EXPECT_FALSE(store.open_if_whole(1));
  }
  EXPECT_FALSE(fs::exists(growing));  // the job was interrupted
  write_file_atomically(growing, "of a job that was killed");
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  EXPECT_FALSE(fs::exists(growing));
  copy_object(*store.open_if_whole(0), "/scores", store.output_file(), "/scores");
  store.finish([](H5File& file, const UnitStore::OpenUnit&) { write_attribute(file, "/", "kind", "test"); });
  const H5File file = H5File::open_read(output_);
  EXPECT_TRUE(h5_exists(file, "/scores"));
  EXPECT_EQ(read_string_attribute(file, "/", "kind"), "test");
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
  error_of<ShapeError>([&] { store.output_file(); });
}

TEST_F(UnitStoreTest, ClaimsOfADeadLaunchBlockNothing) {
  {
    UnitStore store(output_, kStoreConfig, OnExisting::resume);
    store.share("a");
    write_unit(store, 2);
    EXPECT_TRUE(store.claim(3));
  }
  UnitStore left = UnitStore::join(output_, kStoreConfig, "a", {2});  // of that launch, and still running
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  EXPECT_EQ(store.done_units(), std::set<int64_t>{2});
  EXPECT_FALSE(fs::exists(output_ + ".parts/claims_a"));
  store.share("b");
  EXPECT_TRUE(store.claim(3));
  EXPECT_FALSE(store.claim(2));
  // What it writes now reaches nothing.
  EXPECT_THROW(left.claim(4), SystemError);
  EXPECT_THROW(write_unit(left, 3), Error);
  EXPECT_FALSE(fs::exists(shard(3)) || fs::exists(mark(3)));
}

TEST_F(UnitStoreTest, RanksThatDoNotFitAreRefused) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  store.share("a");
  Json other = kStoreConfig;
  other["samples"] = 3;
  expect_message(error_of<InputError>([&] { UnitStore::join(output_, other, "a", {}, kNoPatience); }),
                 {output_, "samples", "rank 0"});
  expect_message(error_of<SystemError>([&] { UnitStore::join(output_, kStoreConfig, "b", {}, kNoPatience); }),
                 {"claims_b", "same file system"});
  expect_message(error_of<SystemError>([&] { UnitStore::join(dir_.file("x.h5"), kStoreConfig, "a", {}, kNoPatience); }),
                 {"x.h5", "same file system"});
}

TEST_F(UnitStoreTest, UnitsOfOtherRanksThatAreNotThereAreNamed) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  store.share("a");
  UnitStore other = UnitStore::join(output_, kStoreConfig, "a", {});
  write_unit(store, 0);
  write_unit(other, 1);
  write_unit(other, 2);
  fs::remove(shard(2));
  expect_message(error_of<SystemError>([&] {
                   store.adopt({0, 1, 2}, kNoPatience);
                 }),
                 {"unit 2", "not there", "run the command again"});
  fs::remove(mark(2));
  store.adopt({0, 1});
  EXPECT_EQ(store.done_units(), (std::set<int64_t>{0, 1}));
}

TEST_F(UnitStoreTest, ADamagedShardOfAnotherRankStopsTheMerge) {
  {
    UnitStore store(output_, kStoreConfig, OnExisting::resume);
    store.share("a");
    run_in_children(output_, 2, "a", {});
    store.adopt(all_units());
    flip_byte(shard(4));
    expect_message(error_of<SystemError>([&] { merge_scores(store); }), {"unit_000004.h5", "SHA-256"});
    EXPECT_FALSE(fs::exists(output_));
  }
  const UnitStore again(output_, kStoreConfig, OnExisting::resume);
  EXPECT_EQ(again.done_units(), (std::set<int64_t>{0, 1, 2, 3, 5}));
}

TEST_F(UnitStoreTest, RanksAskEachOtherToStop) {
  UnitStore alone(dir_.file("alone.h5"), kStoreConfig, OnExisting::resume);
  alone.ask_to_stop();
  EXPECT_FALSE(alone.asked_to_stop());
  {
    UnitStore store(output_, kStoreConfig, OnExisting::resume);
    store.share("a");
    UnitStore other = UnitStore::join(output_, kStoreConfig, "a", {});
    EXPECT_FALSE(store.asked_to_stop());
    other.ask_to_stop();
    other.ask_to_stop();
    EXPECT_TRUE(store.asked_to_stop());
    EXPECT_TRUE(other.asked_to_stop());
    store.adopt({});
  }
  EXPECT_FALSE(fs::exists(output_ + ".parts"));  // nothing was done
  UnitStore next(output_, kStoreConfig, OnExisting::resume);
  next.share("b");
  EXPECT_FALSE(next.asked_to_stop());
}

TEST_F(UnitStoreTest, RanksLeaveTheFolderToEachOther) {
  UnitStore store(output_, kStoreConfig, OnExisting::resume);
  store.share("a");
  { const UnitStore other = UnitStore::join(output_, kStoreConfig, "a", {}); }
  EXPECT_TRUE(fs::exists(output_ + ".parts/claims_a"));
  error_of<SystemError>([&] { UnitStore second(output_, kStoreConfig, OnExisting::resume); });
}

TEST_F(UnitStoreTest, CanonicalHashSeesDataNotTimes) {
  const auto write = [&](const std::string& name, float value, double seconds, int64_t seed) {
    write_hdf5_atomically(dir_.file(name), [&](H5File& file) {
      write_dataset(file, "/b", std::vector<float>(1000, value), {10, 100});
      write_attribute(file, "/b", "seconds", seconds);
      write_dataset(file, "/edit_seconds", std::vector<double>{seconds}, {});
      write_attribute(file, "/", "seed", seed);
      seal_result(file);
    });
    return canonical_hash(dir_.file(name));
  };
  const std::string first = write("1", 1.0f, 1.0, 7);
  EXPECT_EQ(write("2", 1.0f, 2.0, 7), first);
  EXPECT_NE(write("3", 1.5f, 1.0, 7), first);
  EXPECT_NE(write("4", 1.0f, 1.0, 8), first);
}

// ---- outputs that grow ----

/// A job over `items` numbers, `kPerUnit` in a unit.
class GrowingJob : public UnitStoreTest {
 protected:
  static constexpr int64_t kPerUnit = 4;

  UnitGrowth growth(int64_t items) {
    return {.items = items,
            .per_unit = kPerUnit,
            .name = "numbers",
            .count = [](const H5File& output) { return std::ssize(read_dataset<int64_t>(output, "/numbers").values); },
            .take =
                [this](const H5File& output, int64_t unit, H5File& shard) {
                  ++taken_;
                  const auto all = read_dataset<int64_t>(output, "/numbers").values;
                  const auto first = all.begin() + unit * kPerUnit;
                  write_dataset(shard, "/numbers", std::vector<int64_t>(first, first + kPerUnit), {kPerUnit});
                }};
  }

  static Json config(int64_t limit) { return {{"command", "count"}, {"limit", std::to_string(limit)}}; }

  /// Returns the units that were computed; computes at most `most`.
  std::vector<int64_t> run(int64_t items, int64_t most = 1000) {
    UnitStore store(output_, config(items), OnExisting::resume, growth(items));
    std::vector<int64_t> computed;
    const int64_t units = (items + kPerUnit - 1) / kPerUnit;
    for (int64_t unit = 0; unit < units && !store.complete(); ++unit) {
      if (store.is_done(unit)) continue;
      if (std::ssize(computed) == most) return computed;
      computed.push_back(unit);
      store.commit(unit, [&](H5File& shard) {
        std::vector<int64_t> numbers;
        for (int64_t i = unit * kPerUnit; i < std::min(items, (unit + 1) * kPerUnit); ++i) numbers.push_back(i * i);
        write_dataset(shard, "/numbers", numbers, {std::ssize(numbers)});
      });
    }
    if (store.complete()) return computed;
    store.finish([&](H5File& file, const UnitStore::OpenUnit& open_unit) {
      std::vector<int64_t> all;
      for (int64_t unit = 0; unit < units; ++unit)
        for (const int64_t number : read_dataset<int64_t>(open_unit(unit), "/numbers").values) all.push_back(number);
      EXPECT_EQ(std::ssize(all), items);
      write_dataset(file, "/numbers", all, {std::ssize(all)});
    });
    return computed;
  }

  std::string hash_of_fresh(int64_t items) {
    const std::string before = output_;
    output_ = dir_.file("fresh.h5");
    fs::remove(output_);
    run(items);
    const std::string hash = canonical_hash(output_);
    output_ = before;
    return hash;
  }

  int taken_ = 0;
};

TEST_F(GrowingJob, ComputesOnlyWhatIsMissing) {
  EXPECT_EQ(run(10), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(run(10), std::vector<int64_t>{});
  EXPECT_EQ(run(17), (std::vector<int64_t>{2, 3, 4}));  // unit 2 was not full
  EXPECT_EQ(taken_, 2);
  EXPECT_EQ(canonical_hash(output_), hash_of_fresh(17));
  EXPECT_EQ(run(20), std::vector<int64_t>{4});
  EXPECT_EQ(canonical_hash(output_), hash_of_fresh(20));
  EXPECT_EQ(run(24), std::vector<int64_t>{5});
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
}

TEST_F(GrowingJob, GoesOnWhereItWasInterruptedWithAnotherLimit) {
  EXPECT_EQ(run(10), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(run(30, 2), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(run(40, 1), std::vector<int64_t>{4});
  EXPECT_EQ(run(40), (std::vector<int64_t>{5, 6, 7, 8, 9}));
  EXPECT_EQ(taken_, 2);
  EXPECT_EQ(canonical_hash(output_), hash_of_fresh(40));
}

TEST_F(GrowingJob, APartOfAUnitIsDoneAgain) {
  EXPECT_EQ(run(11, 2), (std::vector<int64_t>{0, 1}));
  {
    UnitStore store(output_, config(11), OnExisting::resume, growth(11));
    store.commit(2, [](H5File& shard) { write_dataset(shard, "/numbers", std::vector<int64_t>{64, 81, 100}, {3}); });
  }
  EXPECT_EQ(run(21), (std::vector<int64_t>{2, 3, 4, 5}));
  EXPECT_EQ(canonical_hash(output_), hash_of_fresh(21));
}

TEST_F(GrowingJob, NeverLosesWhatIsThere) {
  run(10);
  const std::string before = read_text_file(output_);
  expect_message(error_of<InputError>([&] { run(6); }), {output_, "holds 10 numbers", "6", "limit 10", "overwrite"});
  EXPECT_EQ(read_text_file(output_), before);
  EXPECT_FALSE(fs::exists(output_ + ".parts"));
  run(40, 5);
  expect_message(error_of<InputError>([&] { run(12); }), {output_ + ".parts", "holds 40 numbers", "12"});
  EXPECT_EQ(run(40), (std::vector<int64_t>{7, 8, 9}));
}

TEST_F(GrowingJob, AnythingElseThatDiffersIsRefused) {
  run(4);
  const Json other = {{"command", "sum"}, {"limit", "8"}};
  expect_message(
      error_of<ConfigurationMismatch>([&] { UnitStore store(output_, other, OnExisting::resume, growth(8)); }),
      {"command", "overwrite"});
  // A job that cannot grow is told so as before.
  expect_message(error_of<ConfigurationMismatch>([&] { UnitStore store(output_, config(8), OnExisting::resume); }),
                 {"limit", "overwrite"});
}

TEST_F(GrowingJob, ADamagedOutputIsNotTakenOver) {
  run(8);
  std::string bytes = read_text_file(output_);
  const int64_t seven = 49;  // 7 * 7
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&seven), sizeof seven));
  ASSERT_NE(at, std::string::npos);
  bytes[at] = 48;
  write_file_atomically(output_, std::string_view(bytes));
  expect_message(error_of<InputError>([&] { run(12); }), {output_, "/numbers", "checksum", "overwrite"});
  expect_message(error_of<InputError>([&] { run(8); }), {output_, "/numbers", "checksum", "overwrite"});
}

}  // namespace
}  // namespace loci
