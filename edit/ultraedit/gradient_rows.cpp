#include "edit/ultraedit/gradient_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/softmax.h"
#include "runtime/error.h"

namespace loci {
namespace {

const EditPrompt& text_of(const BatchMember& member) { return member.request->prompts[0]; }
int64_t text_rows(const BatchMember& member) { return std::ssize(text_of(member).tokens); }

}  // namespace

std::vector<BatchMember> arrange(std::span<const PreparedRequest> requests, int64_t pass_size, TextRows rows) {
  std::vector<BatchMember> members;
  for (size_t i = 0; i < requests.size(); ++i) members.push_back({&requests[i], i, 0, 0, 0, 0});
  std::ranges::stable_sort(members, std::ranges::greater(), text_rows);
  int64_t row = 0;
  for (size_t first = 0; first < members.size(); first += static_cast<size_t>(pass_size)) {
    const auto pass =
        std::span(members).subspan(first, std::min(members.size() - first, static_cast<size_t>(pass_size)));
    size_t tokens = 0;
    for (const BatchMember& member : pass) tokens += member.request->target.size();
    for (BatchMember& member : pass) {
      member.pass = first / static_cast<size_t>(pass_size);
      member.weight = 1 / static_cast<float>(tokens);
      member.first_row = row;
      member.rows = rows == TextRows::all ? text_rows(member) : std::ssize(member.request->target);
      row += member.rows;
    }
  }
  return members;
}

ProjectionRows GradientRows::slice(const EditedModule& of, size_t module, int64_t first, int64_t end) const {
  const auto rows = [&](const std::vector<float>& all, int64_t width) {
    return std::span(all).subspan(static_cast<size_t>(first * width), static_cast<size_t>((end - first) * width));
  };
  return {rows(keys[module], of.in), rows(gradients[module], of.out)};
}

namespace {

/// The waves of one batch.
class Collection {
 public:
  Collection(Executor& executor, std::span<const EditedModule> modules, GradientRows& found)
      : executor_(executor), context_(executor.context()), modules_(modules), found_(found) {
    lowest_ =
        std::ranges::min(modules, {}, [](const EditedModule& module) { return module.weight.layer; }).weight.layer;
    widest_in_ = std::ranges::max(modules, {}, &EditedModule::in).in;
    widest_out_ = std::ranges::max(modules, {}, &EditedModule::out).out;
  }

  int64_t rows_per_wave(std::span<const BatchMember> members) const;
  void run(std::span<const BatchMember> wave);

 private:
  std::vector<RecordingPtr> run_below(std::span<const BatchMember> wave);
  void ask(const BatchMember& member, int64_t sequence, int64_t first_row, int64_t rows);
  void add_losses(std::span<const BatchMember> wave, std::span<const float> losses);
  static void take(std::vector<std::vector<float>>& all, const Tensor& taps, std::span<const EditedModule> modules,
                   int64_t EditedModule::*width);

  Executor& executor_;
  Context& context_;
  std::span<const EditedModule> modules_;
  GradientRows& found_;
  int64_t lowest_, widest_in_, widest_out_;
  Plan plan_;  // of the wave under way
  std::vector<int32_t> targets_;
  std::vector<float> weights_;
};

/// The executor's budget knows rows of logits; taps, and what is recorded below the lowest module, count as logits.
int64_t Collection::rows_per_wave(std::span<const BatchMember> members) const {
  const Architecture& config = executor_.model().config();
  double texts = 0, targets = 0, tapped = 0;
  for (const BatchMember& member : members) {
    texts += static_cast<double>(text_rows(member));
    targets += static_cast<double>(member.request->target.size());
    tapped += static_cast<double>(member.rows);
  }
  const double taps = tapped / texts * static_cast<double>(std::ssize(modules_) * (widest_in_ + widest_out_)),
               recorded = static_cast<double>(recorded_row_bytes(config) * lowest_ / config.layers) / sizeof(float);
  const double logits = targets / texts + (taps + recorded) / static_cast<double>(config.vocabulary);
  return std::min(executor_.kept_rows_per_wave(lowest_, logits), executor_.full_wave_rows());
}

/// The blocks below the lowest module, which need no gradients.
std::vector<RecordingPtr> Collection::run_below(std::span<const BatchMember> wave) {
  Plan plan;
  plan.stop = StopAfter{Site::resid, lowest_ - 1};
  for (const BatchMember& member : wave)
    plan.sequences.push_back({.tokens = text_of(member).tokens, .base = nullptr, .record = true});
  return executor_.run(plan).recordings;
}

/// What is wanted of a member's text: the logits that its loss is read from, and taps into `first_row` and the rows
/// behind it of each module's `rows`.
void Collection::ask(const BatchMember& member, int64_t sequence, int64_t first_row, int64_t rows) {
  const EditPrompt& text = text_of(member);
  const std::vector<int32_t>& target = member.request->target;
  for (int64_t t = 0; t < std::ssize(target); ++t) plan_.wanted.push_back({sequence, text.first_target + t});
  targets_.insert(targets_.end(), target.begin(), target.end());
  weights_.insert(weights_.end(), target.size(), member.weight);
  const int64_t end = text_rows(member), first = end - member.rows;
  for (int64_t m = 0; m < std::ssize(modules_); ++m)
    for (int64_t position = first; position < end; ++position) {
      const int64_t row = m * rows + first_row + position - first, layer = modules_[m].weight.layer;
      plan_.taps.push_back({sequence, position, modules_[m].at.from, layer, row});
      plan_.gradient_taps.push_back({sequence, position, modules_[m].at.to, layer, row});
    }
}

void Collection::run(std::span<const BatchMember> wave) {
  const int64_t before = wave.front().first_row, rows = wave.back().end() - before;
  Tensor inputs(context_, std::ssize(modules_) * rows, widest_in_), gradients(context_, inputs.rows(), widest_out_);
  plan_ = {};
  targets_.clear();
  weights_.clear();
  plan_.tap_output = inputs.view();
  plan_.gradient_output = gradients.view();
  const std::vector<RecordingPtr> bases = lowest_ > 0 ? run_below(wave) : std::vector<RecordingPtr>();
  for (size_t s = 0; s < wave.size(); ++s) {
    Sequence text{.tokens = {}, .rows = text_rows(wave[s]), .first_layer = lowest_, .base = nullptr};
    if (bases.empty())
      text.tokens = text_of(wave[s]).tokens;
    else
      text.base = bases[s];
    plan_.sequences.push_back(std::move(text));
    ask(wave[s], static_cast<int64_t>(s), wave[s].first_row - before, rows);
  }
  Run run = executor_.run(plan_, Keep::activations);
  Tensor losses(context_, run.logits.rows(), 1);
  cross_entropy(context_, run.logits.view(), {context_, std::span<const int32_t>(targets_)},
                {context_, std::span<const float>(weights_)}, losses.view(), run.logits.view(), Write::assign);
  executor_.backward(run, run.logits.view());
  add_losses(wave, losses.to_host());
  take(found_.keys, inputs, modules_, &EditedModule::in);
  take(found_.gradients, gradients, modules_, &EditedModule::out);
}

/// Adds the wanted rows' parts of the losses to those of the passes.
void Collection::add_losses(std::span<const BatchMember> wave, std::span<const float> losses) {
  for (size_t w = 0; w < losses.size(); ++w)
    found_.losses[wave[static_cast<size_t>(plan_.wanted[w].sequence)].pass] += static_cast<double>(losses[w]);
}

/// Adds each module's columns of its tapped rows to what the waves before gave.
void Collection::take(std::vector<std::vector<float>>& all, const Tensor& taps, std::span<const EditedModule> modules,
                      int64_t EditedModule::*width) {
  const std::vector<float> values = taps.to_host();
  auto row = values.begin();
  const int64_t rows = taps.rows() / std::ssize(modules);
  for (size_t m = 0; m < modules.size(); ++m)
    for (int64_t r = 0; r < rows; ++r, row += taps.cols()) all[m].insert(all[m].end(), row, row + modules[m].*width);
}

}  // namespace

GradientRows collect_gradients(Executor& executor, std::span<const EditedModule> modules,
                               std::span<const BatchMember> members) {
  GradientRows found;
  found.keys.resize(modules.size());
  found.gradients.resize(modules.size());
  found.losses.resize(members.back().pass + 1);
  Collection collection(executor, modules, found);
  const int64_t most_rows = collection.rows_per_wave(members);
  for (auto left = members; !left.empty();) {
    const size_t count = wave_length(left, most_rows, text_rows);
    collection.run(left.first(count));
    left = left.subspan(count);
  }
  for (const BatchMember& member : members)
    require<NumericalError>(std::isfinite(found.losses[member.pass]),
                            "ultraedit: case {}: the loss of its pass is not finite", member.request->request.case_id);
  return found;
}

}  // namespace loci
