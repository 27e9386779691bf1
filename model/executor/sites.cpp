#include "model/executor/sites.h"

#include "kernels/rows.h"
#include "runtime/error.h"

namespace loci {

// --- The index -------------------------------------------------------------------------------------------------------

SiteIndex::SiteIndex(const Plan& plan, int64_t layers)
    : layers_(layers), sites_(static_cast<size_t>(kSites * layers)), joining_(static_cast<size_t>(layers + 1)) {
  for (const RowPatch& patch : plan.patches) place(plan, patch).patches.push_back(&patch);
  for (const RowTap& tap : plan.taps) place(plan, tap).taps.push_back(&tap);
  for (const RowTap& tap : plan.gradient_taps) place(plan, tap).gradient_taps.push_back(&tap);
  for (const BlockSite& at : plan.observed) sites_[slot(at.site, at.layer)].observed = true;
  for (const BlockSite& at : plan.recorded) sites_[slot(at.site, at.layer)].recorded = true;
}

int64_t SiteIndex::slot(Site site, int64_t layer) const {
  const int64_t place = site == Site::embed ? 0 : layer;
  require<ShapeError>(place >= 0 && place < layers_, "layer {} of a patch or tap is outside the model's {} blocks",
                      layer, layers_);
  return static_cast<int64_t>(site) * layers_ + place;
}

template <typename RowWork>
SiteWork& SiteIndex::place(const Plan& plan, const RowWork& work) {
  const int64_t first_layer = plan.sequences[work.sequence].first_layer;
  if (work.site == Site::resid && work.layer == first_layer - 1) return joining_[first_layer];
  return sites_[slot(work.site, work.layer)];
}

Tensor copy_of(Context& context, ConstView rows) {
  require<ShapeError>(rows.contiguous(), "only contiguous rows are copied whole");
  Tensor copy(context, rows.rows, rows.cols);
  context.copy_on_device(copy.data(), rows.data, sizeof(float) * static_cast<size_t>(rows.rows * rows.cols));
  return copy;
}

// --- Forward ---------------------------------------------------------------------------------------------------------

Sites::Sites(Context& context, const Plan& plan, const Geometry& geometry)
    : context_(context),
      plan_(plan),
      geometry_(geometry),
      index_(plan, geometry.layers()),
      storage_(std::make_shared<Storage>()) {
  for (int64_t i = 0; i < std::ssize(plan.sequences); ++i) {
    const Sequence& s = plan.sequences[i];
    if (!s.record) continue;
    recordings_.resize(plan.sequences.size());
    recordings_[i] =
        std::make_shared<Recording>(s.base, s.first_position, s.first_layer, s.row_count(), geometry.layers());
    recordings_[i]->storage = storage_;
  }
}

void Sites::work_on(const SiteWork& work, View rows) const {
  std::vector<RowSource> patches;
  for (const RowPatch* patch : work.patches)
    patches.push_back({geometry_.row(patch->sequence, patch->position), patch->source,
                       patch->mode == PatchMode::add ? Write::accumulate : Write::assign});
  if (!patches.empty()) patch_rows(context_, {context_, std::span<const RowSource>(patches)}, rows);
  std::vector<RowDestination> taps;
  for (const RowTap* tap : work.taps)
    taps.push_back({geometry_.row(tap->sequence, tap->position), plan_.tap_output.row(tap->destination)});
  if (!taps.empty()) tap_rows(context_, rows, {context_, std::span<const RowDestination>(taps)});
}

bool Sites::visit(Site site, int64_t layer, View rows) {
  const SiteWork& work = index_.at(site, layer);
  work_on(work, rows);
  if (work.observed) plan_.observer(site, layer, rows);
  if (work.recorded && record() && site != Site::resid)
    point(layer, layer, storage_->keep(copy_of(context_, rows)),
          [&](Recording& r) -> Recording::Layers& { return r.at[static_cast<size_t>(site)]; });
  return !stops_at(site, layer);
}

void Sites::join(int64_t layer, View x) { work_on(index_.joining(layer), x); }

bool Sites::stops_at(Site site, int64_t layer) const {
  return plan_.stop && plan_.stop->site == site && plan_.stop->layer == layer;
}

bool Sites::stops_within(int64_t layer) const {
  return plan_.stop && plan_.stop->layer == layer && plan_.stop->site != Site::resid;
}

std::vector<int64_t> Sites::rows_not_replaced(Site site, int64_t layer, int64_t rows) const {
  std::vector<bool> replaced(static_cast<size_t>(rows), false);
  for (const RowPatch* patch : index_.at(site, layer).patches)
    if (patch->mode == PatchMode::replace) replaced[geometry_.row(patch->sequence, patch->position)] = true;
  std::vector<int64_t> others;
  for (int64_t row = 0; row < rows; ++row)
    if (!replaced[row]) others.push_back(row);
  return others;
}

// --- Recordings ------------------------------------------------------------------------------------------------------

View Sites::Storage::keep(Tensor tensor) {
  tensors.push_back(std::move(tensor));
  return tensors.back().view();
}

template <typename ListOf>
void Sites::point(int64_t layer, int64_t slot, ConstView kept, ListOf list_of) {
  for (int64_t s = 0; s < std::ssize(recordings_); ++s) {
    Recording* recording = recordings_[s].get();
    if (!recording || recording->first_layer > layer) continue;
    const int64_t first = geometry_.row(s, recording->first_position);
    list_of(*recording)[slot] = kept.rows_slice(first, recording->rows);
  }
}

void Sites::record_resid(int64_t layer, ConstView x) {
  if (!record() || x.rows == 0) return;
  point(layer, layer, storage_->keep(copy_of(context_, x)),
        [](Recording& r) -> Recording::Layers& { return r.at[static_cast<size_t>(Site::resid)]; });
}

void Sites::record_qkv(int64_t layer, Tensor qkv, int64_t key_width, Queries queries) {
  const ConstView kept = storage_->keep(std::move(qkv));
  const int64_t k = key_width, q = kept.cols - 2 * k;
  if (queries == Queries::computed) point(layer, layer, kept, [](Recording& r) -> Recording::Layers& { return r.qkv; });
  point(layer, layer, kept.cols_slice(q, k), [](Recording& r) -> Recording::Layers& { return r.keys; });
  point(layer, layer, kept.cols_slice(q + k, k), [](Recording& r) -> Recording::Layers& { return r.values; });
}

std::vector<RecordingPtr> Sites::take_recordings() {
  std::vector<RecordingPtr> taken(recordings_.begin(), recordings_.end());
  taken.resize(plan_.sequences.size());
  recordings_.clear();
  return taken;
}

// --- Backward --------------------------------------------------------------------------------------------------------

GradientSites::GradientSites(Context& context, const Plan& plan, const Geometry& geometry)
    : context_(context), plan_(plan), geometry_(geometry), index_(plan, geometry.layers()) {}

void GradientSites::tap(const SiteWork& work, bool shortened, ConstView gradients) const {
  std::vector<RowDestination> taps;
  for (const RowTap* tap : work.gradient_taps)
    taps.push_back(
        {geometry_.row(tap->sequence, tap->position, shortened), plan_.gradient_output.row(tap->destination)});
  if (!taps.empty()) tap_rows(context_, gradients, {context_, std::span<const RowDestination>(taps)});
}

void GradientSites::visit(Site site, int64_t layer, View gradients) const {
  const SiteWork& work = index_.at(site, layer);
  const bool shortened = geometry_.has_tail(layer) && site > Site::qkv;
  tap(work, shortened, gradients);
  std::vector<RowSource> zeros;
  const Tensor zero = work.patches.empty() ? Tensor() : Tensor::zeros(context_, 1, gradients.cols);
  for (const RowPatch* patch : work.patches)
    if (patch->mode == PatchMode::replace)
      zeros.push_back({geometry_.row(patch->sequence, patch->position, shortened), zero.data(), Write::assign});
  if (!zeros.empty()) patch_rows(context_, {context_, std::span<const RowSource>(zeros)}, gradients);
}

void GradientSites::leave(int64_t layer, View gradients) const {
  tap(index_.joining(layer), geometry_.tail() && layer == geometry_.layers(), gradients);
}

}  // namespace loci
