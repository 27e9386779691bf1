#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "model/executor/site.h"
#include "runtime/view.h"

namespace loci {

/// What a recorded sequence left behind, kept by the lanes that start from it. Rows are its own rows: row i is position
/// first_position + i; earlier positions are those of its own base.
struct Recording {
  /// By layer, each [rows, width]; empty where nothing was recorded.
  using Layers = std::vector<ConstView>;

  Recording(std::shared_ptr<const Recording> base, int64_t first_position, int64_t first_layer, int64_t rows,
            int64_t layers);

  std::shared_ptr<const Recording> base;
  int64_t first_position;
  int64_t first_layer;
  int64_t rows;
  Layers keys, values;            ///< from first_layer on; below it they are those of `base`
  Layers qkv;                     ///< the same with the queries before them, where those were computed for all rows
  std::array<Layers, kSites> at;  ///< by site. resid(l) stands at [l + 1]; the others where Plan::recorded asked
  std::shared_ptr<void> storage;

  int64_t length() const { return first_position + rows; }
  /// The row of `position` at a recorded site, in device memory; follows the bases. Throws ShapeError where it was not
  /// recorded.
  const float* row(Site site, int64_t layer, int64_t position) const;
  /// The queries, keys and values of `position` at a layer, side by side in device memory; follows the bases. Null
  /// where they were not recorded together.
  const float* qkv_row(int64_t layer, int64_t position) const;
};
using RecordingPtr = std::shared_ptr<const Recording>;

/// Appends the keys and values of positions [0, end) at a layer, from a recording and its bases. Throws ShapeError
/// where some were not recorded.
void append_segments(const Recording* recording, int64_t layer, int64_t end, std::vector<AttentionSegment>& segments);

/// Bytes that the recording of one row takes: its residual rows, its queries, keys and values, and `recorded` sites.
int64_t recorded_row_bytes(const Architecture& config, std::span<const BlockSite> recorded = {});

}  // namespace loci
