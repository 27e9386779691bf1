#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "model/executor/executor.h"
#include "model/text/tokenizer.h"

/// How well a model predicts a text that no edit is about.
namespace loci {

/// A text as tokens, cut into windows that fit the model's context. Each but the first of a document begins with the
/// last token of the one before, so that every token but a document's first is predicted once.
struct TextWindows {
  std::vector<std::vector<int32_t>> windows;  ///< of two tokens and more

  int64_t predicted_tokens() const;
  std::string sha256() const;  ///< of all tokens
};

/// The first `limit` tokens of a text (model/text/document_source.h), 0: all. Throws InputError for a text that cannot
/// be read, or has no two tokens in a document.
TextWindows read_text_windows(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path,
                              int64_t limit, int64_t positions);

/// A sum over predicted tokens.
struct NllSum {
  double nll = 0;  ///< of -log p, in nats
  int64_t tokens = 0;
};
/// Of some windows, on the executor's model as it is.
NllSum score_windows(Executor& executor, std::span<const std::vector<int32_t>> windows);

}  // namespace loci
