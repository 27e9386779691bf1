#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "edit/change.h"

/// Where a model comes from: a checkpoint, edits in memory on top of it, and the models that the checkpoint itself was
/// made from by edits. It tells which second moments of other models are right for this one.
namespace loci {

class Model;

/// The weights of a model: those of a checkpoint, and edits on top of them.
struct ModelState {
  std::string weights_sha256;  ///< Checkpoint::weights_sha256()
  std::string edits_sha256;    ///< EditChain::sha256(); empty: no edits

  bool operator==(const ModelState&) const = default;
};

/// A model that another one was made from.
struct Ancestor {
  ModelState state;
  /// Layers up to which the keys (mlp_key) stayed as they were on the way from it to the model before it in its list:
  /// of each changed matrix, its own where it is a down projection, which makes no keys of its layer, else the one
  /// below.
  std::set<int64_t> edited_layers;

  bool operator==(const Ancestor&) const = default;
};

/// A model and those that it was made from, the nearest first.
struct Lineage {
  ModelState state;
  std::vector<Ancestor> ancestors = {};

  /// The layers that were edited since this model had that state; throws Error where it never had.
  std::set<int64_t> edited_since(const ModelState& state) const;
  bool includes(const ModelState& state) const;
};

/// What was added to the weights of a checkpoint in memory, change after change, by content: equal changes in equal
/// order give equal hashes, whatever files they come from.
class EditChain {
 public:
  /// Adds changes that are applied together.
  void add(std::span<const Change> changes, const Architecture& architecture);

  bool empty() const { return steps_.empty(); }
  /// Of all edits so far; empty where there are none.
  std::string sha256() const { return steps_.empty() ? "" : steps_.back().sha256; }
  /// The matrices that were changed.
  std::set<WeightId> weights() const;
  /// The model with these edits, as it was loaded from its checkpoint, and what is known of that.
  Lineage on(const Model& model) const;

 private:
  struct Step {
    std::string sha256;
    std::set<WeightId> weights;
  };
  std::vector<Step> steps_;
};

/// What an exported checkpoint holds beside its model: its Lineage. transformers does not look at it.
inline constexpr const char* kLineageFile = "loci_lineage.json";

/// Replaces a folder's lineage file; removes it where there are no ancestors.
void write_lineage(const std::filesystem::path& dir, const Lineage& lineage);
/// The lineage of the checkpoint in `dir`: without ancestors where there is no file, or it is that of other weights
/// because the model was changed since. Throws InputError for a file that is damaged.
Lineage read_lineage(const std::filesystem::path& dir, const std::string& weights_sha256);

}  // namespace loci
