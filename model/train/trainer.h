#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/executor/executor.h"
#include "model/train/config.h"
#include "model/train/data.h"
#include "model/train/parameter_buffer.h"
#include "model/train/ranks.h"

namespace loci {

/// Learning rate of a step (counted from 0) out of `total`: linear warm-up to the peak, then half a cosine down to the
/// floor.
double learning_rate(const TrainingConfig& config, int64_t step, int64_t total);

/// What one step did.
struct StepReport {
  int64_t step = 0;  ///< counted from 1
  int64_t tokens = 0;
  double loss = 0;  ///< mean next-token cross-entropy over the step's predicted positions, before the update
  double gradient_norm = 0;
  double learning_rate = 0;
};

/// Trains a GPT by AdamW (Loshchilov & Hutter 2019), alone or as one of several ranks that share each step's waves.
/// The state after n steps is a function of configuration, data, initial weights and n alone (on one kind of machine),
/// however many ranks there are and however often training was interrupted in between.
class Trainer {
 public:
  /// With weights() zero, to be filled before the first step. `corpus` must outlive this, and so must `ranks`, which is
  /// null for a training alone. All ranks have the same configuration and corpus. Throws InputError where corpus and
  /// configuration do not fit.
  Trainer(Context& context, const TrainingConfig& config, const Architecture& model, const Corpus& corpus,
          int32_t end_of_text, DeviceCommunicator* ranks = nullptr);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  ParameterBuffer& weights() { return weights_; }
  const Model& model() const { return model_; }
  Executor& executor() { return executor_; }

  int64_t total_steps() const { return total_steps_; }
  int64_t steps_done() const { return step_; }
  int64_t tokens_done() const { return tokens_; }
  int64_t tokens_left() const { return total_tokens_ - tokens_; }
  bool finished() const { return step_ >= total_steps_; }
  /// Of any step: how many ranks can have something to do.
  size_t most_waves() const { return most_waves_; }

  /// Gives all ranks the weights, moments and counters of rank 0. Collective.
  void share_state();
  /// One update; collective. NumericalError where loss or gradient is not finite: weights are then as before the step.
  StepReport step();
  /// The loss of sequences without any regulariser. Collective.
  LossSum evaluate(const std::vector<TrainingSequence>& sequences);

  /// Writes weights, both moments, counters and the place in the data to an HDF5 file that replaces an old one whole.
  /// `extra` is kept with them.
  void save(const std::filesystem::path& path, const Json& identity, const Json& extra);
  /// Continues from such a file and returns its `extra`. Throws ConfigurationMismatch where the file belongs to another
  /// training (naming the first key of `identity` that differs), InputError where it is damaged.
  Json restore(const std::filesystem::path& path, const Json& identity);

 private:
  /// Which sequences of a step the regularisers apply to.
  struct Drawn {
    std::vector<std::vector<uint8_t>> mlp_drop;  // [rule][sequence]
    std::vector<uint8_t> attention_cut, name_mlp_drop;
  };

  void count_steps();
  void open_epoch(int64_t epoch);
  LossSum sum_gradients(std::span<const TrainingSequence> sequences, double weight);
  LossSum add_gradients(std::span<const TrainingSequence> sequences, size_t first_sequence, double weight,
                        ParameterBuffer& gradients);
  LossSum evaluate_wave(std::span<const TrainingSequence> sequences);
  std::vector<uint8_t> draw(RandomPurpose purpose, uint64_t rule, double probability, size_t sequences) const;
  void draw_regularisers(size_t sequences);
  void regularise(const TrainingSequence& sequence, size_t index, int64_t place, Plan& plan) const;
  double update(double rate);

  size_t rank() const { return ranks_ ? static_cast<size_t>(ranks_->ranks().rank()) : 0; }
  size_t rank_count() const { return ranks_ ? static_cast<size_t>(ranks_->ranks().size()) : 1; }

  Context& context_;
  DeviceCommunicator* ranks_;  // null: alone
  TrainingConfig config_;
  SequenceMaker maker_;
  ParameterBuffer weights_, first_moments_, second_moments_;
  GradientSum gradients_;
  Model model_;
  Executor executor_;

  int64_t step_ = 0;
  int64_t tokens_ = 0;
  int64_t epoch_ = 0;
  size_t run_ = 0;  // of this epoch: the next step's
  int64_t total_steps_ = 0;
  int64_t total_tokens_ = 0;
  size_t most_waves_ = 0;
  std::vector<TrainingSequence> sequences_;  // of this epoch
  std::vector<size_t> runs_;
  Drawn drawn_;
};

}  // namespace loci
