#include "edit/common/value_optimizer.h"

#include <cmath>
#include <numeric>

#include "kernels/adam.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// The target's loss counts so much where the target is said already, and the search ends below this change of the
/// essence. (PMET's published code)
constexpr double kEasedFactor = 0.1, kSettledEssence = 0.01;

/// A plan over the active problems and what its rows mean.
struct LanePlan {
  Plan plan;
  std::vector<int64_t> problem_of;  ///< per sequence, index among the active problems
  std::vector<int32_t> targets;     ///< of the rows of logits that belong to targets; those of the essence follow
  std::vector<float> weights;       ///< of the same rows
  std::vector<int64_t> owners;      ///< of the same rows: index among the active problems
};

/// The problems that are still optimised and their vectors.
class ValueBatch {
 public:
  ValueBatch(Executor& executor, int64_t layer, const ValueOptions& options, const ValueSearch& search,
             std::span<const ValueProblem> problems)
      : executor_(executor),
        context_(executor.context()),
        layer_(layer),
        options_(options),
        search_(search),
        sites_(std::ssize(search.sites)),
        problems_(problems),
        solutions_(problems.size()),
        active_(problems.size()),
        target_factors_(problems.size(), search.target_factor) {
    std::iota(active_.begin(), active_.end(), size_t{0});
    for (Tensor* tensor : {&delta_, &first_, &second_})
      *tensor = Tensor::zeros(context_, std::ssize(problems) * sites_, executor.model().config().width);
  }

  std::vector<ValueSolution> run() {
    for (int64_t step = 1; step <= options_.steps && !active_.empty(); ++step) {
      const bool last = step == options_.steps;
      LanePlan lanes = make_lanes();
      if (!starts_above_layer()) {
        tapped_ = Tensor(context_, std::ssize(lanes.problem_of) * sites_, delta_.cols());
        lanes.plan.gradient_output = tapped_.view();
      }
      Run run = executor_.run(lanes.plan, last ? Keep::nothing : Keep::activations);
      const std::vector<LossRow> losses = evaluate(lanes, run);
      std::vector<int64_t> staying;
      for (size_t i = 0; i < active_.size(); ++i) {
        solutions_[active_[i]].curve.push_back(losses[i]);
        if (!last && losses[i].total >= options_.stop_loss && !settled(i, losses[i]))
          staying.push_back(static_cast<int64_t>(i));
      }
      if (staying.empty()) {
        leave_all_but({});
        break;
      }
      Tensor gradient = gradients(lanes, run);
      run = {};
      if (staying.size() < active_.size()) gradient = rows_of(gradient, site_rows(staying));
      leave_all_but(staying);
      update(step, gradient);
    }
    return std::move(solutions_);
  }

 private:
  const ValueProblem& problem(size_t active) const { return problems_[active_[active]]; }
  bool starts_above_layer() const { return search_.sites.size() == 1 && search_.sites[0] == Site::resid; }

  LanePlan make_lanes() const;
  void add_lane(LanePlan& lanes, size_t active, const RecordingPtr& base, const EditPrompt& prompt, int64_t rows) const;
  bool settled(size_t active, const LossRow& loss);
  void find_said(const LanePlan& lanes, ConstView target_logits);
  std::vector<LossRow> evaluate(const LanePlan& lanes, Run& run);
  void add_target_losses(const LanePlan& lanes, std::span<const float> losses, std::vector<LossRow>& rows) const;
  Tensor gradients(const LanePlan& lanes, const Run& run);
  void update(int64_t step, Tensor& gradient);
  void leave_all_but(const std::vector<int64_t>& staying);
  Tensor rows_of(const Tensor& from, const std::vector<int64_t>& rows) const;
  std::vector<int64_t> site_rows(const std::vector<int64_t>& active) const;

  Executor& executor_;
  Context& context_;
  int64_t layer_;
  const ValueOptions& options_;
  const ValueSearch& search_;
  int64_t sites_;
  std::span<const ValueProblem> problems_;
  std::vector<ValueSolution> solutions_;
  std::vector<size_t> active_;          // indices of problems
  Tensor delta_;                        // [active * sites, d]: the rows of active_[i] begin at i * sites
  Tensor first_, second_;               // Adam's moments, likewise
  Tensor essence_before_;               // [active, V] log-probabilities of the unedited model
  Tensor logit_gradients_;              // of the latest evaluation
  Tensor tapped_;                       // [lanes * sites, d]: gradients at the sites
  std::vector<double> norms_;           // [active * sites] of delta in the latest evaluation
  std::vector<double> target_factors_;  // of all problems
  std::vector<char> said_;              // [active] by the latest evaluation, where the search eases
};

/// A sequence of `rows` rows from the fact token on, with what is added there.
void ValueBatch::add_lane(LanePlan& lanes, size_t active, const RecordingPtr& base, const EditPrompt& prompt,
                          int64_t rows) const {
  const auto sequence = std::ssize(lanes.plan.sequences);
  Sequence lane{.tokens = {}, .rows = rows, .first_position = prompt.lookup, .first_layer = layer_ + 1, .base = base};
  if (!starts_above_layer()) {
    lane.first_layer = layer_;
    const auto begin = prompt.tokens.begin() + prompt.lookup;
    lane.tokens.assign(begin, begin + rows);
  }
  lanes.plan.sequences.push_back(std::move(lane));
  for (int64_t s = 0; s < sites_; ++s) {
    const Site site = search_.sites[static_cast<size_t>(s)];
    lanes.plan.patches.push_back(
        {sequence, prompt.lookup, site, layer_, PatchMode::add, delta_.row(static_cast<int64_t>(active) * sites_ + s)});
    if (!starts_above_layer())
      lanes.plan.gradient_taps.push_back({sequence, prompt.lookup, site, layer_, sequence * sites_ + s});
  }
  lanes.problem_of.push_back(static_cast<int64_t>(active));
}

LanePlan ValueBatch::make_lanes() const {
  LanePlan lanes;
  for (size_t i = 0; i < active_.size(); ++i) {
    const PreparedRequest& request = *problem(i).request;
    const auto tokens = static_cast<double>(request.target.size());
    for (size_t p = 0; p < request.prompts.size(); ++p) {
      const EditPrompt& prompt = request.prompts[p];
      if (prompt.weight == 0) continue;
      const auto sequence = std::ssize(lanes.plan.sequences);
      add_lane(lanes, i, problem(i).bases[p], prompt, std::ssize(prompt.tokens) - prompt.lookup);
      const double weight = target_factors_[active_[i]] * static_cast<double>(prompt.weight) /
                            static_cast<double>(request.total_weight) / tokens;
      for (size_t t = 0; t < request.target.size(); ++t) {
        lanes.plan.wanted.push_back({sequence, prompt.first_target + static_cast<int64_t>(t)});
        lanes.targets.push_back(request.target[t]);
        lanes.weights.push_back(static_cast<float>(weight));
        lanes.owners.push_back(static_cast<int64_t>(i));
      }
    }
  }
  for (size_t i = 0; i < active_.size(); ++i) {
    const EditPrompt& essence = problem(i).request->essence;
    lanes.plan.wanted.push_back({std::ssize(lanes.plan.sequences), essence.lookup});
    add_lane(lanes, i, problem(i).essence_base, essence, 1);
  }
  return lanes;
}

/// Adds up the weighted losses of the target tokens, prompt by prompt.
void ValueBatch::add_target_losses(const LanePlan& lanes, std::span<const float> losses,
                                   std::vector<LossRow>& rows) const {
  for (size_t first = 0; first < lanes.owners.size();) {
    const auto owner = static_cast<size_t>(lanes.owners[first]);
    const size_t tokens = problem(owner).request->target.size();
    const double weight = static_cast<double>(lanes.weights[first]) * static_cast<double>(tokens);
    double loss = 0;
    for (size_t r = first; r < first + tokens; ++r) loss += static_cast<double>(losses[r]);
    rows[owner].target += loss;
    rows[owner].probability += weight / target_factors_[active_[owner]] * std::exp(-loss / weight);
    first += tokens;
  }
}

/// Losses of the active problems; leaves the gradients with regard to the logits.
std::vector<LossRow> ValueBatch::evaluate(const LanePlan& lanes, Run& run) {
  const auto targets = std::ssize(lanes.targets);
  const auto count = std::ssize(active_);
  const View target_logits = run.logits.rows_slice(0, targets), essence_logits = run.logits.rows_slice(targets, count);
  if (essence_before_.empty()) {
    essence_before_ = Tensor::padded(context_, count, run.logits.cols());
    log_softmax(context_, essence_logits, essence_before_.view());
  }
  logit_gradients_ = Tensor::padded(context_, run.logits.rows(), run.logits.cols());
  Tensor losses(context_, run.logits.rows(), 1);
  cross_entropy(context_, target_logits, {context_, std::span<const int32_t>(lanes.targets)},
                {context_, std::span<const float>(lanes.weights)}, losses.rows_slice(0, targets),
                logit_gradients_.rows_slice(0, targets), Write::assign);
  if (search_.eases_when_said) find_said(lanes, target_logits);
  const std::vector<float> essence_weights(active_.size(), static_cast<float>(options_.kl_factor));
  kl_divergence(context_, essence_logits, essence_before_.view(), {context_, std::span<const float>(essence_weights)},
                losses.rows_slice(targets, count), logit_gradients_.rows_slice(targets, count), Write::assign);

  Tensor squares(context_, delta_.rows(), 1);
  row_dots(context_, delta_.view(), delta_.view(), squares.view());
  ArrayInFlight<float> losses_in_flight = losses.start_to_host(), squares_in_flight = squares.start_to_host();
  const std::span<const float> host = losses_in_flight.wait();
  norms_.clear();
  for (const float square : squares_in_flight.wait()) norms_.push_back(std::sqrt(static_cast<double>(square)));
  std::vector<LossRow> rows(active_.size());
  add_target_losses(lanes, host, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].essence = static_cast<double>(host[lanes.owners.size() + i]);
    for (size_t s = 0; s < search_.sites.size(); ++s) {
      const double initial = problem(i).initial_norms[s];
      rows[i].decay += options_.weight_decay * norms_[i * search_.sites.size() + s] / (initial * initial);
    }
    rows[i].total = rows[i].target + rows[i].essence + rows[i].decay;
    require<NumericalError>(std::isfinite(rows[i].total),
                            "{}: the loss of v* is not finite at step {}; lower \"v_lr\" or \"clamp_norm_factor\"",
                            problem(i).name, solutions_[active_[i]].curve.size() + 1);
  }
  return rows;
}

/// Whether every token of a problem's target is the most likely one after every prompt.
void ValueBatch::find_said(const LanePlan& lanes, ConstView target_logits) {
  DeviceArray<int32_t> best(context_, target_logits.rows);
  argmax_rows(context_, target_logits, best);
  said_.assign(active_.size(), 1);
  const std::vector<int32_t> tokens = best.to_host();
  for (size_t r = 0; r < tokens.size(); ++r)
    if (tokens[r] != lanes.targets[r]) said_[static_cast<size_t>(lanes.owners[r])] = 0;
}

/// After an evaluation: how much the target's loss counts from now on, and whether the problem is done.
bool ValueBatch::settled(size_t active, const LossRow& loss) {
  if (!search_.eases_when_said) return false;
  const bool said = said_[active] != 0;
  target_factors_[active_[active]] = search_.target_factor * (said ? kEasedFactor : 1);
  return said && loss.essence <= kSettledEssence;
}

/// d loss / d delta of the active problems, without the decay: the sum over a problem's lanes.
Tensor ValueBatch::gradients(const LanePlan& lanes, const Run& run) {
  const RowGradients back = executor_.backward(run, logit_gradients_.view());
  logit_gradients_ = {};
  Tensor gradient = Tensor::zeros(context_, delta_.rows(), delta_.cols());
  std::vector<RowSource> sources;
  for (size_t lane = 0; lane < lanes.problem_of.size(); ++lane)
    for (int64_t s = 0; s < sites_; ++s)
      sources.push_back({lanes.problem_of[lane] * sites_ + s,
                         starts_above_layer() ? back.joined.row(back.first_row[lane])
                                              : tapped_.row(static_cast<int64_t>(lane) * sites_ + s),
                         Write::accumulate});
  patch_rows(context_, {context_, std::span<const RowSource>(sources)}, gradient.view());
  return gradient;
}

/// Adds the decay's gradient, steps and clamps.
void ValueBatch::update(int64_t step, Tensor& gradient) {
  std::vector<float> factors, limits;
  for (size_t i = 0; i < norms_.size(); ++i) {
    const double initial = problem(i / search_.sites.size()).initial_norms[i % search_.sites.size()];
    // |delta| has no gradient at 0; like PyTorch's, ours is 0 there.
    factors.push_back(norms_[i] > 0 ? static_cast<float>(options_.weight_decay / (initial * initial * norms_[i]))
                                    : 0.0f);
    limits.push_back(static_cast<float>(options_.clamp_factor * initial));
  }
  Tensor decay(context_, delta_.rows(), delta_.cols());
  context_.copy_on_device(decay.data(), delta_.data(),
                          sizeof(float) * static_cast<size_t>(delta_.rows() * delta_.cols()));
  scale_rows(context_, {context_, std::span<const float>(factors)}, decay.view());
  add(context_, decay.view(), gradient.view());
  adam_step(context_, {.learning_rate = options_.learning_rate}, step, gradient.view(), 1, delta_.view(), first_.view(),
            second_.view());
  const Tensor device_limits = Tensor::from_host(context_, limits, std::ssize(limits), 1);
  clamp_row_norms(context_, device_limits.view(), delta_.view());
}

Tensor ValueBatch::rows_of(const Tensor& from, const std::vector<int64_t>& rows) const {
  const auto count = std::ssize(rows);
  Tensor made =
      from.view().contiguous() ? Tensor(context_, count, from.cols()) : Tensor::padded(context_, count, from.cols());
  gather_rows(context_, from.view(), {context_, std::span<const int64_t>(rows)}, made.view());
  return made;
}

/// The rows of delta of these problems.
std::vector<int64_t> ValueBatch::site_rows(const std::vector<int64_t>& active) const {
  std::vector<int64_t> rows;
  for (const int64_t i : active)
    for (int64_t s = 0; s < sites_; ++s) rows.push_back(i * sites_ + s);
  return rows;
}

/// Takes the deltas of the problems that are done; `staying` (ascending) are indices among the active ones.
void ValueBatch::leave_all_but(const std::vector<int64_t>& staying) {
  if (staying.size() == active_.size()) return;
  const std::vector<float> deltas = delta_.to_host();
  const int64_t width = delta_.cols() * sites_;
  size_t next = 0;
  std::vector<size_t> still;
  for (size_t i = 0; i < active_.size(); ++i) {
    if (next < staying.size() && staying[next] == static_cast<int64_t>(i)) {
      still.push_back(active_[i]);
      ++next;
      continue;
    }
    const auto begin = deltas.begin() + static_cast<int64_t>(i) * width;
    solutions_[active_[i]].delta.assign(begin, begin + width);
  }
  const std::vector<int64_t> rows = site_rows(staying);
  std::vector<double> norms;
  for (const int64_t row : rows) norms.push_back(norms_[static_cast<size_t>(row)]);
  active_ = std::move(still);
  norms_ = std::move(norms);
  if (active_.empty()) return;
  for (Tensor* tensor : {&delta_, &first_, &second_}) *tensor = rows_of(*tensor, rows);
  essence_before_ = rows_of(essence_before_, staying);
}

}  // namespace

std::vector<ValueSolution> optimize_values(Executor& executor, int64_t layer, const ValueOptions& options,
                                           std::span<const ValueProblem> problems, const ValueSearch& search) {
  if (problems.empty()) return {};
  return ValueBatch(executor, layer, options, search, problems).run();
}

size_t value_wave_size(const Executor& executor, int64_t layer, std::span<const PreparedRequest> requests) {
  const int64_t full = executor.full_wave_rows();
  int64_t rows = 0, logits = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    for (const EditPrompt& prompt : requests[r].prompts)
      rows += prompt.weight ? std::ssize(prompt.tokens) - prompt.lookup : 0;
    logits += static_cast<int64_t>(requests[r].prompts.size() * requests[r].target.size());
    const double wanted_per_row = static_cast<double>(logits) / static_cast<double>(std::max<int64_t>(1, rows));
    const int64_t fit = executor.kept_rows_per_wave(layer + 1, wanted_per_row);
    if (r > 0 && (rows > std::min(full / 2, fit) || logits > full / 4)) return r;
  }
  return requests.size();
}

}  // namespace loci
