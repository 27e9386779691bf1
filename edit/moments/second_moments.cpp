#include "edit/moments/second_moments.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <exception>
#include <future>
#include <set>
#include <utility>

#include "edit/moments/direction_probe.h"
#include "edit/moments/moment_totals.h"
#include "runtime/clock.h"
#include "runtime/error.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/io/npz.h"
#include "runtime/jobs/progress.h"
#include "runtime/wording.h"

namespace loci {
namespace {

std::string layer_group(int64_t layer) { return fmt::format("/layers/{}", layer); }

int64_t token_count(std::span<const std::vector<int32_t>> documents) {
  int64_t tokens = 0;
  for (const auto& document : documents) tokens += std::ssize(document);
  return tokens;
}

}  // namespace

SecondMomentCollector::SecondMomentCollector(Executor& executor, std::vector<int64_t> layers)
    : executor_(executor), layers_(std::move(layers)) {
  const Architecture& config = executor.model().config();
  require<InputError>(!layers_.empty(), "no layers are given; name them with {}", option("layers"));
  std::set<int64_t> distinct;
  for (const int64_t layer : layers_) {
    require<InputError>(layer >= 0 && layer < config.layers,
                        "layer {} is asked for, but the model has the layers 0 to {}", layer, config.layers - 1);
    require<InputError>(distinct.insert(layer).second, "layer {} is asked for twice", layer);
    moments_.emplace_back(config.mlp_width);
  }
}

void SecondMomentCollector::add(std::span<const std::vector<int32_t>> documents) {
  const int64_t most = std::min(executor_.full_wave_rows(), executor_.rows_per_wave());
  while (!documents.empty()) {
    const size_t count = wave_length(documents, most, [](const auto& tokens) { return std::ssize(tokens); });
    run_wave(documents.first(count));
    documents = documents.subspan(count);
  }
}

void SecondMomentCollector::run_wave(std::span<const std::vector<int32_t>> documents) {
  Plan plan;
  plan.stop = StopAfter{Site::mlp_key, *std::max_element(layers_.begin(), layers_.end())};
  for (const auto& document : documents) plan.sequences.push_back({.tokens = document, .base = nullptr});
  for (const int64_t layer : layers_) plan.observed.push_back({Site::mlp_key, layer});
  plan.observer = [&](Site, int64_t layer, ConstView rows) {
    const auto index = static_cast<size_t>(std::find(layers_.begin(), layers_.end(), layer) - layers_.begin());
    moments_[index].add(executor_.context(), rows);
  };
  executor_.run(plan);
  tokens_ += token_count(documents);
}

std::vector<double> SecondMomentCollector::sum(size_t index) { return moments_[index].sum(executor_.context()); }
DeviceArray<double> SecondMomentCollector::take_lower(size_t index) {
  return moments_[index].take_lower(executor_.context());
}

void SecondMomentCollector::clear() {
  for (SecondMoment& moment : moments_) moment.clear(executor_.context());
  tokens_ = 0;
}

// --- The job ---------------------------------------------------------------------------------------------------------

namespace {

/// What documents lost because they were longer than one may be.
struct TextCut {
  int64_t documents = 0;
  int64_t tokens = 0;
};

/// Cuts a text into the units of the job.
class UnitReader {
 public:
  UnitReader(const NextDocument& next, const SecondMomentOptions& options, int64_t positions)
      : next_(next), options_(options) {
    const int64_t limit = options.max_tokens_per_document;
    require<InputError>(limit >= 0 && limit <= positions,
                        "documents cut to {} tokens do not fit the model's context of {}", limit, positions);
    document_limit_ = limit ? limit : positions;
  }

  /// Up to the end of the unit that was read last.
  int64_t skipped() const { return options_.skipped ? std::ssize(*options_.skipped) : 0; }
  TextCut cut() const { return cut_; }

  /// The documents of the next unit; empty after the last.
  std::vector<std::vector<int32_t>> next_unit() {
    std::vector<std::vector<int32_t>> unit;
    std::vector<int32_t> document;
    for (int64_t tokens = 0; tokens < options_.unit_tokens && next_document(document);) {
      tokens += std::ssize(document);
      unit.push_back(std::move(document));
    }
    return unit;
  }

 private:
  bool next_document(std::vector<int32_t>& document) {
    do {
      if (documents_ == options_.max_documents || tokens_ == options_.max_tokens || !next_(document)) return false;
    } while (document.empty());
    if (const int64_t beyond = std::ssize(document) - document_limit_; beyond > 0) {
      ++cut_.documents;
      cut_.tokens += beyond;
    }
    const int64_t length = std::min({std::ssize(document), document_limit_, options_.max_tokens - tokens_});
    document.resize(static_cast<size_t>(length));
    tokens_ += length;
    ++documents_;
    return true;
  }

  const NextDocument& next_;
  const SecondMomentOptions& options_;
  int64_t document_limit_ = 0;
  TextCut cut_;
  int64_t documents_ = 0;
  int64_t tokens_ = 0;
};

void write_sum(H5File& file, int64_t layer, const std::vector<double>& sum, int64_t width) {
  write_dataset<double>(file, layer_group(layer) + "/sum", sum, {width, width},
                        {.units = "1", .long_name = "sum over tokens of k k^T, k the input of the down projection"});
}

/// The sum itself, and what says whether edits can use it. Writing takes about as long as the condition number, which
/// is estimated meanwhile.
void write_layer(H5File& file, Context& context, const Architecture& architecture, int64_t layer,
                 const std::vector<double>& sum, int64_t width) {
  std::future<void> written = std::async(std::launch::async, [&] { write_sum(file, layer, sum, width); });
  const std::vector<int64_t> dead = dead_rows(sum, width);
  const double condition = condition_number(context, sum, width);
  written.get();
  const std::string group = layer_group(layer);
  write_dataset<int64_t>(file, group + "/dead_rows", dead, {std::ssize(dead)},
                         {.units = "1", .long_name = "neurons that were never active"});
  write_attribute(file, group, "layer", layer);
  write_attribute(file, group, "condition_number", condition);
  write_attribute(file, group, "module", published_module(architecture, Role::down_weight, layer));
  if (!dead.empty()) spdlog::warn("cov: layer {}: {} neurons were never active, their rows are 0", layer, dead.size());
  if (std::isinf(condition))
    spdlog::warn("cov: layer {}: the matrix is singular; editing will need {}", layer, option("ridge"));
}

/// Of C = sum / tokens.
void write_eigen(H5File& file, Context& context, int64_t layer, std::vector<double> sum, int64_t width,
                 int64_t tokens) {
  for (double& value : sum) value /= static_cast<double>(tokens);
  const SymmetricEigen eigen =
      symmetric_eigen(context, std::move(sum), width, fmt::format("the second moment of layer {}", layer));
  write_dataset<double>(file, layer_group(layer) + "/eigenvalues", eigen.values, {width},
                        {.units = "1", .long_name = "eigenvalues of the mean of k k^T, ascending"});
  write_dataset<double>(file, layer_group(layer) + "/eigenvectors", eigen.vectors, {width, width},
                        {.units = "1", .long_name = "its eigenvectors, in columns"});
}

/// A unit's share of the text.
struct UnitSize {
  int64_t tokens = 0;
  int64_t documents = 0;
  // Up to its end, those of earlier units included:
  int64_t skipped = 0;  ///< documents left out
  TextCut cut;
};

/// The units that the ranks compute side by side, one each.
struct Round {
  std::vector<UnitSize> sizes;            ///< by rank; fewer than there are ranks at the end of the text
  std::vector<std::vector<int32_t>> own;  ///< the documents of this rank's unit
};

/// One collection of second moments, on one of its ranks.
class MomentJob {
 public:
  MomentJob(Executor& executor, const NextDocument& next, const SecondMomentOptions& options,
            const SecondMomentRanks& ranks)
      : options_(options),
        ranks_(ranks),
        context_(executor.context()),
        collector_(executor, options.layers),
        device_ranks_(make_device_communicator(ranks.communicator, context_)),
        totals_(*device_ranks_, context_, options.layers.size(), collector_.width()),
        reader_(next, options, executor.model().config().positions) {
    require_memory();
    if (is_root() && options.until > 0) probe_.emplace(executor, options.layers, options.probe);
  }

  void run(const Json& config, const Provenance& provenance) {
    restore();
    Progress progress("cov", "tokens", 0, done_.tokens);
    for (bool more = !at_rest(); more;) {
      const int64_t before = done_.tokens;
      more = do_round();
      if (is_root()) progress.advance(done_.tokens - before);
    }
    if (is_root()) progress.finish();
    require<InputError>(done_.tokens > 0, "the text has no tokens");
    finish(config, provenance);
  }

 private:
  bool is_root() const { return ranks_.communicator.is_root(); }
  int64_t layer(size_t index) const { return collector_.layers()[index]; }

  void require_memory() const;
  void restore();
  Round read_round();
  void read_ahead();
  Round take_round();
  bool do_round();
  void add_units(const Round& round, size_t first, size_t end, std::vector<DeviceArray<double>>& exchanged);
  bool is_check(int64_t unit) const;
  bool at_rest();
  void check_directions();
  void end_round();
  void commit();
  void finish(const Json& config, const Provenance& provenance);
  void write_checks(H5File& output) const;

  const SecondMomentOptions& options_;
  const SecondMomentRanks& ranks_;
  Context& context_;
  SecondMomentCollector collector_;
  std::unique_ptr<DeviceCommunicator> device_ranks_;
  MomentTotals totals_;
  UnitReader reader_;
  std::optional<Round> ahead_;      // read while the device was computing
  std::exception_ptr ahead_error_;  // what ended that
  Clock::time_point last_checkpoint_ = Clock::now();
  std::chrono::duration<double> last_checkpoint_took_{0};
  std::optional<DirectionProbe> probe_;  // on rank 0, with --until
  int64_t units_ = 0;                    // in totals_
  UnitSize done_;                        // likewise
};

/// On a GPU: of each layer the sum of the unit under way, the total, and a block of rows.
void MomentJob::require_memory() const {
  if (context_.on_cpu()) return;
  const int64_t width = totals_.width(), layers = std::ssize(collector_.layers());
  const int64_t wanted = layers * (2 * width * width * static_cast<int64_t>(sizeof(double)) +
                                   SecondMoment::flush_rows(context_) * width * static_cast<int64_t>(sizeof(float)));
  const int64_t free = context_.cuda().free_bytes();
  require<InputError>(wanted < free,
                      "cov: the sums of {} layers take {} MiB of {}, where {} MiB are free; give fewer {} at a time",
                      layers, wanted >> 20, context_.device().name(), free >> 20, option("layers"));
}

/// Takes up the state of the latest checkpoint.
void MomentJob::restore() {
  std::optional<H5File> shard;
  if (is_root() && !ranks_.store->done_units().empty()) {
    units_ = *ranks_.store->done_units().rbegin() + 1;
    shard = ranks_.store->open_unit(units_ - 1);
    if (probe_) probe_->read(*shard);
  }
  ranks_.communicator.broadcast_value(units_, 0, "the broadcast of a checkpoint");
  if (units_ == 0) return;
  for (size_t i = 0; i < collector_.layers().size(); ++i) {
    std::vector<double> total;
    if (shard) total = read_dataset<double>(*shard, layer_group(layer(i)) + "/sum").values;
    totals_.restore(i, std::move(total));
  }
  for (int64_t unit = 0; unit < units_; ++unit) {
    const auto documents = reader_.next_unit();
    done_.tokens += token_count(documents);
    done_.documents += std::ssize(documents);
  }
  done_.skipped = reader_.skipped();
  done_.cut = reader_.cut();
  if (is_root()) spdlog::info("cov: {} tokens were done before", done_.tokens);
}

Round MomentJob::read_round() {
  Round round;
  for (int rank = 0; rank < ranks_.communicator.size(); ++rank) {
    auto documents = reader_.next_unit();
    if (documents.empty()) break;
    round.sizes.push_back({token_count(documents), std::ssize(documents), reader_.skipped(), reader_.cut()});
    if (rank == ranks_.communicator.rank()) round.own = std::move(documents);
  }
  return round;
}

/// While the device computes. An unreadable text is no reason to lose what it computes.
void MomentJob::read_ahead() {
  try {
    ahead_ = read_round();
  } catch (...) {
    ahead_error_ = std::current_exception();
  }
}

Round MomentJob::take_round() {
  if (ahead_error_) std::rethrow_exception(std::exchange(ahead_error_, nullptr));
  return ahead_ ? std::move(*std::exchange(ahead_, std::nullopt)) : read_round();
}

/// False where the text has ended, or the directions have come to rest.
bool MomentJob::do_round() {
  const Round round = take_round();
  if (round.sizes.empty()) return false;
  if (!round.own.empty()) collector_.add(round.own);
  read_ahead();
  std::vector<DeviceArray<double>> exchanged(collector_.layers().size());
  for (size_t first = 0; first < round.sizes.size();) {
    size_t end = first + 1;
    while (end < round.sizes.size() && !is_check(units_ + static_cast<int64_t>(end - first) - 1)) ++end;
    add_units(round, first, end, exchanged);
    first = end;
    // The last unit of a text goes straight into the output: a checkpoint of it would be thrown away at once.
    if (round.sizes[end - 1].tokens < options_.unit_tokens) return false;
    if (!is_check(units_ - 1)) continue;
    check_directions();
    if (at_rest()) return false;
  }
  collector_.clear();
  end_round();
  return true;
}

/// Adds the units [first, end) of a round. What the ranks have exchanged is kept for the rest of the round, if there is
/// one.
void MomentJob::add_units(const Round& round, size_t first, size_t end, std::vector<DeviceArray<double>>& exchanged) {
  for (size_t i = 0; i < exchanged.size(); ++i) {
    if (first == 0)
      exchanged[i] = totals_.exchange(round.own.empty() ? DeviceArray<double>{} : collector_.take_lower(i));
    totals_.add(i, exchanged[i], static_cast<int>(first), static_cast<int>(end));
    if (end == round.sizes.size()) exchanged[i] = {};
  }
  for (size_t rank = first; rank < end; ++rank) {
    ++units_;
    done_.tokens += round.sizes[rank].tokens;
    done_.documents += round.sizes[rank].documents;
    done_.skipped = round.sizes[rank].skipped;
    done_.cut = round.sizes[rank].cut;
  }
}

/// Whether the directions are looked at after `unit`: after 1, 2, 4, 8, ... units.
bool MomentJob::is_check(int64_t unit) const {
  return options_.until > 0 && std::has_single_bit(static_cast<uint64_t>(unit + 1));
}

bool MomentJob::at_rest() {
  if (options_.until <= 0) return false;
  bool rest = probe_ && !probe_->checks().empty() && probe_->checks().back().change <= options_.until;
  ranks_.communicator.broadcast_value(rest, 0, "the decision to go on");
  return rest;
}

void MomentJob::check_directions() {
  if (!is_root()) {
    for (size_t i = 0; i < collector_.layers().size(); ++i) totals_.gather(i);
    return;
  }
  const double change = probe_->update(done_.tokens, [&](size_t i) { return totals_.gather(i); });
  spdlog::info("cov: {} tokens: C^-1 k changed by {:.3g} at most (until {:.3g})", done_.tokens, change, options_.until);
}

/// Of the time between two checkpoints, what the writing of one may take at most.
constexpr double kCheckpointShare = 0.05;

/// Writing the sums takes a GPU longer than a unit, so not every round ends with a checkpoint.
void MomentJob::end_round() {
  const int own_signal = ranks_.interruption ? ranks_.interruption->signal() : 0;
  const int signal = ranks_.communicator.agree(own_signal, "the end of a round");
  // The next round will throw what ended the reading.
  const double wanted = options_.checkpoint_seconds;
  const double between = wanted > 0 ? std::max(wanted, last_checkpoint_took_.count() / kCheckpointShare) : 0;
  bool due = signal != 0 || ahead_error_ || seconds_since(last_checkpoint_) >= between;
  ranks_.communicator.broadcast_value(due, 0, "the decision about a checkpoint");
  if (due) commit();
  require<InterruptedError>(signal == 0,
                            "cov: interrupted by {} after {} tokens; run the same command again to continue",
                            signal_name(signal), done_.tokens);
}

/// A checkpoint holds all that earlier ones do.
void MomentJob::commit() {
  if (!is_root()) {
    for (size_t i = 0; i < collector_.layers().size(); ++i) totals_.gather(i);
    return;
  }
  const Clock::time_point start = Clock::now();
  UnitStore& store = *ranks_.store;
  const std::set<int64_t> earlier = store.done_units();
  store.commit(units_ - 1, [&](H5File& shard) {
    write_attribute(shard, "/", "tokens", done_.tokens);
    for (size_t i = 0; i < collector_.layers().size(); ++i)
      write_sum(shard, layer(i), totals_.gather(i), totals_.width());
    if (probe_) probe_->write(shard);
  });
  for (const int64_t unit : earlier) store.discard(unit);
  last_checkpoint_ = Clock::now();
  last_checkpoint_took_ = last_checkpoint_ - start;
}

void MomentJob::finish(const Json& config, const Provenance& provenance) {
  if (!is_root()) {
    for (size_t i = 0; i < collector_.layers().size(); ++i) totals_.take(i);
    return;
  }
  ranks_.store->finish([&](H5File& output, const UnitStore::OpenUnit&) {
    write_provenance(output, config, provenance);
    write_attribute(output, "/", "kind", "second_moments");
    write_attribute(output, "/", "tokens", done_.tokens);
    write_attribute(output, "/", "documents", done_.documents);
    write_attribute(output, "/", "cut_documents", done_.cut.documents);
    write_attribute(output, "/", "cut_tokens", done_.cut.tokens);
    // What was read ahead may have skipped more.
    write_skipped_records(output, options_.skipped
                                      ? std::span(*options_.skipped).first(static_cast<size_t>(done_.skipped))
                                      : std::span<const std::string>());
    write_attribute(output, "/", "mlp_width", totals_.width());
    write_checks(output);
    for (size_t i = 0; i < collector_.layers().size(); ++i) {
      std::vector<double> sum = totals_.take(i);
      write_layer(output, context_, collector_.architecture(), layer(i), sum, totals_.width());
      if (options_.eigenvectors) write_eigen(output, context_, layer(i), std::move(sum), totals_.width(), done_.tokens);
    }
  });
}

void MomentJob::write_checks(H5File& output) const {
  if (!probe_) return;
  probe_->write_checks(output);
  const bool rest = !probe_->checks().empty() && probe_->checks().back().change <= options_.until;
  write_attribute(output, "/", "converged", static_cast<int64_t>(rest));
  if (!rest)
    spdlog::warn("cov: the text ended before C^-1 k came to rest ({} {:.3g})", option("until"), options_.until);
}

}  // namespace

void collect_second_moments(Executor& executor, const NextDocument& next, const SecondMomentOptions& options,
                            const SecondMomentRanks& ranks, const Json& config, const Provenance& provenance) {
  MomentJob(executor, next, options, ranks).run(config, provenance);
}

// --- Statistics that were collected before ---------------------------------------------------------------------------

namespace {

/// Elements (r, c) and (c, r) of a sum of k k^T; `scale` is what Schwarz's inequality bounds them by.
void check_pair(double a, double b, double scale, size_t r, size_t c, const std::string& where) {
  require<InputError>(std::isfinite(a) && std::isfinite(b), "{}: element ({}, {}) is not finite", where, r, c);
  // fp32 sums in another order differ far less than this.
  require<InputError>(std::abs(a - b) <= 1e-3 * scale, "{}: the matrix is not symmetric at ({}, {})", where, r, c);
}

/// Refuses what cannot be a sum of k k^T. Goes by blocks, which stay in the cache whichever way they are read.
void check_matrix(const std::vector<double>& matrix, int64_t width, const std::string& where) {
  constexpr size_t kBlock = 64;
  const auto n = static_cast<size_t>(width);
  std::vector<double> roots(n);
  for (size_t r = 0; r < n; ++r) {
    const double square = matrix[r * n + r];
    require<InputError>(square >= 0, "{}: element ({}, {}) is {}, but no second moment is negative", where, r, r,
                        square);
    roots[r] = std::sqrt(square);
  }
  for (size_t top = 0; top < n; top += kBlock)
    for (size_t left = 0; left <= top; left += kBlock)
      for (size_t r = top; r < std::min(n, top + kBlock); ++r)
        for (size_t c = left; c < std::min(r, left + kBlock); ++c)
          check_pair(matrix[r * n + c], matrix[c * n + r], roots[r] * roots[c], r, c, where);
}

SecondMomentMatrix made_mean(std::vector<double> sum, int64_t layer, int64_t width, int64_t tokens,
                             const std::string& where) {
  require<InputError>(tokens > 0, "{}: the number of tokens is {}", where, tokens);
  check_matrix(sum, width, where);
  for (double& value : sum) value /= static_cast<double>(tokens);
  return {layer, width, tokens, std::move(sum)};
}

SecondMomentMatrix read_npz_moment(const std::filesystem::path& path, int64_t layer, int64_t mlp_width) {
  const auto named = layer_in_file_name(path);
  require<InputError>(named.has_value(),
                      "{}: the layer of the statistics stands in the file's name only, and this one has none; name it "
                      "{}.mlp.npz if it is of layer {}",
                      path.string(), layer, layer);
  require<InputError>(*named == layer, "{}: the statistics are of layer {}, but layer {} is edited", path.string(),
                      *named, layer);
  const auto arrays = read_npz(path);
  const NpyArray& matrix = npz_at(arrays, "mom2.mom2", path);
  require<InputError>(matrix.shape == std::vector<int64_t>({mlp_width, mlp_width}),
                      "{}: mom2.mom2 is {}, but the model's keys are {} wide", path.string(),
                      fmt::format("[{}]", fmt::join(matrix.shape, ", ")), mlp_width);
  const auto tokens = npz_at(arrays, "mom2.count", path).scalar<int64_t>();
  SecondMomentMatrix made = made_mean(matrix.as<double>(), layer, mlp_width, tokens, path.string());
  made.origin = MomentOrigin::unknown;
  return made;
}

/// Whether keys of `layer` collected on `other` are those of the model: no earlier layer was edited in between.
bool has_same_keys(const Lineage& model, const ModelState& other, int64_t layer) {
  const std::set<int64_t> edited = model.edited_since(other);
  return edited.empty() || layer <= *edited.begin();
}

/// Of statistics of `layer` that were collected on `other`. Refuses those of other models unless they are accepted.
MomentOrigin origin_of(const std::string& path, int64_t layer, const Lineage& model, const ModelState& other,
                       OtherModels others) {
  const bool related = model.includes(other);
  if (other == model.state) return MomentOrigin::this_model;
  if (related && has_same_keys(model, other, layer)) {
    spdlog::info(
        "{}: the second moments are of a model that this one was made from, by edits that leave the keys of layer {} "
        "as "
        "they were",
        path, layer);
    return MomentOrigin::ancestor;
  }
  const std::string difference =
      related ? fmt::format(
                    "of the model that this one was made from, and the edit of layer {} changed the keys of layer "
                    "{}",
                    *model.edited_since(other).begin(), layer)
              : fmt::format("of another model (weights {:.12}{}, this model's are {:.12}{})", other.weights_sha256,
                            other.edits_sha256.empty() ? "" : " with edits", model.state.weights_sha256,
                            model.state.edits_sha256.empty() ? "" : " with edits");
  require<InputError>(others == OtherModels::accept,
                      "{}: the statistics are {}; collect them again with loci cov, or take them as they are with "
                      "{}",
                      path, difference, option("cov-of-other-model"));
  spdlog::warn("{}: the statistics are {}; they are taken because of {}", path, difference,
               option("cov-of-other-model"));
  return MomentOrigin::other_model;
}

SecondMomentMatrix read_hdf5_moment(const std::filesystem::path& path, int64_t layer, int64_t mlp_width,
                                    const Lineage& model, OtherModels others) {
  probe_hdf5(path);
  const H5File file = H5File::open_read(path);
  const bool known = has_attribute(file, "/", "kind") && read_string_attribute(file, "/", "kind") == "second_moments";
  require<InputError>(known, "{}: is not a file of second moments; give one that loci cov wrote", path.string());
  ModelState collected_on{read_string_attribute(file, "/", "weights_sha256"), ""};
  if (has_attribute(file, "/", "base_edits_sha256"))
    collected_on.edits_sha256 = read_string_attribute(file, "/", "base_edits_sha256");
  const MomentOrigin origin = origin_of(path.string(), layer, model, collected_on, others);
  const std::string dataset = layer_group(layer) + "/sum";
  require<InputError>(h5_exists(file, dataset), "{}: holds the layers {}, but layer {} is edited", path.string(),
                      fmt::join(group_members(file, "/layers"), ", "), layer);
  const std::vector<int64_t> shape = dataset_info(file, dataset).shape;
  require<InputError>(shape == std::vector<int64_t>({mlp_width, mlp_width}),
                      "{}: {} is [{}], but the model's keys are {} wide", path.string(), dataset,
                      fmt::join(shape, ", "), mlp_width);
  SecondMomentMatrix made = made_mean(read_dataset<double>(file, dataset).values, layer, mlp_width,
                                      read_int_attribute(file, "/", "tokens"), path.string());
  made.origin = origin;
  made.collected_on = std::move(collected_on);
  return made;
}

}  // namespace

std::optional<int64_t> layer_in_file_name(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  const size_t end = name.find(".mlp.");
  if (end == name.npos) return std::nullopt;
  const size_t dot = name.rfind('.', end - 1);
  const size_t first = dot == name.npos || dot >= end ? 0 : dot + 1;
  int64_t layer = -1;
  const auto result = std::from_chars(name.data() + first, name.data() + end, layer);
  if (result.ec != std::errc() || result.ptr != name.data() + end || layer < 0) return std::nullopt;
  return layer;
}

std::string_view moment_origin_name(MomentOrigin origin) {
  switch (origin) {
    case MomentOrigin::this_model:
      return "this model";
    case MomentOrigin::ancestor:
      return "ancestor";
    case MomentOrigin::other_model:
      return "other model";
    case MomentOrigin::unknown:
      break;
  }
  return "unknown";
}

SecondMomentMatrix read_second_moment(const std::filesystem::path& path, int64_t layer, int64_t mlp_width,
                                      const Lineage& model, OtherModels others) {
  return path.extension() == ".npz" ? read_npz_moment(path, layer, mlp_width)
                                    : read_hdf5_moment(path, layer, mlp_width, model, others);
}

std::optional<SymmetricEigen> read_second_moment_eigen(const std::filesystem::path& path,
                                                       const SecondMomentMatrix& matrix) {
  if (path.extension() == ".npz") return std::nullopt;
  const H5File file = H5File::open_read(path);
  const std::string group = layer_group(matrix.layer), where = fmt::format("{}: {}", path.string(), group);
  if (!h5_exists(file, group + "/eigenvectors")) return std::nullopt;
  const auto refuse_unless = [&](bool good, std::string_view why) {
    require<InputError>(good, "{}/eigenvectors: {}; collect the second moments again", where, why);
  };
  H5Array<double> values = read_dataset<double>(file, group + "/eigenvalues"),
                  vectors = read_dataset<double>(file, group + "/eigenvectors");
  refuse_unless(values.shape == std::vector{matrix.width} && vectors.shape == std::vector{matrix.width, matrix.width},
                "they are not of the matrix's size");
  refuse_unless(std::ranges::all_of(vectors.values, [](double x) { return std::isfinite(x); }) &&
                    std::ranges::all_of(values.values, [](double x) { return std::isfinite(x); }),
                "a value is not finite");
  refuse_unless(std::ranges::is_sorted(values.values), "the eigenvalues do not rise");
  double trace = 0, sum = 0;
  for (int64_t i = 0; i < matrix.width; ++i) trace += matrix.mean[i * matrix.width + i];
  for (const double value : values.values) sum += value;
  refuse_unless(std::abs(trace - sum) <= 1e-8 * trace, "they are not those of the matrix");
  return SymmetricEigen{std::move(values.values), std::move(vectors.values)};
}

std::shared_ptr<const Cholesky> factor_second_moment(Context& context, SecondMomentMatrix matrix, double ridge,
                                                     const std::string& name) {
  for (int64_t i = 0; i < matrix.width; ++i) matrix.mean[i * matrix.width + i] += ridge;
  auto factor = std::make_shared<const Cholesky>(context, std::move(matrix.mean), matrix.width, name);
  // C^-1 k is off by about so many times the rounding of fp64, 1.1e-16.
  const double condition = factor->condition_number();
  require<NumericalError>(condition < 1e15,
                          "{}: is singular within rounding (condition number {:.2g}); collect more tokens, or give {}",
                          name, condition, option("ridge"));
  if (condition > 1e12)
    spdlog::warn(
        "{}: the condition number is {:.2g}, so edits follow from it to some digits only; collect more tokens, "
        "or give {}",
        name, condition, option("ridge"));
  return factor;
}

std::vector<int64_t> dead_rows(std::span<const double> sum, int64_t width) {
  std::vector<int64_t> dead;
  for (int64_t i = 0; i < width; ++i)
    if (sum[i * width + i] == 0) dead.push_back(i);
  return dead;
}

double condition_number(Context& context, std::vector<double> matrix, int64_t width) {
  try {
    return Cholesky(context, std::move(matrix), width, "the second moment").condition_number();
  } catch (const NumericalError&) {
    return std::numeric_limits<double>::infinity();
  }
}

}  // namespace loci
