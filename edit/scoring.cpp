#include "edit/scoring.h"

#include <algorithm>
#include <set>

#include "runtime/error.h"

namespace loci {
namespace {

/// One prompt within a wave, where its scores go, and the edited model that it is scored with.
struct Item {
  const ScoredPrompt* prompt;
  const EditedModel* model;
  PromptScore* before;
  PromptScore* after;  ///< null where there is no edit
};

/// Where the answer to one question of a plan goes.
struct Answer {
  TargetScore* score;
  size_t at;
};

PromptScore empty_score(const ScoredPrompt& prompt) {
  PromptScore score(prompt.targets.size());
  for (size_t t = 0; t < score.size(); ++t) {
    score[t].log_probabilities.resize(prompt.targets[t].size());
    score[t].best.resize(prompt.targets[t].size());
  }
  return score;
}

/// Rows that the continuations of a prompt take: a target's last token is only predicted, never read.
int64_t continuation_rows(const ScoredPrompt& prompt) {
  int64_t rows = 0;
  for (const auto& target : prompt.targets) rows += std::ssize(target) - 1;
  return rows;
}

void check_prompt(const Architecture& config, const ScoredPrompt& prompt) {
  require<InputError>(!prompt.tokens.empty(), "a prompt has no tokens; every prompt needs at least one");
  for (const auto& target : prompt.targets) {
    require<InputError>(!target.empty(), "a target has no tokens; every target needs at least one");
    const size_t length = prompt.tokens.size() + target.size() - 1;
    require<InputError>(static_cast<int64_t>(length) <= config.positions,
                        "a prompt and its target take {} tokens, but the model reads {}; shorten the prompt", length,
                        config.positions);
  }
}

/// A plan under construction together with what is asked of it.
struct AskedPlan {
  Plan plan;
  std::vector<Answer> answers;  // to the plan's questions

  int64_t want(int64_t sequence, int64_t position) {
    plan.wanted.push_back({sequence, position});
    return std::ssize(plan.wanted) - 1;
  }

  void ask(TokenQuestion question, Answer answer) {
    plan.questions.push_back(question);
    answers.push_back(answer);
  }
};

/// The first token of every target is predicted at the prompt's last position.
void ask_first_tokens(AskedPlan& asked, int64_t sequence, const Item& item, PromptScore& score) {
  const int64_t row = asked.want(sequence, std::ssize(item.prompt->tokens) - 1);
  for (size_t t = 0; t < score.size(); ++t) {
    asked.ask({row, item.prompt->targets[t][0]}, {&score[t], 0});
  }
}

/// The other tokens, after the recorded prompt: one short sequence per target.
void ask_other_tokens(AskedPlan& asked, const RecordingPtr& base, const Item& item, PromptScore& score) {
  const int64_t length = std::ssize(item.prompt->tokens);
  for (size_t t = 0; t < score.size(); ++t) {
    const std::vector<int32_t>& target = item.prompt->targets[t];
    if (target.size() == 1) continue;
    const auto sequence = std::ssize(asked.plan.sequences);
    Sequence continuation;
    continuation.tokens.assign(target.begin(), target.end() - 1);
    continuation.first_position = length;
    continuation.base = base;
    asked.plan.sequences.push_back(std::move(continuation));
    for (size_t j = 1; j < target.size(); ++j) {
      const int64_t row = asked.want(sequence, length + static_cast<int64_t>(j) - 1);
      asked.ask({row, target[j]}, {&score[t], j});
    }
  }
}

/// Runs what was asked, if anything.
std::vector<RecordingPtr> run_asked(Executor& executor, const AskedPlan& asked) {
  if (asked.plan.sequences.empty()) return {};
  Run run = executor.run(asked.plan);
  const TokenScores scores = run.scores.collect();
  for (size_t q = 0; q < asked.answers.size(); ++q) {
    const auto [score, at] = asked.answers[q];
    score->log_probabilities[at] = scores.log_probabilities[q];
    score->best[at] = scores.best[asked.plan.questions[q].row];
  }
  return std::move(run.recordings);
}

/// What the items' edited lanes read where they join: these rows are recorded. None where nothing is edited.
std::vector<BlockSite> joining_sites(std::span<const Item> items) {
  std::set<std::pair<int64_t, Site>> wanted;
  for (const Item& item : items)
    if (item.after)
      for (const BlockSite& at : item.model->joining_sites()) wanted.emplace(at.layer, at.site);
  std::vector<BlockSite> sites;
  for (const auto& [layer, site] : wanted) sites.push_back({site, layer});
  return sites;
}

/// The unedited model on one wave; the prompts' recordings, on which the edited models' lanes stand.
std::vector<RecordingPtr> run_before(Executor& executor, std::span<const Item> items) {
  AskedPlan prompts;
  prompts.plan.recorded = joining_sites(items);
  const bool some_edited = std::ranges::any_of(items, [](const Item& item) { return item.after != nullptr; });
  for (size_t i = 0; i < items.size(); ++i) {
    Sequence prompt;
    prompt.tokens = items[i].prompt->tokens;
    prompt.record = some_edited || continuation_rows(*items[i].prompt) > 0;
    prompts.plan.sequences.push_back(std::move(prompt));
    ask_first_tokens(prompts, static_cast<int64_t>(i), items[i], *items[i].before);
  }
  std::vector<RecordingPtr> recordings = run_asked(executor, prompts);
  AskedPlan continuations;
  for (size_t i = 0; i < items.size(); ++i) {
    ask_other_tokens(continuations, recordings[i], items[i], *items[i].before);
  }
  run_asked(executor, continuations);
  return recordings;
}

/// The edited models on one wave. The prompt's lane joins where the edited model first differs; continuations read the
/// edited prompt's keys and values and run the edit in their own few rows.
void run_after(Executor& executor, std::span<const Item> items, std::span<const RecordingPtr> recordings) {
  std::vector<const EditedModel*> models;
  for (const Item& item : items) models.push_back(item.model);
  const DeviceChanges changes(executor.context(), models);
  AskedPlan prompts;
  for (size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    Sequence lane;
    lane.first_layer = item.model->first_layer();
    if (lane.first_layer == 0) {
      lane.tokens = item.prompt->tokens;
    } else {
      lane.rows = std::ssize(item.prompt->tokens);
      lane.base = recordings[i];
    }
    lane.record = continuation_rows(*item.prompt) > 0;
    prompts.plan.sequences.push_back(std::move(lane));
    changes.add_to(prompts.plan, static_cast<int64_t>(i), i);
    ask_first_tokens(prompts, static_cast<int64_t>(i), item, *item.after);
  }
  const std::vector<RecordingPtr> edited = run_asked(executor, prompts);
  AskedPlan continuations;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto first = std::ssize(continuations.plan.sequences);
    ask_other_tokens(continuations, edited[i], items[i], *items[i].after);
    const auto end = std::ssize(continuations.plan.sequences);
    for (int64_t s = first; s < end; ++s) changes.add_to(continuations.plan, s, i);
  }
  run_asked(executor, continuations);
}

void run_wave(Executor& executor, std::span<const Item> items) {
  const std::vector<RecordingPtr> recordings = run_before(executor, items);
  std::vector<Item> edited;
  std::vector<RecordingPtr> bases;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].after == nullptr) continue;
    edited.push_back(items[i]);
    bases.push_back(recordings[i]);
  }
  if (!edited.empty()) run_after(executor, edited, bases);
}

/// How many rows (prompts and continuations) a wave may hold: its recordings stay while its lanes run.
int64_t rows_per_wave(const Executor& executor, int64_t memory_budget, std::span<const BlockSite> recorded_sites) {
  const int64_t recorded = memory_budget / 2 / recorded_row_bytes(executor.model().config(), recorded_sites);
  const int64_t computed = executor.rows_per_wave() / 2;
  return std::max<int64_t>(1, std::min(recorded, computed));
}

void run_waves(Executor& executor, std::span<const Item> items) {
  if (items.empty()) return;
  const int64_t limit = rows_per_wave(executor, executor.context().memory_budget(), joining_sites(items));
  const auto rows_of = [](const Item& item) {
    return std::ssize(item.prompt->tokens) + continuation_rows(*item.prompt);
  };
  for (std::span<const Item> left = items; !left.empty();) {
    const size_t count = wave_length(left, limit, rows_of);
    run_wave(executor, left.first(count));
    left = left.subspan(count);
  }
}

}  // namespace

std::vector<PromptScore> score_prompts(Executor& executor, std::span<const ScoredPrompt> prompts) {
  std::vector<PromptScore> scores;
  std::vector<Item> items;
  scores.reserve(prompts.size());  // items point into it
  for (const ScoredPrompt& prompt : prompts) {
    check_prompt(executor.model().config(), prompt);
    scores.push_back(empty_score(prompt));
    items.push_back({&prompt, nullptr, &scores.back(), nullptr});
  }
  run_waves(executor, items);
  return scores;
}

namespace {

/// A model with weights of its own, for changes that do not run in lanes.
std::vector<PromptScore> score_folded(Executor& executor, const EditedPrompts& group) {
  Model model = executor.model();
  group.model.fold_into(executor.context(), model);
  Executor edited(executor.context(), model);
  return score_prompts(edited, group.prompts);
}

}  // namespace

std::vector<BeforeAfter> score_edits(Executor& executor, std::span<const EditedPrompts> groups) {
  const Architecture& config = executor.model().config();
  std::vector<BeforeAfter> scores(groups.size());
  std::vector<Item> items;
  for (size_t g = 0; g < groups.size(); ++g) {
    const EditedModel& model = groups[g].model;
    for (const Change& change : model.changes()) check_fits(change, config, fmt::format("group {}", g));
    for (const ScoredPrompt& prompt : groups[g].prompts) {
      check_prompt(config, prompt);
      scores[g].before.push_back(empty_score(prompt));
      scores[g].after.push_back(empty_score(prompt));
    }
    if (!model.runs_in_lanes(config)) scores[g].after = score_folded(executor, groups[g]);
    const bool in_lanes = model.runs_in_lanes(config) && !model.changes().empty();
    for (size_t p = 0; p < groups[g].prompts.size(); ++p)
      items.push_back({&groups[g].prompts[p], &model, &scores[g].before[p], in_lanes ? &scores[g].after[p] : nullptr});
  }
  run_waves(executor, items);
  for (size_t g = 0; g < groups.size(); ++g)
    if (groups[g].model.changes().empty()) scores[g].after = scores[g].before;
  return scores;
}

}  // namespace loci
