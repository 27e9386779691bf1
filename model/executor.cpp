#include "model/executor.h"

#include <algorithm>
#include <numeric>

#include "model/executor_internal.h"

namespace loci {
namespace {

void check_sequence(const Sequence& sequence, size_t index, const GptConfig& config) {
  const int64_t rows = sequence.row_count();
  require<ShapeError>(rows > 0, "sequence {} has no rows", index);
  require<InputError>(sequence.end_position() <= config.positions,
                      "a sequence of {} tokens is longer than the model's context of {}; shorten the prompt",
                      sequence.end_position(), config.positions);
  require<ShapeError>(sequence.first_layer >= 0 && sequence.first_layer <= config.layers,
                      "sequence {} starts at layer {} of {}", index, sequence.first_layer, config.layers);
  if (sequence.first_layer == 0) {
    require<ShapeError>(std::ssize(sequence.tokens) == rows, "sequence {}: {} tokens for {} rows", index,
                        sequence.tokens.size(), rows);
    for (const int32_t token : sequence.tokens)
      require<InputError>(token >= 0 && token < config.vocabulary,
                          "token id {} is outside the model's vocabulary of {}", token, config.vocabulary);
  } else {
    require<ShapeError>(sequence.base && sequence.base->length() >= sequence.end_position(),
                        "sequence {} starts at layer {} but its base does not cover its rows", index,
                        sequence.first_layer);
  }
  if (sequence.first_position > 0)
    require<ShapeError>(sequence.base && sequence.base->length() >= sequence.first_position,
                        "sequence {} starts at position {} but its base ends before it", index,
                        sequence.first_position);
}

void check_place(const Plan& plan, int64_t sequence, int64_t position, Site site, int64_t layer, const char* what) {
  require<ShapeError>(sequence >= 0 && sequence < std::ssize(plan.sequences), "a {} names sequence {} of {}", what,
                      sequence, plan.sequences.size());
  const Sequence& s = plan.sequences[sequence];
  require<ShapeError>(position >= s.first_position && position < s.end_position(),
                      "a {} names position {} of a sequence whose rows are {} to {}", what, position, s.first_position,
                      s.end_position() - 1);
  const int64_t lowest = site == Site::resid ? s.first_layer - 1 : s.first_layer;
  require<ShapeError>(site == Site::embed ? s.first_layer == 0 : layer >= lowest,
                      "a {} at layer {} lies below its sequence's first layer {}", what, layer, s.first_layer);
}

void check_plan(const Plan& plan, const GptConfig& config) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) check_sequence(plan.sequences[i], i, config);
  for (const auto& patch : plan.patches)
    check_place(plan, patch.sequence, patch.position, patch.site, patch.layer, "patch");
  for (const auto& tap : plan.taps) {
    check_place(plan, tap.sequence, tap.position, tap.site, tap.layer, "tap");
    require<ShapeError>(tap.destination >= 0 && tap.destination < plan.tap_output.rows, "a tap's row {} of {} outputs",
                        tap.destination, plan.tap_output.rows);
    require<ShapeError>(plan.tap_output.cols == (tap.site == Site::mlp_key ? config.mlp_width : config.width),
                        "tap outputs are {} wide", plan.tap_output.cols);
  }
  for (const auto& term : plan.low_rank) {
    const int64_t lowest = plan.sequences.at(static_cast<size_t>(term.sequence)).first_layer - 1;
    require<ShapeError>(term.layer >= lowest && term.layer < config.layers, "a low-rank term at layer {}", term.layer);
  }
  for (const auto& wanted : plan.wanted)
    check_place(plan, wanted.sequence, wanted.position, Site::resid, config.layers, "wanted position");
  require<ShapeError>(plan.questions.empty() || !plan.stop,
                      "questions are asked of a run that stops before the logits");
  for (const TokenQuestion& question : plan.questions)
    require<ShapeError>(question.row >= 0 && question.row < std::ssize(plan.wanted),
                        "a question about row {} of {} wanted ones", question.row, plan.wanted.size());
  for (const auto& cuts : plan.attention_cuts) {
    const Sequence& s = plan.sequences.at(static_cast<size_t>(cuts.sequence));
    require<ShapeError>(!s.base, "attention is cut only in sequences without a base");
    int64_t previous = 0;
    for (const int64_t start : cuts.starts) {
      require<ShapeError>(start > previous && start < s.row_count(), "attention cut at {} behind {} in {} rows", start,
                          previous, s.row_count());
      previous = start;
    }
  }
  require<ShapeError>(plan.observed.empty() || plan.observer, "sites are observed but the plan has no observer");
}

}  // namespace

RowLayout::RowLayout(const Plan& plan, int64_t layers) {
  order.resize(plan.sequences.size());
  std::iota(order.begin(), order.end(), 0);
  const auto first_layer = [&](int64_t s) { return plan.sequences[s].first_layer; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return first_layer(a) < first_layer(b); });
  first_row.resize(plan.sequences.size());
  active.assign(static_cast<size_t>(layers + 1), 0);
  active_rows.assign(static_cast<size_t>(layers + 1), 0);
  int64_t rows = 0;
  for (const int64_t s : order) {
    first_row[s] = rows;
    rows += plan.sequences[s].row_count();
    for (int64_t layer = first_layer(s); layer <= layers; ++layer) {
      ++active[layer];
      active_rows[layer] = rows;
    }
  }
}

const float* Recording::row(Site site, int64_t layer, int64_t position) const {
  const int64_t lowest = site == Site::resid ? first_layer - 1 : first_layer;
  if (position < first_position || layer < lowest) {
    require<ShapeError>(base != nullptr, "position {} at layer {} was not recorded", position, layer);
    return base->row(site, layer, position);
  }
  const std::vector<ConstView>& list = site == Site::resid      ? resid
                                       : site == Site::attn_out ? attn_out
                                       : site == Site::mlp_out  ? mlp_out
                                                                : mlp_key;
  const auto index = static_cast<size_t>(site == Site::resid ? layer + 1 : layer);
  require<ShapeError>(position < length() && index < list.size() && list[index].data,
                      "position {} at layer {} was not recorded", position, layer);
  return list[index].row(position - first_position);
}

const float* Recording::qkv_row(int64_t layer, int64_t position) const {
  if (position < first_position || layer < first_layer) return base ? base->qkv_row(layer, position) : nullptr;
  const auto index = static_cast<size_t>(layer);
  const bool recorded = position < length() && index < qkv.size() && qkv[index].data;
  return recorded ? qkv[index].row(position - first_position) : nullptr;
}

Run Executor::run(const Plan& plan, Keep keep) {
  check_plan(plan, model_.config());
  return run_forward(context_, model_, plan, keep);
}

namespace {

/// Rows of `floats` each within the memory budget; a wave is never planned smaller than a few prompts.
int64_t rows_within(int64_t memory_budget, double floats, int64_t most) {
  const double rows = static_cast<double>(memory_budget) / (sizeof(float) * floats);
  return std::clamp(static_cast<int64_t>(std::min(rows, static_cast<double>(most))), int64_t{64}, most);
}

}  // namespace

int64_t recorded_row_bytes(const GptConfig& config, std::span<const BlockSite> recorded) {
  // A residual row before each block and behind the last; query, key and value of each block.
  int64_t floats = (config.layers + 1) * config.width + config.layers * 3 * config.width;
  for (const BlockSite& at : recorded) floats += at.site == Site::mlp_key ? config.mlp_width : config.width;
  return floats * static_cast<int64_t>(sizeof(float));
}

int64_t Executor::rows_per_wave(double wanted_per_row) const {
  const GptConfig& config = model_.config();
  const double floats = 9.0 * static_cast<double>(config.width) + 2.0 * static_cast<double>(config.mlp_width) +
                        wanted_per_row * static_cast<double>(config.vocabulary);
  // On a GPU score_tokens takes an eighth for logits.
  const int64_t budget = context_.on_cpu() ? context_.memory_budget() : context_.memory_budget() / 8 * 7;
  return rows_within(budget, floats, 2 * full_wave_rows());
}

int64_t Executor::kept_rows_per_wave(int64_t first_layer, double wanted_per_row) const {
  const GptConfig& config = model_.config();
  const auto d = static_cast<double>(config.width), ff = static_cast<double>(config.mlp_width);
  // Of each block: its input, queries, keys, values, attention output, the rows before the MLP, and `up`. Of the block
  // under way: gradients of all of these. Of a wanted row: logits, their gradients, and what the loss compares with.
  const double blocks = static_cast<double>(config.layers - first_layer);
  const double floats =
      blocks * (6 * d + ff) + 9 * d + 3 * ff + 3 * wanted_per_row * static_cast<double>(config.vocabulary);
  return rows_within(context_.memory_budget(), floats, 2 * full_wave_rows());
}

}  // namespace loci
