#include <fmt/format.h>

#include <string>
#include <vector>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/prompts.h"
#include "model/families/families.h"
#include "model/generation.h"
#include "runtime/error.h"
#include "runtime/io/json.h"

namespace loci::app {
namespace {

struct GenerateOptions {
  CommonOptions common;
  PromptOptions prompts;
  GivenEdits edits;
  GenerationOptions generation;
  int64_t samples = 1;
  bool ignore_end_of_text = false;
};

/// <|endoftext|>, and what the model's configuration says ends a text.
std::vector<int32_t> end_tokens(const ReadyModel& ready, const std::string& folder) {
  std::vector<int32_t> ids;
  if (ready.tokenizer.end_of_text()) ids.push_back(*ready.tokenizer.end_of_text());
  for (const int64_t id : read_end_tokens(folder, ready.model.config())) ids.push_back(static_cast<int32_t>(id));
  return ids;
}

/// Texts of several prompts or samples are told apart by a line before and an empty one between them.
void print_texts(const Json& results) {
  const size_t prompts = results.size(), samples = results[0]["samples"].size();
  bool is_first = true;
  for (size_t p = 0; p < prompts; ++p)
    for (size_t s = 0; s < samples; ++s) {
      if (prompts * samples > 1)
        fmt::print("{}--- prompt {} of {}, sample {} of {}\n", is_first ? "" : "\n", p + 1, prompts, s + 1, samples);
      fmt::print("{}{}\n", results[p]["prompt"].get<std::string>(),
                 results[p]["samples"][s]["text"].get<std::string>());
      is_first = false;
    }
}

void run_generate(const GenerateOptions& options, const Json& configuration) {
  Context context = options.common.make_context();
  ReadyModel ready = load_model(context, options.common);
  apply_given_edits(context, ready.model, options.edits);
  Executor executor(context, ready.model);

  const std::vector<Prompt> prompts = encode_prompts(options.prompts, ready.tokenizer, ready.model.config());
  std::vector<std::vector<int32_t>> encoded;
  for (const Prompt& prompt : prompts)
    encoded.insert(encoded.end(), static_cast<size_t>(options.samples), prompt.tokens);
  GenerationOptions generation = options.generation;
  generation.seed = options.common.seed;
  generation.tokenizer = &ready.tokenizer;
  if (!options.ignore_end_of_text) generation.stop_tokens = end_tokens(ready, options.common.model);
  const auto texts = generate(executor, encoded, generation);

  Json results = Json::array();
  for (size_t p = 0; p < prompts.size(); ++p) {
    Json samples = Json::array();
    for (size_t s = 0; s < static_cast<size_t>(options.samples); ++s) {
      const auto& ids = texts[p * static_cast<size_t>(options.samples) + s];
      samples.push_back({{"text", ready.tokenizer.decode_text(ids)}, {"tokens", ids}});
    }
    results.push_back({{"prompt", prompts[p].text}, {"samples", std::move(samples)}});
  }
  if (options.common.json)
    print_json({{"configuration", configuration}, {"results", std::move(results)}});
  else
    print_texts(results);
}

}  // namespace

void add_generate(Commands& commands) {
  auto options = std::make_shared<GenerateOptions>();
  Command& command = commands.add("generate", "continue prompts");
  command.usage = "MODEL --prompt TEXT | --prompts FILE [options]";
  command.example = "loci generate data/model --prompt 'The Louvre is' --max-tokens 20 --samples 3";
  command.page = "README.md";
  add_prompt_options(command, options->prompts);
  add_given_edits(command, options->edits);
  command.add({.name = "max-tokens",
               .value = &options->generation.max_tokens,
               .type = "N",
               .help = "new tokens per text",
               .min = 1,
               .max = 1 << 30});
  command.add({.name = "samples",
               .value = &options->samples,
               .type = "N",
               .help = "texts per prompt",
               .min = 1,
               .max = 1 << 20});
  command.add({.name = "top-k",
               .value = &options->generation.top_k,
               .type = "N",
               .help = "draw among the N most likely tokens; 0: among all",
               .min = 0});
  command.add({.name = "temperature",
               .value = &options->generation.temperature,
               .type = "X",
               .help = "divides the logits; 0: always the most likely token",
               .min = 0});
  command.add({.name = "ignore-end-of-text",
               .value = &options->ignore_end_of_text,
               .help = "do not stop at <|endoftext|> and the model's other end tokens"});
  add_common_options(command, options->common, {.seed = Role::setting});
  command.run = [options, &command] {
    require<UsageError>(options->prompts.given(), "a prompt is missing: give --prompt TEXT or --prompts FILE");
    run_generate(*options, resolved_configuration(command, options->common));
  };
}

}  // namespace loci::app
