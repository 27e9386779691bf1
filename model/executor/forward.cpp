#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/rows.h"
#include "model/executor/block.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// One forward pass; `x_` is the residual stream.
class Forward {
 public:
  Forward(Context& context, const Model& model, const Plan& plan, Keep keep)
      : context_(context),
        plan_(plan),
        activations_(std::make_shared<Activations>(plan, model.config().layers)),
        sites_(context, plan, activations_->geometry),
        pass_{context, model.config(),       model.parameters(),       plan, activations_->geometry,
              sites_,  activations_->rotary, keep == Keep::activations} {
    if (pass_.keep) activations_->plan = plan;
    if (pass_.config.rotary) activations_->rotary = {context, *pass_.config.rotary, activations_->geometry.positions()};
  }

  Run run() {
    x_ = Tensor(context_, std::max<int64_t>(1, pass_.geometry.buffer_rows()), pass_.config.width);
    for (int64_t layer = 0; layer < pass_.config.layers; ++layer) {
      join(layer);
      if (sites_.stops_at(Site::resid, layer - 1) || !block(layer)) return finish();
    }
    join(pass_.config.layers);
    if (!plan_.stop) unembed();
    return finish();
  }

 private:
  bool block(int64_t layer);
  void join(int64_t layer);
  void embed();
  void take_base_rows(int64_t layer);
  void add_joined_branches(int64_t layer);
  void unembed();
  Run finish();

  Context& context_;
  const Plan& plan_;
  std::shared_ptr<Activations> activations_;
  Sites sites_;
  ForwardPass pass_;
  Tensor x_;
  Tensor logits_;
  ScoresInFlight scores_;
};

/// False where the plan stops inside this block.
bool Forward::block(int64_t layer) {
  BlockActivations scratch;
  BlockActivations& kept = pass_.keep ? activations_->blocks.emplace_back() : scratch;
  if (pass_.geometry.rows(layer) == 0) return !sites_.stops_within(layer);
  return ForwardBlock(pass_, layer, x_, kept).run();
}

// --- Rows joining the batch ------------------------------------------------------------------------------------------

/// The rows of the sequences with first_layer = layer: their embeddings, or their base's rows at resid(layer - 1).
void Forward::join(int64_t layer) {
  if (!pass_.geometry.joining(layer).empty()) {
    if (layer == 0)
      embed();
    else
      take_base_rows(layer);
    add_joined_branches(layer);
    sites_.join(layer, x_.view());
  }
  const int64_t rows = pass_.geometry.tail() ? x_.rows() : pass_.geometry.rows(layer);
  sites_.record_resid(layer, x_.rows_slice(0, rows));
}

/// Block 0's input: the embeddings of token and position. Noise and other patches at `embed` come between the two.
void Forward::embed() {
  std::vector<int32_t> tokens, positions;
  for (const int64_t s : pass_.geometry.joining(0)) {
    const Sequence& sequence = plan_.sequences[s];
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (int64_t r = 0; r < sequence.row_count(); ++r)
      positions.push_back(static_cast<int32_t>(sequence.first_position + r));
  }
  Activations& kept = *activations_;
  kept.token_ids = {context_, std::span<const int32_t>(tokens)};
  kept.position_ids = {context_, std::span<const int32_t>(positions)};
  const View rows = x_.rows_slice(0, pass_.geometry.rows(0));
  embed_rows(context_, pass_.parameters.token_embedding, kept.token_ids, rows);
  sites_.visit(Site::embed, 0, rows);
  if (pass_.parameters.position_embedding.empty()) return;
  Tensor place(context_, rows.rows, pass_.config.width);
  embed_rows(context_, pass_.parameters.position_embedding, kept.position_ids, place.view());
  add(context_, place.view(), rows);
}

void Forward::take_base_rows(int64_t layer) {
  const std::span<const int64_t> lanes = pass_.geometry.joining(layer);
  std::vector<const float*> sources;
  for (const int64_t s : lanes) {
    const Sequence& lane = plan_.sequences[s];
    for (int64_t r = 0; r < lane.row_count(); ++r)
      sources.push_back(lane.base->row(Site::resid, layer - 1, lane.first_position + r));
  }
  const int64_t first = pass_.geometry.row(lanes.front(), plan_.sequences[lanes.front()].first_position);
  collect_rows(context_, {context_, std::span<const float* const>(sources)}, x_.rows_slice(first, std::ssize(sources)));
}

/// Branches at layer - 1 of sequences that join at layer, from the rows that their bases recorded.
void Forward::add_joined_branches(int64_t layer) {
  std::vector<std::vector<const Branch*>> branches(plan_.sequences.size());
  for (const Branch& branch : plan_.branches)
    if (pass_.geometry.first_layer(branch.sequence) == layer && branch.layer == layer - 1)
      branches[branch.sequence].push_back(&branch);
  // Rows of neighbouring sequences that have branches from one site go through one op.
  std::vector<const float*> sources;
  std::vector<BranchRows> rows;
  int64_t first = 0;
  const auto flush = [&] {
    if (sources.empty()) return;
    const auto count = std::ssize(sources);
    Tensor x(context_, count, site_width(pass_.config, rows.front().branch->from));
    collect_rows(context_, {context_, std::span<const float* const>(sources)}, x.view());
    add_branches(context_, rows, x.view(), x_.rows_slice(first, count));
    sources.clear();
    rows.clear();
  };
  for (const int64_t s : pass_.geometry.joining(layer)) {
    const Sequence& lane = plan_.sequences[s];
    if (branches[s].empty()) flush();
    for (const Branch* branch : branches[s]) {
      const bool new_site = rows.empty() || rows.back().branch->from != branch->from;
      if (new_site) flush();
      if (sources.empty()) first = pass_.geometry.row(s, lane.first_position);
      if (new_site || rows.back().branch->sequence != s)
        for (int64_t r = 0; r < lane.row_count(); ++r)
          sources.push_back(lane.base->row(branch->from, layer - 1, lane.first_position + r));
      rows.push_back({branch, std::ssize(sources) - lane.row_count(), lane.row_count()});
    }
  }
  flush();
}

// --- The end ---------------------------------------------------------------------------------------------------------

/// logits = N_f(x) W_u^T at the wanted positions, or what is asked of them.
void Forward::unembed() {
  const auto count = std::ssize(plan_.wanted);
  if (count == 0) return;
  std::vector<int64_t> rows;
  for (const auto& wanted : plan_.wanted) rows.push_back(pass_.geometry.row(wanted.sequence, wanted.position));
  const Parameters<const float>& p = pass_.parameters;
  Activations& kept = *activations_;
  kept.wanted_rows = {context_, std::span<const int64_t>(rows)};
  kept.final_rows = Tensor(context_, count, pass_.config.width);
  gather_rows(context_, x_.view(), kept.wanted_rows, kept.final_rows.view());
  kept.final_statistics = Tensor(context_, count, 2);
  Tensor h(context_, count, pass_.config.width);
  normalise(context_, pass_.config.norm, kept.final_rows.view(), p.final_norm_gain, p.final_norm_bias,
            static_cast<float>(pass_.config.epsilon), h.view(), kept.final_statistics.view());
  const WeightView unembedding = WeightView::out_in(p.unembedding);
  if (!plan_.questions.empty()) {
    scores_ = start_scoring_tokens(context_, h.view(), unembedding, p.unembedding_bias, plan_.questions);
    return;
  }
  logits_ = Tensor::padded(context_, count, pass_.config.vocabulary);
  linear(context_, h.view(), unembedding, p.unembedding_bias, logits_.view());
}

Run Forward::finish() {
  Run run;
  run.logits = std::move(logits_);
  run.scores = std::move(scores_);
  run.recordings = sites_.take_recordings();
  if (pass_.keep) run.activations = std::move(activations_);
  return run;
}

}  // namespace

Run run_forward(Context& context, const Model& model, const Plan& plan, Keep keep) {
  return Forward(context, model, plan, keep).run();
}

}  // namespace loci
