#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "edit/edited_model.h"
#include "model/executor/executor.h"

/// What a model, edited or not, says about given continuations of given prompts: the numbers that every metric of an
/// edit is made of. Prompts are packed into waves, and a prompt's targets share its run. Edited models that run in
/// lanes (EditedModel) start at the edited layer: hundreds of them share one wave and one set of weights.
namespace loci {

/// A prompt and the token sequences that may follow it.
struct ScoredPrompt {
  std::vector<int32_t> tokens;                ///< at least one
  std::vector<std::vector<int32_t>> targets;  ///< each at least one token
};

/// One target, teacher-forced: entry j belongs to target token j after the prompt and the target's first j tokens.
struct TargetScore {
  std::vector<float> log_probabilities;  ///< log p(target token), natural logarithm
  std::vector<int32_t> best;             ///< the token that the model finds most probable there
};

/// The targets of one prompt, in its order.
using PromptScore = std::vector<TargetScore>;

/// Prompts to be scored on the model with changes and without.
struct EditedPrompts {
  EditedModel model;
  std::vector<ScoredPrompt> prompts;
};

/// Scores of the prompts of one EditedPrompts, in their order.
struct BeforeAfter {
  std::vector<PromptScore> before;
  std::vector<PromptScore> after;
};

/// Scores the prompts on the executor's model as it is. Throws InputError for a prompt that is empty or longer than the
/// model's context together with a target.
std::vector<PromptScore> score_prompts(Executor& executor, std::span<const ScoredPrompt> prompts);

/// Scores each group's prompts before and after its own changes. The model is not changed. Throws InputError where a
/// change does not fit the model, else as score_prompts.
std::vector<BeforeAfter> score_edits(Executor& executor, std::span<const EditedPrompts> groups);

}  // namespace loci
