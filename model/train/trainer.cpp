#include "model/train/trainer.h"

#include <cmath>
#include <numbers>
#include <numeric>

#include "kernels/adam.h"
#include "kernels/softmax.h"
#include "runtime/error.h"
#include "runtime/io/hdf5_checksums.h"
#include "runtime/jobs/unit_store.h"
#include "runtime/random.h"

namespace loci {
namespace {

int64_t count_tokens(std::span<const TrainingSequence> sequences) {
  return std::accumulate(sequences.begin(), sequences.end(), int64_t{0},
                         [](int64_t sum, const auto& sequence) { return sum + sequence.size(); });
}

/// Positions that have a next token.
int64_t count_predictions(std::span<const TrainingSequence> sequences) {
  return count_tokens(sequences) - std::ssize(sequences);
}

/// A plan that wants every position but the last of each sequence, and the tokens that follow them.
struct Batch {
  Plan plan;
  std::vector<int32_t> targets;

  explicit Batch(std::span<const TrainingSequence> sequences) {
    for (size_t s = 0; s < sequences.size(); ++s) {
      const std::vector<int32_t>& tokens = sequences[s].tokens;
      plan.sequences.emplace_back().tokens = tokens;
      for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        plan.wanted.push_back({static_cast<int64_t>(s), static_cast<int64_t>(i)});
        targets.push_back(tokens[i + 1]);
      }
    }
  }
};

double sum_of(const std::vector<float>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

}  // namespace

double learning_rate(const TrainingConfig& config, int64_t step, int64_t total) {
  if (step < config.warmup_steps)
    return config.learning_rate * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  const int64_t rest = std::max<int64_t>(1, total - config.warmup_steps);
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / static_cast<double>(rest));
  const double height = (1 + std::cos(std::numbers::pi * progress)) / 2;
  return config.learning_rate * (config.learning_rate_floor + (1 - config.learning_rate_floor) * height);
}

Trainer::Trainer(Context& context, const TrainingConfig& config, const Architecture& model, const Corpus& corpus,
                 int32_t end_of_text, DeviceCommunicator* ranks)
    : context_(context),
      ranks_(ranks),
      config_(config),
      maker_(corpus, config.sequences, end_of_text,
             config.sequences.max_tokens > 0 ? config.sequences.max_tokens : model.positions, config.seed),
      weights_(context, model),
      first_moments_(context, model),
      second_moments_(context, model),
      gradients_(context, model, ranks),
      model_(model, as_constant(weights_.parameters(), model), weights_.storage()),
      executor_(context, model_) {
  require<InputError>(config.sequences.max_tokens <= model.positions,
                      "\"max_tokens\" {} is more than the model's {} positions", config.sequences.max_tokens,
                      model.positions);
  for (const MlpDrop& drop : config.mlp_drop)
    require<InputError>(drop.first_layer < model.layers,
                        "\"mlp_drop\": \"first_layer\" is {} but the model has {} layers", drop.first_layer,
                        model.layers);
  require<InputError>(config.attention_cut.layers <= model.layers && config.name_mlp_drop.layers <= model.layers,
                      "\"attention_cut\" or \"name_mlp_drop\" names more \"layers\" than the model's {}", model.layers);
  count_steps();
  open_epoch(0);
}

Trainer::~Trainer() = default;

/// Goes through all epochs' sequences once, since how many steps they take depends on their lengths.
void Trainer::count_steps() {
  for (int64_t epoch = 0; config_.epochs == 0 || epoch < config_.epochs; ++epoch) {
    open_epoch(epoch);
    require<InputError>(!sequences_.empty(), "the training text holds no document of two or more tokens");
    for (size_t r = 0; r + 1 < runs_.size(); ++r) {
      if (config_.steps > 0 && total_steps_ == config_.steps) return;
      ++total_steps_;
      const auto sequences = std::span<const TrainingSequence>(sequences_).subspan(runs_[r], runs_[r + 1] - runs_[r]);
      total_tokens_ += count_tokens(sequences);
      most_waves_ = std::max(most_waves_, cut_into_runs(sequences, config_.tokens_per_wave).size() - 1);
    }
  }
}

void Trainer::open_epoch(int64_t epoch) {
  epoch_ = epoch;
  run_ = 0;
  sequences_ = maker_.epoch(epoch);
  runs_ = cut_into_runs(sequences_, config_.tokens_per_step);
}

StepReport Trainer::step() {
  require<Error>(!finished(), "training has ended after {} steps", total_steps_);
  if (run_ + 1 >= runs_.size()) open_epoch(epoch_ + 1);
  const auto sequences = std::span(sequences_).subspan(runs_[run_], runs_[run_ + 1] - runs_[run_]);
  const double weight = 1.0 / static_cast<double>(count_predictions(sequences));
  draw_regularisers(sequences.size());
  const LossSum loss = sum_gradients(sequences, weight);
  StepReport report{.step = step_ + 1,
                    .tokens = count_tokens(sequences),
                    .loss = loss.mean(),
                    .learning_rate = learning_rate(config_, step_, total_steps_)};
  require<NumericalError>(std::isfinite(report.loss), "the loss of step {} is not finite: use a lower learning rate",
                          report.step);
  report.gradient_norm = update(report.learning_rate);
  ++step_;
  ++run_;
  tokens_ += report.tokens;
  return report;
}

/// The gradient of a step's sequences, summed over their waves, and the loss. The waves are cut by the configuration
/// alone; the ranks take them in rounds, one each.
LossSum Trainer::sum_gradients(std::span<const TrainingSequence> sequences, double weight) {
  const std::vector<size_t> starts = cut_into_runs(sequences, config_.tokens_per_wave);
  const size_t waves = starts.size() - 1;
  std::vector<LossSum> own;
  gradients_.start();
  for (size_t first = 0; first < waves; first += rank_count()) {
    const size_t wave = first + rank();
    if (wave < waves)
      own.push_back(add_gradients(sequences.subspan(starts[wave], starts[wave + 1] - starts[wave]), starts[wave],
                                  weight, gradients_.wave()));
    gradients_.add_round(static_cast<int>(std::min(rank_count(), waves - first)));
  }
  gradients_.finish();
  return sum_losses(ranks_, std::move(own), waves, "the sum of losses");
}

/// Forward and backward pass of some sequences; adds `weight` times the gradient of their summed loss.
LossSum Trainer::add_gradients(std::span<const TrainingSequence> sequences, size_t first_sequence, double weight,
                               ParameterBuffer& gradients) {
  Batch batch(sequences);
  for (size_t s = 0; s < sequences.size(); ++s)
    regularise(sequences[s], first_sequence + s, static_cast<int64_t>(s), batch.plan);
  Run run = executor_.run(batch.plan, Keep::activations);
  const auto positions = std::ssize(batch.targets);
  const std::vector<float> weights(batch.targets.size(), static_cast<float>(weight));
  Tensor losses(context_, positions, 1);
  cross_entropy(context_, run.logits.view(), {context_, std::span<const int32_t>(batch.targets)},
                {context_, std::span<const float>(weights)}, losses.view(), run.logits.view(), Write::assign);
  executor_.backward(run, run.logits.view(), &gradients.parameters());
  return {sum_of(losses.to_host()) / weight, positions};
}

/// One draw a sequence of the coming step: whether a regulariser applies.
std::vector<uint8_t> Trainer::draw(RandomPurpose purpose, uint64_t rule, double probability, size_t sequences) const {
  Random random(config_.seed, random_stream(purpose, (rule << 48) | static_cast<uint64_t>(step_)));
  std::vector<uint8_t> drawn(sequences);
  for (uint8_t& one : drawn) one = random.uniform() < probability;
  return drawn;
}

void Trainer::draw_regularisers(size_t sequences) {
  drawn_ = {};
  for (size_t rule = 0; rule < config_.mlp_drop.size(); ++rule)
    drawn_.mlp_drop.push_back(draw(RandomPurpose::mlp_drop, rule, config_.mlp_drop[rule].probability, sequences));
  drawn_.attention_cut = draw(RandomPurpose::attention_cut, 0, config_.attention_cut.probability, sequences);
  drawn_.name_mlp_drop = draw(RandomPurpose::name_mlp_drop, 0, config_.name_mlp_drop.probability, sequences);
}

/// Adds the regularisers of a sequence; `index` is its place in the step, `place` that in the plan.
void Trainer::regularise(const TrainingSequence& sequence, size_t index, int64_t place, Plan& plan) const {
  for (size_t rule = 0; rule < config_.mlp_drop.size(); ++rule) {
    const MlpDrop& drop = config_.mlp_drop[rule];
    if (!drawn_.mlp_drop[rule][index]) continue;
    for (int64_t layer = drop.first_layer; layer < model_.config().layers; ++layer)
      plan.regularisers.mlp_scales.push_back({place, layer, static_cast<float>(drop.factor), 0, -1});
  }
  if (sequence.subjects.empty()) return;
  if (drawn_.attention_cut[index] && config_.attention_cut.layers > 0) {
    AttentionCuts cuts{.sequence = place, .layers = config_.attention_cut.layers, .starts = {}};
    const auto cut_at = [&](int64_t start) {
      if (start > (cuts.starts.empty() ? 0 : cuts.starts.back()) && start < sequence.size())
        cuts.starts.push_back(start);
    };
    for (const TokenSpan& subject : sequence.subjects) {
      cut_at(subject.begin);
      cut_at(subject.end);
    }
    if (!cuts.starts.empty()) plan.regularisers.attention_cuts.push_back(std::move(cuts));
  }
  if (!drawn_.name_mlp_drop[index]) return;
  for (const TokenSpan& subject : sequence.subjects)
    for (int64_t layer = 0; subject.end - subject.begin > 1 && layer < config_.name_mlp_drop.layers; ++layer)
      plan.regularisers.mlp_scales.push_back({place, layer, static_cast<float>(config_.name_mlp_drop.factor),
                                              subject.begin, subject.end - subject.begin - 1});
}

/// Clips the gradient's global norm and takes an AdamW step. Returns the norm before clipping.
double Trainer::update(double rate) {
  ParameterBuffer& gradients = gradients_.total();
  const double norm = std::sqrt(sum_of_squares(context_, gradients.all()));
  require<NumericalError>(std::isfinite(norm), "the gradient of step {} is not finite: use a lower learning rate",
                          step_ + 1);
  const double clip = config_.gradient_clip;
  const auto scale = static_cast<float>(clip > 0 && norm > clip ? clip / norm : 1.0);
  using Group = ParameterBuffer::Group;
  for (const Group group : {Group::matrices, Group::embeddings, Group::vectors}) {
    const AdamOptions options{.learning_rate = rate,
                              .beta_1 = config_.beta_1,
                              .beta_2 = config_.beta_2,
                              .epsilon = config_.epsilon,
                              .weight_decay = group == Group::matrices     ? config_.weight_decay
                                              : group == Group::embeddings ? config_.embedding_weight_decay
                                                                           : 0};
    adam_step(context_, options, step_ + 1, gradients.group(group), scale, weights_.group(group),
              first_moments_.group(group), second_moments_.group(group));
  }
  return norm;
}

LossSum Trainer::evaluate(const std::vector<TrainingSequence>& sequences) {
  const std::vector<size_t> starts = cut_into_runs(sequences, config_.tokens_per_wave);
  const size_t waves = starts.size() - 1;
  std::vector<LossSum> own;
  for (size_t wave = rank(); wave < waves; wave += rank_count())
    own.push_back(evaluate_wave(std::span(sequences).subspan(starts[wave], starts[wave + 1] - starts[wave])));
  return sum_losses(ranks_, std::move(own), waves, "the sum of validation losses");
}

LossSum Trainer::evaluate_wave(std::span<const TrainingSequence> sequences) {
  Batch batch(sequences);
  for (size_t i = 0; i < batch.targets.size(); ++i)
    batch.plan.questions.push_back({static_cast<int64_t>(i), batch.targets[i]});
  const std::vector<float> log_probabilities = executor_.run(batch.plan).scores.collect().log_probabilities;
  return {-sum_of(log_probabilities), std::ssize(log_probabilities)};
}

void Trainer::share_state() {
  if (rank_count() == 1) return;
  for (ParameterBuffer* buffer : {&weights_, &first_moments_, &second_moments_}) {
    const View all = buffer->all();
    ranks_->broadcast(all.data, sizeof(float) * static_cast<size_t>(all.rows * all.cols), 0,
                      "the broadcast of the training's state");
  }
  struct Counters {
    int64_t step, tokens, epoch;
    size_t run;
  } counters{step_, tokens_, epoch_, run_};
  ranks_->ranks().broadcast_value(counters, 0, "the broadcast of the training's counters");
  if (epoch_ != counters.epoch) open_epoch(counters.epoch);
  step_ = counters.step;
  tokens_ = counters.tokens;
  run_ = counters.run;
}

void Trainer::save(const std::filesystem::path& path, const Json& identity, const Json& extra) {
  write_result_atomically(path, [&](H5File& file) {
    write_attribute(file, "/", "kind", "training");
    write_attribute(file, "/", "identity", canonical_json(identity));
    write_attribute(file, "/", "extra", canonical_json(extra));
    write_attribute(file, "/", "step", step_);
    write_attribute(file, "/", "tokens", tokens_);
    write_attribute(file, "/", "epoch", epoch_);
    write_attribute(file, "/", "run", static_cast<int64_t>(run_));
    const auto write = [&](const std::string& name, ParameterBuffer& buffer, const std::string& meaning) {
      const ConstView view = buffer.all();
      write_dataset(file, name, to_host(context_, view), {view.rows, view.cols}, {.units = "1", .long_name = meaning});
    };
    write("/weights", weights_, "all parameters, packed");
    write("/first_moments", first_moments_, "Adam's running mean of the gradient, packed like the weights");
    write("/second_moments", second_moments_, "Adam's running mean of the squared gradient, packed like the weights");
  });
}

Json Trainer::restore(const std::filesystem::path& path, const Json& identity) {
  const H5File file = H5File::open_read(path);
  require_same_configuration(parse_json(read_string_attribute(file, "/", "identity"), path.string()), identity, path,
                             path.parent_path());
  const auto read = [&](const std::string& name, ParameterBuffer& buffer) {
    const View view = buffer.all();
    const H5Array<float> array = read_dataset<float>(file, name, {view.rows, view.cols});
    context_.copy_to_device(view.data, array.values.data(), sizeof(float) * array.values.size());
  };
  read("/weights", weights_);
  read("/first_moments", first_moments_);
  read("/second_moments", second_moments_);
  step_ = read_int_attribute(file, "/", "step");
  tokens_ = read_int_attribute(file, "/", "tokens");
  open_epoch(read_int_attribute(file, "/", "epoch"));
  run_ = static_cast<size_t>(read_int_attribute(file, "/", "run"));
  require<InputError>(step_ >= 0 && step_ <= total_steps_ && run_ < runs_.size(),
                      "{}: step {} lies outside the training", path.string(), step_);
  return parse_json(read_string_attribute(file, "/", "extra"), path.string());
}

}  // namespace loci
