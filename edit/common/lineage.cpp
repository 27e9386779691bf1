#include "edit/common/lineage.h"

#include <fmt/format.h>

#include <algorithm>

#include "edit/rome/rome.h"
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
  for (const int64_t layer : json_ints(json, "edited_layers", where, 0)) ancestor.edited_layers.insert(layer);
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

void EditChain::add(std::span<const Edit> edits) {
  if (edits.empty()) return;
  Step step{sha256(), {}};
  for (const Edit& edit : edits) {
    Sha256 hash;
    hash.update(fmt::format("{} layer {} [{}, {}]\n", step.sha256, edit.layer, edit.u.size(), edit.v.size()));
    hash.update(std::as_bytes(std::span(edit.u))).update(std::as_bytes(std::span(edit.v)));
    step.sha256 = hash.hex();
    step.layers.insert(edit.layer);
  }
  steps_.push_back(std::move(step));
}

std::set<int64_t> EditChain::layers() const {
  std::set<int64_t> layers;
  for (const Step& step : steps_) layers.insert(step.layers.begin(), step.layers.end());
  return layers;
}

Lineage EditChain::on(const Model& model) const {
  const std::string weights = model.checkpoint().weights_sha256();
  Lineage lineage{{weights, sha256()}};
  for (size_t i = steps_.size(); i-- > 0;)
    lineage.ancestors.push_back({{weights, i > 0 ? steps_[i - 1].sha256 : ""}, steps_[i].layers});
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
