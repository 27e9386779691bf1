#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/token_scores.h"
#include "model/model.h"
#include "runtime/tensor.h"

/// The executor of partial runs. Every experiment is a forward pass that differs from one already computed only from
/// some layer on, from some position on, with some rows replaced or shifted. Words (docs/design.md):
///   row      one token position of one sequence; rows of all sequences are packed, [rows, d], no padding
///   base     an earlier run of a sequence whose keys, values and residual rows were recorded
///   lane     a sequence that starts from a base: it computes positions >= first_position in blocks >= first_layer only
namespace loci {

/// A named place in the forward pass; all but `embed` come with a layer.
enum class Site {
  embed,     ///< token embedding, before the position embedding is added (no layer)
  attn_out,  ///< output of the attention module, before it is added to the residual stream
  mlp_key,   ///< input of the MLP's down projection [ff]
  mlp_out,   ///< output of the MLP, before it is added to the residual stream
  resid,     ///< block output; layer -1: input of block 0
};

/// What a recorded sequence left behind, kept by the lanes that start from it. Rows are its own rows: row i is position
/// first_position + i; earlier positions are those of its own base.
struct Recording {
  std::shared_ptr<const Recording> base;
  int64_t first_position = 0;
  int64_t first_layer = 0;
  int64_t rows = 0;
  std::vector<ConstView> keys;    ///< per layer, [rows, d]; empty below first_layer: those of `base`
  std::vector<ConstView> values;  ///< per layer, [rows, d]
  std::vector<ConstView> qkv;     ///< per layer, [rows, 3d] with the queries before them; empty where those are missing
  std::vector<ConstView> resid;   ///< [l + 1] holds the rows at resid(l), l = -1 .. L-1; empty below first_layer - 1
  std::vector<ConstView> attn_out, mlp_out, mlp_key;  ///< per layer, where Plan::recorded asked for them
  std::shared_ptr<void> storage;

  int64_t length() const { return first_position + rows; }
  /// The row of `position` at a recorded site, in device memory; follows the bases. Throws Error where it was not
  /// recorded.
  const float* row(Site site, int64_t layer, int64_t position) const;
  /// The query, key and value of `position` at a layer, 3d floats in device memory; follows the bases. Null where they
  /// were not recorded together.
  const float* qkv_row(int64_t layer, int64_t position) const;
};
using RecordingPtr = std::shared_ptr<const Recording>;

/// One sequence of a plan. Without a base it is a plain sequence from position 0. With a base and first_layer = 0 it
/// continues behind a shared prefix (first_position <= base length). With first_layer = l + 1 > 0 its rows start as the
/// base's rows at resid(l) of positions first_position .. first_position + rows - 1, and `tokens` are not read; rows
/// that no patch or low-rank term changes there also take their queries, keys and values of block l + 1 from the base.
struct Sequence {
  std::vector<int32_t> tokens;  ///< of its own rows; needed where first_layer = 0
  int64_t rows = 0;             ///< 0: tokens.size()
  int64_t first_position = 0;
  int64_t first_layer = 0;
  RecordingPtr base;
  bool record = false;

  int64_t row_count() const { return rows ? rows : std::ssize(tokens); }
  int64_t end_position() const { return first_position + row_count(); }
};

enum class PatchMode { replace, add };

/// Replaces, or adds to, the row of `position` (absolute) at a site. Patches of one row apply in the order of the plan.
/// At resid(first_layer - 1) of its sequence a patch changes the row as it joins.
struct RowPatch {
  int64_t sequence;
  int64_t position;
  Site site;
  int64_t layer;
  PatchMode mode;
  const float* source;  ///< device memory, as wide as the site
};

/// Copies the row of `position` at a site into row `destination` of Plan::tap_output (after patches of that site).
struct RowTap {
  int64_t sequence;
  int64_t position;
  Site site;
  int64_t layer;
  int64_t destination;
};

/// An edited model without touching weights: in every row of `sequence`, mlp_out(layer) += (mlp_key . u) v. Where the
/// sequence joins at layer + 1, the keys are those that its base recorded (Plan::recorded with Site::mlp_key).
struct LowRankTerm {
  int64_t sequence;
  int64_t layer;
  const float* u;  ///< device memory [ff]
  const float* v;  ///< device memory [d]
};

/// A position whose next-token logits are wanted.
struct WantedPosition {
  int64_t sequence;
  int64_t position;
};

/// Where a run ends. A run that stops early gives no logits.
struct StopAfter {
  Site site;
  int64_t layer;
};

/// Scales mlp_out(layer) of rows of a sequence (0 drops them); a regulariser in training.
struct MlpScale {
  int64_t sequence;
  int64_t layer;
  float factor;
  int64_t first_position = 0;
  int64_t rows = -1;  ///< -1: to the sequence's end
};

/// In blocks below `layers` the rows of a sequence attend only within their own segment; `starts` (ascending, > 0) are
/// the first positions of the second and further segments. A regulariser in training, for sequences without a base.
struct AttentionCuts {
  int64_t sequence;
  int64_t layers;
  std::vector<int64_t> starts;
};

/// A site of one block.
struct BlockSite {
  Site site;
  int64_t layer;
};

/// What one run computes.
struct Plan {
  std::vector<Sequence> sequences;
  std::vector<RowPatch> patches;
  std::vector<RowTap> taps;
  std::vector<LowRankTerm> low_rank;
  std::vector<MlpScale> mlp_scales;
  std::vector<AttentionCuts> attention_cuts;  ///< at most one per sequence
  std::vector<WantedPosition> wanted;
  /// Rows number `wanted`. Where there are some, Run::scores replaces the logits.
  std::vector<TokenQuestion> questions;
  std::optional<StopAfter> stop;
  std::vector<BlockSite> recorded;  ///< beside keys, values and resid, for sequences with `record`
  View tap_output;                  ///< [taps' destinations, width of their site], the caller's
  std::vector<BlockSite> observed;  ///< the rows of all sequences there go to `observer` whole, [rows, width]
  std::function<void(Site, int64_t layer, ConstView rows)> observer;
};

struct Activations;  // what the backward pass needs, see executor_internal.h

/// Bytes that the recording of one row takes: its residual rows, its queries, keys and values, and `recorded` sites.
int64_t recorded_row_bytes(const GptConfig& config, std::span<const BlockSite> recorded = {});

/// How many of the first items make a wave of at most `most_rows` rows; at least one, where there is one.
template <typename Items, typename RowsOf>
size_t wave_length(const Items& items, int64_t most_rows, RowsOf rows_of) {
  int64_t rows = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    rows += rows_of(items[i]);
    if (i > 0 && rows > most_rows) return i;
  }
  return items.size();
}

/// The outcome of a plan.
struct Run {
  /// [wanted, V], in the order of Plan::wanted; empty where the run stopped early or was asked questions.
  Tensor logits;
  ScoresInFlight scores;                     ///< of Plan::questions; a GPU may still be computing them
  std::vector<RecordingPtr> recordings;      ///< per sequence; null where not recorded
  std::shared_ptr<Activations> activations;  ///< with Keep::activations
};

enum class Keep { nothing, activations };

/// Gradients of a loss with regard to the rows of a run.
struct RowGradients {
  /// [all rows, d]: at each sequence's rows as they joined (before their position embedding where first_layer = 0),
  /// sequences in plan order. Rows that a sequence took from its base as they are, are constants like the base: their
  /// entries mean nothing.
  Tensor joined;
  std::vector<int64_t> first_row;  ///< of each sequence in `joined`
};

/// Runs plans on one model. Not thread-safe.
class Executor {
 public:
  Executor(Context& context, const Model& model) : context_(context), model_(model) {}

  /// Computes a plan in one wave. Throws ShapeError for a plan that contradicts itself (a position outside its
  /// sequence, a patch below the sequence's first layer), InputError for a sequence longer than the model's context.
  Run run(const Plan& plan, Keep keep = Keep::nothing);

  /// The backward pass of a run made with Keep::activations. `logit_gradients` [wanted, V] = d loss / d logits.
  /// Recorded bases are constants. Parameter gradients are added to `parameters` where given: for sequences that
  /// start from tokens, else ShapeError.
  RowGradients backward(const Run& run, ConstView logit_gradients, const Parameters<float>* parameters = nullptr);

  /// Rows that keep the device busy. A wave of more gains nothing, and leaves the caches of a CPU.
  int64_t full_wave_rows() const { return context_.on_cpu() ? 2048 : 32768; }
  /// How many rows one wave may hold within the memory budget, where so many positions per row are wanted with their
  /// logits; at most twice full_wave_rows().
  int64_t rows_per_wave(double wanted_per_row = 0) const;
  /// The same for a run with Keep::activations whose rows join at `first_layer`, and its backward pass.
  int64_t kept_rows_per_wave(int64_t first_layer, double wanted_per_row) const;

  Context& context() { return context_; }
  const Model& model() const { return model_; }

 private:
  Context& context_;
  const Model& model_;
};

}  // namespace loci
