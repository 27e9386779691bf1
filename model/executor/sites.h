#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/executor/geometry.h"
#include "model/executor/plan.h"
#include "runtime/tensor.h"

/// What a plan asks for at the sites of a run. Not for other folders.
namespace loci {

/// All of a plan that concerns one (site, layer).
struct SiteWork {
  std::vector<const RowPatch*> patches;
  std::vector<const RowTap*> taps, gradient_taps;
  bool observed = false, recorded = false;

  bool empty() const { return patches.empty() && taps.empty() && gradient_taps.empty() && !observed && !recorded; }
};

/// A plan's work, found by site and layer. That at resid(first_layer - 1) of a sequence belongs to its joining.
class SiteIndex {
 public:
  SiteIndex(const Plan& plan, int64_t layers);
  const SiteWork& at(Site site, int64_t layer) const { return sites_[slot(site, layer)]; }
  const SiteWork& joining(int64_t layer) const { return joining_[layer]; }

 private:
  int64_t slot(Site site, int64_t layer) const;
  template <typename RowWork>
  SiteWork& place(const Plan& plan, const RowWork& work);

  int64_t layers_;
  std::vector<SiteWork> sites_;
  std::vector<SiteWork> joining_;
};

/// A copy of contiguous rows.
Tensor copy_of(Context& context, ConstView rows);

/// What happens at the sites of a forward pass: patches, taps, the observer and recordings, in this order.
class Sites {
 public:
  Sites(Context& context, const Plan& plan, const Geometry& geometry);

  const SiteIndex& index() const { return index_; }
  /// Works on the rows at a site, in the buffer as it is now. False where the plan stops here.
  bool visit(Site site, int64_t layer, View rows);
  /// The same for the rows that have joined at `layer`; `x` is the whole buffer.
  void join(int64_t layer, View x);
  bool stops_at(Site site, int64_t layer) const;
  /// Whether the plan stops within the block, before its output.
  bool stops_within(int64_t layer) const;

  /// Whether any sequence is recorded.
  bool record() const { return !recordings_.empty(); }
  /// Keeps the residual rows at resid(layer - 1).
  void record_resid(int64_t layer, ConstView x);
  /// Keeps the matrix of Site::qkv; its queries are there or not.
  enum class Queries { computed, missing };
  void record_qkv(int64_t layer, Tensor qkv, int64_t key_width, Queries queries);
  /// Per sequence; null where not recorded.
  std::vector<RecordingPtr> take_recordings();

  /// The rows whose values at a site are not replaced by patches, ascending.
  std::vector<int64_t> rows_not_replaced(Site site, int64_t layer, int64_t rows) const;

 private:
  /// The recordings of one run share the tensors that hold their rows.
  struct Storage {
    std::vector<Tensor> tensors;
    View keep(Tensor tensor);
  };

  void work_on(const SiteWork& work, View rows) const;
  /// Points each recorded sequence that has joined by `layer` at its rows of a kept matrix.
  template <typename ListOf>
  void point(int64_t layer, int64_t slot, ConstView kept, ListOf list_of);

  Context& context_;
  const Plan& plan_;
  const Geometry& geometry_;
  SiteIndex index_;
  std::vector<std::shared_ptr<Recording>> recordings_;  // empty where nothing is recorded
  std::shared_ptr<Storage> storage_;
};

/// What happens to the gradients of rows at the sites of a backward pass: taps, then zeros where a patch replaced a
/// row.
class GradientSites {
 public:
  GradientSites(Context& context, const Plan& plan, const Geometry& geometry);
  void visit(Site site, int64_t layer, View gradients) const;
  /// Gradients of the rows that joined at `layer`.
  void leave(int64_t layer, View gradients) const;
  /// Whether visit() does anything.
  bool busy(Site site, int64_t layer) const {
    return !index_.at(site, layer).patches.empty() || !index_.at(site, layer).gradient_taps.empty();
  }

 private:
  void tap(const SiteWork& work, bool shortened, ConstView gradients) const;

  Context& context_;
  const Plan& plan_;
  const Geometry& geometry_;
  SiteIndex index_;
};

}  // namespace loci
