#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/jobs/interruption.h"
#include "runtime/jobs/unit_store.h"
#include "runtime/ranks/communicator.h"

/// Jobs that consist of units of work, on one rank or several.
namespace loci {

/// One rank's view of its job.
struct Ranks {
  Communicator& communicator;
  const Interruption& interruption;

  bool is_root() const { return communicator.is_root(); }
};

enum class UnitOrder {
  any,         ///< units do not depend on each other: ranks take them as they come
  one_by_one,  ///< rank 0 does all in order; the others wait, and then take up what it left
};

/// A pass over items (facts, requests, records) in units of equal size; the last may be smaller.
struct UnitPass {
  int64_t items;
  int64_t per_unit;
  UnitOrder order = UnitOrder::any;

  int64_t count() const { return (items + per_unit - 1) / per_unit; }
};

/// The units of a job for its UnitStore: those of its passes, one pass after the other.
class Units {
 public:
  Units(int64_t items, int64_t per_unit, UnitOrder order = UnitOrder::any)
      : Units(std::vector<UnitPass>{{items, per_unit, order}}) {}
  explicit Units(std::vector<UnitPass> passes);

  const std::vector<UnitPass>& passes() const { return passes_; }
  int64_t count() const { return ends_.empty() ? 0 : ends_.back(); }
  int64_t items() const;  ///< of all passes

  int64_t pass(int64_t unit) const { return std::ranges::upper_bound(ends_, unit) - ends_.begin(); }
  int64_t first_unit(int64_t pass) const { return pass == 0 ? 0 : ends_[pass - 1]; }
  int64_t end_unit(int64_t pass) const { return ends_[pass]; }

  /// The items of a unit among those of its pass.
  int64_t first(int64_t unit) const;
  int64_t size(int64_t unit) const;
  template <typename T>
  std::span<const T> slice(std::span<const T> all, int64_t unit) const {
    return all.subspan(static_cast<size_t>(first(unit)), static_cast<size_t>(size(unit)));
  }

 private:
  std::vector<UnitPass> passes_;
  std::vector<int64_t> ends_;  // of each pass, among all units
};

/// The file that a job writes.
struct JobOutput {
  std::string path;
  bool overwrite = false;  ///< an existing one is replaced, not continued

  /// The job's results so far. Logs the resolved configuration, with which they must have been made.
  UnitStore open(const Json& config, std::optional<UnitGrowth> growth = std::nullopt) const;
};
/// A job as its caller describes it.
struct JobDescription {
  JobOutput output;
  Json config;  ///< settings that decide about the result, with the key `command`; the job adds what it has read
  Json inputs = Json::object();  ///< Provenance::inputs
  std::string model_name = {};   ///< for titles and tables
};

/// Whether nothing is left to do, which is logged.
bool is_complete(const UnitStore& store, const Json& config);

/// A job's store as its ranks share it. Rank 0 opens it and holds its lock, the others join. All ranks make the same
/// calls of the constructor and close().
class JobStore {
 public:
  /// Throws on rank 0 what JobOutput::open() does, on the others what UnitStore::join() does.
  JobStore(const Ranks& ranks, const JobOutput& output, const Json& config,
           std::optional<UnitGrowth> growth = std::nullopt);

  /// Nothing is left to do (which rank 0 has logged), and there is no store().
  bool complete() const { return !store_; }
  UnitStore& store() { return *store_; }

  /// Whether to take no more units: this rank got a signal, or another one that shares the store. Throws where another
  /// rank of this process has failed.
  bool should_stop();
  /// Who will read the units that ranks have done.
  enum class Readers { root, all_ranks };
  /// After the last unit of a pass, the units before `end` among all: waits for the other ranks. Then the stores of
  /// `readers` have all that was committed. Throws InterruptedError, on all ranks, where some of the units are missing
  /// because a rank was asked to stop; SystemError where they are for no reason.
  void end_pass(int64_t end, int64_t all, Readers readers);

 private:
  /// Returns what the others need to join.
  std::string open_as_root(const JobOutput& output, const Json& config, std::optional<UnitGrowth> growth);

  const Ranks& ranks_;
  std::string job_;
  std::unique_ptr<UnitStore> store_;
  bool stopping_ = false;
};

/// Writes the results of a unit to its shard.
using WriteShard = std::function<void(H5File& shard)>;

/// How rank 0 puts the output together, in part while units are still computed.
struct UnitMerge {
  std::function<void(H5File& output)> start = {};  ///< before the first unit; may be empty
  /// Takes over a unit's results. Units come in their order, each once.
  std::function<void(H5File& output, const H5File& shard)> unit;
  std::function<void(H5File& output)> finish = {};  ///< after the last unit; may be empty
};

/// What a job does with its units.
struct UnitJob {
  std::string name;   ///< "trace"
  std::string items;  ///< "facts"
  Units units;
  /// Does a unit; what it returns is called once, at once. The store has the units of all passes before.
  std::function<WriteShard(const UnitStore& store, int64_t unit)> compute;
  /// Takes up what a unit left that an earlier run, or in a pass one_by_one rank 0, did. May be empty.
  std::function<void(const UnitStore& store, int64_t unit)> resume = {};
  UnitMerge merge;
  /// How a finished output of fewer items is cut into units again, so that --limit can grow: UnitGrowth::count and
  /// take. May be empty; for jobs of one pass.
  std::function<int64_t(const H5File& output)> count_items = {};
  std::function<void(const H5File& output, int64_t unit, H5File& shard)> cut_unit = {};
};

/// Does the units that no earlier run has done, and merges them: afterwards the output is complete. Collective. Throws
/// what JobStore does, and what the callbacks do. Returns, on rank 0, how many items of all passes earlier runs have
/// done.
int64_t run_units(const Ranks& ranks, const JobOutput& output, const Json& config, const UnitJob& job);

}  // namespace loci
