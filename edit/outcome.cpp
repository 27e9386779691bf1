#include "edit/outcome.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "edit/edit.h"
#include "edit/scoring.h"

namespace loci {
namespace {

/// The published code's stand-in for an unknown object.
constexpr std::string_view kUnknownTarget = "<|endoftext|>";

/// The bare prompt with the new target and, where it is known and the model can say it there, the true one.
ScoredPrompt question_of(const EditRequest& request, const Tokenizer& tokenizer, const Architecture& config) {
  const std::string bare = bare_prompt(request);
  ScoredPrompt prompt{tokenizer.encode_ids(bare), {target_tokens(tokenizer, bare, request.target_new)}};
  if (request.target_true.empty() || request.target_true == kUnknownTarget) return prompt;
  std::vector<int32_t> target = target_tokens(tokenizer, bare, request.target_true);
  const bool fits = static_cast<int64_t>(prompt.tokens.size() + target.size()) <= config.positions + 1 &&
                    std::ranges::all_of(target, [&](int32_t token) { return token < config.vocabulary; });
  if (!target.empty() && fits) prompt.targets.push_back(std::move(target));
  return prompt;
}

TargetProbability probability_of(const TargetScore& score) {
  double sum = 0;
  for (const float log_probability : score.log_probabilities) sum += static_cast<double>(log_probability);
  return {std::exp(sum), std::exp(static_cast<double>(score.log_probabilities.at(0))),
          std::ssize(score.log_probabilities)};
}

/// Rows that pad a vocabulary belong to no token.
std::string token_text(const Tokenizer& tokenizer, int32_t token) {
  return token < tokenizer.vocabulary_size() ? tokenizer.decode_text(std::span(&token, 1))
                                             : fmt::format("<token {}>", token);
}

/// The probability of the most likely token is known where that begins a target; else it is asked for next.
constexpr double kAskNext = -1;

PromptAnswer answer_of(const PromptScore& score, const ScoredPrompt& prompt, const Tokenizer& tokenizer) {
  PromptAnswer answer;
  answer.target_new = probability_of(score.at(0));
  if (score.size() > 1) answer.target_true = probability_of(score[1]);
  answer.says_new = score[0].best == prompt.targets[0];
  const int32_t best = score[0].best.at(0);
  answer.most_likely = token_text(tokenizer, best);
  answer.most_likely_probability = kAskNext;
  for (size_t t = score.size(); t-- > 0;)
    if (prompt.targets[t][0] == best) answer.most_likely_probability = probability_of(score[t]).first;
  return answer;
}

/// With the probability of the most likely token, if it was not known.
void complete(PromptAnswer& answer, const TargetScore& most_likely) {
  if (answer.most_likely_probability < 0) answer.most_likely_probability = probability_of(most_likely).first;
}

void write_target(H5File& file, const std::string& group, const std::string& which, const std::string& when,
                  const TargetProbability& target) {
  write_attribute(file, group, fmt::format("probability_{}_{}", which, when), target.whole);
  write_attribute(file, group, fmt::format("first_token_probability_{}_{}", which, when), target.first);
}

void write_answer(H5File& file, const std::string& group, const std::string& when, const PromptAnswer& answer) {
  write_target(file, group, "new", when, answer.target_new);
  if (answer.target_true) write_target(file, group, "true", when, *answer.target_true);
  write_attribute(file, group, "most_likely_" + when, answer.most_likely);
  write_attribute(file, group, "most_likely_probability_" + when, answer.most_likely_probability);
  write_attribute(file, group, "says_new_" + when, static_cast<int64_t>(answer.says_new));
}

TargetProbability read_target(const H5File& file, const std::string& group, const std::string& which,
                              const std::string& when) {
  return {read_double_attribute(file, group, fmt::format("probability_{}_{}", which, when)),
          read_double_attribute(file, group, fmt::format("first_token_probability_{}_{}", which, when)),
          read_int_attribute(file, group, fmt::format("target_{}_tokens", which))};
}

PromptAnswer read_answer(const H5File& file, const std::string& group, const std::string& when) {
  PromptAnswer answer;
  answer.target_new = read_target(file, group, "new", when);
  if (has_attribute(file, group, "probability_true_" + when))
    answer.target_true = read_target(file, group, "true", when);
  answer.most_likely = read_string_attribute(file, group, "most_likely_" + when);
  answer.most_likely_probability = read_double_attribute(file, group, "most_likely_probability_" + when);
  answer.says_new = read_int_attribute(file, group, "says_new_" + when) != 0;
  return answer;
}

Json answer_to_json(const PromptAnswer& answer) {
  Json json = {{"p_new", answer.target_new.whole},
               {"p_new_first_token", answer.target_new.first},
               {"most_likely", {{"text", answer.most_likely}, {"probability", answer.most_likely_probability}}},
               {"says_new", answer.says_new}};
  if (answer.target_true) {
    json["p_true"] = answer.target_true->whole;
    json["p_true_first_token"] = answer.target_true->first;
  }
  return json;
}

std::string target_change(std::string_view name, const TargetProbability& before, const TargetProbability& after) {
  std::string text = fmt::format("p({}) {:.3g} -> {:.3g}", name, before.whole, after.whole);
  if (after.tokens > 1) text += fmt::format(" (its first token {:.3g} -> {:.3g})", before.first, after.first);
  return text;
}

}  // namespace

std::vector<EditOutcome> score_outcomes(Executor& executor, const Tokenizer& tokenizer,
                                        std::span<const EditBatch> batches) {
  std::vector<EditedPrompts> groups;
  for (const EditBatch& batch : batches) {
    groups.push_back({EditedModel(batch.changes), {}});
    for (const Edit& edit : batch.edits)
      groups.back().prompts.push_back(question_of(edit.request, tokenizer, executor.model().config()));
  }
  const std::vector<BeforeAfter> scores = score_edits(executor, groups);
  std::vector<EditOutcome> outcomes;
  std::vector<EditedPrompts> best;  // questions about the most likely tokens
  std::vector<size_t> asking;
  for (size_t g = 0; g < groups.size(); ++g) {
    best.push_back({groups[g].model, {}});
    for (size_t p = 0; p < groups[g].prompts.size(); ++p) {
      const ScoredPrompt& prompt = groups[g].prompts[p];
      const PromptScore &before = scores[g].before[p], &after = scores[g].after[p];
      outcomes.push_back({answer_of(before, prompt, tokenizer), answer_of(after, prompt, tokenizer), {}});
      if (outcomes.back().before.most_likely_probability >= 0 && outcomes.back().after.most_likely_probability >= 0)
        continue;
      best.back().prompts.push_back({prompt.tokens, {{before[0].best[0]}, {after[0].best[0]}}});
      asking.push_back(outcomes.size() - 1);
    }
  }
  auto asked = asking.begin();
  for (const BeforeAfter& answers : score_edits(executor, best))
    for (size_t p = 0; p < answers.before.size(); ++p, ++asked) {
      complete(outcomes[*asked].before, answers.before[p][0]);
      complete(outcomes[*asked].after, answers.after[p][1]);
    }
  return outcomes;
}

std::vector<PromptAnswer> answer_bare_prompts(Executor& executor, const Tokenizer& tokenizer,
                                              std::span<const EditRequest> requests) {
  std::vector<ScoredPrompt> prompts, best;
  for (const EditRequest& request : requests)
    prompts.push_back(question_of(request, tokenizer, executor.model().config()));
  const std::vector<PromptScore> scores = score_prompts(executor, prompts);
  std::vector<PromptAnswer> answers;
  std::vector<size_t> asking;
  for (size_t i = 0; i < requests.size(); ++i) {
    answers.push_back(answer_of(scores[i], prompts[i], tokenizer));
    if (answers[i].most_likely_probability >= 0) continue;
    best.push_back({prompts[i].tokens, {{scores[i][0].best[0]}}});
    asking.push_back(i);
  }
  const std::vector<PromptScore> of_best = score_prompts(executor, best);
  for (size_t i = 0; i < asking.size(); ++i) complete(answers[asking[i]], of_best[i][0]);
  return answers;
}

void write_outcome(H5File& file, const std::string& group, const EditOutcome& outcome) {
  write_attribute(file, group, "target_new_tokens", outcome.after.target_new.tokens);
  if (outcome.after.target_true) write_attribute(file, group, "target_true_tokens", outcome.after.target_true->tokens);
  write_answer(file, group, "before", outcome.before);
  write_answer(file, group, "after", outcome.after);
  if (outcome.with_all) write_answer_with_all(file, group, *outcome.with_all);
  write_attribute(file, group, "took", static_cast<int64_t>(outcome.took()));
}

void write_answer_with_all(H5File& file, const std::string& group, const PromptAnswer& answer) {
  write_answer(file, group, "with_all", answer);
}

std::optional<EditOutcome> read_outcome(const H5File& file, const std::string& group) {
  if (!has_attribute(file, group, "took")) return std::nullopt;
  EditOutcome outcome{read_answer(file, group, "before"), read_answer(file, group, "after"), {}};
  if (has_attribute(file, group, "says_new_with_all")) outcome.with_all = read_answer(file, group, "with_all");
  return outcome;
}

Json outcome_to_json(const EditOutcome& outcome) {
  Json json = {
      {"before", answer_to_json(outcome.before)}, {"after", answer_to_json(outcome.after)}, {"took", outcome.took()}};
  if (outcome.with_all) json["with_all_edits"] = answer_to_json(*outcome.with_all);
  return json;
}

std::string describe_change(const PromptAnswer& before, const PromptAnswer& after) {
  std::string text = target_change("new", before.target_new, after.target_new);
  if (before.target_true && after.target_true)
    text += ", " + target_change("true", *before.target_true, *after.target_true);
  return text + fmt::format(", most likely {} {:.3g} -> {} {:.3g}", Json(before.most_likely).dump(),
                            before.most_likely_probability, Json(after.most_likely).dump(),
                            after.most_likely_probability);
}

}  // namespace loci
