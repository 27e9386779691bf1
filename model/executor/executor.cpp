#include "model/executor/executor.h"

#include <algorithm>

#include "model/executor/activations.h"
#include "runtime/error.h"

namespace loci {
namespace {

void check_differentiable(const Plan& plan) {
  require<ShapeError>(!plan.stop, "a run that is to be differentiated must reach the logits");
  for (const Sequence& s : plan.sequences)
    require<ShapeError>(!s.record, "a run that is to be differentiated records no bases");
  for (const Branch& branch : plan.branches)
    require<ShapeError>(branch.layer >= plan.sequences[branch.sequence].first_layer,
                        "a run that is to be differentiated has branches only in the blocks that it computes");
}

/// What a row of a block takes beside that of one whose heads are as wide as the residual stream and whose MLP is
/// plain.
double beside_gpt2(const Architecture& config) {
  const int64_t heads = config.query_width() + config.qkv_width() - 4 * config.width;
  const int64_t raw = config.head_norm == HeadNorm::none ? 0 : config.qkv_width();
  return static_cast<double>(heads + raw + (config.mlp == Mlp::gated ? config.mlp_width : 0));
}

/// Rows of `floats` each within the memory budget; a wave is never planned smaller than a few prompts.
int64_t rows_within(int64_t memory_budget, double floats, int64_t most) {
  const double rows = static_cast<double>(memory_budget) / (sizeof(float) * floats);
  return std::clamp(static_cast<int64_t>(std::min(rows, static_cast<double>(most))), int64_t{64}, most);
}

}  // namespace

Run Executor::run(const Plan& plan, Keep keep) {
  check_plan(plan, model_.config());
  if (keep == Keep::activations) check_differentiable(plan);
  return run_forward(context_, model_, plan, keep);
}

RowGradients Executor::backward(const Run& run, ConstView logit_gradients, const Parameters<float>* parameters) {
  require<ShapeError>(run.activations != nullptr, "the run was made without Keep::activations");
  const std::vector<Sequence>& sequences = run.activations->plan.sequences;
  require<ShapeError>(
      !parameters || std::ranges::all_of(sequences, [](const Sequence& s) { return s.first_layer == 0; }),
      "parameters have no gradients in runs whose sequences start from bases");
  return run_backward(context_, model_, *run.activations, logit_gradients, parameters);
}

int64_t Executor::rows_per_wave(double wanted_per_row) const {
  const Architecture& config = model_.config();
  const double floats = beside_gpt2(config) + 9.0 * static_cast<double>(config.width) +
                        2.0 * static_cast<double>(config.mlp_width) +
                        wanted_per_row * static_cast<double>(config.vocabulary);
  // On a GPU score_tokens takes an eighth for logits.
  const int64_t budget = context_.on_cpu() ? context_.memory_budget() : context_.memory_budget() / 8 * 7;
  return rows_within(budget, floats, 2 * full_wave_rows());
}

int64_t Executor::kept_rows_per_wave(int64_t first_layer, double wanted_per_row) const {
  const Architecture& config = model_.config();
  const auto d = static_cast<double>(config.width), ff = static_cast<double>(config.mlp_width);
  // Of each block: its input, queries, keys, values, attention output, the rows before the MLP, and `up`. Of the block
  // under way: gradients of all of these. Of a wanted row: logits, their gradients, and what the loss compares with.
  const double blocks = static_cast<double>(config.layers - first_layer);
  const double floats = (blocks + 1) * beside_gpt2(config) + blocks * (6 * d + ff) + 9 * d + 3 * ff +
                        3 * wanted_per_row * static_cast<double>(config.vocabulary);
  return rows_within(context_.memory_budget(), floats, 2 * full_wave_rows());
}

}  // namespace loci
