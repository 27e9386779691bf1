#include <algorithm>

#include "kernels/activation.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/rows.h"
#include "model/executor/block.h"

namespace loci {

BackwardBlock::BackwardBlock(const BackwardPass& pass, int64_t layer, Tensor& dx)
    : pass_(pass),
      context_(pass.context),
      kept_(pass.kept.blocks[layer]),
      p_(pass.parameters.blocks[layer]),
      g_(pass.gradients ? &pass.gradients->blocks[layer] : nullptr),
      layer_(layer),
      dx_(dx) {}

void BackwardBlock::run() {
  feed_forward();
  attend();
}

/// dweight += x^T dy, or its transpose where that is how it is stored; dbias += column sums of dy.
void BackwardBlock::weight_gradients(ConstView x, ConstView dy, Orientation orientation, View weight, View bias) const {
  const bool in_out = orientation == Orientation::in_out;
  gemm(context_, Transpose::yes, in_out ? x : dy, Transpose::no, in_out ? dy : x, weight, Write::accumulate);
  if (!bias.empty()) add_column_sums(context_, dy, bias);
}

// --- MLP -------------------------------------------------------------------------------------------------------------

/// y = x + mlp(N_2(x)), backwards.
void BackwardBlock::feed_forward() {
  const View dx = dx_.rows_slice(0, rows_after_attention());
  visit(Site::resid, dx);
  if (pass_.config.residual == Residual::parallel) doutput_ = copy_of(context_, dx);
  const Tensor own = mlp_output_gradients(dx);
  const ConstView dout = own.rows() > 0 ? own.view() : ConstView(dx);
  branches_into(Site::mlp_out, dout);
  if (g_)
    weight_gradients(rows_at(Site::mlp_key).view(), dout, p_.down_weight.orientation, g_->down_weight, g_->down_bias);
  Tensor dpre(context_, dx.rows, pass_.config.mlp_width);
  linear_backward(context_, dout, p_.down_weight, dpre.view(), Write::assign);
  visit(Site::mlp_key, dpre.view());
  const Tensor dup = p_.gated() ? through_gate(dpre.view()) : Tensor();
  activation_backward(context_, pass_.config.activation, kept_.pre.view(), dpre.view(), dpre.view());
  visit(Site::mlp_pre, dpre.view());
  branches_into(Site::mlp_pre, dpre.view());
  if (g_)
    weight_gradients(rows_at(Site::mlp_in).view(), dpre.view(), p_.pre_weight().orientation, g_->pre_weight(),
                     g_->pre_bias());
  Tensor dh(context_, dx.rows, pass_.config.width);
  linear_backward(context_, dpre.view(), p_.pre_weight(), dh.view(), Write::assign);
  if (p_.gated()) through_up(dup.view(), dh.view());
  through_neurons(dout, dh.view());
  visit(Site::mlp_in, dh.view());
  normalise_backward(context_, pass_.config.norm, kept_.middle.view(), p_.mlp_norm_gain(),
                     kept_.norm_2_statistics.view(), dh.view(), dx, Write::accumulate,
                     g_ ? g_->mlp_norm_gain() : View{}, g_ ? g_->mlp_norm_bias() : View{});
}

/// key = f(pre) * up, backwards: the gradient of `up`; that of the key becomes that of f(pre).
Tensor BackwardBlock::through_gate(View dkey) const {
  Tensor dup(context_, dkey.rows, dkey.cols);
  activation(context_, pass_.config.activation, kept_.pre.view(), dup.view());
  product(context_, dup.view(), dkey, dup.view());
  product(context_, dkey, kept_.up.view(), dkey);
  return dup;
}

/// dh += dup W_up^T.
void BackwardBlock::through_up(ConstView dup, View dh) const {
  if (g_) weight_gradients(rows_at(Site::mlp_in).view(), dup, p_.up_weight.orientation, g_->up_weight, g_->up_bias);
  linear_backward(context_, dup, p_.up_weight, dh, Write::accumulate);
}

/// The gradients of what the down projection gives, where they differ from those of the block's output; else nothing.
Tensor BackwardBlock::mlp_output_gradients(View dx) const {
  const bool scaled = !kept_.mlp_factors.empty();
  if (!scaled && !pass_.sites.busy(Site::mlp_out, layer_)) return {};
  Tensor dout = copy_of(context_, dx);
  pass_.sites.visit(Site::mlp_out, layer_, dout.view());
  if (scaled) scale_rows(context_, kept_.mlp_factors, dout.view());
  return dout;
}

/// dh += (dout V^T * f'(h K^T + b)) K of the neurons beside the MLP.
void BackwardBlock::through_neurons(ConstView dout, View dh) const {
  if (p_.neurons.empty()) return;
  const Tensor h = rows_at(Site::mlp_in);
  for (const NeuronParameters& neurons : p_.neurons) {
    const WeightView keys = WeightView::out_in(neurons.keys);
    Tensor z(context_, h.rows(), neurons.keys.rows), dz(context_, h.rows(), neurons.keys.rows);
    linear(context_, h.view(), keys, neurons.bias, z.view());
    gemm(context_, Transpose::no, dout, Transpose::yes, neurons.values, dz.view());
    activation_backward(context_, neurons.activation, z.view(), dz.view(), dz.view());
    linear_backward(context_, dz.view(), keys, dh, Write::accumulate);
  }
}

// --- Attention -------------------------------------------------------------------------------------------------------

/// y = x + W_o attention(W_qkv N_1(x)), backwards; the MLP's part of the gradient is in dx_ already. Afterwards dx_ has
/// the rows of the whole block again.
void BackwardBlock::attend() {
  const View dx = dx_.rows_slice(0, rows_after_attention());
  Tensor own = std::move(doutput_);
  if (pass_.sites.busy(Site::attn_out, layer_)) {
    if (own.rows() == 0) own = copy_of(context_, dx);
    pass_.sites.visit(Site::attn_out, layer_, own.view());
  }
  const ConstView dout = own.rows() > 0 ? ConstView(own.view()) : ConstView(dx);
  branches_into(Site::attn_out, dout);
  if (g_) weight_gradients(heads(), dout, p_.out_weight.orientation, g_->out_weight, g_->out_bias);
  Tensor dheads(context_, dout.rows, pass_.config.query_width());
  linear_backward(context_, dout, p_.out_weight, dheads.view(), Write::assign);
  visit(Site::attn_heads, dheads.view());

  Tensor dqkv = qkv_gradients(dheads.view());
  if (pass_.kept.geometry.has_tail(layer_)) {
    Tensor whole = Tensor::zeros(context_, rows(), pass_.config.width);
    scatter_rows(context_, dx, pass_.kept.geometry.tail()->device_rows, whole.view(), Write::assign);
    dx_ = std::move(whole);
  }
  through_qkv(dqkv.view());
}

/// Gradients of queries, keys and values, side by side; zero for the queries of rows that ended at their keys and
/// values.
Tensor BackwardBlock::qkv_gradients(ConstView dheads) {
  const int64_t q = pass_.config.query_width(), k = pass_.config.key_width();
  const bool tail = pass_.kept.geometry.has_tail(layer_);
  const ConstView qkv = kept_.qkv.view();
  Tensor dqkv = Tensor::zeros(context_, rows(), q + 2 * k);
  ConstView queries = qkv.cols_slice(0, q);
  View dqueries = dqkv.view().cols_slice(0, q);
  Tensor tail_dq;
  if (tail) {
    tail_dq = Tensor(context_, dheads.rows, q);
    queries = kept_.queries.view();
    dqueries = tail_dq.view();
  }
  for (const AttentionBatch& batch : kept_.attention)
    attention_backward(context_, batch, attention_shape(pass_.config, layer_),
                       {queries, qkv.cols_slice(q, k), qkv.cols_slice(q + k, k)}, kept_.attended.view(),
                       kept_.log_sums.view(), dheads,
                       {dqueries, dqkv.view().cols_slice(q, k), dqkv.view().cols_slice(q + k, k)});
  const View dkeys = dqkv.view().cols_slice(q, k);
  const Tensor& raw = kept_.raw_qkv;
  const bool normed = raw.rows() > 0;
  through_head_places(dqueries, normed ? (tail ? kept_.raw_queries.view() : raw.view().cols_slice(0, q)) : ConstView{},
                      p_.q_norm_gain, g_ ? g_->q_norm_gain : View{}, tail);
  through_head_places(dkeys, normed ? raw.view().cols_slice(q, k) : ConstView{}, p_.k_norm_gain,
                      g_ ? g_->k_norm_gain : View{}, false);
  if (tail)
    scatter_rows(context_, tail_dq.view(), pass_.kept.geometry.tail()->device_rows, dqkv.view().cols_slice(0, q),
                 Write::assign);
  return dqkv;
}

/// Turns gradients of queries or keys back, and takes them through the norms of their heads; `raw` is what those took.
void BackwardBlock::through_head_places(View dx, ConstView raw, ConstView gain, View dgain, bool shortened) const {
  const Architecture& config = pass_.config;
  const int64_t width = config.head_width, heads = dx.cols / width;
  if (config.rotary) {
    const std::vector<int32_t> positions = row_positions(pass_.kept.geometry, layer_, shortened);
    rotate(context_, config.rotary->pairs, Turn::back, heads, {context_, std::span<const int32_t>(positions)},
           pass_.kept.rotary.cosines.view(), pass_.kept.rotary.sines.view(), dx);
  }
  if (gain.empty()) return;
  Tensor normed(context_, dx.rows, width), statistics(context_, dx.rows, 2);
  for (int64_t head = 0; head < heads; ++head) {
    const ConstView x = head_of(raw, width, head);
    const View dhead = head_of(dx, width, head);
    normalise(context_, Norm::rms, x, gain, {}, static_cast<float>(config.epsilon), normed.view(), statistics.view());
    normalise_backward(context_, Norm::rms, x, gain, statistics.view(), dhead, dhead, Write::assign, dgain, {});
  }
}

void BackwardBlock::through_qkv(View dqkv) {
  visit(Site::qkv, dqkv);
  branches_into(Site::qkv, dqkv);
  if (g_)
    weight_gradients(rows_at(Site::attn_in).view(), dqkv, p_.qkv_weight.orientation, g_->qkv_weight, g_->qkv_bias);
  Tensor dh = before_qkv(dqkv);
  visit(Site::attn_in, dh.view());
  normalise_backward(context_, pass_.config.norm, kept_.input.view(), p_.norm_1_gain, kept_.norm_1_statistics.view(),
                     dh.view(), dx_.rows_slice(0, dqkv.rows), Write::accumulate, g_ ? g_->norm_1_gain : View{},
                     g_ ? g_->norm_1_bias : View{});
}

/// dqkv W_qkv^T; 0 for the rows that bases gave.
Tensor BackwardBlock::before_qkv(ConstView dqkv) const {
  const int64_t d = pass_.config.width;
  if (!kept_.reused) {
    Tensor dh(context_, dqkv.rows, d);
    linear_backward(context_, dqkv, p_.qkv_weight, dh.view(), Write::assign);
    return dh;
  }
  const ReusedRows& reused = *kept_.reused;
  const int64_t first = reused.first_joined;
  Tensor dh = Tensor::zeros(context_, dqkv.rows, d);
  linear_backward(context_, dqkv.rows_slice(0, first), p_.qkv_weight, dh.rows_slice(0, first), Write::assign);
  const auto changed = std::ssize(reused.changed);
  if (changed == 0) return dh;
  Tensor changed_dqkv(context_, changed, dqkv.cols), changed_dh(context_, changed, d);
  gather_rows(context_, dqkv, reused.device_changed, changed_dqkv.view());
  linear_backward(context_, changed_dqkv.view(), p_.qkv_weight, changed_dh.view(), Write::assign);
  scatter_rows(context_, changed_dh.view(), reused.device_changed, dh.view(), Write::assign);
  return dh;
}

// --- Sites and branches ----------------------------------------------------------------------------------------------

ConstView BackwardBlock::heads() const {
  const Tensor& patched = kept_.patched[static_cast<size_t>(Site::attn_heads)];
  return patched.rows() > 0 ? patched.view() : kept_.attended.view();
}

/// The rows at a site as the forward pass had them, computed again: that is cheaper than to keep them.
Tensor BackwardBlock::rows_at(Site site) const {
  if (const Tensor& patched = kept_.patched[static_cast<size_t>(site)]; patched.rows() > 0)
    return copy_of(context_, patched.view());
  const float epsilon = static_cast<float>(pass_.config.epsilon);
  const bool first_norm = site == Site::attn_in;
  const ConstView from = site == Site::mlp_key || site == Site::mlp_pre ? kept_.pre.view()
                         : site == Site::attn_heads                     ? kept_.attended.view()
                         : first_norm                                   ? kept_.input.view()
                                                                        : kept_.middle.view();
  if (site == Site::mlp_pre || site == Site::attn_heads) return copy_of(context_, from);
  Tensor rows(context_, from.rows, from.cols);
  if (site != Site::mlp_key)
    normalise(context_, pass_.config.norm, from, first_norm ? p_.norm_1_gain : p_.mlp_norm_gain(),
              first_norm ? p_.norm_1_bias : p_.mlp_norm_bias(), epsilon, rows.view(), {});
  else
    activation(context_, pass_.config.activation, from, rows.view());
  if (site == Site::mlp_key && p_.gated()) product(context_, rows.view(), kept_.up.view(), rows.view());
  return rows;
}

/// Adds what branches gave to the gradients at a site, and does the plan's work there.
void BackwardBlock::visit(Site site, View gradients) {
  Tensor& given = from_branches_[static_cast<size_t>(site)];
  if (given.rows() > 0) add(context_, given.view(), gradients);
  pass_.sites.visit(site, layer_, gradients);
}

/// The gradients of the branches into a site, whose gradient is dy, and of the sites that they read.
void BackwardBlock::branches_into(Site to, ConstView dy) {
  const Geometry& geometry = pass_.kept.geometry;
  for (const Branch& branch : pass_.kept.plan.branches) {
    if (branch.to != to || branch.layer != layer_) continue;
    const bool shortened = geometry.has_tail(layer_) && to > Site::qkv;
    const int64_t first = geometry.first_position(branch.sequence, shortened);
    const int64_t count = geometry.end_position(branch.sequence) - first;
    if (count <= 0) continue;
    Tensor& dx = from_branches_[static_cast<size_t>(branch.from)];
    const Tensor x = rows_at(branch.from);
    if (dx.rows() == 0) dx = Tensor::zeros(context_, x.rows(), x.cols());
    branch_backward(context_, {&branch, geometry.row(branch.sequence, first, shortened), count}, x.view(), dy,
                    dx.view());
  }
}

}  // namespace loci
