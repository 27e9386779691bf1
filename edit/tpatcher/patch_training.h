#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "edit/change.h"
#include "model/executor/executor.h"

/// The training of T-Patcher's neurons (Huang et al. 2023, arXiv 2301.09785). Letters: x [d] what the MLP reads,
/// z = x k + b a neuron's pre-activation, and per request
///
///     loss = NLL of the target, with label smoothing
///          + activation_weight mean of the 5 largest exp(activation_margin - z_i at its own position)
///          + memory_weight (mean of the 1000 largest exp(z(m) - z_i + edit_margin)
///                           + mean of the 1000 largest exp(z(m) - memory_margin)) over the memory's rows m
namespace loci {

struct PatchOptions {
  int64_t layer = 0;
  int64_t steps = 2000;
  double learning_rate = 0.01;
  double weight_decay = 0.01;    ///< times the parameter, added to the gradient
  double gradient_limit = 5;     ///< a longer gradient is shortened to it
  double label_smoothing = 0.1;  ///< cross_entropy()
  double activation_weight = 1;
  double memory_weight = 10;
  double activation_margin = 0;
  double edit_margin = 0;
  double memory_margin = 0;
  /// The published code trains on so many copies of the request, and each copy counts among the largest terms.
  int64_t copies = 8;
  int64_t check_every = 25;      ///< steps between checks, which halve the rate or end the training
  double plateau_factor = 0.5;   ///< of the rate, where the NLL has not fallen by 5 %
  int64_t plateau_patience = 1;  ///< checks without that before the rate falls
  int64_t first_stop = 100;      ///< steps before the training may end
  int64_t stop_patience = 1;     ///< checks without a lower memory loss, the target being said, before it ends
};

/// A request whose neurons are trained, and where they start.
struct PatchProblem {
  RecordingPtr base;         ///< of its text, with resid and mlp_in of the layer
  int64_t first_target = 0;  ///< the position that predicts the target's first token
  std::vector<int32_t> target;
  std::vector<int64_t> positions;  ///< of each neuron: where it is to fire
  std::vector<float> keys, bias;   ///< K [n, d] and b [n]
  std::vector<float> values;       ///< v [n, d]; V is v times `amplifiers`, element by element
  std::vector<float> amplifiers;   ///< [n, d]

  int64_t count() const { return std::ssize(positions); }
};

/// The evaluation of a step, before its update.
struct PatchStep {
  double total, likelihood, activation, memory;  ///< the loss and its parts, the last without their weights
  double target_nll;                             ///< without smoothing, the mean over the target's tokens
  double gradient_norm;                          ///< before it is shortened
  double learning_rate;
};

struct TrainedPatch {
  Neurons neurons;
  std::vector<PatchStep> steps;
};

/// Trains each problem's neurons on the executor's model as it is, side by side; they do not see each other. `memory`
/// [rows, d]: what the MLP reads where the neurons should be silent; at least one row. Throws NumericalError for a loss
/// that is not finite.
std::vector<TrainedPatch> train_patches(Executor& executor, const PatchOptions& options, ConstView memory,
                                        std::span<const PatchProblem> problems);

}  // namespace loci
