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

AttentionBatch attention_batch(Context& context, const Plan& plan, const Geometry& geometry, int64_t layer) {
  AttentionBatch batch;
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionSegment> segments;
  for (const int64_t s : geometry.active(layer)) {
    const Sequence& lane = plan.sequences[s];
    const std::vector<int64_t> bounds = segment_bounds(plan, s, layer);
    for (size_t part = 0; part + 1 < bounds.size(); ++part) {
      const int64_t first_query = std::max(geometry.first_position(s), bounds[part]);
      const int64_t queries = bounds[part + 1] - first_query;
      if (queries <= 0) continue;
      const auto first_segment = std::ssize(segments);
      append_segments(lane.base.get(), layer, lane.first_position, segments);
      sequences.push_back({.first_query = geometry.row(s, first_query),
                           .queries = queries,
                           .first_key = geometry.row(s, bounds[part], /*shortened=*/false),
                           .keys = bounds[part + 1] - bounds[part],
                           .visible_0 = first_query - bounds[part] + 1,
                           .first_segment = first_segment,
                           .segments = std::ssize(segments) - first_segment});
      batch.queries += queries;
      batch.max_keys = std::max(batch.max_keys, bounds[part + 1]);
      batch.max_queries = std::max(batch.max_queries, queries);
    }
  }
  batch.sequences = {context, std::span<const AttentionSequence>(sequences)};
  batch.segments = {context, std::span<const AttentionSegment>(segments)};
  return batch;
}

}  // namespace loci
