#pragma once

#include <array>
#include <optional>
#include <vector>

#include "kernels/attention.h"
#include "model/executor/executor.h"
#include "model/executor/geometry.h"

/// What the forward and the backward pass share. Not for other folders.
namespace loci {

/// One block's inputs and intermediate results, as far as its backward pass needs them. R: its rows, or those of the
/// tail.
struct BlockActivations {
  Tensor input;              ///< [all rows, d] residual stream
  Tensor norm_1_statistics;  ///< [all rows, 2]
  Tensor qkv;                ///< [all rows, 3 d]; the queries' columns are unused with a tail
  Tensor queries;            ///< [R, d], with a tail only
  /// What `qkv` and `queries` were before their heads were normalised, where a model does that.
  Tensor raw_qkv, raw_queries;
  Tensor attended;  ///< [R, d] attention output before its projection
  Tensor log_sums;  ///< [R, heads]
  Tensor middle;    ///< [R, d] what the MLP's norm takes: the residual stream, with the attention's output or not
  Tensor norm_2_statistics;  ///< [R, 2]
  Tensor pre;                ///< [R, ff] before the activation function
  Tensor up;                 ///< [R, ff] what its results are multiplied by, of gated MLPs
  /// Rows at attn_in, attn_heads, mlp_in or mlp_key where patches made them differ from what the above gives.
  std::array<Tensor, kSites> patched;
  std::vector<AttentionBatch> attention;
  std::optional<ReusedRows> reused;
  DeviceArray<float> mlp_factors;  ///< per row, empty where no MLP is scaled
};

struct Activations {
  Activations(const Plan& of, int64_t layers) : geometry(of, layers) {}

  Geometry geometry;
  Plan plan;  ///< a copy, with Keep::activations
  std::vector<BlockActivations> blocks;
  DeviceArray<int32_t> token_ids;     ///< of the rows that joined at layer 0
  DeviceArray<int32_t> position_ids;  ///< likewise
  RotaryTables rotary;                ///< for all positions of the run; empty where the model turns nothing
  Tensor final_rows;                  ///< [wanted, d], before the last normalisation
  Tensor final_statistics;            ///< [wanted, 2]
  DeviceArray<int64_t> wanted_rows;   ///< in the buffer after the last block
};

/// The forward pass of a plan that fits the model.
Run run_forward(Context& context, const Model& model, const Plan& plan, Keep keep);
/// The backward pass of a run with activations.
RowGradients run_backward(Context& context, const Model& model, const Activations& kept, ConstView logit_gradients,
                          const Parameters<float>* parameters);

}  // namespace loci
