#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/rows.h"
#include "model/executor/plan.h"
#include "runtime/tensor.h"

/// Where the rows of a run lie. Not for other folders.
namespace loci {

class SiteIndex;

/// The rows that are still needed after the keys and values of the last block: from each sequence's first wanted row to
/// its end. Sequences that join after the last block follow in the shortened buffer.
struct Tail {
  std::vector<int64_t> first_position;  ///< per sequence; where nothing is wanted: the position after its last row
  std::vector<int64_t> first_row;       ///< per sequence, in the shortened buffer
  std::vector<int64_t> rows;            ///< packed rows of the last block that are kept
  int64_t buffer_rows = 0;              ///< kept rows and those that join after the last block
  DeviceArray<int64_t> device_rows;
};

/// Packs sequences by the layer at which they join, so the rows that block l computes are the first rows(l) of the
/// buffer: the batch grows with depth. Within the last block the buffer may be shortened to its tail.
class Geometry {
 public:
  Geometry(const Plan& plan, int64_t layers);

  int64_t layers() const { return layers_; }
  int64_t sequences() const { return std::ssize(places_); }
  /// The sequences that take part in block `layer`, packed in this order; L: in the final rows.
  std::span<const int64_t> active(int64_t layer) const { return std::span(order_).first(active_[layer]); }
  /// Those that join at `layer`.
  std::span<const int64_t> joining(int64_t layer) const { return active(layer).subspan(active_before(layer)); }
  /// The rows of block `layer` before it is shortened, and the first of those that join there.
  int64_t rows(int64_t layer) const { return rows_[layer]; }
  int64_t first_joined_row(int64_t layer) const { return layer == 0 ? 0 : rows_[layer - 1]; }

  /// One more than the last position of any sequence.
  int64_t positions() const { return positions_; }
  int64_t sequence_rows(int64_t s) const { return places_[s].rows; }
  int64_t first_layer(int64_t s) const { return places_[s].first_layer; }
  int64_t end_position(int64_t s) const { return places_[s].first_position + places_[s].rows; }

  /// The sequence's first row that is still computed; its end where none is.
  int64_t first_position(int64_t s) const { return first_position(s, tail_.has_value()); }
  int64_t first_position(int64_t s, bool shortened) const {
    return shortened ? tail_->first_position[s] : places_[s].first_position;
  }
  int64_t first_row(int64_t s, bool shortened) const { return shortened ? tail_->first_row[s] : places_[s].first_row; }
  /// Where a position lies in the buffer, as it is now, or before or after it was shortened.
  int64_t row(int64_t s, int64_t position) const { return row(s, position, tail_.has_value()); }
  int64_t row(int64_t s, int64_t position, bool shortened) const {
    return first_row(s, shortened) + position - first_position(s, shortened);
  }
  /// Rows of block `layer`; those of its tail where it has been shortened.
  int64_t current_rows(int64_t layer) const { return has_tail(layer) ? std::ssize(tail_->rows) : rows_[layer]; }
  /// Rows of the buffer at the end.
  int64_t buffer_rows() const { return tail_ ? tail_->buffer_rows : rows_.back(); }

  const std::optional<Tail>& tail() const { return tail_; }
  bool has_tail(int64_t layer) const { return tail_ && layer == layers_ - 1; }
  void shorten(Tail tail) { tail_ = std::move(tail); }

 private:
  struct Place {
    int64_t first_row, rows, first_position, first_layer;
  };
  size_t active_before(int64_t layer) const { return layer == 0 ? 0 : static_cast<size_t>(active_[layer - 1]); }

  int64_t layers_;
  int64_t positions_ = 0;
  std::vector<Place> places_;    // per sequence, before the buffer is shortened
  std::vector<int64_t> order_;   // sequences by (first_layer, index)
  std::vector<int64_t> active_;  // [l]: how many of order_ take part in block l
  std::vector<int64_t> rows_;    // [l]: their rows
  std::optional<Tail> tail_;
};

/// Rows that join a block as their bases have them take their queries, keys and values from there.
struct ReusedRows {
  int64_t first_joined = 0;        ///< packed rows before this one are computed
  std::vector<RowSource> sources;  ///< the rows taken from bases, as wide as Site::qkv
  std::vector<int64_t> changed;    ///< the other joined rows, ascending
  DeviceArray<int64_t> device_changed;
};

/// The rows that the last block needs after its keys and values; nothing where all are needed.
std::optional<Tail> tail_of(Context& context, const Plan& plan, const Geometry& geometry, const SiteIndex& sites);
/// The rows that join at `layer` and take their queries, keys and values from bases; nothing where there are none.
std::optional<ReusedRows> reused_rows(Context& context, const Plan& plan, const Geometry& geometry,
                                      const SiteIndex& sites, int64_t layer);
/// The position of each row of block `layer`, before or after it is shortened.
std::vector<int32_t> row_positions(const Geometry& geometry, int64_t layer, bool shortened);
/// Which keys the queries of each sequence see in a block, with a window (Architecture::window) or 0. One batch as a
/// rule; each has the rows of all for its queries, but computes its own.
std::vector<AttentionBatch> attention_batches(Context& context, const Plan& plan, const Geometry& geometry,
                                              int64_t layer, int64_t window);

}  // namespace loci
