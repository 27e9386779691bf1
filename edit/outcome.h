#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "records/edit_requests.h"
#include "runtime/io/hdf5.h"
#include "runtime/io/json.h"

/// Whether an edit took: what the model says on the bare prompt of its request, before and after.
namespace loci {

struct EditBatch;  // edit/edit.h

/// How probable a target is after a prompt.
struct TargetProbability {
  double whole = 0;  ///< the product over the target's tokens
  double first = 0;  ///< of its first token
  int64_t tokens = 0;
};

/// What a model says after the bare prompt of a request, without any context template in front.
struct PromptAnswer {
  TargetProbability target_new;
  std::optional<TargetProbability> target_true;  ///< where the request names one
  std::string most_likely;                       ///< text of the most likely next token
  double most_likely_probability = 0;
  bool says_new = false;  ///< each token of the new target is the most likely one, so greedy decoding continues with it
};

struct EditOutcome {
  PromptAnswer before;                   ///< the model that the edit was made from
  PromptAnswer after;                    ///< that model with this edit
  std::optional<PromptAnswer> with_all;  ///< sequential edits: the model with all edits of the file

  bool took() const { return after.says_new; }
};

/// Scores each edit of the batches, in their order, on the executor's model with the changes of its batch and without
/// them. The model is not changed. Targets are fed back token by token, as an evaluation scores them.
std::vector<EditOutcome> score_outcomes(Executor& executor, const Tokenizer& tokenizer,
                                        std::span<const EditBatch> batches);
/// What the executor's model says, as it is.
std::vector<PromptAnswer> answer_bare_prompts(Executor& executor, const Tokenizer& tokenizer,
                                              std::span<const EditRequest> requests);

/// The outcome as attributes of a group: `probability_new_before`, `most_likely_after`, ... (docs/file_formats.md), and
/// `took`.
void write_outcome(H5File& file, const std::string& group, const EditOutcome& outcome);
/// Only what `with_all` adds.
void write_answer_with_all(H5File& file, const std::string& group, const PromptAnswer& answer);
/// Reads it back; nothing where the group has none. Throws InputError where attributes are missing or of another type.
std::optional<EditOutcome> read_outcome(const H5File& file, const std::string& group);

/// {"before": {"p_new", "p_new_first_token", "p_true", ..., "most_likely": {"text", "probability"}}, "after", "took"}.
Json outcome_to_json(const EditOutcome& outcome);
/// "p(new) 0.0001 -> 0.951, p(true) 0.9 -> 0.003, most likely \" Rome\" 0.9 -> \" Paris\" 0.951".
std::string describe_change(const PromptAnswer& before, const PromptAnswer& after);

}  // namespace loci
