#include "model/executor/plan.h"

#include <algorithm>
#include <initializer_list>

#include "runtime/error.h"

namespace loci {
namespace {

void check_sequence(const Sequence& sequence, size_t index, const Architecture& config) {
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

void check_tap(const Plan& plan, const RowTap& tap, View output, const Architecture& config) {
  check_place(plan, tap.sequence, tap.position, tap.site, tap.layer, "tap");
  require<ShapeError>(tap.destination >= 0 && tap.destination < output.rows, "a tap's row {} of {} outputs",
                      tap.destination, output.rows);
  require<ShapeError>(output.cols >= site_width(config, tap.site), "tap outputs are {} wide, a tapped site {}",
                      output.cols, site_width(config, tap.site));
}

void check_branch(const Plan& plan, const Branch& branch, const Architecture& config) {
  require<ShapeError>(branch.sequence >= 0 && branch.sequence < std::ssize(plan.sequences),
                      "a branch names sequence {} of {}", branch.sequence, plan.sequences.size());
  const int64_t first_layer = plan.sequences[branch.sequence].first_layer;
  require<ShapeError>(branch.layer >= first_layer - 1 && branch.layer >= 0 && branch.layer < config.layers,
                      "a branch at layer {} of a sequence that starts at layer {}", branch.layer, first_layer);
  const auto is_one_of = [](Site site, std::initializer_list<Site> sites) {
    return std::ranges::find(sites, site) != sites.end();
  };
  require<ShapeError>(
      is_one_of(branch.from, {Site::attn_in, Site::attn_heads, Site::mlp_in, Site::mlp_pre, Site::mlp_key}) &&
          is_one_of(branch.to, {Site::qkv, Site::attn_out, Site::mlp_pre, Site::mlp_out}) && branch.from < branch.to,
      "a branch from site {} to site {}", static_cast<int>(branch.from), static_cast<int>(branch.to));
  require<ShapeError>(branch.layer >= first_layer || branch.to == Site::mlp_out,
                      "a branch below its sequence's first layer {} must lead to the MLP's output", first_layer);
  const int64_t n = branch.neurons();
  require<ShapeError>(
      n > 0 && branch.keys.rows == site_width(config, branch.from) && branch.keys.cols == n &&
          branch.first_column >= 0 && branch.first_column + branch.values.cols <= site_width(config, branch.to) &&
          (branch.bias.empty() || (branch.bias.rows == 1 && branch.bias.cols == n)),
      "a branch of {} neurons has keys [{}, {}], values [{}, {}] and a bias [{}, {}]", n, branch.keys.rows,
      branch.keys.cols, branch.values.rows, branch.values.cols, branch.bias.rows, branch.bias.cols);
}

void check_cuts(const Plan& plan, const AttentionCuts& cuts) {
  const Sequence& s = plan.sequences.at(static_cast<size_t>(cuts.sequence));
  require<ShapeError>(!s.base, "attention is cut only in sequences without a base");
  int64_t previous = 0;
  for (const int64_t start : cuts.starts) {
    require<ShapeError>(start > previous && start < s.row_count(), "attention cut at {} after {} in {} rows", start,
                        previous, s.row_count());
    previous = start;
  }
}

}  // namespace

void check_plan(const Plan& plan, const Architecture& config) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) check_sequence(plan.sequences[i], i, config);
  for (const RowPatch& patch : plan.patches)
    check_place(plan, patch.sequence, patch.position, patch.site, patch.layer, "patch");
  for (const RowTap& tap : plan.taps) check_tap(plan, tap, plan.tap_output, config);
  for (const RowTap& tap : plan.gradient_taps) check_tap(plan, tap, plan.gradient_output, config);
  for (const Branch& branch : plan.branches) check_branch(plan, branch, config);
  for (const AttentionCuts& cuts : plan.regularisers.attention_cuts) check_cuts(plan, cuts);
  for (const WantedPosition& wanted : plan.wanted)
    check_place(plan, wanted.sequence, wanted.position, Site::resid, config.layers, "wanted position");
  require<ShapeError>(plan.questions.empty() || !plan.stop,
                      "questions are asked of a run that stops before the logits");
  for (const TokenQuestion& question : plan.questions)
    require<ShapeError>(question.row >= 0 && question.row < std::ssize(plan.wanted),
                        "a question about row {} of {} wanted ones", question.row, plan.wanted.size());
  require<ShapeError>(plan.observed.empty() || plan.observer, "sites are observed but the plan has no observer");
}

}  // namespace loci
