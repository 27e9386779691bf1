#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/prompts.h"
#include "kernels/softmax.h"
#include "model/executor/executor.h"
#include "runtime/error.h"
#include "runtime/io/json.h"

namespace loci::app {
namespace {

struct PredictOptions {
  CommonOptions common;
  PromptOptions prompts;
  GivenEdits edits;
  int64_t top = 10;
};

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
    const float p = probabilities[a], q = probabilities[b];
    return p != q ? p > q : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), more_probable);
  std::vector<Candidate> candidates;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    candidates.push_back({ids[i], probabilities[ids[i]]});
  }
  return candidates;
}

/// The distributions after the prompts of one wave.
std::vector<std::vector<Candidate>> predict_wave(Executor& executor, std::span<const Prompt> prompts, int64_t top) {
  Plan plan;
  for (const Prompt& prompt : prompts) {
    Sequence sequence;
    sequence.tokens = prompt.tokens;
    const auto index = std::ssize(plan.sequences);
    plan.wanted.push_back({index, std::ssize(prompt.tokens) - 1});
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
    const auto rows_of = [](const Prompt& prompt) { return std::ssize(prompt.tokens); };
    const size_t count = wave_length(left, limit, rows_of);
    for (auto& result : predict_wave(executor, left.first(count), top)) results.push_back(std::move(result));
    left = left.subspan(count);
  }
  return results;
}

Json to_json(const Prompt& prompt, std::span<const Candidate> candidates, const Tokenizer& tokenizer) {
  Json tokens = Json::array();
  for (const Candidate& candidate : candidates) {
    // A row of a padded embedding has no token.
    const Json text =
        tokenizer.has_token(candidate.id) ? Json(tokenizer.decode_text(std::span(&candidate.id, 1))) : Json();
    tokens.push_back({{"id", candidate.id}, {"text", text}, {"probability", candidate.probability}});
  }
  return {{"prompt", prompt.text}, {"tokens", std::move(tokens)}};
}

void print_prediction(const Json& result) {
  fmt::print("{}\n", result["prompt"].get<std::string>());
  for (const Json& token : result["tokens"]) {
    const std::string text = token["text"].is_null()
                                 ? fmt::format("row {} of the embedding, which has no token", token["id"].dump())
                                 : token["text"].dump();
    fmt::print("  {:<10.4g} {}\n", token["probability"].get<double>(), text);
  }
}

void run(const PredictOptions& options) {
  Context context = options.common.make_context();
  ReadyModel ready = load_model(context, options.common);
  const std::vector<Prompt> prompts = encode_prompts(options.prompts, ready.tokenizer, ready.model.config());
  apply_given_edits(context, ready.model, options.edits);
  Executor executor(context, ready.model);
  const auto candidates = predict(executor, prompts, options.top);
  Json results = Json::array();
  for (size_t i = 0; i < prompts.size(); ++i) results.push_back(to_json(prompts[i], candidates[i], ready.tokenizer));
  if (options.common.json) return print_json({{"results", std::move(results)}});
  for (const Json& result : results) print_prediction(result);
}

}  // namespace

void add_predict(Commands& commands) {
  auto options = std::make_shared<PredictOptions>();
  Command& command = commands.add("predict", "the most likely next tokens after prompts");
  command.usage = "MODEL --prompt TEXT | --prompts FILE [options]";
  command.example = "loci predict data/model --prompt 'The Eiffel Tower is located in the city of' --top 5";
  command.page = "README.md";
  add_prompt_options(command, options->prompts);
  add_given_edits(command, options->edits);
  command.add({.name = "top", .value = &options->top, .type = "N", .help = "how many tokens to list", .min = 1});
  add_common_options(command, options->common, {});
  command.run = [options] {
    require<UsageError>(options->prompts.given(), "a prompt is missing: give --prompt TEXT or --prompts FILE");
    run(*options);
  };
}

}  // namespace loci::app
