#include <algorithm>
#include <array>

#include "kernels/activation.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/rows.h"
#include "model/executor.h"
#include "model/executor_internal.h"

namespace loci {
namespace {

/// The backward pass of one run. `dx_` is d loss / d residual stream, [rows of the current block, d].
class Backward {
 public:
  Backward(Context& context, const Model& model, const Activations& kept, const Parameters<float>* gradients)
      : context_(context),
        config_(model.config()),
        parameters_(model.parameters()),
        kept_(kept),
        layout_(kept.layout),
        gradients_(gradients) {}

  RowGradients run(ConstView logit_gradients) {
    start_joined();
    unembed(logit_gradients);
    for (int64_t layer = config_.layers - 1; layer >= 0; --layer) {
      leave(layer + 1);
      if (layout_.active_rows[layer] == 0) continue;
      feed_forward(layer);
      attend(layer);
    }
    leave(0);
    if (gradients_) embed();
    return std::move(joined_);
  }

 private:
  bool has_tail(int64_t layer) const { return kept_.tail && layer == config_.layers - 1; }
  int64_t rows_after_attention(int64_t layer) const {
    return has_tail(layer) ? std::ssize(kept_.tail->rows) : layout_.active_rows[layer];
  }
  const BlockActivations& block(int64_t layer) const { return kept_.blocks[layer]; }
  const BlockParameters<const float>& parameters(int64_t layer) const { return parameters_.blocks[layer]; }
  const BlockParameters<float>* gradients(int64_t layer) const {
    return gradients_ ? &gradients_->blocks[layer] : nullptr;
  }

  void start_joined();
  void unembed(ConstView dlogits);
  void leave(int64_t layer);
  void feed_forward(int64_t layer);
  void attend(int64_t layer);
  Tensor qkv_gradients(int64_t layer, ConstView dattended);
  void through_qkv(int64_t layer, ConstView dqkv);
  Tensor before_qkv(int64_t layer, ConstView dqkv) const;
  void weight_gradients(ConstView x, ConstView dy, View weight, View bias);
  Tensor normalised(ConstView x, ConstView gain, ConstView bias) const;
  void embed();

  Context& context_;
  const GptConfig& config_;
  const Parameters<const float>& parameters_;
  const Activations& kept_;
  const RowLayout& layout_;
  const Parameters<float>* gradients_;
  RowGradients joined_;
  Tensor dx_;
};

void Backward::start_joined() {
  int64_t rows = 0;
  for (const int64_t count : kept_.sequence_rows) {
    joined_.first_row.push_back(rows);
    rows += count;
  }
  joined_.joined = Tensor(context_, rows, config_.width);
}

/// dweight += x^T dy, dbias += column sums of dy.
void Backward::weight_gradients(ConstView x, ConstView dy, View weight, View bias) {
  gemm(context_, Transpose::yes, x, Transpose::no, dy, weight, Write::accumulate);
  add_column_sums(context_, dy, bias);
}

/// The output of a layer norm again: cheaper to compute twice than to keep.
Tensor Backward::normalised(ConstView x, ConstView gain, ConstView bias) const {
  Tensor y(context_, x.rows, x.cols);
  layer_norm(context_, x, gain, bias, static_cast<float>(config_.layer_norm_epsilon), y.view(), {});
  return y;
}

void Backward::unembed(ConstView dlogits) {
  const ConstView x = kept_.final_rows.view();
  require<ShapeError>(dlogits.rows == x.rows && dlogits.cols == config_.vocabulary,
                      "logit gradients are [{}, {}], expected [{}, {}]", dlogits.rows, dlogits.cols, x.rows,
                      config_.vocabulary);
  Tensor dh(context_, x.rows, config_.width);
  linear_backward(context_, dlogits, WeightView::out_in(parameters_.unembedding), dh.view(), Write::assign);
  if (gradients_) {
    const Tensor h = normalised(x, parameters_.ln_f_gain, parameters_.ln_f_bias);
    gemm(context_, Transpose::yes, dlogits, Transpose::no, h.view(), gradients_->unembedding, Write::accumulate);
  }
  Tensor dwanted(context_, x.rows, config_.width);
  layer_norm_backward(context_, x, parameters_.ln_f_gain, kept_.final_statistics.view(), dh.view(), dwanted.view(),
                      Write::assign, gradients_ ? gradients_->ln_f_gain : View{},
                      gradients_ ? gradients_->ln_f_bias : View{});
  dx_ = Tensor::zeros(context_, std::max<int64_t>(1, kept_.final_buffer_rows), config_.width);
  scatter_rows(context_, dwanted.view(), kept_.wanted_rows, dx_.view(), Write::assign);
}

/// Hands out the gradients of the rows that joined at this layer.
void Backward::leave(int64_t layer) {
  const int64_t begin = layer == 0 ? 0 : layout_.active[layer - 1];
  const int64_t end = layout_.active[layer];
  const bool shortened = kept_.tail && layer == config_.layers;
  std::vector<RowDestination> leaving;
  for (int64_t i = begin; i < end; ++i) {
    const auto s = static_cast<size_t>(layout_.order[i]);
    const int64_t first = shortened ? kept_.tail->first_row[s] : layout_.first_row[s];
    for (int64_t row = 0; row < kept_.sequence_rows[s]; ++row)
      leaving.push_back({first + row, joined_.joined.row(joined_.first_row[s] + row)});
  }
  if (!leaving.empty()) tap_rows(context_, dx_.view(), {context_, std::span<const RowDestination>(leaving)});
}

/// y = x + W_down f(W_up ln_2(x)), backwards.
void Backward::feed_forward(int64_t layer) {
  const BlockActivations& kept = block(layer);
  const BlockParameters<const float>& p = parameters(layer);
  const BlockParameters<float>* g = gradients(layer);
  const int64_t rows = rows_after_attention(layer);
  const View dx = dx_.rows_slice(0, rows);
  Tensor scaled;
  ConstView dout = dx;
  if (!kept.mlp_factors.empty()) {
    scaled = Tensor(context_, rows, config_.width);
    context_.copy_on_device(scaled.data(), dx.data, sizeof(float) * static_cast<size_t>(rows * config_.width));
    scale_rows(context_, kept.mlp_factors, scaled.view());
    dout = scaled.view();
  }
  Tensor dup(context_, rows, config_.mlp_width);
  if (g) {
    activation(context_, config_.activation, kept.up.view(), dup.view());  // the keys, for a moment
    weight_gradients(dup.view(), dout, g->down_weight, g->down_bias);
  }
  linear_backward(context_, dout, WeightView::in_out(p.down_weight), dup.view(), Write::assign);
  activation_backward(context_, config_.activation, kept.up.view(), dup.view(), dup.view());
  if (g)
    weight_gradients(normalised(kept.middle.view(), p.ln_2_gain, p.ln_2_bias).view(), dup.view(), g->up_weight,
                     g->up_bias);
  Tensor dh(context_, rows, config_.width);
  linear_backward(context_, dup.view(), WeightView::in_out(p.up_weight), dh.view(), Write::assign);
  layer_norm_backward(context_, kept.middle.view(), p.ln_2_gain, kept.ln_2_statistics.view(), dh.view(), dx,
                      Write::accumulate, g ? g->ln_2_gain : View{}, g ? g->ln_2_bias : View{});
}

/// y = x + W_o attention(W_qkv ln_1(x)), backwards. Behind it dx_ has the rows of the whole block again.
void Backward::attend(int64_t layer) {
  const BlockActivations& kept = block(layer);
  const BlockParameters<const float>& p = parameters(layer);
  const BlockParameters<float>* g = gradients(layer);
  const int64_t rows = layout_.active_rows[layer];
  const View dout = dx_.rows_slice(0, rows_after_attention(layer));
  if (g) weight_gradients(kept.attended.view(), dout, g->out_weight, g->out_bias);
  Tensor dattended(context_, dout.rows, config_.width);
  linear_backward(context_, dout, WeightView::in_out(p.out_weight), dattended.view(), Write::assign);

  const Tensor dqkv = qkv_gradients(layer, dattended.view());
  if (has_tail(layer)) {
    Tensor whole = Tensor::zeros(context_, rows, config_.width);
    scatter_rows(context_, dout, kept_.tail->device_rows, whole.view(), Write::assign);
    dx_ = std::move(whole);
  }
  through_qkv(layer, dqkv.view());
}

/// [rows, 3d] gradients of queries, keys and values; zero for the queries of rows that ended at their keys and values.
Tensor Backward::qkv_gradients(int64_t layer, ConstView dattended) {
  const BlockActivations& kept = block(layer);
  const int64_t d = config_.width;
  const int64_t rows = layout_.active_rows[layer];
  const ConstView qkv = kept.qkv.view();
  Tensor dqkv = Tensor::zeros(context_, rows, 3 * d);
  ConstView queries = qkv.cols_slice(0, d);
  View dqueries = dqkv.view().cols_slice(0, d);
  Tensor tail_dq;
  if (has_tail(layer)) {
    tail_dq = Tensor(context_, dattended.rows, d);
    queries = kept.queries.view();
    dqueries = tail_dq.view();
  }
  const AttentionShape shape{config_.heads, config_.heads, static_cast<float>(config_.attention_factor(layer))};
  attention_backward(context_, kept.attention, shape, {queries, qkv.cols_slice(d, d), qkv.cols_slice(2 * d, d)},
                     kept.attended.view(), kept.log_sums.view(), dattended,
                     {dqueries, dqkv.view().cols_slice(d, d), dqkv.view().cols_slice(2 * d, d)});
  if (has_tail(layer))
    scatter_rows(context_, tail_dq.view(), kept_.tail->device_rows, dqkv.view().cols_slice(0, d), Write::assign);
  return dqkv;
}

void Backward::through_qkv(int64_t layer, ConstView dqkv) {
  const BlockActivations& kept = block(layer);
  const BlockParameters<const float>& p = parameters(layer);
  const BlockParameters<float>* g = gradients(layer);
  if (g)
    weight_gradients(normalised(kept.input.view(), p.ln_1_gain, p.ln_1_bias).view(), dqkv, g->qkv_weight, g->qkv_bias);
  const Tensor dh = before_qkv(layer, dqkv);
  layer_norm_backward(context_, kept.input.view(), p.ln_1_gain, kept.ln_1_statistics.view(), dh.view(),
                      dx_.rows_slice(0, dqkv.rows), Write::accumulate, g ? g->ln_1_gain : View{},
                      g ? g->ln_1_bias : View{});
}

/// dqkv W_qkv^T; 0 for the rows that bases gave.
Tensor Backward::before_qkv(int64_t layer, ConstView dqkv) const {
  const WeightView weight = WeightView::in_out(parameters(layer).qkv_weight);
  const std::optional<ReusedRows>& reused = block(layer).reused;
  if (!reused) {
    Tensor dh(context_, dqkv.rows, config_.width);
    linear_backward(context_, dqkv, weight, dh.view(), Write::assign);
    return dh;
  }
  Tensor dh = Tensor::zeros(context_, dqkv.rows, config_.width);
  const int64_t first = reused->first_joined;
  linear_backward(context_, dqkv.rows_slice(0, first), weight, dh.rows_slice(0, first), Write::assign);
  const auto changed = std::ssize(reused->changed);
  if (changed == 0) return dh;
  Tensor changed_dqkv(context_, changed, dqkv.cols), changed_dh(context_, changed, config_.width);
  gather_rows(context_, dqkv, reused->device_changed, changed_dqkv.view());
  linear_backward(context_, changed_dqkv.view(), weight, changed_dh.view(), Write::assign);
  scatter_rows(context_, changed_dh.view(), reused->device_changed, dh.view(), Write::assign);
  return dh;
}

void Backward::embed() {
  const int64_t rows = layout_.active_rows[0];
  if (rows == 0) return;
  embed_rows_backward(context_, kept_.token_ids, dx_.rows_slice(0, rows), gradients_->token_embedding);
  embed_rows_backward(context_, kept_.position_ids, dx_.rows_slice(0, rows), gradients_->position_embedding);
}

}  // namespace

RowGradients Executor::backward(const Run& run, ConstView logit_gradients, const Parameters<float>* parameters) {
  require<ShapeError>(run.activations != nullptr, "the run was made without Keep::activations");
  const auto& first_layers = run.activations->first_layers;
  require<ShapeError>(
      !parameters || std::all_of(first_layers.begin(), first_layers.end(), [](int64_t l) { return l == 0; }),
      "parameters have no gradients in runs whose sequences start from bases");
  return Backward(context_, model_, *run.activations, parameters).run(logit_gradients);
}

}  // namespace loci
