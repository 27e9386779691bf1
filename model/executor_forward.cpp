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

constexpr size_t kSites = 5;

/// Everything of a plan that concerns one (site, layer).
struct SiteWork {
  std::vector<const RowPatch*> patches;
  std::vector<const RowTap*> taps;
  bool observed = false, recorded = false;
};

/// A plan's patches, taps and observers, found by site and layer. Those at resid(first_layer - 1) of their sequence
/// belong to its joining.
class SiteIndex {
 public:
  SiteIndex(const Plan& plan, int64_t layers)
      : layers_(layers), sites_(kSites * static_cast<size_t>(layers + 1)), joining_(static_cast<size_t>(layers + 1)) {
    for (const auto& patch : plan.patches) place(plan, patch).patches.push_back(&patch);
    for (const auto& tap : plan.taps) place(plan, tap).taps.push_back(&tap);
    for (const BlockSite& at : plan.observed) sites_[slot(at.site, at.layer)].observed = true;
    for (const BlockSite& at : plan.recorded) sites_[slot(at.site, at.layer)].recorded = true;
  }
  const SiteWork& at(Site site, int64_t layer) const { return sites_[slot(site, layer)]; }
  const SiteWork& joining(int64_t layer) const { return joining_[layer]; }

 private:
  size_t slot(Site site, int64_t layer) const {
    const int64_t place = site == Site::embed ? 0 : layer;
    require<ShapeError>(place >= 0 && place < layers_, "layer {} of a patch or tap is outside the model's {} blocks",
                        layer, layers_);
    return static_cast<size_t>(site) * static_cast<size_t>(layers_ + 1) + static_cast<size_t>(place);
  }
  template <typename RowWork>
  SiteWork& place(const Plan& plan, const RowWork& work) {
    const int64_t first_layer = plan.sequences[work.sequence].first_layer;
    if (work.site == Site::resid && work.layer == first_layer - 1) return joining_[first_layer];
    return sites_[slot(work.site, work.layer)];
  }

  int64_t layers_;
  std::vector<SiteWork> sites_;
  std::vector<SiteWork> joining_;
};

/// The recordings of one run share the tensors that hold their rows.
struct RecordStorage {
  std::vector<Tensor> tensors;
  View keep(Tensor tensor) {
    tensors.push_back(std::move(tensor));
    return tensors.back().view();
  }
};

/// The thirds of a [rows, 3d] matrix of queries, keys and values.
template <typename T>
MatrixView<T> qkv_keys(MatrixView<T> qkv) {
  return qkv.cols_slice(qkv.cols / 3, qkv.cols / 3);
}
template <typename T>
MatrixView<T> qkv_values(MatrixView<T> qkv) {
  return qkv.cols_slice(qkv.cols / 3 * 2, qkv.cols / 3);
}

bool stops_at(const Plan& plan, Site site, int64_t layer) {
  return plan.stop && plan.stop->site == site && plan.stop->layer == layer;
}

/// Appends what positions [0, end) of a base contribute to attention in one layer.
void append_segments(const Recording* base, int64_t layer, int64_t end, std::vector<AttentionSegment>& segments) {
  if (end == 0) return;
  require<ShapeError>(base != nullptr, "positions before {} have no base at layer {}", end, layer);
  if (layer < base->first_layer) return append_segments(base->base.get(), layer, end, segments);
  append_segments(base->base.get(), layer, std::min(end, base->first_position), segments);
  const int64_t own = std::min(end, base->length()) - base->first_position;
  if (own <= 0) return;
  const auto index = static_cast<size_t>(layer);
  require<ShapeError>(index < base->keys.size() && base->keys[index].data, "the base has no keys at layer {}", layer);
  segments.push_back({base->keys[index].data, base->values[index].data, base->keys[index].stride, own});
}

/// One forward pass. Its methods are the terms of the model in order; `x_` is the residual stream.
class Forward {
 public:
  Forward(Context& context, const Model& model, const Plan& plan, Keep keep)
      : context_(context),
        config_(model.config()),
        parameters_(model.parameters()),
        plan_(plan),
        keep_(keep == Keep::activations),
        sites_(plan, config_.layers),
        activations_(std::make_shared<Activations>(RowLayout(plan, config_.layers))),
        layout_(activations_->layout),
        tail_(activations_->tail) {
    if (keep_) check_keep();
    start_recordings();
  }

  Run run() {
    x_ = Tensor(context_, std::max<int64_t>(1, layout_.total_rows()), config_.width);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      join(layer);
      if (stops_at(plan_, Site::resid, layer - 1)) return finish();
      if (!block(layer)) return finish();
    }
    join(config_.layers);
    if (!plan_.stop) unembed();
    return finish();
  }

 private:
  int64_t layer_rows(int64_t layer) const { return layout_.active_rows[layer]; }
  const Sequence& sequence(int64_t index) const { return plan_.sequences[index]; }
  /// The rows of a sequence that are still computed start here; none are where this is its end.
  int64_t first_position(int64_t s) const { return tail_ ? tail_->first_position[s] : sequence(s).first_position; }
  int64_t packed_row(int64_t s, int64_t position) const {
    return (tail_ ? tail_->first_row : layout_.first_row)[s] + position - first_position(s);
  }

  void check_keep() const;
  void start_recordings();
  void join(int64_t layer);
  void embed();
  void take_base_rows(int64_t layer, int64_t begin, int64_t end);
  void add_joined_low_rank(int64_t layer);
  bool block(int64_t layer);
  std::optional<Tensor> attend(int64_t layer, BlockActivations& kept);
  float epsilon() const { return static_cast<float>(config_.layer_norm_epsilon); }
  std::optional<ReusedRows> reused_rows(int64_t layer) const;
  std::vector<bool> changed_joining(int64_t layer) const;
  void project_rows(int64_t layer, ConstView h, const std::optional<ReusedRows>& reused, View qkv) const;
  ConstView project_qkv(int64_t layer, ConstView h, BlockActivations& kept);
  bool feed_forward(int64_t layer, ConstView attended, BlockActivations& kept);
  bool mlp(int64_t layer, View h, BlockActivations& kept);
  DeviceArray<int64_t> rows_through_mlp(int64_t layer, int64_t rows) const;
  void mlp_of_rows(int64_t layer, const DeviceArray<int64_t>& rows, View h) const;
  std::vector<int64_t> segment_starts(int64_t s, int64_t layer) const;
  AttentionBatch attention_batch(int64_t layer) const;
  std::optional<TailRows> tail_rows(int64_t layer) const;
  void shorten(TailRows tail);
  void add_low_rank_terms(int64_t layer, ConstView keys, View y);
  int64_t current_rows(int64_t layer) const { return tail_ ? std::ssize(tail_->rows) : layer_rows(layer); }
  DeviceArray<float> mlp_factors(int64_t layer, int64_t rows) const;
  void visit_site(Site site, int64_t layer, View rows);
  void do_site_work(const SiteWork& work, View rows);
  void record_resid(int64_t layer);
  bool records_site(Site site, int64_t layer) const { return records_ && sites_.at(site, layer).recorded; }
  void record_site(Site site, int64_t layer, ConstView rows);
  void record_views(std::vector<ConstView> Recording::*list, int64_t slot, ConstView rows, int64_t layer);
  Tensor copy_of(ConstView rows) const;
  void unembed();
  Run finish();

  Context& context_;
  const GptConfig& config_;
  const Parameters<const float>& parameters_;
  const Plan& plan_;
  bool keep_;
  bool records_ = false;
  SiteIndex sites_;
  std::shared_ptr<Activations> activations_;
  const RowLayout& layout_;
  std::vector<std::shared_ptr<Recording>> recordings_;
  std::shared_ptr<RecordStorage> storage_;
  std::optional<TailRows>& tail_;  // set within the last block
  Tensor x_;
  Tensor logits_;
  ScoresInFlight scores_;
};

void Forward::check_keep() const {
  require<ShapeError>(plan_.low_rank.empty(), "low-rank terms have no backward pass");
  require<ShapeError>(!plan_.stop, "a run that is to be differentiated must reach the logits");
  for (const auto& s : plan_.sequences)
    require<ShapeError>(!s.record, "a run that is to be differentiated records no bases");
  for (const auto& patch : plan_.patches)
    require<ShapeError>(patch.site == Site::resid && patch.layer == sequence(patch.sequence).first_layer - 1,
                        "a run that is to be differentiated takes patches only where its sequences join");
}

void Forward::start_recordings() {
  recordings_.resize(plan_.sequences.size());
  storage_ = std::make_shared<RecordStorage>();
  const auto layers = static_cast<size_t>(config_.layers);
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    const Sequence& s = plan_.sequences[i];
    if (!s.record) continue;
    records_ = true;
    auto made = std::make_shared<Recording>();
    made->base = s.base;
    made->first_position = s.first_position;
    made->first_layer = s.first_layer;
    made->rows = s.row_count();
    made->keys.resize(layers);
    made->values.resize(layers);
    made->qkv.resize(layers);
    made->resid.resize(layers + 1);
    made->attn_out.resize(layers);
    made->mlp_out.resize(layers);
    made->mlp_key.resize(layers);
    made->storage = storage_;
    recordings_[i] = std::move(made);
  }
}

/// Points each recorded sequence that has joined by `layer` at its rows of a kept matrix.
void Forward::record_views(std::vector<ConstView> Recording::*list, int64_t slot, ConstView rows, int64_t layer) {
  for (size_t s = 0; s < recordings_.size(); ++s) {
    Recording* recording = recordings_[s].get();
    if (!recording || recording->first_layer > layer) continue;
    const int64_t first = packed_row(static_cast<int64_t>(s), recording->first_position);
    (recording->*list)[slot] = rows.rows_slice(first, recording->rows);
  }
}

/// Keeps the residual rows at resid(layer - 1), those that join at `layer` included.
void Forward::record_resid(int64_t layer) {
  const int64_t rows = tail_ ? x_.rows() : layer_rows(layer);
  if (!records_ || rows == 0) return;
  record_views(&Recording::resid, layer, storage_->keep(copy_of(x_.rows_slice(0, rows))), layer);
}

void Forward::record_site(Site site, int64_t layer, ConstView rows) {
  if (!records_site(site, layer)) return;
  const ConstView kept = storage_->keep(copy_of(rows));
  if (site == Site::attn_out) record_views(&Recording::attn_out, layer, kept, layer);
  if (site == Site::mlp_out) record_views(&Recording::mlp_out, layer, kept, layer);
  if (site == Site::mlp_key) record_views(&Recording::mlp_key, layer, kept, layer);
}

Tensor Forward::copy_of(ConstView rows) const {
  require<ShapeError>(rows.contiguous(), "only contiguous rows are copied whole");
  Tensor copy(context_, rows.rows, rows.cols);
  context_.copy_on_device(copy.data(), rows.data, sizeof(float) * static_cast<size_t>(rows.rows * rows.cols));
  return copy;
}

void Forward::do_site_work(const SiteWork& work, View rows) {
  std::vector<RowSource> patches;
  for (const RowPatch* patch : work.patches)
    patches.push_back({packed_row(patch->sequence, patch->position), patch->source,
                       patch->mode == PatchMode::add ? Write::accumulate : Write::assign});
  if (!patches.empty()) patch_rows(context_, {context_, std::span<const RowSource>(patches)}, rows);
  std::vector<RowDestination> taps;
  for (const RowTap* tap : work.taps)
    taps.push_back({packed_row(tap->sequence, tap->position), plan_.tap_output.row(tap->destination)});
  if (!taps.empty()) tap_rows(context_, rows, {context_, std::span<const RowDestination>(taps)});
}

void Forward::visit_site(Site site, int64_t layer, View rows) {
  const SiteWork& work = sites_.at(site, layer);
  do_site_work(work, rows);
  if (work.observed) plan_.observer(site, layer, rows);
}

// --- Rows joining the batch ------------------------------------------------------------------------------------------

/// The rows of the sequences with first_layer = layer: their embeddings, or their base's rows at resid(layer - 1).
void Forward::join(int64_t layer) {
  const int64_t begin = layer == 0 ? 0 : layout_.active[layer - 1];
  const int64_t end = layout_.active[layer];
  if (begin < end) {
    if (layer == 0)
      embed();
    else
      take_base_rows(layer, begin, end);
    add_joined_low_rank(layer);
    do_site_work(sites_.joining(layer), x_.view());
  }
  record_resid(layer);
}

/// Block 0's input: wte[token] + wpe[position]. Noise and other patches at `embed` come between the two.
void Forward::embed() {
  std::vector<int32_t> tokens, positions;
  for (int64_t i = 0; i < layout_.active[0]; ++i) {
    const Sequence& s = sequence(layout_.order[i]);
    tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
    for (int64_t r = 0; r < s.row_count(); ++r) positions.push_back(static_cast<int32_t>(s.first_position + r));
  }
  Activations& kept = *activations_;
  kept.token_ids = {context_, std::span<const int32_t>(tokens)};
  kept.position_ids = {context_, std::span<const int32_t>(positions)};
  const View rows = x_.rows_slice(0, layer_rows(0));
  embed_rows(context_, parameters_.token_embedding, kept.token_ids, rows);
  visit_site(Site::embed, 0, rows);
  Tensor place(context_, rows.rows, config_.width);
  embed_rows(context_, parameters_.position_embedding, kept.position_ids, place.view());
  add(context_, place.view(), rows);
}

void Forward::take_base_rows(int64_t layer, int64_t begin, int64_t end) {
  std::vector<const float*> sources;
  for (int64_t i = begin; i < end; ++i) {
    const Sequence& s = sequence(layout_.order[i]);
    for (int64_t r = 0; r < s.row_count(); ++r)
      sources.push_back(s.base->row(Site::resid, layer - 1, s.first_position + r));
  }
  const int64_t first = packed_row(layout_.order[begin], sequence(layout_.order[begin]).first_position);
  collect_rows(context_, {context_, std::span<const float* const>(sources)}, x_.rows_slice(first, std::ssize(sources)));
}

/// Low-rank terms at layer - 1 of sequences that join at layer, from the keys that their bases recorded.
void Forward::add_joined_low_rank(int64_t layer) {
  std::vector<std::vector<const LowRankTerm*>> terms(plan_.sequences.size());
  for (const LowRankTerm& term : plan_.low_rank)
    if (sequence(term.sequence).first_layer == layer && term.layer == layer - 1) terms[term.sequence].push_back(&term);
  // Rows of neighbouring sequences that have terms go through one op.
  std::vector<const float*> sources;
  std::vector<LowRankRows> rows;
  int64_t first = 0;
  const auto flush = [&] {
    if (sources.empty()) return;
    const auto count = std::ssize(sources);
    Tensor keys(context_, count, config_.mlp_width);
    collect_rows(context_, {context_, std::span<const float* const>(sources)}, keys.view());
    add_low_rank(context_, keys.view(), {context_, std::span<const LowRankRows>(rows)}, x_.rows_slice(first, count));
    sources.clear();
    rows.clear();
  };
  for (const int64_t s : layout_.order) {
    const auto& own = terms[s];
    if (own.empty()) {
      flush();
      continue;
    }
    const Sequence& lane = sequence(s);
    if (sources.empty()) first = packed_row(s, lane.first_position);
    for (const LowRankTerm* term : own) rows.push_back({std::ssize(sources), lane.row_count(), term->u, term->v});
    for (int64_t r = 0; r < lane.row_count(); ++r)
      sources.push_back(lane.base->row(Site::mlp_key, layer - 1, lane.first_position + r));
  }
  flush();
}

// --- One block -------------------------------------------------------------------------------------------------------

/// x += attention(ln_1(x)); x += mlp(ln_2(x)). False where the plan stops inside this block.
bool Forward::block(int64_t layer) {
  if (keep_) activations_->blocks.emplace_back();
  BlockActivations scratch;
  BlockActivations& kept = keep_ ? activations_->blocks.back() : scratch;
  const int64_t rows = layer_rows(layer);
  if (rows == 0) return !(plan_.stop && plan_.stop->layer == layer && plan_.stop->site != Site::resid);
  const std::optional<Tensor> attended = attend(layer, kept);
  return attended && feed_forward(layer, attended->view(), kept);
}

/// The attention half of a block: W_o attention(W_qkv ln_1(x)), still to be added to x. In the last block rows that
/// nobody needs end here: they give keys and values only. Nothing where the plan stops here.
std::optional<Tensor> Forward::attend(int64_t layer, BlockActivations& kept) {
  const BlockParameters<const float>& p = parameters_.blocks[layer];
  const int64_t rows = layer_rows(layer);
  const View x = x_.rows_slice(0, rows);
  if (keep_) {
    kept.input = copy_of(x);
    kept.ln_1_statistics = Tensor(context_, rows, 2);
  }
  Tensor h(context_, rows, config_.width);
  layer_norm(context_, x, p.ln_1_gain, p.ln_1_bias, epsilon(), h.view(), kept.ln_1_statistics.view());
  const ConstView queries = project_qkv(layer, h.view(), kept);

  kept.attention = attention_batch(layer);
  kept.attended = Tensor(context_, queries.rows, config_.width);
  if (keep_) kept.log_sums = Tensor(context_, queries.rows, config_.heads);
  const ConstView qkv = std::as_const(kept.qkv).view();
  const AttentionShape shape{config_.heads, config_.heads, static_cast<float>(config_.attention_factor(layer))};
  attention(context_, kept.attention, shape, {queries, qkv_keys(qkv), qkv_values(qkv)}, kept.attended.view(),
            kept.log_sums.view());
  Tensor out(context_, queries.rows, config_.width);
  linear(context_, kept.attended.view(), WeightView::in_out(p.out_weight), p.out_bias, out.view());
  visit_site(Site::attn_out, layer, out.view());
  record_site(Site::attn_out, layer, out.view());
  if (records_) storage_->keep(std::move(kept.qkv));
  if (stops_at(plan_, Site::attn_out, layer)) return std::nullopt;
  return out;
}

/// Which of the rows that join at `layer` (from the packed buffer's row active_rows[layer - 1] on) are not their
/// base's.
std::vector<bool> Forward::changed_joining(int64_t layer) const {
  const int64_t first = layer_rows(layer - 1);
  std::vector<bool> changed(static_cast<size_t>(layer_rows(layer) - first), false);
  const auto mark = [&](int64_t s, int64_t position, int64_t rows) {
    const auto begin = changed.begin() + packed_row(s, position) - first;
    std::fill(begin, begin + rows, true);
  };
  for (const RowPatch* patch : sites_.joining(layer).patches) mark(patch->sequence, patch->position, 1);
  for (const LowRankTerm& term : plan_.low_rank) {
    const Sequence& lane = sequence(term.sequence);
    if (lane.first_layer == layer && term.layer == layer - 1)
      mark(term.sequence, lane.first_position, lane.row_count());
  }
  return changed;
}

/// The joined rows whose queries, keys and values their bases have; nothing where there are none.
std::optional<ReusedRows> Forward::reused_rows(int64_t layer) const {
  if (layer == 0 || layer_rows(layer) == layer_rows(layer - 1)) return std::nullopt;
  ReusedRows reused;
  reused.first_joined = layer_rows(layer - 1);
  const std::vector<bool> changed = changed_joining(layer);
  for (int64_t i = layout_.active[layer - 1]; i < layout_.active[layer]; ++i) {
    const int64_t s = layout_.order[i];
    const Sequence& lane = sequence(s);
    for (int64_t position = lane.first_position; position < lane.end_position(); ++position) {
      const int64_t row = packed_row(s, position);
      const bool own = changed[row - reused.first_joined];
      const float* source = own ? nullptr : lane.base->qkv_row(layer, position);
      if (source)
        reused.sources.push_back({row, source, Write::assign});
      else
        reused.changed.push_back(row);
    }
  }
  if (reused.sources.empty()) return std::nullopt;
  reused.device_changed = {context_, std::span<const int64_t>(reused.changed)};
  return reused;
}

/// qkv = h W_qkv + b, but for the rows that bases have.
void Forward::project_rows(int64_t layer, ConstView h, const std::optional<ReusedRows>& reused, View qkv) const {
  const BlockParameters<const float>& p = parameters_.blocks[layer];
  const int64_t computed = reused ? reused->first_joined : h.rows;
  linear(context_, h.rows_slice(0, computed), WeightView::in_out(p.qkv_weight), p.qkv_bias,
         qkv.rows_slice(0, computed));
  if (!reused) return;
  patch_rows(context_, {context_, std::span<const RowSource>(reused->sources)}, qkv);
  if (reused->changed.empty()) return;
  const auto changed = std::ssize(reused->changed);
  Tensor changed_h(context_, changed, h.cols), changed_qkv(context_, changed, qkv.cols);
  gather_rows(context_, h, reused->device_changed, changed_h.view());
  linear(context_, changed_h.view(), WeightView::in_out(p.qkv_weight), p.qkv_bias, changed_qkv.view());
  scatter_rows(context_, changed_qkv.view(), reused->device_changed, qkv, Write::assign);
}

/// Keys and values of all rows; queries of all rows, or of the tail rows alone. Returns the queries.
ConstView Forward::project_qkv(int64_t layer, ConstView h, BlockActivations& kept) {
  const BlockParameters<const float>& p = parameters_.blocks[layer];
  const WeightView weight = WeightView::in_out(p.qkv_weight);
  const int64_t d = config_.width;
  kept.qkv = Tensor(context_, h.rows, 3 * d);
  const View qkv = kept.qkv.view();
  std::optional<TailRows> tail = tail_rows(layer);
  if (!tail) {
    kept.reused = reused_rows(layer);
    project_rows(layer, h, kept.reused, qkv);
  } else {
    linear(context_, h, weight.outputs(d, 2 * d), p.qkv_bias.cols_slice(d, 2 * d), qkv.cols_slice(d, 2 * d));
  }
  if (records_) {
    if (!tail) record_views(&Recording::qkv, layer, qkv, layer);
    record_views(&Recording::keys, layer, qkv_keys(qkv), layer);
    record_views(&Recording::values, layer, qkv_values(qkv), layer);
  }
  if (!tail) return qkv.cols_slice(0, d);

  Tensor tail_h(context_, std::ssize(tail->rows), d);
  gather_rows(context_, h, tail->device_rows, tail_h.view());
  kept.queries = Tensor(context_, tail_h.rows(), d);
  linear(context_, tail_h.view(), weight.outputs(0, d), p.qkv_bias.cols_slice(0, d), kept.queries.view());
  shorten(std::move(*tail));
  return kept.queries.view();
}

/// x += attended; x += W_down f(W_up ln_2(x)), with low-rank terms on the down projection.
bool Forward::feed_forward(int64_t layer, ConstView attended, BlockActivations& kept) {
  const BlockParameters<const float>& p = parameters_.blocks[layer];
  const int64_t rows = current_rows(layer);
  const View x = x_.rows_slice(0, rows);
  if (keep_) kept.ln_2_statistics = Tensor(context_, rows, 2);
  Tensor h(context_, rows, config_.width);
  add_layer_norm(context_, attended, x, p.ln_2_gain, p.ln_2_bias, epsilon(), h.view(), kept.ln_2_statistics.view());
  if (keep_) kept.middle = copy_of(x);
  const View out = h.view();
  if (const DeviceArray<int64_t> some = rows_through_mlp(layer, rows); !some.empty()) {
    mlp_of_rows(layer, some, out);
  } else if (!mlp(layer, out, kept)) {
    return false;
  }
  visit_site(Site::mlp_out, layer, out);
  record_site(Site::mlp_out, layer, out);
  if (stops_at(plan_, Site::mlp_out, layer)) return false;
  add(context_, out, x);
  visit_site(Site::resid, layer, x);
  return true;
}

/// h = W_down f(W_up h), with the sites on the way. False where the plan stops at the keys.
bool Forward::mlp(int64_t layer, View h, BlockActivations& kept) {
  const BlockParameters<const float>& p = parameters_.blocks[layer];
  if (keep_) kept.up = Tensor(context_, h.rows, config_.mlp_width);
  Tensor activated(context_, h.rows, config_.mlp_width);
  const View key = activated.view();
  linear_activation(context_, h, WeightView::in_out(p.up_weight), p.up_bias, config_.activation, kept.up.view(), key);
  visit_site(Site::mlp_key, layer, key);
  record_site(Site::mlp_key, layer, key);
  if (stops_at(plan_, Site::mlp_key, layer)) return false;
  linear(context_, key, WeightView::in_out(p.down_weight), p.down_bias, h);
  add_low_rank_terms(layer, key, h);
  kept.mlp_factors = mlp_factors(layer, h.rows);
  if (!kept.mlp_factors.empty()) scale_rows(context_, kept.mlp_factors, h);
  return true;
}

/// The rows whose MLP output is not replaced afterwards; none where that is the rule, or where something else than the
/// residual stream sees the keys.
DeviceArray<int64_t> Forward::rows_through_mlp(int64_t layer, int64_t rows) const {
  const SiteWork &outputs = sites_.at(Site::mlp_out, layer), &keys = sites_.at(Site::mlp_key, layer);
  // Fewer replaced rows are not worth the copies of the others: what a product saves is less on a device that
  // multiplies faster than it copies.
  const size_t share = context_.on_cpu() ? 32 : context_.precision() == Precision::bf16 ? 8 : 16;
  const bool plain = !keep_ && plan_.low_rank.empty() && plan_.mlp_scales.empty() &&
                     !records_site(Site::mlp_key, layer) && !stops_at(plan_, Site::mlp_key, layer) &&
                     keys.patches.empty() && keys.taps.empty() && !keys.observed;
  if (!plain || outputs.patches.size() * share < static_cast<size_t>(rows)) return {};
  std::vector<bool> replaced(static_cast<size_t>(rows), false);
  for (const RowPatch* patch : outputs.patches)
    if (patch->mode == PatchMode::replace) replaced[packed_row(patch->sequence, patch->position)] = true;
  std::vector<int64_t> computed;
  for (int64_t row = 0; row < rows; ++row)
    if (!replaced[row]) computed.push_back(row);
  if (std::ssize(computed) == rows) return {};
  return {context_, std::span<const int64_t>(computed)};
}

/// The same as mlp() for some of the rows; the others are left as they are.
void Forward::mlp_of_rows(int64_t layer, const DeviceArray<int64_t>& rows, View h) const {
  const BlockParameters<const float>& p = parameters_.blocks[layer];
  Tensor some(context_, rows.size(), h.cols), key(context_, rows.size(), config_.mlp_width);
  gather_rows(context_, h, rows, some.view());
  linear_activation(context_, some.view(), WeightView::in_out(p.up_weight), p.up_bias, config_.activation, {},
                    key.view());
  linear(context_, key.view(), WeightView::in_out(p.down_weight), p.down_bias, some.view());
  scatter_rows(context_, some.view(), rows, h, Write::assign);
}

/// The first positions of the segments within which a sequence's rows attend in this block; one segment as a rule.
std::vector<int64_t> Forward::segment_starts(int64_t s, int64_t layer) const {
  std::vector<int64_t> starts{sequence(s).first_position};
  for (const AttentionCuts& cuts : plan_.attention_cuts)
    if (cuts.sequence == s && layer < cuts.layers) starts.insert(starts.end(), cuts.starts.begin(), cuts.starts.end());
  return starts;
}

AttentionBatch Forward::attention_batch(int64_t layer) const {
  AttentionBatch batch;
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionSegment> segments;
  for (int64_t i = 0; i < layout_.active[layer]; ++i) {
    const int64_t s = layout_.order[i];
    const Sequence& lane = sequence(s);
    std::vector<int64_t> starts = segment_starts(s, layer);
    starts.push_back(lane.end_position());
    for (size_t part = 0; part + 1 < starts.size(); ++part) {
      const int64_t first_query = std::max(first_position(s), starts[part]);
      const int64_t queries = starts[part + 1] - first_query;
      if (queries <= 0) continue;
      const auto first_segment = std::ssize(segments);
      append_segments(lane.base.get(), layer, lane.first_position, segments);
      sequences.push_back({.first_query = packed_row(s, first_query),
                           .queries = queries,
                           .first_key = layout_.first_row[s] + starts[part] - lane.first_position,
                           .keys = starts[part + 1] - starts[part],
                           .visible_0 = first_query - starts[part] + 1,
                           .first_segment = first_segment,
                           .segments = std::ssize(segments) - first_segment});
      batch.queries += queries;
      batch.max_keys = std::max(batch.max_keys, starts[part + 1]);
      batch.max_queries = std::max(batch.max_queries, queries);
    }
  }
  batch.sequences = {context_, std::span<const AttentionSequence>(sequences)};
  batch.segments = {context_, std::span<const AttentionSegment>(segments)};
  return batch;
}

// --- The end of the last block ---------------------------------------------------------------------------------------

/// The rows that the last block still needs behind its keys and values; nothing where all are needed.
std::optional<TailRows> Forward::tail_rows(int64_t layer) const {
  if (layer != config_.layers - 1 || plan_.stop) return std::nullopt;
  const auto count = plan_.sequences.size();
  TailRows tail;
  tail.first_position.resize(count);
  tail.first_row.resize(count);
  for (size_t s = 0; s < count; ++s) {
    const Sequence& lane = plan_.sequences[s];
    tail.first_position[s] = lane.record ? lane.first_position : lane.end_position();
  }
  const auto need = [&](int64_t s, int64_t position) {
    auto& first = tail.first_position[s];
    first = std::min(first, position);
  };
  for (const auto& wanted : plan_.wanted) need(wanted.sequence, wanted.position);
  for (const Site site : {Site::attn_out, Site::mlp_key, Site::mlp_out, Site::resid}) {
    const SiteWork& work = sites_.at(site, layer);
    if (work.observed) return std::nullopt;
    for (const RowPatch* patch : work.patches) need(patch->sequence, patch->position);
    for (const RowTap* tap : work.taps) need(tap->sequence, tap->position);
  }
  const int64_t active = layout_.active[layer];
  for (int64_t i = 0; i < active; ++i) {
    const auto s = static_cast<size_t>(layout_.order[i]);
    const Sequence& lane = plan_.sequences[s];
    tail.first_row[s] = std::ssize(tail.rows);
    for (int64_t position = tail.first_position[s]; position < lane.end_position(); ++position)
      tail.rows.push_back(layout_.first_row[s] + position - lane.first_position);
  }
  if (std::ssize(tail.rows) == layer_rows(layer)) return std::nullopt;
  tail.buffer_rows = std::ssize(tail.rows);
  for (size_t i = static_cast<size_t>(active); i < count; ++i) {
    const auto s = static_cast<size_t>(layout_.order[i]);
    tail.first_position[s] = plan_.sequences[s].first_position;
    tail.first_row[s] = tail.buffer_rows;
    tail.buffer_rows += plan_.sequences[s].row_count();
  }
  tail.device_rows = {context_, std::span<const int64_t>(tail.rows)};
  return tail;
}

/// Goes on with the tail rows alone.
void Forward::shorten(TailRows tail) {
  Tensor shorter(context_, std::max<int64_t>(1, tail.buffer_rows), config_.width);
  gather_rows(context_, x_.view(), tail.device_rows, shorter.rows_slice(0, std::ssize(tail.rows)));
  x_ = std::move(shorter);
  tail_ = std::move(tail);
}

void Forward::add_low_rank_terms(int64_t layer, ConstView keys, View y) {
  std::vector<LowRankRows> rows;
  for (const LowRankTerm& term : plan_.low_rank) {
    const Sequence& lane = sequence(term.sequence);
    if (term.layer != layer || lane.first_layer > layer) continue;
    const int64_t first = first_position(term.sequence), count = lane.end_position() - first;
    if (count > 0) rows.push_back({packed_row(term.sequence, first), count, term.u, term.v});
  }
  if (!rows.empty()) add_low_rank(context_, keys, {context_, std::span<const LowRankRows>(rows)}, y);
}

DeviceArray<float> Forward::mlp_factors(int64_t layer, int64_t rows) const {
  std::vector<float> factors;
  for (const MlpScale& scaled : plan_.mlp_scales) {
    const Sequence& lane = sequence(scaled.sequence);
    if (scaled.layer != layer || lane.first_layer > layer) continue;
    factors.resize(static_cast<size_t>(rows), 1.0f);
    int64_t end = lane.end_position();
    if (scaled.rows >= 0) end = std::min(end, scaled.first_position + scaled.rows);
    const int64_t first = std::max(first_position(scaled.sequence), scaled.first_position);
    for (int64_t position = first; position < end; ++position)
      factors[packed_row(scaled.sequence, position)] *= scaled.factor;
  }
  if (factors.empty()) return {};
  return {context_, std::span<const float>(factors)};
}

/// logits = ln_f(x) W_u^T at the wanted positions, or what is asked of them.
void Forward::unembed() {
  const auto count = std::ssize(plan_.wanted);
  if (count == 0) return;
  std::vector<int64_t> rows;
  for (const auto& wanted : plan_.wanted) rows.push_back(packed_row(wanted.sequence, wanted.position));
  Activations& kept = *activations_;
  kept.wanted_rows = {context_, std::span<const int64_t>(rows)};
  kept.final_buffer_rows = tail_ ? tail_->buffer_rows : layout_.total_rows();
  kept.final_rows = Tensor(context_, count, config_.width);
  gather_rows(context_, x_.view(), kept.wanted_rows, kept.final_rows.view());
  kept.final_statistics = Tensor(context_, count, 2);
  Tensor h(context_, count, config_.width);
  layer_norm(context_, kept.final_rows.view(), parameters_.ln_f_gain, parameters_.ln_f_bias, epsilon(), h.view(),
             kept.final_statistics.view());
  const WeightView unembedding = WeightView::out_in(parameters_.unembedding);
  if (!plan_.questions.empty()) {
    scores_ = start_scoring_tokens(context_, h.view(), unembedding, {}, plan_.questions);
    return;
  }
  logits_ = Tensor::padded(context_, count, config_.vocabulary);
  linear(context_, h.view(), unembedding, {}, logits_.view());
}

Run Forward::finish() {
  Run run;
  run.logits = std::move(logits_);
  run.scores = std::move(scores_);
  for (auto& recording : recordings_) run.recordings.push_back(std::move(recording));
  if (keep_) {
    for (const Sequence& s : plan_.sequences) {
      activations_->sequence_rows.push_back(s.row_count());
      activations_->first_layers.push_back(s.first_layer);
    }
    run.activations = std::move(activations_);
  }
  return run;
}

}  // namespace

Run run_forward(Context& context, const Model& model, const Plan& plan, Keep keep) {
  return Forward(context, model, plan, keep).run();
}

}  // namespace loci
