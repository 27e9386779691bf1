#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/executor/executor.h"
#include "model/text/tokenizer.h"

namespace loci {

struct GenerationOptions {
  int64_t max_tokens = 40;  ///< new tokens per prompt; fewer where the model's context is full or a stop token came
  int64_t top_k = 0;        ///< draw among the k most probable tokens; 0: among all
  double temperature = 1;   ///< 0: always the most probable token
  uint64_t seed = 0;
  std::vector<int32_t> stop_tokens = {};  ///< each ends a text and is not part of it
  /// Only tokens that it has are drawn: embeddings are padded, and added tokens leave gaps. Null: all ids may be drawn.
  const Tokenizer* tokenizer = nullptr;
};

/// Continues each prompt and returns the new tokens alone. Draws of prompt i depend on (seed, i, number of the new
/// token), so a text does not depend on how many others are made with it. Keys and values of past tokens are kept;
/// equal prompts share theirs. Throws InputError for an empty prompt, one that fills the context, an id outside the
/// vocabulary, or an option out of range.
std::vector<std::vector<int32_t>> generate(Executor& executor, std::span<const std::vector<int32_t>> prompts,
                                           const GenerationOptions& options);

}  // namespace loci
