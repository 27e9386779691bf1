#include "edit/common/lineage.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/model.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "runtime/io/sha256.h"

namespace loci {
namespace {

Json ancestor_to_json(const Ancestor& ancestor) {
  return {{"weights_sha256", ancestor.state.weights_sha256},
          {"edits_sha256", ancestor.state.edits_sha256},
          {"edited_layers", ancestor.edited_layers}};
}

Ancestor ancestor_from_json(const Json& json, const std::string& where) {
  Ancestor ancestor{{json_text(json, "weights_sha256", where), json_string(json, "edits_sha256", where)}, {}};
  for (const int64_t layer : json_ints(json, "edited_layers", where, -1)) ancestor.edited_layers.insert(layer);
  return ancestor;
}

}  // namespace

bool Lineage::includes(const ModelState& other) const {
  return other == state ||
         std::ranges::any_of(ancestors, [&](const Ancestor& ancestor) { return ancestor.state == other; });
}

std::set<int64_t> Lineage::edited_since(const ModelState& other) const {
  std::set<int64_t> layers;
  if (other == state) return layers;
  for (const Ancestor& ancestor : ancestors) {
    layers.insert(ancestor.edited_layers.begin(), ancestor.edited_layers.end());
    if (ancestor.state == other) return layers;
  }
  throw_error<Error>("the model was not made from the weights {:.12}", other.weights_sha256);
}

namespace {

/// What stands before the values of a change in the hash. Of a rank-one change of a down projection as it has been
/// since the first edit files.
std::string described(const Change& change, const Architecture& architecture) {
  const WeightId weight = weight_of(change);
  if (const auto* low_rank = std::get_if<LowRank>(&change)) {
    const auto in = std::ssize(low_rank->keys) / low_rank->rank, out = std::ssize(low_rank->values) / low_rank->rank;
    if (weight.role == Role::down_weight && low_rank->rank == 1)
      return fmt::format("layer {} [{}, {}]\n", weight.layer, in, out);
    return fmt::format("{} rank {} [{}, {}]\n", parameter_name(architecture, weight), low_rank->rank, in, out);
  }
  if (const auto* neurons = std::get_if<Neurons>(&change))
    return fmt::format("layer {} {} neurons of {}\n", weight.layer, neurons->count(),
                       activation_name(neurons->activation));
  const auto& dense = std::get<Dense>(change);
  return fmt::format("{} rows {} [{}]\n", parameter_name(architecture, weight), fmt::join(dense.rows, ","),
                     dense.delta.size());
}

void hash_values(Sha256& hash, const Change& change) {
  const auto add = [&](const std::vector<float>& values) { hash.update(std::as_bytes(std::span(values))); };
  if (const auto* low_rank = std::get_if<LowRank>(&change)) {
    add(low_rank->keys);
    add(low_rank->values);
  } else if (const auto* neurons = std::get_if<Neurons>(&change)) {
    add(neurons->keys);
    add(neurons->bias);
    add(neurons->values);
  } else {
    add(std::get<Dense>(change).delta);
  }
}

std::set<int64_t> layers_with_the_same_keys(const std::set<WeightId>& weights) {
  std::set<int64_t> layers;
  for (const WeightId weight : weights)
    layers.insert(weight.role == Role::down_weight || weight.role == Role::down_bias ? weight.layer : weight.layer - 1);
  return layers;
}

}  // namespace

void EditChain::add(std::span<const Change> changes, const Architecture& architecture) {
  if (changes.empty()) return;
  Step step{sha256(), {}};
  for (const Change& change : changes) {
    Sha256 hash;
    hash.update(step.sha256 + " " + described(change, architecture));
    hash_values(hash, change);
    step.sha256 = hash.hex();
    step.weights.insert(weight_of(change));
  }
  steps_.push_back(std::move(step));
}

std::set<WeightId> EditChain::weights() const {
  std::set<WeightId> weights;
  for (const Step& step : steps_) weights.insert(step.weights.begin(), step.weights.end());
  return weights;
}

Lineage EditChain::on(const Model& model) const {
  const std::string weights = model.checkpoint().weights_sha256();
  Lineage lineage{{weights, sha256()}};
  for (size_t i = steps_.size(); i-- > 0;)
    lineage.ancestors.push_back(
        {{weights, i > 0 ? steps_[i - 1].sha256 : ""}, layers_with_the_same_keys(steps_[i].weights)});
  for (Ancestor& ancestor : read_lineage(model.checkpoint().dir(), weights).ancestors)
    lineage.ancestors.push_back(std::move(ancestor));
  return lineage;
}

void write_lineage(const std::filesystem::path& dir, const Lineage& lineage) {
  const std::filesystem::path path = dir / kLineageFile;
  if (lineage.ancestors.empty()) {
    std::error_code absent;
    std::filesystem::remove(path, absent);
    return;
  }
  Json json = {{"weights_sha256", lineage.state.weights_sha256}, {"made_from", Json::array()}};
  for (const Ancestor& ancestor : lineage.ancestors) json["made_from"].push_back(ancestor_to_json(ancestor));
  write_file_atomically(path, json.dump(1) + "\n");
}

Lineage read_lineage(const std::filesystem::path& dir, const std::string& weights_sha256) {
  Lineage lineage{{weights_sha256, ""}};
  const std::filesystem::path path = dir / kLineageFile;
  if (!std::filesystem::exists(path)) return lineage;
  const Json json = parse_json_file(path);
  if (json_text(json, "weights_sha256", path.string()) != weights_sha256) return lineage;
  for (const Json& ancestor : json_array(json, "made_from", path.string()))
    lineage.ancestors.push_back(ancestor_from_json(ancestor, path.string() + ": made_from"));
  return lineage;
}

}  // namespace loci
