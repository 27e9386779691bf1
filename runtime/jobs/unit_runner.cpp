#include "runtime/jobs/unit_runner.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <optional>
#include <random>
#include <vector>

#include "runtime/clock.h"
#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/jobs/progress.h"

namespace loci {

Units::Units(std::vector<UnitPass> passes) : passes_(std::move(passes)) {
  for (const UnitPass& pass : passes_) ends_.push_back(count() + pass.count());
}

int64_t Units::items() const {
  int64_t sum = 0;
  for (const UnitPass& pass : passes_) sum += pass.items;
  return sum;
}

int64_t Units::first(int64_t unit) const { return (unit - first_unit(pass(unit))) * passes_[pass(unit)].per_unit; }

int64_t Units::size(int64_t unit) const {
  const UnitPass& of = passes_[pass(unit)];
  return std::min(of.per_unit, of.items - first(unit));
}

namespace {

/// A name that no other launch on the same output has.
std::string draw_launch_name() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

/// One byte for the signal that stopped a rank, then one bit per unit that it knows to be done.
std::vector<std::byte> pack_report(int signal, const std::set<int64_t>& done, int64_t units) {
  std::vector<std::byte> report(static_cast<size_t>(1 + (units + 7) / 8));
  report[0] = static_cast<std::byte>(signal);
  for (const int64_t unit : done) report.at(static_cast<size_t>(1 + unit / 8)) |= std::byte{1} << (unit % 8);
  return report;
}

void add_done(std::span<const std::byte> report, int64_t units, std::set<int64_t>& done) {
  for (int64_t unit = 0; unit < units; ++unit)
    if ((report[1 + unit / 8] & (std::byte{1} << (unit % 8))) != std::byte{0}) done.insert(unit);
}

int64_t items_of(const Units& units, const std::set<int64_t>& done) {
  int64_t items = 0;
  for (const int64_t unit : done) items += units.size(unit);
  return items;
}

/// Starts the progress line of a job; what an earlier run did is logged.
Progress start_progress(const UnitJob& job, const UnitStore& store) {
  const int64_t all = job.units.items(), done = items_of(job.units, store.done_units());
  if (done > 0)
    spdlog::info("{}: {} of {} {} {} done before", job.name, done, all, job.items, done == 1 ? "was" : "were");
  return Progress(job.name, job.items, all, done);
}

/// The progress of all ranks, on rank 0's log.
class SharedProgress {
 public:
  SharedProgress(const Ranks& ranks, const UnitJob& job, const UnitStore& store) : job_(job), store_(store) {
    if (ranks.is_root()) progress_.emplace(start_progress(job, store));
  }

  /// After a unit. Looking at the folder is not free on a network file system.
  void update() {
    if (!progress_ || Clock::now() - last_look_ < std::chrono::seconds(1)) return;
    advance_to(store_.marked_units());
    last_look_ = Clock::now();
  }
  /// After the ranks have met.
  void finish() {
    if (!progress_) return;
    advance_to(store_.done_units());
    progress_->finish();
  }

 private:
  void advance_to(const std::set<int64_t>& units) {
    progress_->advance(items_of(job_.units, units) - progress_->done());
  }

  const UnitJob& job_;
  const UnitStore& store_;
  std::optional<Progress> progress_;
  Clock::time_point last_look_ = Clock::now();
};

/// Merges units in their order, as far as they are done; rank 0 has one.
class Merger {
 public:
  Merger(const UnitMerge& merge, int64_t units, UnitStore& store) : merge_(merge), units_(units), store_(store) {}

  /// What is there by now, whoever computed it: so that little is left when the other ranks have nothing to do any
  /// more. After a resume that is much, so a job that is to stop leaves it.
  void take_finished(JobStore& jobs) {
    while (next_ < units_ && !jobs.should_stop()) {
      const std::optional<H5File> shard = store_.open_if_whole(next_);
      if (!shard) return;
      take(store_.output_file(), *shard);
    }
  }

  void finish() {
    store_.finish([&](H5File& output, const UnitStore::OpenUnit& open_unit) {
      start(output);
      while (next_ < units_) take(output, open_unit(next_));
      if (merge_.finish) merge_.finish(output);
    });
  }

 private:
  void start(H5File& output) {
    if (!started_ && merge_.start) merge_.start(output);
    started_ = true;
  }

  void take(H5File& output, const H5File& shard) {
    start(output);
    merge_.unit(output, shard);
    ++next_;
  }

  const UnitMerge& merge_;
  int64_t units_;
  UnitStore& store_;
  bool started_ = false;
  int64_t next_ = 0;
};

/// The units of one pass.
struct Pass {
  int64_t first, end;
  UnitOrder order;

  bool is_alone() const { return order == UnitOrder::one_by_one; }
};

/// Goes over the units of a pass once, from one of its own on: ranks that begin at different ones do not ask for the
/// same.
void take_units(JobStore& jobs, const UnitJob& job, const Pass& pass, int rank, SharedProgress& progress,
                Merger* merger) {
  UnitStore& store = jobs.store();
  const int64_t count = pass.end - pass.first;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t unit = pass.first + (rank + i) % count;
    if (store.is_done(unit)) {
      if (job.resume) job.resume(store, unit);
      continue;
    }
    // What is claimed and then not done, because the job is to stop, is left over like what nobody claimed.
    if (!store.claim(unit)) continue;
    if (jobs.should_stop()) return;
    store.commit(unit, job.compute(store, unit));
    progress.update();
    if (merger) merger->take_finished(jobs);
  }
}

/// The longest wait of a communicator: rank 0 may need days for units that depend on each other.
class NoTimeLimit {
 public:
  explicit NoTimeLimit(Communicator& communicator) : communicator_(communicator), before_(communicator.time_limit()) {
    communicator.set_time_limit(std::chrono::hours(24 * 30));
  }
  ~NoTimeLimit() { communicator_.set_time_limit(before_); }
  NoTimeLimit(const NoTimeLimit&) = delete;
  NoTimeLimit& operator=(const NoTimeLimit&) = delete;

 private:
  Communicator& communicator_;
  std::chrono::milliseconds before_;
};

}  // namespace

UnitStore JobOutput::open(const Json& config, std::optional<UnitGrowth> growth) const {
  spdlog::debug("configuration: {}", config.dump());
  return UnitStore(path, config, overwrite ? OnExisting::overwrite : OnExisting::resume, std::move(growth));
}

bool is_complete(const UnitStore& store, const Json& config) {
  if (store.complete())
    spdlog::info("{}: {} is complete already", config.at("command").get<std::string>(), store.output().string());
  return store.complete();
}

JobStore::JobStore(const Ranks& ranks, const JobOutput& output, const Json& config, std::optional<UnitGrowth> growth)
    : ranks_(ranks), job_(config.at("command").get<std::string>()) {
  std::string described;
  if (ranks.is_root()) described = open_as_root(output, config, std::move(growth));
  if (ranks.communicator.size() == 1) return;
  ranks.communicator.broadcast(described, 0, "the opening of the output");
  if (ranks.is_root()) return;
  const Json opened = parse_json(described, "rank 0's store");
  if (opened.at("complete").get<bool>()) return;
  store_.reset(new UnitStore(UnitStore::join(output.path, config, opened.at("launch").get<std::string>(),
                                             opened.at("done").get<std::set<int64_t>>())));
}

std::string JobStore::open_as_root(const JobOutput& output, const Json& config, std::optional<UnitGrowth> growth) {
  store_.reset(new UnitStore(output.open(config, std::move(growth))));
  if (is_complete(*store_, config)) {
    store_.reset();
    return Json({{"complete", true}}).dump();
  }
  const std::string launch = draw_launch_name();
  if (ranks_.communicator.size() > 1) store_->share(launch);
  return Json({{"complete", false}, {"launch", launch}, {"done", store_->done_units()}}).dump();
}

bool JobStore::should_stop() {
  ranks_.communicator.check_peers();
  if (stopping_) return true;
  if (ranks_.interruption.signal() != 0) store_->ask_to_stop();
  stopping_ = ranks_.interruption.signal() != 0 || store_->asked_to_stop();
  return stopping_;
}

void JobStore::end_pass(int64_t end, int64_t units, Readers readers) {
  Communicator& communicator = ranks_.communicator;
  const int own_signal = stopping_ ? ranks_.interruption.signal() : 0;
  const std::vector<std::byte> own = pack_report(own_signal, store_->done_units(), units);
  std::vector<std::byte> all(own.size() * static_cast<size_t>(communicator.size()));
  communicator.all_gather(own, all, "the end of the units");
  std::set<int64_t> done;
  int signal = 0;
  for (size_t rank = 0; rank < static_cast<size_t>(communicator.size()); ++rank) {
    const auto report = std::span<const std::byte>(all).subspan(rank * own.size(), own.size());
    signal = std::max(signal, static_cast<int>(report[0]));
    add_done(report, units, done);
  }
  if (readers == Readers::all_ranks)
    store_->learn(done);
  else if (ranks_.is_root())
    store_->adopt(done);
  const auto left_in_pass = end - std::distance(done.begin(), done.lower_bound(end)),
             missing = units - std::ssize(done);
  if (left_in_pass == 0) return;
  require<InterruptedError>(signal == 0,
                            "{}: interrupted by {}, {} of {} units are left; run the same command again to continue",
                            job_, signal_name(signal), missing, units);
  throw_error<SystemError>(
      "{}: {} of {} units were taken by a rank that did not write them; run the same command again", job_, missing,
      units);
}

namespace {

void run_pass(const Ranks& ranks, JobStore& jobs, const UnitJob& job, const Pass& pass, SharedProgress& progress,
              Merger* merger) {
  std::optional<NoTimeLimit> patience;
  if (pass.is_alone()) patience.emplace(ranks.communicator);
  const bool takes_part = !pass.is_alone() || ranks.is_root();
  const int rank = pass.is_alone() ? 0 : ranks.communicator.rank();
  if (takes_part) take_units(jobs, job, pass, rank, progress, merger);
  const bool last = pass.end == job.units.count();
  jobs.end_pass(pass.end, job.units.count(), last ? JobStore::Readers::root : JobStore::Readers::all_ranks);
  if (takes_part || last || !job.resume) return;
  for (int64_t unit = pass.first; unit < pass.end; ++unit) job.resume(jobs.store(), unit);
}

}  // namespace

int64_t run_units(const Ranks& ranks, const JobOutput& output, const Json& config, const UnitJob& job) {
  std::optional<UnitGrowth> growth;
  if (job.count_items) {
    const UnitPass& pass = job.units.passes().at(0);
    growth = UnitGrowth{pass.items, pass.per_unit, job.items, job.count_items, job.cut_unit};
  }
  JobStore jobs(ranks, output, config, std::move(growth));
  if (jobs.complete()) return job.units.items();
  const int64_t before = items_of(job.units, jobs.store().done_units());
  std::optional<Merger> merger;
  if (ranks.is_root()) merger.emplace(job.merge, job.units.count(), jobs.store());
  {
    SharedProgress progress(ranks, job, jobs.store());
    for (int64_t p = 0; p < std::ssize(job.units.passes()); ++p)
      run_pass(ranks, jobs, job, {job.units.first_unit(p), job.units.end_unit(p), job.units.passes()[p].order},
               progress, merger ? &*merger : nullptr);
    progress.finish();
  }
  if (merger) merger->finish();
  return before;
}

}  // namespace loci
