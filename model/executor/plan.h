#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/activation.h"
#include "kernels/token_scores.h"
#include "model/executor/recording.h"
#include "model/executor/site.h"
#include "runtime/view.h"

/// What one run of the executor computes. Every experiment is a forward pass that differs from one already computed
/// only from some layer on, from some position on, with some rows replaced or shifted. Words (docs/design.md):
///   row      one token position of one sequence; rows of all sequences are packed, [rows, d], no padding
///   base     an earlier run of a sequence whose keys, values and residual rows were recorded
///   lane     a sequence that starts from a base: it computes positions >= first_position in blocks >= first_layer only
namespace loci {

/// One sequence of a plan. Without a base it is a plain sequence from position 0. With a base and first_layer = 0 it
/// continues after a shared prefix (first_position <= base length). With first_layer = l + 1 > 0 its rows start as the
/// base's rows at resid(l) of positions first_position .. first_position + rows - 1, and `tokens` are not read. A row
/// that nothing changes there (no patch, no branch) reuses the base's queries, keys and values of block l + 1.
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
/// At resid(first_layer - 1) of its sequence a patch changes the row as it joins. In the backward pass a replaced row
/// is a constant.
struct RowPatch {
  int64_t sequence;
  int64_t position;
  Site site;
  int64_t layer;
  PatchMode mode;
  const float* source;  ///< device memory, as wide as the site
};

/// Copies the row of `position` at a site into row `destination` of Plan::tap_output (after patches of that site).
/// Among Plan::gradient_taps: the gradient of that row (after patches) into Plan::gradient_output.
struct RowTap {
  int64_t sequence;
  int64_t position;
  Site site;
  int64_t layer;
  int64_t destination;
};

/// A change of the model for the rows of one sequence that touches no weights:
///
///     y += f(x K + b) V    with x the row at `from`, y that at `to`, in block `layer`.
///
/// With f the identity and no b this is W + K V for the projection between the two sites: an edit of any rank
/// (mlp_key -> mlp_out: the down projection; mlp_in -> mlp_pre: the up projection; attn_in -> qkv and attn_heads ->
/// attn_out: the attention's). With an activation function it is a group of neurons beside a layer. Branches into one
/// site apply in the order of the plan, after the layer's own bias and before patches. Where the sequence joins at
/// layer + 1, `to` is mlp_out and the rows at `from` are those that its base recorded (Plan::recorded).
struct Branch {
  int64_t sequence;
  int64_t layer;
  ConstView keys;                             ///< K [width of from, n], device memory
  ConstView values;                           ///< V [n, cols], device memory
  Site from = Site::mlp_key;                  ///< attn_in, attn_heads, mlp_in, mlp_pre or mlp_key
  Site to = Site::mlp_out;                    ///< qkv, attn_out, mlp_pre or mlp_out; a later site than `from`
  std::optional<Activation> activation = {};  ///< f; nothing is the identity
  ConstView bias = {};                        ///< b [1, n]; empty is none
  int64_t first_column = 0;                   ///< of `to`; V's columns go to first_column .. first_column + cols - 1
  /// The backward pass adds the gradients of K, V and b to these, where they are not empty.
  View keys_gradient = {}, values_gradient = {}, bias_gradient = {};

  int64_t neurons() const { return values.rows; }
};

/// The branch of a rank-one change W + u v^T of a down projection; u [1, ff], v [1, d].
inline Branch rank_one_branch(int64_t sequence, int64_t layer, ConstView u, ConstView v) {
  return {.sequence = sequence, .layer = layer, .keys = {u.data, u.cols, 1}, .values = v};
}

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

/// Scales mlp_out(layer) of rows of a sequence (0 drops them).
struct MlpScale {
  int64_t sequence;
  int64_t layer;
  float factor;
  int64_t first_position = 0;
  int64_t rows = -1;  ///< -1: to the sequence's end
};

/// In blocks below `layers` the rows of a sequence attend only within their own segment; `starts` (ascending, > 0) are
/// the first positions of the second and further segments. For sequences without a base.
struct AttentionCuts {
  int64_t sequence;
  int64_t layers;
  std::vector<int64_t> starts;
};

/// What training does to the forward pass so that the model learns to do without some of it.
struct Regularisers {
  std::vector<MlpScale> mlp_scales;
  std::vector<AttentionCuts> attention_cuts;  ///< at most one per sequence
};

/// What one run computes.
struct Plan {
  std::vector<Sequence> sequences;
  std::vector<RowPatch> patches;
  std::vector<RowTap> taps;
  std::vector<Branch> branches;
  Regularisers regularisers;
  std::vector<WantedPosition> wanted;
  /// Rows number `wanted`. Where there are some, Run::scores replaces the logits.
  std::vector<TokenQuestion> questions;
  std::optional<StopAfter> stop;
  std::vector<BlockSite> recorded;  ///< beside keys, values and resid, for sequences with `record`
  View tap_output;                  ///< [taps' destinations, width of their site or more], the caller's
  std::vector<BlockSite> observed;  ///< the rows of all sequences there go to `observer` whole, [rows, width]
  std::function<void(Site, int64_t layer, ConstView rows)> observer;
  std::vector<RowTap> gradient_taps;  ///< for the backward pass
  View gradient_output;               ///< [gradient taps' destinations, width of their site or more], the caller's
};

/// Throws ShapeError for a plan that contradicts itself or the model (a position outside its sequence, a patch below
/// the sequence's first layer), InputError for a sequence longer than the model's context or an unknown token.
void check_plan(const Plan& plan, const Architecture& config);

}  // namespace loci
