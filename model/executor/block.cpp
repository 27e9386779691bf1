#include "model/executor/block.h"

#include <algorithm>

#include "kernels/activation.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/rows.h"

namespace loci {
namespace {

/// Of a bias that may be missing.
ConstView columns_of(ConstView bias, int64_t first, int64_t count) {
  return bias.empty() ? bias : bias.cols_slice(first, count);
}

}  // namespace

ForwardBlock::ForwardBlock(const ForwardPass& pass, int64_t layer, Tensor& x, BlockActivations& kept)
    : pass_(pass), context_(pass.context), p_(pass.parameters.blocks[layer]), layer_(layer), x_(x), kept_(kept) {
  for (const Branch& branch : pass.plan.branches)
    if (branch.layer == layer && pass.geometry.first_layer(branch.sequence) <= layer) branches_.push_back(&branch);
}

bool ForwardBlock::run() {
  const std::optional<Tensor> attended = attend();
  return attended && feed_forward(attended->view());
}

// --- Attention -------------------------------------------------------------------------------------------------------

/// W_o attention(W_qkv N_1(x)), still to be added to x. In the last block rows that nobody needs end here: they give
/// keys and values only. Nothing where the plan stops here.
std::optional<Tensor> ForwardBlock::attend() {
  const int64_t d = pass_.config.width;
  if (pass_.keep) {
    kept_.input = copy_of(context_, x());
    kept_.norm_1_statistics = Tensor(context_, x().rows, 2);
  }
  Tensor h(context_, x().rows, d);
  normalise(context_, pass_.config.norm, x(), p_.norm_1_gain, p_.norm_1_bias, epsilon(), h.view(),
            kept_.norm_1_statistics.view());
  if (!visit(Site::attn_in, h.view())) return std::nullopt;

  const std::optional<AttentionInputs> inputs = project_qkv(h.view());
  if (!inputs) return std::nullopt;
  kept_.attention = attention_batches(context_, pass_.plan, pass_.geometry, layer_, pass_.config.window);
  kept_.attended = Tensor(context_, inputs->queries.rows, pass_.config.query_width());
  if (pass_.keep) kept_.log_sums = Tensor(context_, inputs->queries.rows, pass_.config.heads);
  for (const AttentionBatch& batch : kept_.attention)
    attention(context_, batch, attention_shape(pass_.config, layer_), *inputs, kept_.attended.view(),
              kept_.log_sums.view());

  // The backward pass needs what attention gave, and what its projection took, where patches make these differ.
  const bool patched = pass_.keep && !pass_.sites.index().at(Site::attn_heads, layer_).patches.empty();
  Tensor copy = patched ? copy_of(context_, kept_.attended.view()) : Tensor();
  const View heads = patched ? copy.view() : kept_.attended.view();
  if (!visit(Site::attn_heads, heads)) return std::nullopt;
  Tensor out(context_, heads.rows, d);
  linear(context_, heads, p_.out_weight, p_.out_bias, out.view());
  add_branches_to(Site::attn_out, out.view());
  if (!visit(Site::attn_out, out.view())) return std::nullopt;
  return out;
}

/// Keys and values of all rows; queries of all rows, or of the tail's alone. Nothing where the plan stops here.
std::optional<AttentionInputs> ForwardBlock::project_qkv(ConstView h) {
  const int64_t q = pass_.config.query_width(), k = pass_.config.key_width();
  Tensor projected(context_, h.rows, q + 2 * k);
  std::optional<Tail> tail;
  if (layer_ == pass_.config.layers - 1 && !pass_.plan.stop)
    tail = tail_of(context_, pass_.plan, pass_.geometry, pass_.sites.index());
  if (tail)
    linear(context_, h, p_.qkv_weight.outputs(q, 2 * k), columns_of(p_.qkv_bias, q, 2 * k),
           projected.view().cols_slice(q, 2 * k));
  else
    project_rows(h, projected.view());
  add_branches_to(Site::qkv, projected.view());
  const bool goes_on = visit(Site::qkv, projected.view());
  if (pass_.keep && !p_.q_norm_gain.empty()) kept_.raw_qkv = copy_of(context_, projected.view());
  if (!tail) place_heads(projected.view().cols_slice(0, q), p_.q_norm_gain);
  place_heads(projected.view().cols_slice(q, k), p_.k_norm_gain);

  ConstView qkv = projected.view();  // wherever its memory goes
  if (pass_.sites.record())
    pass_.sites.record_qkv(layer_, std::move(projected), k, tail ? Sites::Queries::missing : Sites::Queries::computed);
  else
    kept_.qkv = std::move(projected);
  if (!goes_on) return std::nullopt;
  const ConstView queries = tail ? project_tail(h, std::move(*tail)) : qkv.cols_slice(0, q);
  return AttentionInputs{queries, qkv.cols_slice(q, k), qkv.cols_slice(q + k, k)};
}

/// qkv = h W_qkv + b, but for the rows that bases have.
void ForwardBlock::project_rows(ConstView h, View qkv) {
  if (reuses_rows()) kept_.reused = reused_rows(context_, pass_.plan, pass_.geometry, pass_.sites.index(), layer_);
  const int64_t computed = kept_.reused ? kept_.reused->first_joined : h.rows;
  linear(context_, h.rows_slice(0, computed), p_.qkv_weight, p_.qkv_bias, qkv.rows_slice(0, computed));
  if (!kept_.reused) return;
  const ReusedRows& reused = *kept_.reused;
  patch_rows(context_, {context_, std::span<const RowSource>(reused.sources)}, qkv);
  if (reused.changed.empty()) return;
  const auto changed = std::ssize(reused.changed);
  Tensor changed_h(context_, changed, h.cols), changed_qkv(context_, changed, qkv.cols);
  gather_rows(context_, h, reused.device_changed, changed_h.view());
  linear(context_, changed_h.view(), p_.qkv_weight, p_.qkv_bias, changed_qkv.view());
  scatter_rows(context_, changed_qkv.view(), reused.device_changed, qkv, Write::assign);
}

/// The queries of the tail's rows. From here on the buffer holds these rows alone.
ConstView ForwardBlock::project_tail(ConstView h, Tail tail) {
  const int64_t d = pass_.config.width, q = pass_.config.query_width(), rows = std::ssize(tail.rows);
  Tensor tail_h(context_, rows, d);
  gather_rows(context_, h, tail.device_rows, tail_h.view());
  kept_.queries = Tensor(context_, rows, q);
  linear(context_, tail_h.view(), p_.qkv_weight.outputs(0, q), columns_of(p_.qkv_bias, 0, q), kept_.queries.view());

  Tensor shorter(context_, std::max<int64_t>(1, tail.buffer_rows), d);
  gather_rows(context_, x_.view(), tail.device_rows, shorter.rows_slice(0, rows));
  x_ = std::move(shorter);
  pass_.geometry.shorten(std::move(tail));
  if (pass_.keep && !p_.q_norm_gain.empty()) kept_.raw_queries = copy_of(context_, kept_.queries.view());
  place_heads(kept_.queries.view(), p_.q_norm_gain);
  return std::as_const(kept_.queries).view();
}

/// Bases recorded queries and keys as place_heads() left them, so sites and norms must not come to them again.
bool ForwardBlock::reuses_rows() const { return p_.q_norm_gain.empty() && !(pass_.config.rotary && busy(Site::qkv)); }

/// Normalises the heads of queries or keys and turns them by their positions, where the model does. Rows that bases
/// gave are so already.
void ForwardBlock::place_heads(View x, ConstView gain) const {
  const int64_t width = pass_.config.head_width, heads = x.cols / width;
  for (int64_t head = 0; head < heads && !gain.empty(); ++head)
    normalise(context_, Norm::rms, head_of(x, width, head), gain, {}, epsilon(), head_of(x, width, head), {});
  if (!pass_.config.rotary) return;
  std::vector<int32_t> positions = row_positions(pass_.geometry, layer_, pass_.geometry.has_tail(layer_));
  if (kept_.reused)
    for (const RowSource& source : kept_.reused->sources) positions[source.row] = -1;
  rotate(context_, pass_.config.rotary->pairs, Turn::forward, heads, {context_, std::span<const int32_t>(positions)},
         pass_.rotary.cosines.view(), pass_.rotary.sines.view(), x);
}

// --- MLP -------------------------------------------------------------------------------------------------------------

/// x += attended; x += mlp(N_2(x)); or, side by side, x += attended + mlp(N_2(x)).
bool ForwardBlock::feed_forward(ConstView attended) {
  if (pass_.keep) kept_.norm_2_statistics = Tensor(context_, x().rows, 2);
  Tensor h(context_, x().rows, pass_.config.width);
  if (pass_.config.residual == Residual::sequential) {
    add_normalise(context_, pass_.config.norm, attended, x(), p_.mlp_norm_gain(), p_.mlp_norm_bias(), epsilon(),
                  h.view(), kept_.norm_2_statistics.view());
    if (pass_.keep) kept_.middle = copy_of(context_, x());
  } else {
    normalise(context_, pass_.config.norm, x(), p_.mlp_norm_gain(), p_.mlp_norm_bias(), epsilon(), h.view(),
              kept_.norm_2_statistics.view());
    if (pass_.keep) kept_.middle = copy_of(context_, x());
    add(context_, attended, x());
  }
  if (!visit(Site::mlp_in, h.view())) return false;
  const bool goes_on = mlp_runs_on_some_rows(h.rows())
                           ? mlp_of_rows(pass_.sites.rows_not_replaced(Site::mlp_out, layer_, h.rows()), h.view())
                           : mlp(h.view());
  if (!goes_on || !visit(Site::mlp_out, h.view())) return false;
  add(context_, h.view(), x());
  visit(Site::resid, x());  // a plan that stops here still has its rows recorded
  return true;
}

/// h = W_down f(W_up h), or W_down (f(W_gate h) * W_up h), with the sites on the way, and what neurons beside it add.
/// False where the plan stops there.
bool ForwardBlock::mlp(View h) {
  const int64_t ff = pass_.config.mlp_width;
  const std::vector<Tensor> beside = beside_mlp(h);
  if (pass_.keep) kept_.pre = Tensor(context_, h.rows, ff);
  Tensor key(context_, h.rows, ff);
  if (busy(Site::mlp_pre)) {
    Tensor own = pass_.keep ? Tensor() : Tensor(context_, h.rows, ff);
    const View pre = pass_.keep ? kept_.pre.view() : own.view();
    linear(context_, h, p_.pre_weight(), p_.pre_bias(), pre);
    add_branches_to(Site::mlp_pre, pre);
    if (!visit(Site::mlp_pre, pre)) return false;
    activation(context_, pass_.config.activation, pre, key.view());
  } else {
    linear_activation(context_, h, p_.pre_weight(), p_.pre_bias(), pass_.config.activation, kept_.pre.view(),
                      key.view());
  }
  if (p_.gated()) multiply_by_up(h, key.view());
  if (!visit(Site::mlp_key, key.view())) return false;
  linear(context_, key.view(), p_.down_weight, p_.down_bias, h);
  for (size_t i = 0; i < beside.size(); ++i)
    gemm(context_, Transpose::no, beside[i].view(), Transpose::no, p_.neurons[i].values, h, Write::accumulate);
  add_branches_to(Site::mlp_out, h);
  kept_.mlp_factors = mlp_factors(h.rows);
  if (!kept_.mlp_factors.empty()) scale_rows(context_, kept_.mlp_factors, h);
  return true;
}

/// key = key * W_up h.
void ForwardBlock::multiply_by_up(ConstView h, View key) {
  Tensor up(context_, key.rows, key.cols);
  linear(context_, h, p_.up_weight, p_.up_bias, up.view());
  product(context_, key, up.view(), key);
  if (pass_.keep) kept_.up = std::move(up);
}

/// f(h K^T + b) of the neurons beside the MLP.
std::vector<Tensor> ForwardBlock::beside_mlp(ConstView h) const {
  std::vector<Tensor> beside;
  for (const NeuronParameters& neurons : p_.neurons) {
    const View z = beside.emplace_back(context_, h.rows, neurons.keys.rows).view();
    linear_activation(context_, h, WeightView::out_in(neurons.keys), neurons.bias, neurons.activation, {}, z);
  }
  return beside;
}

/// Whether so many MLP outputs are replaced afterwards that the others are worth picking out. Not where something else
/// than the residual stream sees the hidden layer.
bool ForwardBlock::mlp_runs_on_some_rows(int64_t rows) const {
  // Fewer replaced rows are not worth the copies of the others: what a product saves is less on a device that
  // multiplies faster than it copies.
  const int64_t share = context_.on_cpu() ? 32 : context_.precision() == Precision::bf16 ? 8 : 16;
  const auto& patches = pass_.sites.index().at(Site::mlp_out, layer_).patches;
  if (pass_.keep || !branches_.empty() || !pass_.plan.regularisers.mlp_scales.empty() || busy(Site::mlp_pre) ||
      busy(Site::mlp_key) || std::ssize(patches) * share < rows)
    return false;
  return std::ranges::any_of(patches, [](const RowPatch* patch) { return patch->mode == PatchMode::replace; });
}

/// The same as mlp() for some of the rows; the others are left as they are.
bool ForwardBlock::mlp_of_rows(std::span<const int64_t> rows, View h) {
  const DeviceArray<int64_t> device_rows(context_, rows);
  Tensor some(context_, std::ssize(rows), h.cols);
  gather_rows(context_, h, device_rows, some.view());
  mlp(some.view());
  scatter_rows(context_, some.view(), device_rows, h, Write::assign);
  return true;
}

/// What the MLP output of each row is multiplied by; empty where all are 1.
DeviceArray<float> ForwardBlock::mlp_factors(int64_t rows) const {
  const Geometry& geometry = pass_.geometry;
  std::vector<float> factors;
  for (const MlpScale& scaled : pass_.plan.regularisers.mlp_scales) {
    const int64_t s = scaled.sequence;
    if (scaled.layer != layer_ || geometry.first_layer(s) > layer_) continue;
    factors.resize(static_cast<size_t>(rows), 1.0f);
    int64_t end = geometry.end_position(s);
    if (scaled.rows >= 0) end = std::min(end, scaled.first_position + scaled.rows);
    const int64_t first = std::max(geometry.first_position(s), scaled.first_position);
    for (int64_t position = first; position < end; ++position) factors[geometry.row(s, position)] *= scaled.factor;
  }
  if (factors.empty()) return {};
  return {context_, std::span<const float>(factors)};
}

// --- Sites and branches ----------------------------------------------------------------------------------------------

/// Whether anything but the next term of the model sees or changes the rows at a site.
bool ForwardBlock::busy(Site site) const {
  return !pass_.sites.index().at(site, layer_).empty() || pass_.sites.stops_at(site, layer_) ||
         std::ranges::any_of(branches_, [&](const Branch* b) { return b->from == site || b->to == site; });
}

/// False where the plan stops here.
bool ForwardBlock::visit(Site site, View rows) {
  const bool goes_on = pass_.sites.visit(site, layer_, rows);
  const auto index = static_cast<size_t>(site);
  const bool computed_again = site == Site::attn_in || site == Site::mlp_in || site == Site::mlp_key;
  if (pass_.keep && (computed_again || site == Site::attn_heads) &&
      !pass_.sites.index().at(site, layer_).patches.empty())
    kept_.patched[index] = copy_of(context_, rows);
  if (std::ranges::none_of(branches_, [&](const Branch* branch) { return branch->from == site; })) return goes_on;
  // Keys live until all branches have read them; the others may be overwritten before that.
  if (site != Site::mlp_key) branch_copies_[index] = copy_of(context_, rows);
  branch_rows_[index] = site == Site::mlp_key ? rows : branch_copies_[index].view();
  return goes_on;
}

/// y += what the branches into a site give.
void ForwardBlock::add_branches_to(Site site, View y) {
  const Geometry& geometry = pass_.geometry;
  std::vector<BranchRows> same_source;
  const auto flush = [&] {
    if (same_source.empty()) return;
    const Site from = same_source.front().branch->from;
    add_branches(context_, same_source, branch_rows_[static_cast<size_t>(from)], y);
    same_source.clear();
  };
  for (const Branch* branch : branches_) {
    if (branch->to != site) continue;
    if (!same_source.empty() && same_source.front().branch->from != branch->from) flush();
    const int64_t first = geometry.first_position(branch->sequence);
    const int64_t rows = geometry.end_position(branch->sequence) - first;
    if (rows > 0) same_source.push_back({branch, geometry.row(branch->sequence, first), rows});
  }
  flush();
}

}  // namespace loci
