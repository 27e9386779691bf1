#pragma once

#include <deque>
#include <span>
#include <vector>

#include "edit/change.h"
#include "model/executor/plan.h"
#include "model/model.h"

namespace loci {

/// Where the rows that a matrix of a block multiplies come from, and where its products go.
struct Projection {
  Site from, to;
};
/// Throws ShapeError for a role that is not a matrix of a block.
Projection projection_of(Role role);

/// A model with changes, as the executor runs it: on lanes beside the model as it is, or with new weights.
class EditedModel {
 public:
  /// `changes` must outlive it; there is at least one.
  explicit EditedModel(std::span<const Change> changes) : changes_(changes) {}

  /// Whether all changes are branches of a plan, so that many edited models share a wave and one set of weights. The up
  /// projection of a gated MLP leads to no site of its own.
  bool runs_in_lanes(const Architecture& architecture) const;
  /// Where a lane of it joins the model's own run: the lowest layer that is changed, or the one above where the change
  /// only adds to that layer's MLP output.
  int64_t first_layer() const;
  /// What such a lane reads below that layer: these rows must be recorded.
  std::vector<BlockSite> joining_sites() const;
  std::span<const Change> changes() const { return changes_; }

  /// Adds the changes to the model's weights, each in its own copy.
  void fold_into(Context& context, Model& model) const;

 private:
  std::span<const Change> changes_;
};

/// W += the change.
void fold(Context& context, Model& model, const Change& change);

/// The changes of several edited models in device memory, to be added to sequences of plans.
class DeviceChanges {
 public:
  /// Throws ShapeError for a model that does not run in lanes.
  DeviceChanges(Context& context, std::span<const EditedModel* const> models);

  /// Adds the branches of the model of this index to a sequence.
  void add_to(Plan& plan, int64_t sequence, size_t model) const;

 private:
  struct Terms {
    size_t same_as;  // the index of the same model where it came first, which has the branches
    std::vector<Branch> branches;
  };

  std::deque<Tensor> storage_;  // views point into it
  std::vector<Terms> terms_;    // per model
};

}  // namespace loci
