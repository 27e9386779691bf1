#pragma once

#include <span>
#include <string>
#include <vector>

#include "edit/common/prompts.h"
#include "model/executor/executor.h"

namespace loci {

/// The recorded beginnings of context templates: most prompts of all requests start like one of them.
class TemplatePrefixes {
 public:
  /// Runs what stands before `{}` in each template once, on the executor's model as it is now.
  TemplatePrefixes(Executor& executor, const Tokenizer& tokenizer, std::span<const std::string> templates);

  struct Match {
    RecordingPtr recording;  ///< null where nothing matches
    int64_t length = 0;      ///< common tokens
  };
  /// The longest common beginning with `tokens`, `limit` tokens at most.
  Match longest(std::span<const int32_t> tokens, int64_t limit) const;

 private:
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<RecordingPtr> recordings_;
};

/// What the edits of a wave of requests start from.
struct EditBases {
  std::vector<std::vector<RecordingPtr>> prompts;  ///< [request][prompt]: see ValueProblem::bases
  std::vector<RecordingPtr> essences;              ///< [request]
  std::vector<int64_t> first_row;                  ///< [request]: of its prompts in `keys` and `values`
  Tensor keys;                                     ///< [all prompts, ff] mlp_key at the fact tokens
  Tensor values;                                   ///< [all prompts, d] MLP output there
};

/// Records the prompts of a wave: up to the fact token through all blocks, from there on up to block `layer` only.
EditBases record_bases(Executor& executor, int64_t layer, const TemplatePrefixes& prefixes,
                       std::span<const PreparedRequest> requests);

}  // namespace loci
