#pragma once

#include <cstdint>
#include <vector>

#include "kernels/rows.h"
#include "model/executor.h"

/// What the forward and the backward pass of the executor share. Not for other folders.
namespace loci {

/// Where each sequence's rows lie. Sequences are packed by the layer at which they join, so the rows that block l
/// computes are the first `active_rows[l]` of the buffer: the batch grows with depth.
struct RowLayout {
  std::vector<int64_t> order;        ///< sequence indices, by (first_layer, index)
  std::vector<int64_t> first_row;    ///< per sequence, in the packed buffer
  std::vector<int64_t> active;       ///< [l]: how many of `order` take part in block l; [L]: in the final rows
  std::vector<int64_t> active_rows;  ///< [l]: their rows

  RowLayout(const Plan& plan, int64_t layers);
  int64_t total_rows() const { return active_rows.back(); }
};

/// The rows that are still needed after the keys and values of the last block: from each sequence's first wanted row to
/// its end. Sequences that join behind the last block follow in the shortened buffer.
struct TailRows {
  std::vector<int64_t> first_position;  ///< per sequence; where nothing is wanted: the position behind its last row
  std::vector<int64_t> first_row;       ///< per sequence, in the shortened buffer
  std::vector<int64_t> rows;            ///< packed rows of the last block that are kept
  int64_t buffer_rows = 0;              ///< kept rows and those that join behind the last block
  DeviceArray<int64_t> device_rows;
};

/// Rows that join a block as their bases have them take their queries, keys and values from there.
struct ReusedRows {
  int64_t first_joined = 0;        ///< packed rows before this one are computed
  std::vector<RowSource> sources;  ///< the rows taken from bases, of 3d floats
  std::vector<int64_t> changed;    ///< the other joined rows, ascending
  DeviceArray<int64_t> device_changed;
};

/// One block's inputs and intermediate results, as far as its backward pass needs them.
struct BlockActivations {
  Tensor input;            ///< [R, d] residual stream
  Tensor ln_1_statistics;  ///< [R, 2]
  Tensor qkv;              ///< [R, 3d]; the queries' columns are unused with tail rows
  Tensor queries;          ///< [tail rows, d], with tail rows only
  Tensor attended;         ///< [R or tail, d] attention output before its projection
  Tensor log_sums;         ///< [R or tail, heads]
  Tensor middle;           ///< [R or tail, d] residual stream between attention and MLP
  Tensor ln_2_statistics;  ///< [R or tail, 2]
  Tensor up;               ///< [R or tail, ff] before the activation function
  AttentionBatch attention;
  std::optional<ReusedRows> reused;
  DeviceArray<float> mlp_factors;  ///< per row, empty where no MLP is scaled
};

struct Activations {
  explicit Activations(RowLayout layout_) : layout(std::move(layout_)) {}

  RowLayout layout;
  std::vector<BlockActivations> blocks;
  std::optional<TailRows> tail;  ///< of the last block
  std::vector<int64_t> sequence_rows;
  std::vector<int64_t> first_layers;
  DeviceArray<int32_t> token_ids;     ///< of the rows that joined at layer 0
  DeviceArray<int32_t> position_ids;  ///< likewise
  Tensor final_rows;                  ///< [wanted, d], before the last normalisation
  Tensor final_statistics;            ///< [wanted, 2]
  DeviceArray<int64_t> wanted_rows;   ///< in the buffer after the last block
  int64_t final_buffer_rows = 0;
};

/// The forward pass of a plan that fits the model (executor_forward.cpp).
Run run_forward(Context& context, const Model& model, const Plan& plan, Keep keep);

}  // namespace loci
