#include "model/executor/geometry.h"

#include <algorithm>
#include <numeric>

#include "model/executor/sites.h"

namespace loci {

Geometry::Geometry(const Plan& plan, int64_t layers) : layers_(layers) {
  const auto count = plan.sequences.size(), levels = static_cast<size_t>(layers + 1);
  order_.resize(count);
  std::iota(order_.begin(), order_.end(), 0);
  const auto first_layer = [&](int64_t s) { return plan.sequences[s].first_layer; };
  std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) { return first_layer(a) < first_layer(b); });
  places_.resize(count);
  active_.resize(levels);
  rows_.resize(levels);
  int64_t rows = 0;
  for (const int64_t s : order_) {
    const Sequence& sequence = plan.sequences[s];
    places_[s] = {rows, sequence.row_count(), sequence.first_position, sequence.first_layer};
    rows += sequence.row_count();
    positions_ = std::max(positions_, sequence.end_position());
    for (int64_t layer = sequence.first_layer; layer <= layers; ++layer) {
      ++active_[layer];
      rows_[layer] = rows;
    }
  }
}

// --- The end of the last block ---------------------------------------------------------------------------------------

namespace {

/// Where each sequence's needed rows begin. Nothing where a site needs all rows.
std::optional<std::vector<int64_t>> first_needed(const Plan& plan, const Geometry& geometry, const SiteIndex& sites) {
  std::vector<int64_t> first(plan.sequences.size());
  for (size_t s = 0; s < first.size(); ++s) {
    const Sequence& sequence = plan.sequences[s];
    first[s] = sequence.record ? sequence.first_position : sequence.end_position();
  }
  const auto need = [&](int64_t s, int64_t position) { first[s] = std::min(first[s], position); };
  for (const WantedPosition& wanted : plan.wanted) need(wanted.sequence, wanted.position);
  const int64_t layer = geometry.layers() - 1;
  if (!sites.at(Site::qkv, layer).empty()) return std::nullopt;
  for (const Site site :
       {Site::attn_heads, Site::attn_out, Site::mlp_in, Site::mlp_pre, Site::mlp_key, Site::mlp_out, Site::resid}) {
    const SiteWork& work = sites.at(site, layer);
    if (work.observed) return std::nullopt;
    for (const RowPatch* patch : work.patches) need(patch->sequence, patch->position);
    for (const RowTap* tap : work.taps) need(tap->sequence, tap->position);
    for (const RowTap* tap : work.gradient_taps) need(tap->sequence, tap->position);
  }
  for (const Branch& branch : plan.branches)
    if (branch.layer == layer && branch.from == Site::attn_in) return std::nullopt;
  return first;
}

}  // namespace

std::optional<Tail> tail_of(Context& context, const Plan& plan, const Geometry& geometry, const SiteIndex& sites) {
  std::optional<std::vector<int64_t>> first = first_needed(plan, geometry, sites);
  if (!first) return std::nullopt;
  Tail tail;
  tail.first_position = std::move(*first);
  tail.first_row.resize(plan.sequences.size());
  const int64_t last = geometry.layers() - 1;
  for (const int64_t s : geometry.active(last)) {
    tail.first_row[s] = std::ssize(tail.rows);
    for (int64_t position = tail.first_position[s]; position < geometry.end_position(s); ++position)
      tail.rows.push_back(geometry.row(s, position));
  }
  if (std::ssize(tail.rows) == geometry.rows(last)) return std::nullopt;
  tail.buffer_rows = std::ssize(tail.rows);
  for (const int64_t s : geometry.joining(geometry.layers())) {
    tail.first_position[s] = plan.sequences[s].first_position;
    tail.first_row[s] = tail.buffer_rows;
    tail.buffer_rows += geometry.sequence_rows(s);
  }
  tail.device_rows = {context, std::span<const int64_t>(tail.rows)};
  return tail;
}

// --- The beginning of a lane's first block ---------------------------------------------------------------------------

namespace {

/// Which of the rows that join at `layer`, counted from the first of them, differ from their base's in what makes their
/// queries, keys and values.
std::vector<bool> changed_joining(const Plan& plan, const Geometry& geometry, const SiteIndex& sites, int64_t layer) {
  const int64_t first = geometry.first_joined_row(layer);
  std::vector<bool> changed(static_cast<size_t>(geometry.rows(layer) - first), false);
  const auto mark = [&](int64_t s, int64_t position, int64_t rows) {
    if (geometry.first_layer(s) != layer) return;
    const auto begin = changed.begin() + geometry.row(s, position) - first;
    std::fill(begin, begin + rows, true);
  };
  for (const SiteWork* work : {&sites.joining(layer), &sites.at(Site::attn_in, layer)})
    for (const RowPatch* patch : work->patches) mark(patch->sequence, patch->position, 1);
  for (const Branch& branch : plan.branches)
    if (branch.layer == layer - 1 || (branch.layer == layer && branch.to == Site::qkv))
      mark(branch.sequence, plan.sequences[branch.sequence].first_position, geometry.sequence_rows(branch.sequence));
  return changed;
}

}  // namespace

std::optional<ReusedRows> reused_rows(Context& context, const Plan& plan, const Geometry& geometry,
                                      const SiteIndex& sites, int64_t layer) {
  if (layer == 0 || geometry.joining(layer).empty()) return std::nullopt;
  ReusedRows reused;
  reused.first_joined = geometry.first_joined_row(layer);
  const std::vector<bool> changed = changed_joining(plan, geometry, sites, layer);
  for (const int64_t s : geometry.joining(layer)) {
    const Sequence& lane = plan.sequences[s];
    for (int64_t position = lane.first_position; position < lane.end_position(); ++position) {
      const int64_t row = geometry.row(s, position);
      const bool own = changed[row - reused.first_joined];
      const float* source = own ? nullptr : lane.base->qkv_row(layer, position);
      if (source)
        reused.sources.push_back({row, source, Write::assign});
      else
        reused.changed.push_back(row);
    }
  }
  if (reused.sources.empty()) return std::nullopt;
  reused.device_changed = {context, std::span<const int64_t>(reused.changed)};
  return reused;
}

std::vector<int32_t> row_positions(const Geometry& geometry, int64_t layer, bool shortened) {
  std::vector<int32_t> positions;
  for (const int64_t s : geometry.active(layer))
    for (int64_t position = geometry.first_position(s, shortened); position < geometry.end_position(s); ++position)
      positions.push_back(static_cast<int32_t>(position));
  return positions;
}

// --- Attention -------------------------------------------------------------------------------------------------------

namespace {

/// The first positions of the segments within which a sequence's rows attend in this block, and its end; one segment as
/// a rule.
std::vector<int64_t> segment_bounds(const Plan& plan, int64_t s, int64_t layer) {
  std::vector<int64_t> bounds{plan.sequences[s].first_position};
  for (const AttentionCuts& cuts : plan.regularisers.attention_cuts)
    if (cuts.sequence == s && layer < cuts.layers) bounds.insert(bounds.end(), cuts.starts.begin(), cuts.starts.end());
  bounds.push_back(plan.sequences[s].end_position());
  return bounds;
}

}  // namespace

namespace {

/// Takes the first `count` keys off segments.
void drop_front(std::vector<AttentionSegment>& segments, int64_t first, int64_t count) {
  const auto begin = segments.begin() + first;
  auto kept = begin;
  for (; kept != segments.end() && count >= kept->count; ++kept) count -= kept->count;
  if (kept != segments.end() && count > 0) {
    kept->keys += count * kept->stride;
    kept->values += count * kept->stride;
    kept->count -= count;
  }
  segments.erase(begin, kept);
}

/// A batch on its way to the device.
struct HostBatch {
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionSegment> segments;
  int64_t queries = 0, max_keys = 0, max_queries = 0;

  /// Queries first .. end - 1 of sequence s, which see no key before `keys_from`; its own keys begin at `own`.
  void add(const Plan& plan, const Geometry& geometry, int64_t layer, int64_t s, int64_t keys_from, int64_t own,
           int64_t first, int64_t end) {
    const Sequence& lane = plan.sequences[s];
    const auto first_segment = std::ssize(segments);
    append_segments(lane.base.get(), layer, lane.first_position, segments);
    if (keys_from > 0) drop_front(segments, first_segment, keys_from);
    own = std::max(own, keys_from);
    sequences.push_back({.first_query = geometry.row(s, first),
                         .queries = end - first,
                         .first_key = geometry.row(s, own, /*shortened=*/false),
                         .keys = end - own,
                         .visible_0 = first - own + 1,
                         .first_segment = first_segment,
                         .segments = std::ssize(segments) - first_segment});
    queries += end - first;
    max_keys = std::max(max_keys, end - keys_from);
    max_queries = std::max(max_queries, end - first);
  }
};

}  // namespace

std::vector<AttentionBatch> attention_batches(Context& context, const Plan& plan, const Geometry& geometry,
                                              int64_t layer, int64_t window) {
  // The first batch has the queries that see all keys before them. A query whose window leaves keys out is a sequence
  // of its own. Those of one batch are a window apart, so that no two of them have a key in common: the backward pass
  // adds to keys without asking who else does.
  std::vector<HostBatch> batches(1);
  int64_t queries = 0;
  for (const int64_t s : geometry.active(layer)) {
    const std::vector<int64_t> bounds = segment_bounds(plan, s, layer);
    for (size_t part = 0; part + 1 < bounds.size(); ++part) {
      const int64_t own = bounds[part], end = bounds[part + 1], first = std::max(geometry.first_position(s), own);
      if (first >= end) continue;
      const int64_t windowed = window > 0 ? std::clamp(window, first, end) : end;
      if (windowed > first) batches[0].add(plan, geometry, layer, s, 0, own, first, windowed);
      for (int64_t position = windowed; position < end; ++position) {
        const auto batch = static_cast<size_t>(1 + position % window);
        if (batch >= batches.size()) batches.resize(batch + 1);
        batches[batch].add(plan, geometry, layer, s, position - window + 1, own, position, position + 1);
      }
      queries += end - first;
    }
  }
  std::vector<AttentionBatch> made;
  for (HostBatch& batch : batches) {
    if (batches.size() > 1 && batch.sequences.empty()) continue;
    // A GPU takes the number of queries for that of this batch if it knows the longest of its sequences.
    const bool alone = batch.queries == queries;
    made.push_back({.sequences = {context, std::span<const AttentionSequence>(batch.sequences)},
                    .segments = {context, std::span<const AttentionSegment>(batch.segments)},
                    .queries = queries,
                    .max_keys = batch.max_keys,
                    .max_queries = alone || batch.max_queries == 1 ? batch.max_queries : 0});
  }
  return made;
}

}  // namespace loci
