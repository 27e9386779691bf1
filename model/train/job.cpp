#include "model/train/job.h"

#include <spdlog/spdlog.h>

#include <cmath>
#include <limits>
#include <optional>

#include "model/checkpoint.h"
#include "model/text/tokenizer.h"
#include "runtime/clock.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/jobs/output_lock.h"
#include "runtime/jobs/progress.h"
#include "runtime/jobs/provenance.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// NaN has no place in JSON: it is left out.
Json to_json(const std::vector<LossPoint>& losses) {
  Json list = Json::array();
  for (const LossPoint& point : losses) {
    list.push_back({{"step", point.step}, {"training", point.training}});
    if (!std::isnan(point.validation)) list.back()["validation"] = point.validation;
  }
  return list;
}

std::vector<LossPoint> losses_from_json(const Json& list, std::string_view where) {
  std::vector<LossPoint> losses;
  for (const Json& point : list)
    losses.push_back({json_int(point, "step", where), json_number(point, "training", where),
                      json_has(point, "validation") ? json_number(point, "validation", where)
                                                    : std::numeric_limits<double>::quiet_NaN()});
  return losses;
}

/// The job's inputs, read and checked before any work starts.
struct Inputs {
  Tokenizer tokenizer;
  Architecture model;
  std::optional<Checkpoint> initial;
  Corpus training;
  Corpus validation;
  Json identity;
};

/// The folder that the tokenizer comes from.
std::filesystem::path tokenizer_folder(const TrainingConfig& config) {
  return config.model ? config.tokenizer : config.initial_model;
}

Architecture model_for(const TrainingConfig& config, const Tokenizer& tokenizer,
                       const std::optional<Checkpoint>& initial) {
  if (initial) return initial->config();
  Architecture model = *config.model;
  model.vocabulary = tokenizer.vocabulary_size();
  model.bos_token = tokenizer.end_of_text().value_or(-1);
  model.eos_tokens.clear();
  if (tokenizer.end_of_text()) model.eos_tokens = {*tokenizer.end_of_text()};
  model.check("model");
  return model;
}

/// What decides about the result: the configuration but for what only concerns reports, and hashes of what was read.
Json identity_of(const TrainingConfig& config, const Inputs& inputs) {
  Json identity = training_config_to_json(config);
  for (const char* key : {"report_every", "checkpoint_every", "text", "validation_text", "tokenizer", "initial_model"})
    identity.erase(key);
  identity["training_data_sha256"] = inputs.training.sha256();
  identity["validation_data_sha256"] = inputs.validation.sha256();
  identity["tokenizer_sha256"] = inputs.tokenizer.sha256();
  if (inputs.initial) identity["initial_weights_sha256"] = inputs.initial->weights_sha256();
  return identity;
}

/// Lets rank 0 alone hash the initial weights, and so read them.
void share_hash(Checkpoint& initial, Communicator& ranks) {
  std::string hash = ranks.is_root() ? initial.weights_sha256() : "";
  ranks.broadcast(hash, 0, "the broadcast of the weights' hash");
  initial.adopt_weights_sha256(std::move(hash));
}

/// Throws ConfigurationMismatch where this rank has read other data than rank 0.
void require_same(const Json& identity, Communicator& ranks) {
  std::string text = identity.dump();
  ranks.broadcast(text, 0, "the comparison of the training data");
  const std::string difference = first_difference(parse_json(text, "rank 0"), identity);
  require<ConfigurationMismatch>(difference.empty(),
                                 "rank {} has read other data than rank 0 ({}): give all ranks the same files",
                                 ranks.rank(), difference);
}

Inputs read_inputs(Context& context, const TrainingConfig& config, Communicator& ranks) {
  std::optional<Checkpoint> initial;
  if (!config.model) initial = Checkpoint::open(config.initial_model);
  if (initial) share_hash(*initial, ranks);
  Tokenizer tokenizer = Tokenizer::load(tokenizer_folder(config));
  if (initial) tokenizer.limit_to_embedding(initial->config().vocabulary, config.initial_model.string());
  const Architecture model = model_for(config, tokenizer, initial);
  Corpus training = read_corpus(context, tokenizer, config.text, config.sequences);
  Corpus validation = config.validation_text.empty()
                          ? hold_out(training, config.validation_fraction, config.seed)
                          : read_corpus(context, tokenizer, config.validation_text, config.sequences);
  Inputs inputs{std::move(tokenizer), model, std::move(initial), std::move(training), std::move(validation), {}};
  inputs.identity = identity_of(config, inputs);
  require_same(inputs.identity, ranks);
  return inputs;
}

class Job {
 public:
  Job(Context& context, const TrainingJob& job, DeviceCommunicator& ranks, const Interruption* interruption)
      : context_(context),
        job_(job),
        device_ranks_(ranks),
        ranks_(ranks.ranks()),
        interruption_(interruption),
        inputs_(read_inputs(context, job.config, ranks_)),
        state_path_(training_state(job.output)),
        record_path_(job.output / "training.json") {}

  TrainingSummary run() {
    if (found_complete()) return summary_;
    if (ranks_.is_root()) prepare_output();
    const int32_t end_of_text = inputs_.tokenizer.end_of_text().value_or(-1);
    Trainer trainer(context_, job_.config, inputs_.model, inputs_.training, end_of_text, &device_ranks_);
    start(trainer);
    train(trainer);
    if (ranks_.is_root()) write_result(trainer);
    lock_.reset();
    ranks_.barrier("the end of the training");
    return summary_;
  }

 private:
  bool found_complete();
  bool read_complete_record();
  void prepare_output();
  void start(Trainer& trainer);
  std::optional<Json> read_state(Trainer& trainer);
  Json restored(Trainer& trainer);
  void warn_of_idle_ranks(const Trainer& trainer) const;
  void train(Trainer& trainer);
  void after_step(Trainer& trainer, const StepReport& report);
  void report(const Trainer& trainer, const StepReport& report) const;
  void add_loss_point(Trainer& trainer);
  void save(Trainer& trainer);
  void leave_if_asked(Trainer& trainer);
  void write_result(Trainer& trainer);

  Context& context_;
  const TrainingJob& job_;
  DeviceCommunicator& device_ranks_;
  Communicator& ranks_;
  const Interruption* interruption_;
  Inputs inputs_;
  std::filesystem::path state_path_;
  std::filesystem::path record_path_;
  std::optional<OutputLock> lock_;  // on rank 0
  TrainingSummary summary_;
  std::vector<TrainingSequence> validation_;
  double loss_sum_ = 0;  // since the last loss point
  int64_t loss_steps_ = 0;
  int64_t tokens_before_ = 0;  // tokens of earlier runs
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_report_ = Clock::now();
};

/// Rank 0 looks; the others are told.
bool Job::found_complete() {
  bool found = ranks_.is_root() && read_complete_record();
  ranks_.broadcast_value(found, 0, "the look for earlier results");
  if (found) summary_.outcome = TrainingSummary::Outcome::found_complete;
  return found;
}

bool Job::read_complete_record() {
  if (job_.on_existing == OnExisting::overwrite) return false;
  if (!std::filesystem::exists(record_path_) || !std::filesystem::exists(job_.output / "model.safetensors"))
    return false;
  const std::string where = record_path_.string();
  const Json record = parse_json_file(record_path_);
  require_same_configuration(json_object(record, "identity", where), inputs_.identity, record_path_, job_.output);
  summary_.steps = json_int(record, "steps", where);
  summary_.tokens = json_int(record, "tokens", where);
  summary_.losses = losses_from_json(json_array(record, "losses", where), where);
  return true;
}

void Job::prepare_output() {
  make_folder(job_.output);
  lock_.emplace(job_.output / "training.lock", job_.output);
  if (job_.on_existing == OnExisting::overwrite) {
    std::filesystem::remove(state_path_);
    std::filesystem::remove(record_path_);
    return;
  }
  require<InputError>(
      std::filesystem::exists(state_path_) || !std::filesystem::exists(job_.output / "model.safetensors"),
      "{} {}: the folder already holds a model of other origin; use another folder or {}", option("output"),
      job_.output.string(), option("overwrite"));
}

/// The first weights, or the state that an interrupted run left.
void Job::start(Trainer& trainer) {
  SequenceMaker plain(inputs_.validation, job_.config.sequences, inputs_.tokenizer.end_of_text().value_or(-1),
                      inputs_.model.positions, job_.config.seed);
  validation_ = plain.plain();
  std::string losses = "null";
  if (ranks_.is_root()) losses = read_state(trainer).value_or(Json()).dump();
  trainer.share_state();
  ranks_.broadcast(losses, 0, "the broadcast of the losses so far");
  const std::string where = state_path_.string();
  if (const Json extra = parse_json(losses, where); !extra.is_null()) {
    summary_.losses = losses_from_json(json_array(extra, "losses", where), where);
    loss_sum_ = json_number(extra, "loss_sum", where);
    loss_steps_ = json_int(extra, "loss_steps", where);
  }
  tokens_before_ = trainer.tokens_done();
}

Json Job::restored(Trainer& trainer) {
  try {
    return trainer.restore(state_path_, inputs_.identity);
  } catch (const ConfigurationMismatch&) {
    throw;
  } catch (const InputError& error) {
    throw_error<InputError>("{}; give {} to train from the start", error.what(), option("overwrite"));
  }
}

/// On rank 0: what the trainer starts from, and the losses that an interrupted run has kept with it.
std::optional<Json> Job::read_state(Trainer& trainer) {
  if (std::filesystem::exists(state_path_)) {
    const Json extra = restored(trainer);
    spdlog::info("train: continuing after step {} of {}", trainer.steps_done(), trainer.total_steps());
    return extra;
  }
  if (inputs_.initial) {
    std::vector<float> scratch;
    for (const Parameter& info : parameters_of(inputs_.model))
      trainer.weights().set(context_, info.name, inputs_.initial->f32(info.name, scratch));
  } else {
    initialise(context_, trainer.weights(), job_.config.initial_deviation, job_.config.seed);
  }
  return std::nullopt;
}

void Job::warn_of_idle_ranks(const Trainer& trainer) const {
  const auto ranks = static_cast<size_t>(ranks_.size()), waves = trainer.most_waves();
  if (!ranks_.is_root() || waves >= ranks) return;
  spdlog::warn("train: a step has {} of tokens_per_wave {}: {} of {} ranks have nothing to do; lower tokens_per_wave",
               count(static_cast<int64_t>(waves), "wave"), job_.config.tokens_per_wave, ranks - waves, ranks);
}

void Job::train(Trainer& trainer) {
  spdlog::info("train: {} parameters, {} documents of {} tokens in all, {} held out, {} steps",
               inputs_.model.parameter_count(), inputs_.training.size(), inputs_.training.tokens(),
               inputs_.validation.size(), trainer.total_steps());
  warn_of_idle_ranks(trainer);
  start_ = last_report_ = Clock::now();
  while (!trainer.finished()) after_step(trainer, trainer.step());
  summary_.steps = trainer.steps_done();
  summary_.tokens = trainer.tokens_done();
  summary_.seconds = seconds_since(start_);
  summary_.tokens_per_second = static_cast<double>(trainer.tokens_done() - tokens_before_) / summary_.seconds;
}

void Job::after_step(Trainer& trainer, const StepReport& step) {
  loss_sum_ += step.loss;
  ++loss_steps_;
  const bool last = trainer.finished();
  if (step.step % job_.config.report_every == 0 || last) report(trainer, step);
  if (step.step % job_.config.validate_every == 0 || last) add_loss_point(trainer);
  if (step.step % job_.config.checkpoint_every == 0 || last) save(trainer);
  if (job_.on_step) job_.on_step(step);
  leave_if_asked(trainer);
}

void Job::save(Trainer& trainer) {
  if (!ranks_.is_root()) return;
  trainer.save(state_path_, inputs_.identity,
               {{"losses", to_json(summary_.losses)}, {"loss_sum", loss_sum_}, {"loss_steps", loss_steps_}});
}

/// Not after the last step, whose result is as quickly written as a checkpoint.
void Job::leave_if_asked(Trainer& trainer) {
  if (!interruption_ || trainer.finished()) return;
  const int signal = ranks_.agree(interruption_->signal(), "the end of a step");
  if (signal == 0) return;
  save(trainer);
  throw_error<InterruptedError>("train: interrupted by {} after step {} of {}; run the same command again to continue",
                                signal_name(signal), trainer.steps_done(), trainer.total_steps());
}

void Job::report(const Trainer& trainer, const StepReport& step) const {
  const double rate = static_cast<double>(trainer.tokens_done() - tokens_before_) / seconds_since(start_);
  spdlog::info(
      "train: step {} of {}, loss {:.4f}, gradient norm {:.3f}, learning rate {:.2e}, {:.0f} tokens/s, {} left",
      step.step, trainer.total_steps(), step.loss, step.gradient_norm, step.learning_rate, rate,
      duration_text(static_cast<double>(trainer.tokens_left()) / rate));
}

void Job::add_loss_point(Trainer& trainer) {
  LossPoint point{.step = trainer.steps_done(),
                  .training = loss_sum_ / static_cast<double>(loss_steps_),
                  .validation = std::numeric_limits<double>::quiet_NaN()};
  loss_sum_ = 0;
  loss_steps_ = 0;
  if (!validation_.empty()) {
    point.validation = trainer.evaluate(validation_).mean();
    spdlog::info("train: step {}, mean loss {:.4f}, validation loss {:.4f}", point.step, point.training,
                 point.validation);
  }
  summary_.losses.push_back(point);
}

DType stored_dtype(StoredType type) {
  return type == StoredType::fp32 ? DType::f32 : type == StoredType::fp16 ? DType::f16 : DType::bf16;
}

void Job::write_result(Trainer& trainer) {
  const auto host = trainer.weights().to_host(context_);
  std::map<std::string, std::span<const float>> tensors;
  for (const auto& [name, values] : host) tensors.emplace(name, values);
  write_checkpoint(job_.output, inputs_.model, tensors, tokenizer_folder(job_.config),
                   stored_dtype(job_.config.stored_type));
  const Provenance provenance = current_provenance();
  const Json record = {{"config", training_config_to_json(job_.config)},
                       {"identity", inputs_.identity},
                       {"steps", summary_.steps},
                       {"tokens", summary_.tokens},
                       {"losses", to_json(summary_.losses)},
                       {"loci_version", provenance.version},
                       {"git_commit", provenance.git_commit},
                       {"libraries", provenance.libraries},
                       {"world_size", ranks_.size()},
                       {"date", provenance.date}};
  write_file_atomically(record_path_, record.dump(1) + "\n");
  std::filesystem::remove(state_path_);
}

}  // namespace

std::filesystem::path training_state(const std::filesystem::path& output) { return output / "training.h5"; }

TrainingSummary run_training(Context& context, const TrainingJob& job, const TrainingRanks& ranks) {
  if (ranks.communicator) return Job(context, job, *ranks.communicator, ranks.interruption).run();
  SelfCommunicator self;
  HostStagedDeviceCommunicator alone(self, context);
  return Job(context, job, alone, ranks.interruption).run();
}

}  // namespace loci
