#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/executor/plan.h"
#include "model/model.h"
#include "runtime/tensor.h"

namespace loci {

struct Activations;  // what the backward pass needs, see activations.h

/// How many of the first items make a wave of at most `most_rows` rows; at least one, where there is one.
template <typename Items, typename RowsOf>
size_t wave_length(const Items& items, int64_t most_rows, RowsOf rows_of) {
  int64_t rows = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    rows += rows_of(items[i]);
    if (i > 0 && rows > most_rows) return i;
  }
  return items.size();
}

/// The outcome of a plan.
struct Run {
  /// [wanted, V], in the order of Plan::wanted; empty where the run stopped early or was asked questions.
  Tensor logits;
  ScoresInFlight scores;                     ///< of Plan::questions; a GPU may still be computing them
  std::vector<RecordingPtr> recordings;      ///< per sequence; null where not recorded
  std::shared_ptr<Activations> activations;  ///< with Keep::activations
};

enum class Keep { nothing, activations };

/// Gradients of a loss with regard to the rows of a run.
struct RowGradients {
  /// [all rows, d]: at each sequence's rows as they joined (before their position embedding where first_layer = 0),
  /// sequences in plan order. Rows that a sequence took from its base as they are, are constants like the base: their
  /// entries mean nothing.
  Tensor joined;
  std::vector<int64_t> first_row;  ///< of each sequence in `joined`
};

/// Runs plans on one model. Not thread-safe.
class Executor {
 public:
  Executor(Context& context, const Model& model) : context_(context), model_(model) {}

  /// Computes a plan in one wave. Throws as check_plan() does, and ShapeError for a run that is to be differentiated
  /// but stops early, records a base, or has a branch in a block that a base computed.
  Run run(const Plan& plan, Keep keep = Keep::nothing);

  /// The backward pass of a run made with Keep::activations. `logit_gradients` [wanted, V] = d loss / d logits.
  /// Recorded bases are constants. Parameter gradients are added to `parameters` where given: for sequences that
  /// start from tokens, else ShapeError. The plan's branches and gradient taps get theirs.
  RowGradients backward(const Run& run, ConstView logit_gradients, const Parameters<float>* parameters = nullptr);

  /// Rows that keep the device busy. A wave of more gains nothing, and leaves the caches of a CPU.
  int64_t full_wave_rows() const { return context_.on_cpu() ? 2048 : 32768; }
  /// How many rows one wave may hold within the memory budget, where so many positions per row are wanted with their
  /// logits; at most twice full_wave_rows().
  int64_t rows_per_wave(double wanted_per_row = 0) const;
  /// The same for a run with Keep::activations whose rows join at `first_layer`, and its backward pass.
  int64_t kept_rows_per_wave(int64_t first_layer, double wanted_per_row) const;

  Context& context() { return context_; }
  const Model& model() const { return model_; }

 private:
  Context& context_;
  const Model& model_;
};

}  // namespace loci
