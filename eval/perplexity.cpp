#include "eval/perplexity.h"

#include <algorithm>

#include "edit/scoring.h"
#include "model/text/document_source.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"

namespace loci {

int64_t TextWindows::predicted_tokens() const {
  int64_t tokens = 0;
  for (const std::vector<int32_t>& window : windows) tokens += std::ssize(window) - 1;
  return tokens;
}

std::string TextWindows::sha256() const {
  Sha256 hash;
  for (const std::vector<int32_t>& window : windows) {
    const int64_t length = std::ssize(window);
    hash.update(std::as_bytes(std::span(&length, 1))).update(std::as_bytes(std::span(window)));
  }
  return hash.hex();
}

TextWindows read_text_windows(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path,
                              int64_t limit, int64_t positions) {
  TextWindows text;
  std::vector<std::string> skipped;
  const NextDocument next = text_documents(context, tokenizer, path, OnInvalid::refuse, skipped);
  int64_t read = 0;
  for (std::vector<int32_t> tokens; (limit == 0 || read < limit) && next(tokens);) {
    if (limit > 0 && std::ssize(tokens) > limit - read) tokens.resize(static_cast<size_t>(limit - read));
    read += std::ssize(tokens);
    for (int64_t begin = 0; begin + 1 < std::ssize(tokens); begin += positions - 1)
      text.windows.emplace_back(tokens.begin() + begin,
                                tokens.begin() + std::min(begin + positions, std::ssize(tokens)));
  }
  require<InputError>(!text.windows.empty(), "{}: no document has two tokens, so there is nothing to predict",
                      path.string());
  return text;
}

NllSum score_windows(Executor& executor, std::span<const std::vector<int32_t>> windows) {
  std::vector<ScoredPrompt> prompts;
  for (const std::vector<int32_t>& window : windows)
    prompts.push_back({.tokens = {window[0]}, .targets = {{window.begin() + 1, window.end()}}});
  NllSum sum;
  for (const PromptScore& score : score_prompts(executor, prompts))
    for (const float log_probability : score[0].log_probabilities) {
      sum.nll -= static_cast<double>(log_probability);
      ++sum.tokens;
    }
  return sum;
}

}  // namespace loci
