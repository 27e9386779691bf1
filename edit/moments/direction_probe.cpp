#include "edit/moments/direction_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cholesky.h"
#include "kernels/rows.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

std::string directions_name(int64_t layer) { return fmt::format("/probe/directions_{}", layer); }

/// The largest |x - x'| / |x| of the rows of two matrices.
double largest_change(const std::vector<double>& now, const std::vector<double>& before, int64_t width) {
  double largest = 0;
  for (size_t begin = 0; begin < now.size(); begin += static_cast<size_t>(width)) {
    double difference = 0, length = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(width); ++i) {
      difference += (now[i] - before[i]) * (now[i] - before[i]);
      length += now[i] * now[i];
    }
    largest = std::max(largest, std::sqrt(difference / length));
  }
  return largest;
}

}  // namespace

DirectionProbe::DirectionProbe(Executor& executor, std::vector<int64_t> layers,
                               std::span<const PreparedRequest> requests)
    : context_(executor.context()), layers_(std::move(layers)), width_(executor.model().config().mlp_width) {
  require<InputError>(!requests.empty(), "{}: the file holds no facts", option("probe"));
  keys_.resize(layers_.size());
  const auto rows_of = [](const PreparedRequest& request) { return request.prompts[0].lookup + 1; };
  const int64_t keys_bytes = std::ssize(layers_) * width_ * static_cast<int64_t>(sizeof(float));
  const int64_t most_requests = std::max<int64_t>(1, context_.memory_budget() / 4 / keys_bytes);
  while (!requests.empty()) {
    const size_t count =
        std::min(wave_length(requests, executor.rows_per_wave() / 2, rows_of), static_cast<size_t>(most_requests));
    add_keys(executor, requests.first(count));
    requests = requests.subspan(count);
  }
}

void DirectionProbe::add_keys(Executor& executor, std::span<const PreparedRequest> requests) {
  const auto count = std::ssize(requests), layers = std::ssize(layers_);
  Tensor keys(context_, layers * count, width_);
  Plan plan;
  plan.stop = StopAfter{Site::mlp_key, *std::max_element(layers_.begin(), layers_.end())};
  plan.tap_output = keys.view();
  for (int64_t i = 0; i < count; ++i) {
    const EditPrompt& bare = requests[i].prompts[0];
    plan.sequences.push_back({.tokens = {bare.tokens.begin(), bare.tokens.begin() + bare.lookup + 1}, .base = nullptr});
    for (int64_t l = 0; l < layers; ++l)
      plan.taps.push_back({i, bare.lookup, Site::mlp_key, layers_[l], l * count + i});
  }
  executor.run(plan);
  const std::vector<float> host = keys.to_host();
  for (int64_t l = 0; l < layers; ++l)
    keys_[l].insert(keys_[l].end(), host.begin() + l * count * width_, host.begin() + (l + 1) * count * width_);
}

double DirectionProbe::update(int64_t tokens, const std::function<std::vector<double>(size_t layer)>& sum) {
  double change = directions_.empty() ? std::numeric_limits<double>::infinity() : 0;
  bool singular = false;
  std::vector<std::vector<double>> directions;
  for (size_t l = 0; l < layers_.size(); ++l) {
    std::vector<double> mean = sum(l);
    if (singular) continue;
    for (double& value : mean) value /= static_cast<double>(tokens);
    directions.push_back(keys_[l]);
    try {
      Cholesky(context_, std::move(mean), width_, "the second moment").solve(directions.back());
    } catch (const NumericalError&) {  // too few tokens so far, or dead neurons
      singular = true;
      continue;
    }
    if (!directions_.empty()) change = std::max(change, largest_change(directions.back(), directions_[l], width_));
  }
  if (singular) {
    change = std::numeric_limits<double>::infinity();
    directions.clear();
  }
  directions_ = std::move(directions);
  checks_.push_back({tokens, change});
  return change;
}

void DirectionProbe::write_checks(H5File& file) const {
  std::vector<int64_t> tokens;
  std::vector<double> changes;
  for (const Check& check : checks_) {
    tokens.push_back(check.tokens);
    changes.push_back(check.change);
  }
  const auto count = std::ssize(checks_);
  write_dataset<int64_t>(file, "/probe/tokens", tokens, {count},
                         {.units = "1", .long_name = "tokens when the directions were compared"});
  write_dataset<double>(file, "/probe/change", changes, {count},
                        {.units = "1", .long_name = "largest relative change of C^-1 k since the check before"});
}

void DirectionProbe::write(H5File& shard) const {
  write_checks(shard);
  const auto facts = std::ssize(keys_[0]) / width_;
  for (size_t l = 0; l < directions_.size(); ++l)
    write_dataset<double>(shard, directions_name(layers_[l]), directions_[l], {facts, width_},
                          {.units = "1", .long_name = "C^-1 k at the last check"});
}

void DirectionProbe::read(const H5File& shard) {
  const std::vector<int64_t> tokens = read_dataset<int64_t>(shard, "/probe/tokens").values;
  const std::vector<double> changes = read_dataset<double>(shard, "/probe/change").values;
  for (size_t i = 0; i < tokens.size(); ++i) checks_.push_back({tokens[i], changes[i]});
  if (!h5_exists(shard, directions_name(layers_[0]))) return;
  for (size_t l = 0; l < layers_.size(); ++l)
    directions_.push_back(read_dataset<double>(shard, directions_name(layers_[l])).values);
}

}  // namespace loci
