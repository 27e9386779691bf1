#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "app/command.h"
#include "model/architecture.h"
#include "model/text/tokenizer.h"

/// The prompts of `predict`, `generate` and `tokenize`.
namespace loci::app {

/// --prompt TEXT (any number of times) or --prompts FILE.
struct PromptOptions {
  std::vector<std::string> texts;
  std::string file;

  /// Whether any are named; `--prompt ""` names one.
  bool given() const { return !file.empty() || !texts.empty(); }
  /// All of them. Throws InputError for a file that does not hold prompts.
  std::vector<std::string> read() const;
};
void add_prompt_options(Command& command, PromptOptions& options);

struct Prompt {
  std::string text;
  std::vector<int32_t> tokens;
};

/// The prompts as tokens. An empty prompt is the start of a text: <|endoftext|>. Throws InputError naming the prompt
/// for one that is longer than the model's context.
std::vector<Prompt> encode_prompts(const PromptOptions& options, const Tokenizer& tokenizer,
                                   const Architecture& config);

}  // namespace loci::app
