#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "app/common.h"
#include "app/edit_options.h"
#include "kernels/softmax.h"
#include "model/executor.h"
#include "model/tokenizer.h"
#include "runtime/error.h"
#include "runtime/json.h"

namespace loci::app {
namespace {

struct PredictOptions {
  CommonOptions common;
  std::string prompt;
  std::string prompts;
  GivenEdits edits;
  int64_t top = 10;
};

struct Prompt {
  std::string text;
  std::vector<int32_t> tokens;
};

std::vector<Prompt> make_prompts(const PredictOptions& options, const Tokenizer& tokenizer, const GptConfig& config) {
  const bool from_file = !options.prompts.empty();
  std::vector<Prompt> prompts;
  for (const std::string& text : from_file ? read_prompt_texts(options.prompts) : std::vector{options.prompt}) {
    const std::string where = from_file ? fmt::format("{}: prompt {}", options.prompts, prompts.size()) : "--prompt";
    Prompt prompt{text, tokenizer.encode_ids(text)};
    require<InputError>(!prompt.tokens.empty(), "{}: is empty; give at least one character", where);
    const auto length = static_cast<int64_t>(prompt.tokens.size());
    require<InputError>(length <= config.positions, "{}: takes {} tokens, but the model reads {}", where, length,
                        config.positions);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

struct Candidate {
  int32_t id;
  double probability;
};

/// The `top` most probable of one row; lower ids first where probabilities are equal.
std::vector<Candidate> most_probable(std::span<const float> probabilities, int64_t top) {
  std::vector<int32_t> ids(probabilities.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min<std::ptrdiff_t>(top, static_cast<std::ptrdiff_t>(ids.size()));
  const auto more_probable = [&](int32_t a, int32_t b) {
    const float p = probabilities[static_cast<size_t>(a)], q = probabilities[static_cast<size_t>(b)];
    return p != q ? p > q : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), more_probable);
  std::vector<Candidate> candidates;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    candidates.push_back(
        {ids[static_cast<size_t>(i)], probabilities[static_cast<size_t>(ids[static_cast<size_t>(i)])]});
  }
  return candidates;
}

/// The distributions behind the prompts of one wave.
std::vector<std::vector<Candidate>> predict_wave(Executor& executor, std::span<const Prompt> prompts, int64_t top) {
  Plan plan;
  for (const Prompt& prompt : prompts) {
    Sequence sequence;
    sequence.tokens = prompt.tokens;
    const auto index = static_cast<int64_t>(plan.sequences.size());
    plan.wanted.push_back({index, static_cast<int64_t>(prompt.tokens.size()) - 1});
    plan.sequences.push_back(std::move(sequence));
  }
  Run run = executor.run(plan);
  softmax(executor.context(), run.logits.view(), run.logits.view());
  const std::vector<float> probabilities = run.logits.to_host();
  for (const float probability : probabilities)
    require<NumericalError>(std::isfinite(probability),
                            "the model gives probabilities that are not finite; its weights, "
                            "or the edits, are damaged");
  const auto vocabulary = static_cast<size_t>(run.logits.cols());
  std::vector<std::vector<Candidate>> results;
  for (size_t i = 0; i < prompts.size(); ++i) {
    results.push_back(most_probable(std::span(probabilities).subspan(i * vocabulary, vocabulary), top));
  }
  return results;
}

std::vector<std::vector<Candidate>> predict(Executor& executor, std::span<const Prompt> prompts, int64_t top) {
  const int64_t limit = executor.rows_per_wave(1);
  std::vector<std::vector<Candidate>> results;
  for (std::span<const Prompt> left = prompts; !left.empty();) {
    const auto rows_of = [](const Prompt& prompt) { return static_cast<int64_t>(prompt.tokens.size()); };
    const size_t count = wave_length(left, limit, rows_of);
    for (auto& result : predict_wave(executor, left.first(count), top)) results.push_back(std::move(result));
    left = left.subspan(count);
  }
  return results;
}

Json to_json(const Prompt& prompt, std::span<const Candidate> candidates, const Tokenizer& tokenizer) {
  Json tokens = Json::array();
  for (const Candidate& candidate : candidates) {
    tokens.push_back({{"id", candidate.id},
                      {"text", tokenizer.decode_text(std::span(&candidate.id, 1))},
                      {"probability", candidate.probability}});
  }
  return {{"prompt", prompt.text}, {"tokens", std::move(tokens)}};
}

void print_text(const Prompt& prompt, std::span<const Candidate> candidates, const Tokenizer& tokenizer) {
  fmt::print("{}\n", prompt.text);
  for (const Candidate& candidate : candidates) {
    fmt::print("  {:8.5f}  {}\n", candidate.probability,
               Json(tokenizer.decode_text(std::span(&candidate.id, 1))).dump());
  }
}

void run(const PredictOptions& options) {
  Context context = options.common.make_context();
  Model model = Model::load(context, options.common.model);
  const Tokenizer tokenizer = Tokenizer::load(options.common.model);
  require_embedded(tokenizer, model.config(), options.common.model);
  const std::vector<Prompt> prompts = make_prompts(options, tokenizer, model.config());
  apply_given_edits(context, model, options.edits);
  Executor executor(context, model);
  const auto results = predict(executor, prompts, options.top);
  Json list = Json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (options.common.json)
      list.push_back(to_json(prompts[i], results[i], tokenizer));
    else
      print_text(prompts[i], results[i], tokenizer);
  }
  if (options.common.json) print_json({{"results", std::move(list)}});
}

}  // namespace

void add_predict(CLI::App& app) {
  auto options = std::make_shared<PredictOptions>();
  CLI::App* command = app.add_subcommand("predict", "next-token distribution behind prompts");
  add_common_options(*command, options->common);
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "one prompt");
  command->add_option("--prompts", options->prompts, "JSON list of prompts, or of objects with a field \"prompt\"")
      ->type_name("FILE.json")
      ->excludes(prompt);
  add_given_edits(*command, options->edits);
  command->add_option("--top", options->top, "how many tokens to list")->check(positive)->capture_default_str();
  command->callback([options] {
    require<InputError>(!options->prompt.empty() || !options->prompts.empty(),
                        "predict needs --prompt TEXT or --prompts FILE.json");
    run(*options);
  });
}

}  // namespace loci::app
