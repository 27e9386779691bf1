#include "edit/tpatcher/patch_training.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/activation.h"
#include "kernels/adam_factors.h"
#include "kernels/gemm.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// One of the terms that a loss is the mean of.
struct Term {
  int64_t index;
  double value;  ///< its exponential
  double weight;
};

/// The mean of the `most` largest exp(exponent(i)), i < count, where each stands there `copies` times; of equal ones
/// the first count. One pass: few of many are kept.
template <typename Exponent>
std::vector<Term> largest_terms(int64_t count, const Exponent& exponent, int64_t most, int64_t copies) {
  const int64_t all = std::min(most, copies * count), distinct = (all + copies - 1) / copies;
  using Place = std::pair<double, int64_t>;
  const auto before = [](const Place& a, const Place& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  std::vector<Place> largest;  // a heap with the smallest in front
  for (int64_t i = 0; i < count; ++i) {
    const double value = exponent(i);
    if (std::ssize(largest) == distinct) {
      if (!(value > largest.front().first)) continue;
      std::ranges::pop_heap(largest, before);
      largest.pop_back();
    }
    largest.emplace_back(value, i);
    std::ranges::push_heap(largest, before);
  }
  std::ranges::sort(largest, before);
  std::vector<Term> terms;
  for (int64_t i = 0; i < distinct; ++i) {
    const int64_t times = std::min(copies, all - i * copies);
    terms.push_back(
        {largest[i].second, std::exp(largest[i].first), static_cast<double>(times) / static_cast<double>(all)});
  }
  return terms;
}

double mean_of(std::span<const Term> terms) {
  double sum = 0;
  for (const Term& term : terms) sum += term.weight * term.value;
  return sum;
}

/// ReduceLROnPlateau of the published code: falls where a value has not become 5 % lower for some checks.
class Plateau {
 public:
  Plateau(double factor, int64_t patience) : factor_(factor), patience_(patience) {}

  void check(double value, double& rate) {
    constexpr double kThreshold = 0.05;
    if (value < best_ * (1 - kThreshold)) {
      best_ = value;
      bad_ = 0;
    } else if (++bad_ > patience_) {
      rate *= factor_;
      bad_ = 0;
    }
  }

 private:
  double factor_;
  int64_t patience_;
  double best_ = std::numeric_limits<double>::infinity();
  int64_t bad_ = 0;
};

/// Parameters on the host: at most 5 neurons a request.
struct Parameter {
  std::vector<float> values, gradient, first, second;

  explicit Parameter(std::vector<float> start) : values(std::move(start)) {
    for (std::vector<float>* zero : {&gradient, &first, &second}) zero->resize(values.size());
  }
  double squares() const {
    double sum = 0;
    for (const float g : gradient) sum += static_cast<double>(g) * static_cast<double>(g);
    return sum;
  }
  /// PyTorch's Adam, with the decay in the gradient.
  void step(const AdamFactors& adam, float decay) {
    for (size_t i = 0; i < values.size(); ++i) {
      const float g = gradient[i] * adam.gradient_scale + decay * values[i];
      first[i] += (g - first[i]) * adam.one_minus_beta_1;
      second[i] = second[i] * adam.beta_2 + g * g * adam.one_minus_beta_2;
      values[i] -= adam.step_size * first[i] / (std::sqrt(second[i]) / adam.root_correction_2 + adam.epsilon);
    }
  }
};

/// A problem in training.
struct Training {
  const PatchProblem& problem;
  Parameter keys, bias, values, amplifiers;
  double rate;
  Plateau plateau;
  std::vector<PatchStep> steps;
  std::vector<double> memory_losses;  ///< at checks where the target was said
  bool ended = false;

  Training(const PatchProblem& of, const PatchOptions& options)
      : problem(of),
        keys(of.keys),
        bias(of.bias),
        values(of.values),
        amplifiers(of.amplifiers),
        rate(options.learning_rate),
        plateau(options.plateau_factor, options.plateau_patience) {}

  std::vector<float> amplified() const {
    std::vector<float> product(values.values.size());
    for (size_t i = 0; i < product.size(); ++i) product[i] = values.values[i] * amplifiers.values[i];
    return product;
  }
};

/// One evaluation of the problems that are still in training, side by side: their rows are those of one matrix, and
/// their neurons are columns of one. R rows, N neurons.
class Evaluation {
 public:
  Evaluation(Executor& executor, const PatchOptions& options, ConstView memory, std::span<Training* const> trainings);

  /// Appends a PatchStep to each training and sets the gradients of its parameters.
  void run();
  /// Whether the model with its neurons says the target, at the last run().
  bool says_target(size_t training) const;

 private:
  struct Place {
    int64_t row, rows, neuron, neurons, wanted;
  };

  void load();
  void lay_out();
  void forward();
  void likelihood();
  void penalties();
  void backward();

  bool runs_from_target() const { return options_.layer == executor_.model().config().layers - 1; }
  /// The other problems' neurons see none of a problem's rows.
  void keep_own(std::vector<float>& matrix) const;

  Executor& executor_;
  Context& context_;
  const PatchOptions& options_;
  ConstView memory_;
  std::span<Training* const> trainings_;
  std::vector<Place> places_;
  int64_t rows_ = 0, neurons_ = 0;
  Plan plan_;
  Tensor x_, change_;  ///< [R, d] read by the MLP; [R, d] added to its output
  std::vector<int32_t> targets_;
  std::vector<float> weights_;
  Tensor keys_, bias_, values_;                                      ///< K [N, d], b [1, N], V [N, d]
  Tensor z_, act_;                                                   ///< [R, N]
  Tensor dchange_;                                                   ///< [R, d]
  std::vector<float> z_host_, dz_host_;                              ///< [R, N]
  std::vector<int32_t> said_;                                        ///< of each wanted row
  std::vector<double> likelihoods_, nlls_, activations_, memories_;  ///< of each problem
  Tensor dkeys_, dbias_;                                             ///< of the memory's rows at first
};

Evaluation::Evaluation(Executor& executor, const PatchOptions& options, ConstView memory,
                       std::span<Training* const> trainings)
    : executor_(executor), context_(executor.context()), options_(options), memory_(memory), trainings_(trainings) {
  lay_out();
}

void Evaluation::lay_out() {
  const int64_t layer = options_.layer;
  std::vector<const float*> sources;
  int64_t wanted = 0;
  for (const Training* training : trainings_) {
    const PatchProblem& problem = training->problem;
    const auto tokens = std::ssize(problem.target), sequence = std::ssize(plan_.sequences);
    const int64_t first = runs_from_target() ? problem.first_target : 0, end = problem.first_target + tokens;
    places_.push_back({rows_, end - first, neurons_, problem.count(), wanted});
    plan_.sequences.push_back(
        {.tokens = {}, .rows = end - first, .first_position = first, .first_layer = layer + 1, .base = problem.base});
    for (int64_t p = first; p < end; ++p) sources.push_back(problem.base->row(Site::mlp_in, layer, p));
    for (int64_t t = 0; t < tokens; ++t) {
      plan_.wanted.push_back({sequence, problem.first_target + t});
      targets_.push_back(problem.target[t]);
      weights_.push_back(1 / static_cast<float>(tokens));
    }
    rows_ += end - first;
    neurons_ += problem.count();
    wanted += tokens;
  }
  const int64_t d = executor_.model().config().width;
  x_ = Tensor(context_, rows_, d);
  collect_rows(context_, {context_, std::span<const float* const>(sources)}, x_.view());
  change_ = Tensor::zeros(context_, rows_, d);
  for (size_t s = 0; s < places_.size(); ++s)
    for (int64_t r = 0; r < places_[s].rows; ++r)
      plan_.patches.push_back({static_cast<int64_t>(s), plan_.sequences[s].first_position + r, Site::resid, layer,
                               PatchMode::add, change_.row(places_[s].row + r)});
}

void Evaluation::run() {
  load();
  forward();
  likelihood();
  penalties();
  backward();
}

void Evaluation::load() {
  std::vector<float> keys, bias, values;
  for (const Training* training : trainings_) {
    keys.insert(keys.end(), training->keys.values.begin(), training->keys.values.end());
    bias.insert(bias.end(), training->bias.values.begin(), training->bias.values.end());
    const std::vector<float> amplified = training->amplified();
    values.insert(values.end(), amplified.begin(), amplified.end());
  }
  keys_ = Tensor::from_host(context_, keys, neurons_, x_.cols());
  bias_ = Tensor::from_host(context_, bias, 1, neurons_);
  values_ = Tensor::from_host(context_, values, neurons_, x_.cols());
}

void Evaluation::keep_own(std::vector<float>& matrix) const {
  for (const Place& place : places_)
    for (int64_t r = place.row; r < place.row + place.rows; ++r)
      for (int64_t n = 0; n < neurons_; ++n)
        if (n < place.neuron || n >= place.neuron + place.neurons) matrix[r * neurons_ + n] = 0;
}

/// change = f(x K^T + b) V.
void Evaluation::forward() {
  z_ = Tensor(context_, rows_, neurons_);
  linear(context_, x_.view(), WeightView::out_in(std::as_const(keys_).view()), bias_.view(), z_.view());
  z_host_ = z_.to_host();
  Tensor all(context_, rows_, neurons_);
  activation(context_, executor_.model().config().activation, z_.view(), all.view());
  std::vector<float> own = all.to_host();
  keep_own(own);
  act_ = Tensor::from_host(context_, own, rows_, neurons_);
  gemm(context_, Transpose::no, act_.view(), Transpose::no, values_.view(), change_.view());
}

void Evaluation::likelihood() {
  Run run = executor_.run(plan_, Keep::activations);
  const int64_t wanted = run.logits.rows();
  const DeviceArray<int32_t> targets(context_, std::span<const int32_t>(targets_));
  Tensor gradients = Tensor::padded(context_, wanted, run.logits.cols());
  Tensor losses(context_, wanted, 1), log_p(context_, wanted, 1);
  cross_entropy(context_, run.logits.view(), targets, {context_, std::span<const float>(weights_)}, losses.view(),
                gradients.view(), Write::assign, static_cast<float>(options_.label_smoothing));
  std::vector<int64_t> each(static_cast<size_t>(wanted));
  std::iota(each.begin(), each.end(), 0);
  target_log_probabilities(context_, run.logits.view(), {context_, std::span<const int64_t>(each)}, targets,
                           log_p.view());
  DeviceArray<int32_t> best(context_, wanted);
  argmax_rows(context_, run.logits.view(), best);
  said_ = best.to_host();
  const std::vector<float> loss = losses.to_host(), log_probability = log_p.to_host();
  likelihoods_.assign(places_.size(), 0);
  nlls_.assign(places_.size(), 0);
  for (size_t i = 0; i < places_.size(); ++i)
    for (size_t t = 0; t < trainings_[i]->problem.target.size(); ++t) {
      const size_t row = static_cast<size_t>(places_[i].wanted) + t;
      likelihoods_[i] += static_cast<double>(loss[row]);
      nlls_[i] -= static_cast<double>(weights_[row]) * static_cast<double>(log_probability[row]);
    }
  dchange_ = executor_.backward(run, gradients.view()).joined;
}

bool Evaluation::says_target(size_t training) const {
  const std::vector<int32_t>& target = trainings_[training]->problem.target;
  return std::equal(target.begin(), target.end(), said_.begin() + places_[training].wanted);
}

/// The losses of activations and memory. Their gradients go to dz_host_, and those of the memory's rows to dkeys_ and
/// dbias_.
void Evaluation::penalties() {
  constexpr int64_t kActivations = 5, kMemories = 1000;
  const int64_t d = x_.cols(), silent = memory_.rows;
  Tensor z(context_, silent, neurons_);
  linear(context_, memory_, WeightView::out_in(std::as_const(keys_).view()), bias_.view(), z.view());
  const std::vector<float> at_memory = z.to_host();
  dz_host_.assign(static_cast<size_t>(rows_ * neurons_), 0);
  activations_.clear();
  memories_.clear();
  std::vector<std::pair<int64_t, float>> touched;  // of [silent, N], with the gradient
  for (size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    const auto own = [&](int64_t neuron) {  // where z of a neuron stands at its own position
      const int64_t row = trainings_[i]->problem.positions[neuron] - plan_.sequences[i].first_position;
      return (place.row + row) * neurons_ + place.neuron + neuron;
    };
    const auto add = [&](int64_t at, double gradient) { dz_host_[at] += static_cast<float>(gradient); };
    const auto z_own = [&](int64_t neuron) { return static_cast<double>(z_host_[own(neuron)]); };
    const auto missing = [&](int64_t neuron) { return options_.activation_margin - z_own(neuron); };
    const std::vector<Term> fired = largest_terms(place.neurons, missing, kActivations, options_.copies);
    for (const Term& term : fired) add(own(term.index), -options_.activation_weight * term.weight * term.value);
    activations_.push_back(mean_of(fired));

    // The pairs of a row of the memory and a neuron, row by row.
    const int64_t pairs = silent * place.neurons;
    const auto z_memory = [&](int64_t pair) {
      return static_cast<double>(at_memory[pair / place.neurons * neurons_ + place.neuron + pair % place.neurons]);
    };
    const auto nearness = [&](int64_t pair) {
      return z_memory(pair) - z_own(pair % place.neurons) + options_.edit_margin;
    };
    const auto loudness = [&](int64_t pair) { return z_memory(pair) - options_.memory_margin; };
    const std::vector<Term> near = largest_terms(pairs, nearness, kMemories, options_.copies);
    const std::vector<Term> loud = largest_terms(pairs, loudness, kMemories, options_.copies);
    for (const std::vector<Term>* terms : {&near, &loud})
      for (const Term& term : *terms) {
        const int64_t m = term.index / place.neurons, n = term.index % place.neurons;
        const double gradient = options_.memory_weight * term.weight * term.value;
        touched.emplace_back(m * neurons_ + place.neuron + n, static_cast<float>(gradient));
        if (terms == &near) add(own(n), -gradient);
      }
    memories_.push_back(mean_of(near) + mean_of(loud));
  }
  std::vector<int64_t> rows;
  for (const auto& [at, gradient] : touched) rows.push_back(at / neurons_);
  std::ranges::sort(rows);
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  std::vector<float> dz(rows.size() * static_cast<size_t>(neurons_));
  for (const auto& [at, gradient] : touched) {
    const auto row = std::ranges::lower_bound(rows, at / neurons_) - rows.begin();
    dz[row * neurons_ + at % neurons_] += gradient;
  }
  const auto count = std::ssize(rows);
  Tensor some(context_, count, d);
  gather_rows(context_, memory_, {context_, std::span<const int64_t>(rows)}, some.view());
  const Tensor gradients = Tensor::from_host(context_, dz, count, neurons_);
  dkeys_ = Tensor(context_, neurons_, d);
  dbias_ = Tensor::zeros(context_, 1, neurons_);
  gemm(context_, Transpose::yes, gradients.view(), Transpose::no, some.view(), dkeys_.view());
  add_column_sums(context_, gradients.view(), dbias_.view());
}

void Evaluation::backward() {
  const int64_t d = x_.cols();
  Tensor dz(context_, rows_, neurons_), dvalues(context_, neurons_, d);
  gemm(context_, Transpose::no, dchange_.view(), Transpose::yes, values_.view(), dz.view());
  activation_backward(context_, executor_.model().config().activation, z_.view(), dz.view(), dz.view());
  std::vector<float> own = dz.to_host();
  keep_own(own);
  for (size_t i = 0; i < own.size(); ++i) own[i] += dz_host_[i];
  dz = Tensor::from_host(context_, own, rows_, neurons_);
  gemm(context_, Transpose::yes, dz.view(), Transpose::no, x_.view(), dkeys_.view(), Write::accumulate);
  add_column_sums(context_, dz.view(), dbias_.view());
  gemm(context_, Transpose::yes, act_.view(), Transpose::no, dchange_.view(), dvalues.view());
  const std::vector<float> dk = dkeys_.to_host(), db = dbias_.to_host(), dv = dvalues.to_host();
  for (size_t i = 0; i < places_.size(); ++i) {
    Training& training = *trainings_[i];
    const int64_t first = places_[i].neuron, count = places_[i].neurons;
    std::copy_n(dk.begin() + first * d, count * d, training.keys.gradient.begin());
    std::copy_n(db.begin() + first, count, training.bias.gradient.begin());
    for (int64_t e = 0; e < count * d; ++e) {
      training.values.gradient[e] = dv[first * d + e] * training.amplifiers.values[e];
      training.amplifiers.gradient[e] = dv[first * d + e] * training.values.values[e];
    }
    const double squares =
        training.keys.squares() + training.bias.squares() + training.values.squares() + training.amplifiers.squares();
    const double total =
        likelihoods_[i] + options_.activation_weight * activations_[i] + options_.memory_weight * memories_[i];
    require<NumericalError>(std::isfinite(total) && std::isfinite(squares),
                            "the loss of a neuron is not finite after {} steps; lower \"lr\"", training.steps.size());
    training.steps.push_back(
        {total, likelihoods_[i], activations_[i], memories_[i], nlls_[i], std::sqrt(squares), training.rate});
  }
}

/// The check of the published code, of the parameters that were evaluated last: the rate may fall, or the training end.
void check(Training& training, const PatchOptions& options, bool says_target) {
  PatchStep& now = training.steps.back();
  training.plateau.check(now.likelihood, training.rate);
  now.learning_rate = training.rate;
  if (std::ssize(training.steps) - 1 <= options.first_stop || !says_target) return;
  constexpr double kLower = 0.001;
  std::vector<double>& losses = training.memory_losses;
  losses.push_back(now.memory);
  int64_t best = 0;
  for (int64_t i = 0; i < std::ssize(losses); ++i)
    if (losses[i] < losses[best] - kLower) best = i;
  training.ended = best < std::ssize(losses) - options.stop_patience;
}

void update(Training& training, const PatchOptions& options) {
  const double norm = training.steps.back().gradient_norm;
  const double scale = std::min(1.0, options.gradient_limit / (norm + 1e-6));
  const AdamFactors adam =
      adam_factors({.learning_rate = training.rate}, std::ssize(training.steps), static_cast<float>(scale));
  for (Parameter* parameter : {&training.keys, &training.bias, &training.values, &training.amplifiers})
    parameter->step(adam, static_cast<float>(options.weight_decay));
}

}  // namespace

std::vector<TrainedPatch> train_patches(Executor& executor, const PatchOptions& options, ConstView memory,
                                        std::span<const PatchProblem> problems) {
  require<ShapeError>(memory.rows > 0, "neurons are trained against at least one row of memory");
  std::vector<Training> trainings;
  for (const PatchProblem& problem : problems) trainings.emplace_back(problem, options);
  std::vector<Training*> active;
  for (Training& training : trainings) active.push_back(&training);
  std::optional<Evaluation> evaluation;
  for (int64_t step = 0; step < options.steps && !active.empty(); ++step) {
    if (!evaluation) evaluation.emplace(executor, options, memory, active);
    evaluation->run();
    const bool checks = step > 0 && step % options.check_every == 0;
    for (size_t i = 0; i < active.size(); ++i) {
      if (checks) check(*active[i], options, evaluation->says_target(i));
      if (!active[i]->ended) update(*active[i], options);
    }
    if (std::ranges::none_of(active, &Training::ended)) continue;
    evaluation.reset();
    std::erase_if(active, [](const Training* training) { return training->ended; });
  }
  std::vector<TrainedPatch> trained;
  for (Training& training : trainings)
    trained.push_back({{{Role::down_weight, options.layer},
                        executor.model().config().activation,
                        std::move(training.keys.values),
                        std::move(training.bias.values),
                        training.amplified()},
                       std::move(training.steps)});
  return trained;
}

}  // namespace loci
