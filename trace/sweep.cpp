#include "trace/sweep.h"

#include <algorithm>
#include <deque>
#include <list>
#include <map>
#include <numeric>
#include <utility>

#include "kernels/softmax.h"
#include "runtime/error.h"
#include "runtime/wording.h"
#include "trace/lanes.h"

namespace loci {
namespace {

/// softmax(logits[i])[targets[i]] for each row i, on the host.
std::vector<float> target_probabilities(Context& context, ConstView logits, const std::vector<int32_t>& targets) {
  std::vector<int64_t> rows(targets.size());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  Tensor log_probabilities(context, std::ssize(targets), 1);
  target_log_probabilities(context, logits, {context, std::span<const int64_t>(rows)},
                           {context, std::span<const int32_t>(targets)}, log_probabilities.view());
  std::vector<float> probabilities = log_probabilities.to_host();
  std::ranges::transform(probabilities, probabilities.begin(), probability_of);
  return probabilities;
}

/// A set of corrupted runs of one fact that lanes start from.
struct CorruptedRuns {
  std::vector<RecordingPtr> runs;    // per sample
  std::vector<float> probabilities;  // per sample
  std::shared_ptr<Tensor> subjects;  // corrupted embeddings [samples * subject tokens, d]

  /// The corrupted embedding of a sample's subject token, in device memory.
  const float* embedding(size_t sample, int64_t subject_token) const {
    const int64_t tokens = subjects->rows() / std::ssize(runs);
    return subjects->row(static_cast<int64_t>(sample) * tokens + subject_token);
  }
};

/// Averaged as the published code does it, but summed in fp64.
double mean(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value);
  return static_cast<double>(static_cast<float>(sum / static_cast<double>(values.size())));
}

/// One fact on its way: its recordings and what they are for.
struct FactWork {
  const Fact* fact = nullptr;
  FactTrace* result = nullptr;
  RecordingPtr clean;
  CorruptedRuns swept;                     // the corruption of the sweeps
  CorruptedRuns low;                       // where low_score has another one; else empty
  std::map<Sever, CorruptedRuns> severed;  // where a severed second pass has another one; else empty

  int64_t tokens() const { return std::ssize(fact->tokens); }
  const CorruptedRuns& first_pass() const { return low.runs.empty() ? swept : low; }
};

/// A run of a whole prompt that is recorded.
struct BaseRun {
  FactWork* work;
  std::vector<RowPatch> patches;  // sequence is filled in later
  RecordingPtr* recording;
  float* probability;  // of the answer; null for the clean run, which decides what that is
};

/// The cell of a score map (or several with the same intervention): its score is the mean over samples.
struct Cell {
  std::vector<float*> scores;
  std::vector<float> probabilities;
};

/// What whole prompts record beside their residual rows: module outputs, unless states alone are restored.
std::vector<BlockSite> module_outputs(const Architecture& config, const TraceOptions& options) {
  const bool states_alone =
      options.sever.empty() &&
      std::all_of(options.kinds.begin(), options.kinds.end(), [](TraceKind kind) { return kind == TraceKind::state; });
  std::vector<BlockSite> sites;
  for (int64_t layer = 0; !states_alone && layer < config.layers; ++layer)
    for (const Site site : {Site::attn_out, Site::mlp_out}) sites.push_back({site, layer});
  return sites;
}

class Sweep {
 public:
  Sweep(Executor& executor, const TraceOptions& options)
      : executor_(executor), options_(options), layers_(executor.model().config().layers) {}

  void trace(std::span<const Fact> facts, std::span<FactTrace> results,
             const std::function<bool(const Fact&, int32_t)>& accept);

 private:
  void run_clean(const std::function<bool(const Fact&, int32_t)>& accept);
  void run_corrupted();
  void run_severed_second_pass();
  void run_bases(std::vector<BaseRun> runs);
  void run_base_wave(std::span<const BaseRun> runs);
  int64_t max_wave_rows() const {
    return options_.max_wave_rows > 0 ? options_.max_wave_rows : executor_.full_wave_rows();
  }
  void add_corrupted(FactWork& work, CorruptedRuns& corrupted, const std::vector<double>& noise, Corruption corruption,
                     std::vector<BaseRun>& runs);
  Plan base_plan(std::span<const BaseRun> runs) const;

  void plan_fact(FactWork& work);
  void plan_states(FactWork& work, int64_t position);
  void plan_windows(FactWork& work, TraceKind kind, int64_t position);
  void plan_window_group(FactWork& work, TraceKind kind, int64_t position, int64_t begin,
                         const std::map<int64_t, std::vector<int64_t>>& layers_by_end);
  void plan_severed(FactWork& work);
  void plan_severed_layers(FactWork& work, const CorruptedRuns& base, std::optional<Sever> sever,
                           std::vector<float>& scores);
  Cell& add_cell(std::vector<float*> scores);
  Lane state_lane(const FactWork& work, const RecordingPtr& base, int64_t position, int64_t layer, float* probability);
  Lane window_lane(const FactWork& work, size_t sample, TraceKind kind, int64_t position, LayerWindow window,
                   float* probability);
  void start_from_tokens(const FactWork& work, size_t sample, Lane& lane) const;
  Lane lane_at(const FactWork& work, const RecordingPtr& base, int64_t position, int64_t first_layer,
               float* probability) const;
  /// Whether a change of the row of `position` that first shows at resid(layer) can reach the prompt's last position.
  bool reaches_end(const FactWork& work, int64_t position, int64_t layer) const {
    return layer < layers_ - 1 || position == work.tokens() - 1;
  }
  /// Whether the severed figure's ordinary effects are a row of the state scores already.
  bool state_row_is_ordinary(const FactWork& work) const {
    return work.low.runs.empty() && !work.result->of(TraceKind::state).empty();
  }

  Executor& executor_;
  const TraceOptions& options_;
  int64_t layers_;
  std::list<FactWork> works_;
  std::deque<Cell> cells_;
  std::vector<Lane> lanes_;
};

// --- Runs of whole prompts -------------------------------------------------------------------------------------------

Plan Sweep::base_plan(std::span<const BaseRun> runs) const {
  Plan plan;
  for (const BaseRun& run : runs) {
    const auto index = std::ssize(plan.sequences);
    Sequence sequence;
    sequence.tokens = run.work->fact->tokens;
    sequence.record = run.recording != nullptr;
    plan.sequences.push_back(std::move(sequence));
    for (RowPatch patch : run.patches) {
      patch.sequence = index;
      plan.patches.push_back(patch);
    }
    plan.wanted.push_back({index, run.work->tokens() - 1});
  }
  plan.recorded = module_outputs(executor_.model().config(), options_);
  return plan;
}

void Sweep::run_base_wave(std::span<const BaseRun> runs) {
  Context& context = executor_.context();
  const Run run = executor_.run(base_plan(runs));
  DeviceArray<int32_t> best(context, std::ssize(runs));
  argmax_rows(context, run.logits.view(), best);
  const auto best_tokens = best.to_host();
  std::vector<int32_t> answers;
  for (size_t i = 0; i < runs.size(); ++i) {
    FactTrace& result = *runs[i].work->result;
    if (!runs[i].probability) result.answer = best_tokens[i];
    answers.push_back(result.answer);
  }
  const auto probabilities = target_probabilities(context, run.logits.view(), answers);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].recording) *runs[i].recording = run.recordings[i];
    if (runs[i].probability)
      *runs[i].probability = probabilities[i];
    else
      runs[i].work->result->high_score = probabilities[i];
  }
}

void Sweep::run_bases(std::vector<BaseRun> runs) {
  for (std::span<const BaseRun> left = runs; !left.empty();) {
    size_t count = 0;
    int64_t rows = 0;
    for (; count < left.size(); ++count) {
      rows += left[count].work->tokens();
      const double wanted_per_row = static_cast<double>(count + 1) / static_cast<double>(rows);
      if (count > 0 && rows > std::min(max_wave_rows(), executor_.rows_per_wave(wanted_per_row))) break;
    }
    run_base_wave(left.first(count));
    left = left.subspan(count);
  }
}

void Sweep::run_clean(const std::function<bool(const Fact&, int32_t)>& accept) {
  std::vector<BaseRun> runs;
  for (FactWork& work : works_) runs.push_back({&work, {}, &work.clean, nullptr});
  run_bases(std::move(runs));
  for (FactWork& work : works_) work.result->correct = accept(*work.fact, work.result->answer);
  works_.remove_if([](const FactWork& work) { return !work.result->correct; });
}

/// Adds one run a sample whose subject embeddings are embedding + noise, or the noise itself: in fp64, then rounded, as
/// the published code has it.
void Sweep::add_corrupted(FactWork& work, CorruptedRuns& corrupted, const std::vector<double>& noise,
                          Corruption corruption, std::vector<BaseRun>& runs) {
  Context& context = executor_.context();
  const int64_t width = executor_.model().config().width;
  const TokenRange subject = work.fact->subject_range;
  std::vector<float> embeddings;
  for (int64_t t = subject.begin; t < subject.end; ++t) {
    const int32_t token = work.fact->tokens[t];
    const auto row = stored_to_host(context, executor_.model().parameters().token_embedding.rows_slice(token, 1));
    embeddings.insert(embeddings.end(), row.begin(), row.end());
  }
  std::vector<float> values(noise.size());
  for (size_t i = 0; i < noise.size(); ++i) {
    const double start = corruption == Corruption::add ? static_cast<double>(embeddings[i % embeddings.size()]) : 0;
    values[i] = static_cast<float>(start + noise[i]);
  }
  const auto rows = std::ssize(noise) / width;
  corrupted.subjects = std::make_shared<Tensor>(Tensor::from_host(context, values, rows, width));
  corrupted.runs.resize(static_cast<size_t>(options_.samples));
  corrupted.probabilities.resize(static_cast<size_t>(options_.samples));
  for (size_t s = 0; s < corrupted.runs.size(); ++s) {
    BaseRun run{&work, {}, &corrupted.runs[s], &corrupted.probabilities[s]};
    for (int64_t i = 0; i < subject.end - subject.begin; ++i)
      run.patches.push_back({0, subject.begin + i, Site::embed, 0, PatchMode::replace, corrupted.embedding(s, i)});
    runs.push_back(std::move(run));
  }
}

void Sweep::run_corrupted() {
  const int64_t width = executor_.model().config().width;
  const bool low_differs = options_.quirks == Quirks::published && options_.corruption == Corruption::replace;
  std::vector<BaseRun> runs;
  for (FactWork& work : works_) {
    const TokenRange subject = work.fact->subject_range;
    const auto noise = options_.noise.draw(1, options_.samples, subject.end - subject.begin, width);
    add_corrupted(work, work.swept, noise[0], options_.corruption, runs);
    if (low_differs) add_corrupted(work, work.low, noise[0], Corruption::add, runs);
  }
  run_bases(std::move(runs));
  for (FactWork& work : works_) work.result->low_score = mean(work.first_pass().probabilities);
}

Site severed_site(Sever sever) { return sever == Sever::mlp ? Site::mlp_out : Site::attn_out; }

/// The published severed graph corrupts its second pass with the second draw, while the severed module's outputs at the
/// subject's last token are held at those of the first pass, in all layers.
void Sweep::run_severed_second_pass() {
  if (options_.quirks != Quirks::published || options_.sever.empty()) return;
  const int64_t width = executor_.model().config().width;
  std::vector<BaseRun> runs;
  for (FactWork& work : works_) {
    const TokenRange subject = work.fact->subject_range;
    const auto noise = options_.noise.draw(2, options_.samples, subject.end - subject.begin, width);
    for (const Sever sever : options_.sever) {
      const size_t first = runs.size();
      add_corrupted(work, work.severed[sever], noise[1], Corruption::add, runs);
      for (size_t s = 0; s < static_cast<size_t>(options_.samples); ++s)
        for (int64_t layer = 0; layer < layers_; ++layer)
          runs[first + s].patches.push_back(
              {0, subject.end - 1, severed_site(sever), layer, PatchMode::replace,
               work.first_pass().runs[s]->row(severed_site(sever), layer, subject.end - 1)});
    }
  }
  run_bases(std::move(runs));
}

// --- Lanes -----------------------------------------------------------------------------------------------------------

Cell& Sweep::add_cell(std::vector<float*> scores) {
  cells_.push_back({std::move(scores), std::vector<float>(static_cast<size_t>(options_.samples))});
  return cells_.back();
}

Lane Sweep::lane_at(const FactWork& work, const RecordingPtr& base, int64_t position, int64_t first_layer,
                    float* probability) const {
  Lane lane;
  lane.base = base;
  lane.first_layer = first_layer;
  lane.first_position = position;
  lane.rows = work.tokens() - position;
  lane.answer = work.result->answer;
  lane.probability = probability;
  return lane;
}

/// resid(layer) of `position` as in the clean run.
Lane Sweep::state_lane(const FactWork& work, const RecordingPtr& base, int64_t position, int64_t layer,
                       float* probability) {
  Lane lane = lane_at(work, base, position, layer + 1, probability);
  lane.patches.push_back(
      {position, Site::resid, layer, PatchMode::replace, work.clean->row(Site::resid, layer, position)});
  return lane;
}

/// Rows of block 0 start as embeddings, corrupted ones where they are the subject's.
void Sweep::start_from_tokens(const FactWork& work, size_t sample, Lane& lane) const {
  const auto& tokens = work.fact->tokens;
  const TokenRange subject = work.fact->subject_range;
  lane.tokens.assign(tokens.begin() + lane.first_position, tokens.end());
  for (int64_t t = lane.first_position; t < subject.end; ++t)
    lane.patches.push_back({t, Site::embed, 0, PatchMode::replace, work.swept.embedding(sample, t - subject.begin)});
}

/// A module's outputs in a window of layers as in the clean run. The first restored MLP needs no computation: its
/// block's output is the corrupted stream plus the corrupted attention output plus the clean MLP output. In the block
/// of the first restored attention output only the restored row changes.
Lane Sweep::window_lane(const FactWork& work, size_t sample, TraceKind kind, int64_t position, LayerWindow window,
                        float* probability) {
  const RecordingPtr& base = work.swept.runs[sample];
  const bool mlp = kind == TraceKind::mlp;
  const Site site = mlp ? Site::mlp_out : Site::attn_out;
  Lane lane = lane_at(work, base, position, window.begin + (mlp ? 1 : 0), probability);
  if (mlp) {
    const int64_t layer = window.begin;
    lane.patches = {{position, Site::resid, layer, PatchMode::replace, base->row(Site::resid, layer - 1, position)},
                    {position, Site::resid, layer, PatchMode::add, base->row(Site::attn_out, layer, position)},
                    {position, Site::resid, layer, PatchMode::add, work.clean->row(Site::mlp_out, layer, position)}};
  }
  if (!mlp) lane.first_block = FirstBlock::first_row;
  if (lane.first_layer == 0) start_from_tokens(work, sample, lane);
  for (int64_t layer = lane.first_layer; layer < window.end; ++layer)
    lane.patches.push_back({position, site, layer, PatchMode::replace, work.clean->row(site, layer, position)});
  return lane;
}

void Sweep::plan_states(FactWork& work, int64_t position) {
  float* scores = work.result->of(TraceKind::state).data() + position * layers_;
  for (int64_t layer = 0; layer < layers_; ++layer) {
    if (!reaches_end(work, position, layer)) continue;
    Cell& cell = add_cell({scores + layer});
    for (size_t s = 0; s < cell.probabilities.size(); ++s)
      lanes_.push_back(state_lane(work, work.swept.runs[s], position, layer, &cell.probabilities[s]));
  }
}

void Sweep::plan_windows(FactWork& work, TraceKind kind, int64_t position) {
  // Window begin -> window end -> the layers around which that window lies.
  std::map<int64_t, std::map<int64_t, std::vector<int64_t>>> windows;
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const LayerWindow window = layer_window(layer, options_.window, layers_);
    if (reaches_end(work, position, window.begin)) windows[window.begin][window.end].push_back(layer);
  }
  for (const auto& [begin, layers_by_end] : windows) plan_window_group(work, kind, position, begin, layers_by_end);
}

/// Windows that begin at one layer: the longest is the trunk; the others leave it where they end.
void Sweep::plan_window_group(FactWork& work, TraceKind kind, int64_t position, int64_t begin,
                              const std::map<int64_t, std::vector<int64_t>>& layers_by_end) {
  float* scores = work.result->of(kind).data() + position * layers_;
  std::vector<std::pair<int64_t, Cell*>> cells;  // by window end
  for (const auto& [end, layers] : layers_by_end) {
    std::vector<float*> places;
    for (const int64_t layer : layers) places.push_back(scores + layer);
    cells.emplace_back(end, &add_cell(std::move(places)));
  }
  for (size_t s = 0; s < static_cast<size_t>(options_.samples); ++s) {
    const auto& [longest, trunk_cell] = cells.back();
    Lane trunk = window_lane(work, s, kind, position, {begin, longest}, &trunk_cell->probabilities[s]);
    for (size_t i = 0; i + 1 < cells.size(); ++i) {
      Lane branch = lane_at(work, nullptr, position, cells[i].first, &cells[i].second->probabilities[s]);
      branch.first_block = FirstBlock::first_row;  // the trunk's, but for the module that only the trunk restores
      trunk.branches.push_back(std::move(branch));
    }
    lanes_.push_back(std::move(trunk));
  }
}

/// States of the subject's last token restored, with a module's later outputs there held at their corrupted values.
void Sweep::plan_severed_layers(FactWork& work, const CorruptedRuns& base, std::optional<Sever> sever,
                                std::vector<float>& scores) {
  const int64_t position = work.fact->subject_range.end - 1;
  scores.assign(static_cast<size_t>(layers_), static_cast<float>(mean(base.probabilities)));
  for (int64_t layer = 0; layer < layers_; ++layer) {
    if (!reaches_end(work, position, layer)) continue;
    Cell& cell = add_cell({&scores[layer]});
    for (size_t s = 0; s < cell.probabilities.size(); ++s) {
      Lane lane = state_lane(work, base.runs[s], position, layer, &cell.probabilities[s]);
      if (sever)
        for (int64_t later = layer + 1; later < layers_; ++later)
          lane.patches.push_back({position, severed_site(*sever), later, PatchMode::replace,
                                  work.first_pass().runs[s]->row(severed_site(*sever), later, position)});
      lanes_.push_back(std::move(lane));
    }
  }
}

void Sweep::plan_severed(FactWork& work) {
  SeveredTrace& severed = work.result->severed.emplace();
  if (!state_row_is_ordinary(work)) plan_severed_layers(work, work.first_pass(), std::nullopt, severed.ordinary);
  for (const Sever sever : options_.sever) {
    const auto second_pass = work.severed.find(sever);
    const CorruptedRuns& base = second_pass == work.severed.end() ? work.first_pass() : second_pass->second;
    plan_severed_layers(work, base, sever, sever == Sever::mlp ? severed.no_mlp : severed.no_attn);
  }
}

void Sweep::plan_fact(FactWork& work) {
  // Restorations left of the first corrupted token, and of the last block anywhere but at the end, change nothing.
  const auto unchanged = static_cast<float>(mean(work.swept.probabilities));
  for (const TraceKind kind : options_.kinds) {
    work.result->of(kind).assign(static_cast<size_t>(work.tokens() * layers_), unchanged);
    for (int64_t t = work.fact->subject_range.begin; t < work.tokens(); ++t) {
      if (kind == TraceKind::state)
        plan_states(work, t);
      else
        plan_windows(work, kind, t);
    }
  }
  if (!options_.sever.empty()) plan_severed(work);
}

void Sweep::trace(std::span<const Fact> facts, std::span<FactTrace> results,
                  const std::function<bool(const Fact&, int32_t)>& accept) {
  works_.clear();
  cells_.clear();
  lanes_.clear();
  for (size_t i = 0; i < facts.size(); ++i) {
    FactWork& work = works_.emplace_back();
    work.fact = &facts[i];
    work.result = &results[i];
  }
  run_clean(accept);
  run_corrupted();
  run_severed_second_pass();
  for (FactWork& work : works_) plan_fact(work);
  run_lanes(executor_, std::move(lanes_), max_wave_rows());
  for (const Cell& cell : cells_)
    for (float* score : cell.scores) *score = static_cast<float>(mean(cell.probabilities));
  for (const FactWork& work : works_)
    if (work.result->severed && state_row_is_ordinary(work)) {
      const float* row = work.result->of(TraceKind::state).data() + (work.fact->subject_range.end - 1) * layers_;
      work.result->severed->ordinary.assign(row, row + layers_);
    }
}

/// How many of the first facts have base recordings that fit a quarter of the memory budget; at least one.
size_t group_length(Executor& executor, std::span<const Fact> facts, const TraceOptions& options) {
  const Architecture& config = executor.model().config();
  const int64_t row_bytes = recorded_row_bytes(config, module_outputs(config, options));
  // A clean run; corrupted ones, four times as many where low_score and a severed pass may each have their own.
  const int64_t runs = 1 + options.samples * (options.quirks == Quirks::published ? 4 : 1);
  int64_t bytes = 0;
  for (size_t i = 0; i < facts.size(); ++i) {
    bytes += row_bytes * runs * std::ssize(facts[i].tokens);
    if (i > 0 && bytes > executor.context().memory_budget() / 4) return i;
  }
  return facts.size();
}

void check_options(const TraceOptions& options) {
  require<InputError>(options.samples >= 1, "{} {}: at least one corrupted copy is needed", option("samples"),
                      options.samples);
  require<InputError>(options.window >= 1, "{} {}: a window holds at least one layer", option("window"),
                      options.window);
  require<InputError>(!options.kinds.empty() || !options.sever.empty(), "{}: nothing to trace", option("kinds"));
}

}  // namespace

std::string_view trace_kind_name(TraceKind kind) {
  switch (kind) {
    case TraceKind::state:
      return "state";
    case TraceKind::mlp:
      return "mlp";
    case TraceKind::attn:
      return "attn";
  }
  return "";
}

std::string_view sever_name(Sever sever) { return sever == Sever::mlp ? "mlp" : "attn"; }

LayerWindow layer_window(int64_t layer, int64_t window, int64_t layers) {
  return {std::max<int64_t>(0, layer - window / 2), std::min(layers, layer + (window + 1) / 2)};
}

std::vector<FactTrace> trace_facts(Executor& executor, std::span<const Fact> facts, const TraceOptions& options,
                                   const std::function<bool(const Fact&, int32_t answer)>& accept) {
  check_options(options);
  std::vector<FactTrace> results(facts.size());
  for (size_t first = 0; first < facts.size();) {
    const size_t count = group_length(executor, facts.subspan(first), options);
    Sweep(executor, options).trace(facts.subspan(first, count), std::span(results).subspan(first, count), accept);
    first += count;
  }
  return results;
}

}  // namespace loci
