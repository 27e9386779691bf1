#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5.h"
#include "runtime/io/json.h"
#include "runtime/jobs/output_lock.h"

namespace loci {

enum class OnExisting { resume, overwrite };

/// "trace.noise: it was made with 3, now it is 1": the first place where two configurations differ; empty if none.
std::string first_difference(const Json& before, const Json& now);
/// Throws ConfigurationMismatch, with what differs, where `found`, of the job that writes `output`, is of another one.
void require_same_configuration(const Json& before, const Json& now, const std::filesystem::path& found,
                                const std::filesystem::path& output);

/// How a job over more items takes over what an earlier one did over fewer (--limit). Its units are fixed slices of the
/// items, so all but a last one that was not full are the same.
struct UnitGrowth {
  int64_t items;
  int64_t per_unit;
  std::string name;  ///< of the items: "facts"
  /// How many items a finished output holds.
  std::function<int64_t(const H5File& output)> count;
  /// Writes the shard of a unit as it was before it was merged into `output`.
  std::function<void(const H5File& output, int64_t unit, H5File& shard)> take;
};

/// The results of a job that consists of numbered units (fixed slices of its input), kept so that an interrupted job
/// continues where it stopped and the result does not depend on how often it stopped.
///
/// Beside `output` lies the folder `output`.parts: `config.json` (the configuration the units belong to), one immutable
/// shard `unit_000012.h5` per unit, and its completion mark `unit_000012.done` (JSON: size and SHA-256 of the shard). A
/// unit counts as done only if its mark verifies; a shard that does not is reported and done again. finish() merges the
/// shards into `output`, whose root attribute `config` says what it is, and removes the folder.
///
/// Several ranks of one launch may work on it: one opens it and calls share(), the others join(). Then a unit belongs
/// to the rank that claim() says so to, by exclusive creation of a file in the folder `claims_{launch}` among the
/// parts; shards are written there and moved when whole, so what a rank of a dead launch still writes reaches nothing:
/// the next launch removes the folder. In the end the rank that opened the store hears what all have committed:
/// adopt().
class UnitStore {
 public:
  /// How long network file systems may take to show what another machine made.
  using Patience = std::chrono::milliseconds;
  static constexpr Patience kPatience = std::chrono::seconds(60);

  /// `config` is the resolved configuration without anything that may change between runs (paths of outputs, threads).
  /// Throws ConfigurationMismatch if `output` or its parts were made with another configuration (naming the first key
  /// that differs), SystemError if another job holds the lock (naming its process and host). OnExisting::overwrite
  /// removes old parts; an old output stays until finish() replaces it. With `growth` the key `limit` of the
  /// configuration may be another than before: the full units of an output of fewer items are done already. Throws
  /// InputError where the output, or its parts, hold more items.
  UnitStore(std::filesystem::path output, const Json& config, OnExisting on_existing,
            std::optional<UnitGrowth> growth = std::nullopt);
  /// The store that another rank has opened and shared under the name `launch`, with the units that it found done.
  /// Throws SystemError if its folder cannot be seen from here, ConfigurationMismatch if it belongs to another one.
  static UnitStore join(std::filesystem::path output, const Json& config, const std::string& launch,
                        std::set<int64_t> done_units, Patience patience = kPatience);
  ~UnitStore();
  UnitStore(const UnitStore&) = delete;
  UnitStore& operator=(const UnitStore&) = delete;

  const std::filesystem::path& output() const { return output_; }
  /// True if the output was there, whole, with this configuration, at construction, or finish() has returned: nothing
  /// is left to do.
  bool complete() const { return phase_ == Phase::complete; }
  /// Units found done at construction plus those committed since.
  const std::set<int64_t>& done_units() const { return done_; }
  bool is_done(int64_t unit) const { return done_.contains(unit); }
  /// What was found broken at construction and will be done again: one sentence each, also logged as warnings.
  const std::vector<std::string>& repaired() const { return repaired_; }

  /// Writes the shard of `unit` (atomically) and then its mark. A unit that is done may not be committed again.
  void commit(int64_t unit, const std::function<void(H5File& shard)>& write);
  /// Opens the store to the other ranks of a launch; `launch` is a name that no other launch has.
  void share(const std::string& launch);
  /// Whether this rank is to do `unit`: it is not done, and no other rank has claimed it. A store that is not shared
  /// has no other ranks. A refusal makes this rank look at all claims, so that it asks no more for those units.
  bool claim(int64_t unit);
  /// Tells the ranks of the launch, without a message, to take no more units.
  void ask_to_stop();
  bool asked_to_stop() const;
  /// The units that have a mark, whoever wrote it; for progress: nothing is verified.
  std::set<int64_t> marked_units() const;
  /// What other ranks have committed is done too. Throws SystemError, naming the unit, if a shard cannot be seen from
  /// here.
  void learn(const std::set<int64_t>& committed, Patience patience = kPatience);
  /// The same after the other ranks have left: the store is not shared any more.
  void adopt(const std::set<int64_t>& committed, Patience patience = kPatience);

  /// Takes back a done unit and removes its shard: for jobs whose later units hold all that earlier ones do.
  void discard(int64_t unit);
  /// The shard of a done unit, verified again.
  H5File open_unit(int64_t unit) const;

  /// The shard of any rank's unit, if its mark can be seen and verifies.
  std::optional<H5File> open_if_whole(int64_t unit) const;
  /// The coming output, a new file among the parts: what is written before finish() need not be written there.
  H5File& output_file();

  using OpenUnit = std::function<H5File(int64_t unit)>;
  /// `merge` copies what it needs from the shards into the output, which then replaces an old one whole; the attribute
  /// `config` is written here. The parts are removed after the output is durable.
  void finish(const std::function<void(H5File& output, const OpenUnit& open_unit)>& merge);

 private:
  enum class Phase { running, complete };
  struct GrowingOutput {
    explicit GrowingOutput(const std::filesystem::path& output, const std::filesystem::path& parts);
    AtomicPath path;
    H5File file;
  };

  UnitStore(std::filesystem::path output, const Json& config, const std::string& launch, std::set<int64_t> done_units,
            Patience patience);
  void check_output(OnExisting on_existing);
  void open_parts(OnExisting on_existing);
  Json described() const;
  void fit_parts(Json before);
  void require_no_more(int64_t held, const std::string& where) const;
  void take_over_units();
  void scan_units();
  void list_claims();
  void move_into_place(const std::filesystem::path& from, const std::filesystem::path& to) const;
  std::filesystem::path shard_path(int64_t unit) const;
  std::filesystem::path mark_path(int64_t unit) const;

  std::filesystem::path output_;
  std::filesystem::path parts_;
  Json config_;
  std::optional<UnitGrowth> growth_;
  int64_t held_ = 0;                  // items of an output that is to grow
  std::unique_ptr<OutputLock> lock_;  // null for a store that was joined
  std::filesystem::path claims_;      // empty while the store is not shared
  std::set<int64_t> claimed_;         // by any rank, as far as this one has seen
  std::set<int64_t> done_;
  std::vector<std::string> repaired_;
  std::unique_ptr<GrowingOutput> growing_;
  Phase phase_ = Phase::running;
};

/// The configuration stored in a result file's root attribute `config`; InputError if there is none.
Json read_config(const H5File& file);

}  // namespace loci
