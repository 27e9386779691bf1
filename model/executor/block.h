#pragma once

#include <array>
#include <optional>
#include <vector>

#include "model/executor/activations.h"
#include "model/executor/branch.h"
#include "model/executor/sites.h"

/// One block of the model, forward and backward. Not for other folders.
namespace loci {

/// How the heads of a block attend.
inline AttentionShape attention_shape(const Architecture& config, int64_t layer) {
  return {config.heads, config.key_heads, static_cast<float>(config.attention_factor(layer))};
}

/// The columns of one head.
template <typename T>
MatrixView<T> head_of(const MatrixView<T>& heads, int64_t head_width, int64_t head) {
  return heads.cols_slice(head * head_width, head_width);
}

/// What the blocks of a forward pass share.
struct ForwardPass {
  Context& context;
  const Architecture& config;
  const Parameters<const float>& parameters;
  const Plan& plan;
  Geometry& geometry;
  Sites& sites;
  const RotaryTables& rotary;
  bool keep;  ///< activations
};

/// The forward pass through one block. `x` is the buffer of the residual stream.
class ForwardBlock {
 public:
  ForwardBlock(const ForwardPass& pass, int64_t layer, Tensor& x, BlockActivations& kept);
  /// x += attention(N_1(x)); x += mlp(N_2(x)), or both of the same x (Residual). False where the plan stops inside this
  /// block.
  bool run();

 private:
  std::optional<Tensor> attend();
  std::optional<AttentionInputs> project_qkv(ConstView h);
  void project_rows(ConstView h, View qkv);
  ConstView project_tail(ConstView h, Tail tail);
  bool reuses_rows() const;
  void place_heads(View x, ConstView gain) const;
  bool feed_forward(ConstView attended);
  bool mlp(View h);
  void multiply_by_up(ConstView h, View key);
  bool mlp_of_rows(std::span<const int64_t> rows, View h);
  bool mlp_runs_on_some_rows(int64_t rows) const;
  std::vector<Tensor> beside_mlp(ConstView h) const;
  DeviceArray<float> mlp_factors(int64_t rows) const;

  View x() const { return x_.rows_slice(0, pass_.geometry.current_rows(layer_)); }
  float epsilon() const { return static_cast<float>(pass_.config.epsilon); }
  bool visit(Site site, View rows);
  bool busy(Site site) const;
  void add_branches_to(Site site, View y);

  const ForwardPass& pass_;
  Context& context_;
  const BlockParameters<const float>& p_;
  int64_t layer_;
  Tensor& x_;
  BlockActivations& kept_;
  std::vector<const Branch*> branches_;        // of this block
  std::array<ConstView, kSites> branch_rows_;  // what branches read, at the sites visited so far
  std::array<Tensor, kSites> branch_copies_;   // where that is overwritten before they do
};

/// What the blocks of a backward pass share.
struct BackwardPass {
  Context& context;
  const Architecture& config;
  const Parameters<const float>& parameters;
  const Parameters<float>* gradients;  ///< null where they are not wanted
  const Activations& kept;
  const GradientSites& sites;
};

/// The backward pass through one block. `dx` is the gradient of the residual stream: of the block's output (its tail's
/// rows in the last block), afterwards of its input.
class BackwardBlock {
 public:
  BackwardBlock(const BackwardPass& pass, int64_t layer, Tensor& dx);
  void run();

 private:
  void feed_forward();
  Tensor mlp_output_gradients(View dx) const;
  Tensor through_gate(View dkey) const;
  void through_up(ConstView dup, View dh) const;
  void through_neurons(ConstView dout, View dh) const;
  void attend();
  Tensor qkv_gradients(ConstView dheads);
  void through_head_places(View dx, ConstView raw, ConstView gain, View dgain, bool shortened) const;
  void through_qkv(View dqkv);
  Tensor before_qkv(ConstView dqkv) const;

  int64_t rows() const { return pass_.kept.geometry.rows(layer_); }
  int64_t rows_after_attention() const { return pass_.kept.geometry.current_rows(layer_); }
  void weight_gradients(ConstView x, ConstView dy, Orientation orientation, View weight, View bias) const;
  ConstView heads() const;
  Tensor rows_at(Site site) const;
  void visit(Site site, View gradients);
  void branches_into(Site to, ConstView dy);

  const BackwardPass& pass_;
  Context& context_;
  const BlockActivations& kept_;
  const BlockParameters<const float>& p_;
  const BlockParameters<float>* g_;
  int64_t layer_;
  Tensor& dx_;
  Tensor doutput_;                            // of the block's output, where attention and MLP add to it side by side
  std::array<Tensor, kSites> from_branches_;  // gradients that branches gave to the sites they read
};

}  // namespace loci
