#include "model/executor/recording.h"

#include <algorithm>

#include "runtime/error.h"

namespace loci {
namespace {

/// Where a layer of a site stands in its list.
int64_t slot(Site site, int64_t layer) { return site == Site::resid ? layer + 1 : layer; }

/// A view of the list, or an empty one.
ConstView view_at(const Recording::Layers& list, int64_t index) {
  return index >= 0 && index < std::ssize(list) ? list[index] : ConstView{};
}

}  // namespace

int64_t site_width(const Architecture& config, Site site) {
  if (site == Site::qkv) return config.qkv_width();
  if (site == Site::attn_heads) return config.query_width();
  return site == Site::mlp_pre || site == Site::mlp_key ? config.mlp_width : config.width;
}

Recording::Recording(std::shared_ptr<const Recording> base_, int64_t first_position_, int64_t first_layer_,
                     int64_t rows_, int64_t layers)
    : base(std::move(base_)), first_position(first_position_), first_layer(first_layer_), rows(rows_) {
  for (Layers* list : {&keys, &values, &qkv}) list->resize(static_cast<size_t>(layers));
  for (Layers& list : at) list.resize(static_cast<size_t>(layers + 1));
}

const float* Recording::row(Site site, int64_t layer, int64_t position) const {
  const int64_t lowest = site == Site::resid ? first_layer - 1 : first_layer;
  if (position < first_position || layer < lowest) {
    require<ShapeError>(base != nullptr, "position {} at layer {} was not recorded", position, layer);
    return base->row(site, layer, position);
  }
  const ConstView rows_there = view_at(at[static_cast<size_t>(site)], slot(site, layer));
  require<ShapeError>(position < length() && rows_there.data, "position {} at layer {} was not recorded", position,
                      layer);
  return rows_there.row(position - first_position);
}

const float* Recording::qkv_row(int64_t layer, int64_t position) const {
  if (position < first_position || layer < first_layer) return base ? base->qkv_row(layer, position) : nullptr;
  const ConstView rows_there = view_at(qkv, layer);
  return position < length() && rows_there.data ? rows_there.row(position - first_position) : nullptr;
}

void append_segments(const Recording* recording, int64_t layer, int64_t end, std::vector<AttentionSegment>& segments) {
  if (end == 0) return;
  require<ShapeError>(recording != nullptr, "positions before {} have no base at layer {}", end, layer);
  const Recording& r = *recording;
  if (layer < r.first_layer) return append_segments(r.base.get(), layer, end, segments);
  append_segments(r.base.get(), layer, std::min(end, r.first_position), segments);
  const int64_t own = std::min(end, r.length()) - r.first_position;
  if (own <= 0) return;
  const ConstView keys = view_at(r.keys, layer), values = view_at(r.values, layer);
  require<ShapeError>(keys.data, "the base has no keys at layer {}", layer);
  segments.push_back({keys.data, values.data, keys.stride, own});
}

int64_t recorded_row_bytes(const Architecture& config, std::span<const BlockSite> recorded) {
  // A residual row before each block and after the last; query, key and value of each block.
  int64_t floats = (config.layers + 1) * config.width + config.layers * site_width(config, Site::qkv);
  for (const BlockSite& at : recorded) floats += site_width(config, at.site);
  return floats * static_cast<int64_t>(sizeof(float));
}

}  // namespace loci
