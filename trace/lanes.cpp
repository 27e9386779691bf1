#include "trace/lanes.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <span>
#include <utility>

namespace loci {
namespace {

enum class Recorded { no, yes };

Plan plan_of(std::span<const Lane> lanes, Recorded recorded) {
  Plan plan;
  for (const Lane& lane : lanes) {
    const auto index = std::ssize(plan.sequences);
    Sequence sequence;
    sequence.rows = lane.rows;
    sequence.tokens = lane.tokens;
    sequence.first_position = lane.first_position;
    sequence.first_layer = lane.first_layer;
    sequence.base = lane.base;
    sequence.record = recorded == Recorded::yes;
    plan.sequences.push_back(std::move(sequence));
    for (const Lane::Patch& patch : lane.patches)
      plan.patches.push_back({index, patch.position, patch.site, patch.layer, patch.mode, patch.source});
    plan.wanted.push_back({index, lane.first_position + lane.rows - 1});
    plan.questions.push_back({index, lane.answer});
  }
  return plan;
}

/// The first rows of lanes whose first block is `layer`, through that block alone; rows of `outputs` follow the lanes.
Plan first_row_plan(std::span<Lane* const> lanes, int64_t layer, View outputs) {
  Plan plan;
  plan.stop = StopAfter{Site::resid, layer};
  plan.tap_output = outputs;
  for (const Lane* lane : lanes) {
    const auto index = std::ssize(plan.sequences);
    Sequence sequence;
    sequence.rows = 1;
    if (!lane->tokens.empty()) sequence.tokens = {lane->tokens.front()};
    sequence.first_position = lane->first_position;
    sequence.first_layer = layer;
    sequence.base = lane->base;
    plan.sequences.push_back(std::move(sequence));
    for (const Lane::Patch& patch : lane->patches)
      if (patch.position == lane->first_position && patch.layer <= layer)
        plan.patches.push_back({index, patch.position, patch.site, patch.layer, patch.mode, patch.source});
    plan.taps.push_back({index, lane->first_position, Site::resid, layer, index});
  }
  return plan;
}

/// The lane after its first block, whose first row is `row` there.
void skip_first_block(Lane& lane, const float* row) {
  const int64_t layer = lane.first_layer++;
  lane.first_block = FirstBlock::all_rows;
  lane.tokens.clear();
  std::erase_if(lane.patches, [&](const Lane::Patch& patch) { return patch.layer <= layer; });
  lane.patches.insert(lane.patches.begin(), {lane.first_position, Site::resid, layer, PatchMode::replace, row});
}

/// Takes the lanes that change one row only in their first block through it. Their rows there must outlive the lanes.
std::vector<Tensor> run_first_rows(Executor& executor, std::span<Lane> lanes) {
  std::map<int64_t, std::vector<Lane*>> by_layer;
  for (Lane& lane : lanes)
    if (lane.first_block == FirstBlock::first_row) by_layer[lane.first_layer].push_back(&lane);
  std::vector<Tensor> rows;
  for (const auto& [layer, some] : by_layer) {
    const Tensor& outputs = rows.emplace_back(executor.context(), std::ssize(some), executor.model().config().width);
    executor.run(first_row_plan(some, layer, rows.back().view()));
    for (size_t i = 0; i < some.size(); ++i) skip_first_block(*some[i], outputs.row(static_cast<int64_t>(i)));
  }
  return rows;
}

/// Runs waves of lanes. The probabilities of one are collected when the next has been issued, so that a GPU computes
/// while the host plans.
class Waves {
 public:
  explicit Waves(Executor& executor) : executor_(executor) {}

  /// Recordings come back in the order of the lanes, probabilities arrive later.
  std::vector<RecordingPtr> issue(std::span<Lane> lanes, Recorded recorded) {
    const std::vector<Tensor> first_rows = run_first_rows(executor_, lanes);
    Run run = executor_.run(plan_of(lanes, recorded));
    collect();
    scores_ = std::move(run.scores);
    for (const Lane& lane : lanes) probabilities_.push_back(lane.probability);
    return std::move(run.recordings);
  }

  /// Afterwards all probabilities are there.
  void collect() {
    if (probabilities_.empty()) return;
    const TokenScores scores = scores_.collect();
    for (size_t i = 0; i < probabilities_.size(); ++i) *probabilities_[i] = probability_of(scores.log_probabilities[i]);
    probabilities_.clear();
  }

 private:
  Executor& executor_;
  ScoresInFlight scores_;              // of the wave issued last
  std::vector<float*> probabilities_;  // of its lanes
};

size_t lanes_of_a_wave(const Executor& executor, std::span<const Lane> lanes, int64_t max_rows) {
  return loci::wave_length(lanes, std::min(max_rows, executor.rows_per_wave()),
                           [](const Lane& lane) { return lane.rows; });
}

void sort_by_depth(std::vector<Lane>& lanes) {
  std::stable_sort(lanes.begin(), lanes.end(),
                   [](const Lane& a, const Lane& b) { return a.first_layer < b.first_layer; });
}

void run_plain(Executor& executor, Waves& waves, std::vector<Lane> lanes, int64_t max_rows) {
  sort_by_depth(lanes);
  for (std::span<Lane> left = lanes; !left.empty();) {
    const size_t count = lanes_of_a_wave(executor, left, max_rows);
    waves.issue(left.first(count), Recorded::no);
    left = left.subspan(count);
  }
}

/// Rows whose recordings take a quarter of the memory budget.
int64_t recordable_rows(const Executor& executor, int64_t memory_budget) {
  return memory_budget / 4 / recorded_row_bytes(executor.model().config());
}

std::vector<Lane> take_branches(std::span<Lane> trunks, const std::vector<RecordingPtr>& recordings) {
  std::vector<Lane> branches;
  for (size_t i = 0; i < trunks.size(); ++i)
    for (Lane& branch : trunks[i].branches) {
      branch.base = recordings[i];
      branches.push_back(std::move(branch));
    }
  return branches;
}

}  // namespace

float probability_of(float log_probability) {
  return static_cast<float>(std::exp(static_cast<double>(log_probability)));
}

void run_lanes(Executor& executor, std::vector<Lane> lanes, int64_t max_rows) {
  const auto middle =
      std::stable_partition(lanes.begin(), lanes.end(), [](const Lane& lane) { return !lane.branches.empty(); });
  std::vector<Lane> plain(std::make_move_iterator(middle), std::make_move_iterator(lanes.end()));
  lanes.erase(middle, lanes.end());
  sort_by_depth(lanes);
  Waves waves(executor);
  const int64_t trunk_rows = std::min(max_rows, recordable_rows(executor, executor.context().memory_budget()));
  for (std::span<Lane> left = lanes; !left.empty();) {
    const auto trunks = left.first(lanes_of_a_wave(executor, left, trunk_rows));
    left = left.subspan(trunks.size());
    std::vector<Lane> ready = take_branches(trunks, waves.issue(trunks, Recorded::yes));
    if (left.empty()) {  // the last branches fill up the waves of the other lanes
      std::move(ready.begin(), ready.end(), std::back_inserter(plain));
    } else {
      run_plain(executor, waves, std::move(ready), max_rows);
    }
  }
  run_plain(executor, waves, std::move(plain), max_rows);
  waves.collect();
}

}  // namespace loci
