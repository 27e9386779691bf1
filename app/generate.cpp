#include <fmt/format.h>

#include <string>
#include <vector>

#include "app/common.h"
#include "app/edit_options.h"
#include "model/generation.h"
#include "model/tokenizer.h"
#include "runtime/error.h"
#include "runtime/json.h"

namespace loci::app {
namespace {

struct GenerateOptions {
  CommonOptions common;
  std::vector<std::string> prompts;
  std::string prompts_file;
  GivenEdits edits;
  GenerationOptions generation;
  int64_t samples = 1;
  bool ignore_end_of_text = false;
};

/// An empty prompt stands for the start of a text.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<int32_t> ids = tokenizer.encode_ids(prompt);
  if (!ids.empty()) return ids;
  require<InputError>(tokenizer.end_of_text().has_value(),
                      "the prompt is empty and the tokenizer has no <|endoftext|> to start from: give a prompt");
  return {*tokenizer.end_of_text()};
}

void run_generate(const GenerateOptions& options, const Json& configuration) {
  Context context = options.common.make_context();
  Model model = Model::load(context, options.common.model);
  apply_given_edits(context, model, options.edits);
  const Tokenizer tokenizer = Tokenizer::load(options.common.model);
  require_embedded(tokenizer, model.config(), options.common.model);
  Executor executor(context, model);

  const std::vector<std::string> prompts =
      options.prompts_file.empty() ? options.prompts : read_prompt_texts(options.prompts_file);
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& prompt : prompts)
    encoded.insert(encoded.end(), static_cast<size_t>(options.samples), encode_prompt(tokenizer, prompt));
  GenerationOptions generation = options.generation;
  generation.seed = options.common.seed;
  if (!options.ignore_end_of_text) generation.stop_token = tokenizer.end_of_text().value_or(-1);
  const auto texts = generate(executor, encoded, generation);

  Json results = Json::array();
  for (size_t p = 0; p < prompts.size(); ++p) {
    Json samples = Json::array();
    for (size_t s = 0; s < static_cast<size_t>(options.samples); ++s) {
      const auto& ids = texts[p * static_cast<size_t>(options.samples) + s];
      const std::string text = tokenizer.decode_text(ids);
      if (!options.common.json) fmt::print("{}{}\n", prompts[p], text);
      samples.push_back({{"text", text}, {"tokens", ids}});
    }
    results.push_back({{"prompt", prompts[p]}, {"samples", samples}});
  }
  if (options.common.json) print_json({{"configuration", configuration}, {"results", results}});
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "continue prompts");
  add_common_options(*command, options->common);
  CLI::Option* prompt = command->add_option("--prompt", options->prompts,
                                            "a text to continue (may be given again; "
                                            "empty: the start of a text)");
  CLI::Option* file = command->add_option("--prompts", options->prompts_file,
                                          "JSON list of prompts, or of objects with a field \"prompt\"");
  file->excludes(prompt)->type_name("FILE.json");
  command->add_option("--max-tokens", options->generation.max_tokens, "new tokens a text")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--samples", options->samples, "texts a prompt")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--top-k", options->generation.top_k, "draw among the k most probable tokens (0: all)")
      ->check(not_negative)
      ->capture_default_str();
  command->add_option("--temperature", options->generation.temperature, "0: always the most probable token")
      ->check(not_negative)
      ->capture_default_str();
  command->add_flag("--ignore-end-of-text", options->ignore_end_of_text, "do not stop at <|endoftext|>");
  add_given_edits(*command, options->edits);
  command->callback([options, command] {
    require<InputError>(!options->prompts.empty() || !options->prompts_file.empty(),
                        "generate: give a prompt by --prompt or --prompts");
    run_generate(*options, resolved_configuration(*command, options->common));
  });
}

}  // namespace loci::app
