#pragma once

#include <array>
#include <string>
#include <vector>

#include "eval/metrics.h"
#include "runtime/error.h"
#include "tests/support/byte_tokenizer.h"

namespace loci::test {

inline std::vector<int32_t> bytes_of(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

/// A prompt with two targets whose NLLs are given, one token each; every arg max is token 0.
inline PromptResult make_prompt(PromptKind kind, std::array<float, 2> nll_before, std::array<float, 2> nll_after,
                                std::array<int32_t, 2> targets = {1, 2}) {
  PromptResult prompt{kind, "text", {"new", "true"}, {{targets[0]}, {targets[1]}}, {}, {}};
  for (size_t t = 0; t < 2; ++t) {
    prompt.before.push_back({{-nll_before[t]}, {0}});
    prompt.after.push_back({{-nll_after[t]}, {0}});
  }
  return prompt;
}

}  // namespace loci::test
