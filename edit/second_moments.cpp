#include "edit/second_moments.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <set>

#include "edit/direction_probe.h"
#include "runtime/error.h"
#include "runtime/npz.h"
#include "runtime/progress.h"

namespace loci {
namespace {

std::string layer_group(int64_t layer) { return fmt::format("/layers/{}", layer); }

int64_t token_count(std::span<const std::vector<int32_t>> documents) {
  int64_t tokens = 0;
  for (const auto& document : documents) tokens += static_cast<int64_t>(document.size());
  return tokens;
}

}  // namespace

SecondMomentCollector::SecondMomentCollector(Executor& executor, std::vector<int64_t> layers)
    : executor_(executor), layers_(std::move(layers)) {
  const GptConfig& config = executor.model().config();
  require<InputError>(!layers_.empty(), "no layers are given; name them with --layers");
  std::set<int64_t> distinct;
  for (const int64_t layer : layers_) {
    require<InputError>(layer >= 0 && layer < config.layers,
                        "layer {} is asked for, but the model has the layers 0 to {}", layer, config.layers - 1);
    require<InputError>(distinct.insert(layer).second, "layer {} is asked for twice", layer);
    moments_.emplace_back(executor.context(), config.mlp_width);
  }
}

void SecondMomentCollector::add(std::span<const std::vector<int32_t>> documents) {
  const int64_t most = std::min(executor_.full_wave_rows(), executor_.rows_per_wave());
  for (size_t begin = 0; begin < documents.size();) {
    size_t end = begin;
    for (int64_t rows = 0; end < documents.size(); ++end) {
      rows += static_cast<int64_t>(documents[end].size());
      if (end > begin && rows > most) break;
    }
    run_wave(documents.subspan(begin, end - begin));
    begin = end;
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

void SecondMomentCollector::restore(size_t index, std::span<const double> sum, int64_t tokens) {
  moments_[index].restore(executor_.context(), sum, tokens);
  tokens_ = tokens;
}

// --- The job ---------------------------------------------------------------------------------------------------------

namespace {

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

  /// The documents of the next unit; empty after the last.
  std::vector<std::vector<int32_t>> next_unit() {
    std::vector<std::vector<int32_t>> unit;
    std::vector<int32_t> document;
    for (int64_t tokens = 0; tokens < options_.unit_tokens && next_document(document);) {
      tokens += static_cast<int64_t>(document.size());
      unit.push_back(std::move(document));
    }
    return unit;
  }

  int64_t documents() const { return documents_; }

 private:
  bool next_document(std::vector<int32_t>& document) {
    do {
      if (documents_ == options_.max_documents || tokens_ == options_.max_tokens || !next_(document)) return false;
    } while (document.empty());
    const int64_t length =
        std::min({static_cast<int64_t>(document.size()), document_limit_, options_.max_tokens - tokens_});
    document.resize(static_cast<size_t>(length));
    tokens_ += length;
    ++documents_;
    return true;
  }

  const NextDocument& next_;
  const SecondMomentOptions& options_;
  int64_t document_limit_ = 0;
  int64_t documents_ = 0;
  int64_t tokens_ = 0;
};

void write_sum(H5File& file, int64_t layer, const std::vector<double>& sum, int64_t width) {
  write_dataset<double>(file, layer_group(layer) + "/sum", sum, {width, width},
                        {.units = "1", .long_name = "sum over tokens of k k^T, k the input of the down projection"});
}

/// Stops a job where the directions of some facts have come to rest.
class StopRule {
 public:
  StopRule(Executor& executor, const SecondMomentOptions& options) : until_(options.until) {
    if (until_ > 0) probe_.emplace(executor, options.layers, options.probe);
  }
  bool stops() const { return probe_ && !probe_->checks().empty() && probe_->checks().back().change <= until_; }
  /// Looks after 1, 2, 4, 8, ... units.
  void after_unit(int64_t unit, SecondMomentCollector& collector) {
    if (!probe_ || !std::has_single_bit(static_cast<uint64_t>(unit + 1))) return;
    const double change = probe_->update(collector);
    spdlog::info("cov: {} tokens: C^-1 k changed by {:.3g} at most (until {:.3g})", collector.tokens(), change, until_);
  }
  void write(H5File& shard) const {
    if (probe_) probe_->write(shard);
  }
  void read(const H5File& shard) {
    if (probe_) probe_->read(shard);
  }
  void write_outcome(H5File& output) const {
    if (!probe_) return;
    probe_->write_checks(output);
    write_attribute(output, "/", "converged", static_cast<int64_t>(stops()));
    if (!stops()) spdlog::warn("cov: the text ended before C^-1 k came to rest (--until {:.3g})", until_);
  }

 private:
  double until_;
  std::optional<DirectionProbe> probe_;
};

/// Takes up the state behind the latest checkpoint; returns how many units it holds.
int64_t restore(UnitStore& store, SecondMomentCollector& collector, StopRule& rule) {
  if (store.done_units().empty()) return 0;
  const int64_t latest = *store.done_units().rbegin();
  const H5File shard = store.open_unit(latest);
  const int64_t tokens = read_int_attribute(shard, "/", "tokens");
  for (size_t i = 0; i < collector.layers().size(); ++i)
    collector.restore(i, read_dataset<double>(shard, layer_group(collector.layers()[i]) + "/sum").values, tokens);
  rule.read(shard);
  spdlog::info("cov: {} tokens were done before", tokens);
  return latest + 1;
}

void commit(UnitStore& store, int64_t unit, SecondMomentCollector& collector, const StopRule& rule) {
  store.commit(unit, [&](H5File& shard) {
    write_attribute(shard, "/", "tokens", collector.tokens());
    for (size_t i = 0; i < collector.layers().size(); ++i)
      write_sum(shard, collector.layers()[i], collector.sum(i), collector.width());
    rule.write(shard);
  });
  if (store.is_done(unit - 1)) store.discard(unit - 1);
}

void write_health(H5File& file, Context& context, int64_t layer, std::vector<double> sum, int64_t width) {
  const std::string group = layer_group(layer);
  const std::vector<int64_t> dead = dead_rows(sum, width);
  write_dataset<int64_t>(file, group + "/dead_rows", dead, {static_cast<int64_t>(dead.size())},
                         {.units = "1", .long_name = "neurons that were never active"});
  const double condition = condition_number(context, std::move(sum), width);
  write_attribute(file, group, "layer", layer);
  write_attribute(file, group, "condition_number", condition);
  if (!dead.empty()) spdlog::warn("cov: layer {}: {} neurons were never active, their rows are 0", layer, dead.size());
  if (std::isinf(condition)) spdlog::warn("cov: layer {}: the matrix is singular; editing will need --ridge", layer);
}

void finish(UnitStore& store, Executor& executor, SecondMomentCollector& collector, const StopRule& rule,
            int64_t documents, const Json& config, const Provenance& provenance) {
  const int64_t width = collector.width();
  store.finish([&](H5File& output, const UnitStore::OpenUnit&) {
    write_provenance(output, config, provenance);
    write_attribute(output, "/", "kind", "second_moments");
    write_attribute(output, "/", "tokens", collector.tokens());
    write_attribute(output, "/", "documents", documents);
    write_attribute(output, "/", "mlp_width", width);
    rule.write_outcome(output);
    for (size_t i = 0; i < collector.layers().size(); ++i) {
      std::vector<double> sum = collector.sum(i);
      write_sum(output, collector.layers()[i], sum, width);
      write_health(output, executor.context(), collector.layers()[i], std::move(sum), width);
    }
  });
}

}  // namespace

void collect_second_moments(Executor& executor, const NextDocument& next, const SecondMomentOptions& options,
                            UnitStore& store, const Json& config, const Provenance& provenance) {
  SecondMomentCollector collector(executor, options.layers);
  UnitReader reader(next, options, executor.model().config().positions);
  StopRule rule(executor, options);
  const int64_t done = restore(store, collector, rule);
  for (int64_t unit = 0; unit < done; ++unit) reader.next_unit();
  Progress progress("cov", "tokens", 0, collector.tokens());
  for (int64_t unit = done; !rule.stops(); ++unit) {
    const std::vector<std::vector<int32_t>> documents = reader.next_unit();
    if (documents.empty()) break;
    collector.add(documents);
    progress.advance(token_count(documents));
    // The last unit goes straight into the output; a checkpoint of it would be thrown away at once.
    if (token_count(documents) < options.unit_tokens) continue;
    rule.after_unit(unit, collector);
    commit(store, unit, collector, rule);
  }
  progress.finish();
  require<InputError>(collector.tokens() > 0, "{}: the text has no tokens", store.output().string());
  finish(store, executor, collector, rule, reader.documents(), config, provenance);
}

// --- Statistics that were collected before ---------------------------------------------------------------------------

namespace {

/// Refuses what cannot be a sum of k k^T.
void check_matrix(const std::vector<double>& matrix, int64_t width, const std::string& where) {
  const auto n = static_cast<size_t>(width);
  for (size_t r = 0; r < n; ++r) {
    require<InputError>(matrix[r * n + r] >= 0, "{}: element ({}, {}) is {}, but no second moment is negative", where,
                        r, r, matrix[r * n + r]);
    for (size_t c = 0; c < r; ++c) {
      const double a = matrix[r * n + c], b = matrix[c * n + r];
      require<InputError>(std::isfinite(a) && std::isfinite(b), "{}: element ({}, {}) is not finite", where, r, c);
      // Schwarz's inequality bounds the element; fp32 sums in another order differ far less than this.
      const double scale = std::sqrt(matrix[r * n + r] * matrix[c * n + c]);
      require<InputError>(std::abs(a - b) <= 1e-3 * scale, "{}: the matrix is not symmetric at ({}, {})", where, r, c);
    }
  }
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
                      "transformer.h.{}.mlp.c_proj_float32_mom2.npz if it is of layer {}",
                      path.string(), layer, layer);
  require<InputError>(*named == layer, "{}: the statistics are of layer {}, but layer {} is edited", path.string(),
                      *named, layer);
  const auto arrays = read_npz(path);
  const NpyArray& matrix = npz_at(arrays, "mom2.mom2", path);
  require<InputError>(matrix.shape == std::vector<int64_t>({mlp_width, mlp_width}),
                      "{}: mom2.mom2 is {}, but the model's keys are {} wide", path.string(),
                      fmt::format("[{}]", fmt::join(matrix.shape, ", ")), mlp_width);
  const auto tokens = npz_at(arrays, "mom2.count", path).scalar<int64_t>();
  return made_mean(matrix.as<double>(), layer, mlp_width, tokens, path.string());
}

SecondMomentMatrix read_hdf5_moment(const std::filesystem::path& path, int64_t layer, int64_t mlp_width,
                                    const std::string& weights_sha256) {
  probe_hdf5(path);
  const H5File file = H5File::open_read(path);
  const bool known = has_attribute(file, "/", "kind") && read_string_attribute(file, "/", "kind") == "second_moments";
  require<InputError>(known, "{}: is no file of second moments; give one that loci cov wrote", path.string());
  const std::string made_with = read_string_attribute(file, "/", "weights_sha256");
  require<InputError>(made_with == weights_sha256,
                      "{}: the statistics are of another model (weights {:.12}, this model's are {:.12}); collect them "
                      "again with loci cov",
                      path.string(), made_with, weights_sha256);
  const std::string dataset = layer_group(layer) + "/sum";
  require<InputError>(h5_exists(file, dataset), "{}: holds the layers {}, but layer {} is edited", path.string(),
                      fmt::join(group_members(file, "/layers"), ", "), layer);
  const std::vector<int64_t> shape = dataset_info(file, dataset).shape;
  require<InputError>(shape == std::vector<int64_t>({mlp_width, mlp_width}),
                      "{}: {} is [{}], but the model's keys are {} wide", path.string(), dataset,
                      fmt::join(shape, ", "), mlp_width);
  return made_mean(read_dataset<double>(file, dataset).values, layer, mlp_width,
                   read_int_attribute(file, "/", "tokens"), path.string());
}

}  // namespace

std::optional<int64_t> layer_in_file_name(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  const size_t mark = name.find("h.");
  if (mark == name.npos || (mark > 0 && name[mark - 1] != '.')) return std::nullopt;
  int64_t layer = -1;
  const char* end = name.data() + name.size();
  const auto result = std::from_chars(name.data() + mark + 2, end, layer);
  if (result.ec != std::errc() || layer < 0 || !std::string_view(result.ptr, end).starts_with(".mlp."))
    return std::nullopt;
  return layer;
}

SecondMomentMatrix read_second_moment(const std::filesystem::path& path, int64_t layer, int64_t mlp_width,
                                      const std::string& weights_sha256) {
  return path.extension() == ".npz" ? read_npz_moment(path, layer, mlp_width)
                                    : read_hdf5_moment(path, layer, mlp_width, weights_sha256);
}

std::shared_ptr<const Cholesky> factor_second_moment(Context& context, SecondMomentMatrix matrix, double ridge,
                                                     const std::string& name) {
  for (int64_t i = 0; i < matrix.width; ++i) matrix.mean[static_cast<size_t>(i * matrix.width + i)] += ridge;
  return std::make_shared<const Cholesky>(context, std::move(matrix.mean), matrix.width, name);
}

std::vector<int64_t> dead_rows(std::span<const double> sum, int64_t width) {
  std::vector<int64_t> dead;
  for (int64_t i = 0; i < width; ++i)
    if (sum[static_cast<size_t>(i * width + i)] == 0) dead.push_back(i);
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
