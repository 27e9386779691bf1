#include "eval/evaluation.h"

#include "runtime/clock.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// A record's prompts as tokens, in the order of its prompts.
struct PreparedRecord {
  std::vector<PreparedPrompt> prompts;

  std::vector<ScoredPrompt> parts() const {
    std::vector<ScoredPrompt> all;
    for (const PreparedPrompt& prompt : prompts) all.insert(all.end(), prompt.parts.begin(), prompt.parts.end());
    return all;
  }
};

PreparedRecord prepare(const EvalRecord& record, const Tokenizer& tokenizer, TeacherForcing forcing) {
  PreparedRecord prepared;
  for (const EvalPrompt& prompt : record.prompts)
    prepared.prompts.push_back(prepare_prompt(prompt, tokenizer, forcing));
  return prepared;
}

RecordResult make_result(const EvalRecord& record, const PreparedRecord& prepared, const BeforeAfter& scores) {
  RecordResult result;
  result.case_id = record.edit.case_id;
  result.request = record.request;
  size_t first = 0;
  for (size_t p = 0; p < record.prompts.size(); ++p) {
    const EvalPrompt& prompt = record.prompts[p];
    const PreparedPrompt& tokens = prepared.prompts[p];
    const size_t count = tokens.parts.size();
    const auto join = [&](const std::vector<PromptScore>& parts) {
      return parts.empty() ? PromptScore() : tokens.join(std::span(parts).subspan(first, count));
    };
    result.prompts.push_back(
        {prompt.kind, prompt.text, prompt.targets, tokens.target_tokens, join(scores.before), join(scores.after)});
    first += count;
  }
  return result;
}

}  // namespace

std::vector<RecordResult> evaluate_own_edits(Executor& executor, const Tokenizer& tokenizer, TeacherForcing forcing,
                                             std::span<const EvalRecord> records, std::span<const EditBatch> batches) {
  const auto start = Clock::now();
  std::vector<PreparedRecord> prepared;
  std::vector<EditedPrompts> groups;
  for (const EditBatch& batch : batches) {
    groups.push_back({EditedModel(batch.changes), {}});
    for (size_t e = 0; e < batch.edits.size(); ++e) {
      require<ShapeError>(prepared.size() < records.size(), "more edits than the {} records", records.size());
      prepared.push_back(prepare(records[prepared.size()], tokenizer, forcing));
      for (ScoredPrompt& part : prepared.back().parts()) groups.back().prompts.push_back(std::move(part));
    }
  }
  require<ShapeError>(records.size() == prepared.size(), "{} edits for {} records", prepared.size(), records.size());
  const std::vector<BeforeAfter> scores = score_edits(executor, groups);
  const double seconds = seconds_since(start) / static_cast<double>(records.size());
  std::vector<RecordResult> results;
  for (size_t b = 0; b < batches.size(); ++b) {
    const double norm = norm_of(batches[b].changes);
    auto first = std::ptrdiff_t{0};
    for (size_t e = 0; e < batches[b].edits.size(); ++e) {
      const size_t r = results.size();
      const auto end = first + std::ssize(prepared[r].parts());
      results.push_back(make_result(records[r], prepared[r],
                                    {{scores[b].before.begin() + first, scores[b].before.begin() + end},
                                     {scores[b].after.begin() + first, scores[b].after.begin() + end}}));
      results.back().update_norm = norm;
      results.back().score_seconds = seconds;
      first = end;
    }
  }
  return results;
}

namespace {

/// Records scored with one model, or with two.
std::vector<RecordResult> evaluate_models(Executor& before, Executor* after, const Tokenizer& tokenizer,
                                          TeacherForcing forcing, std::span<const EvalRecord> records) {
  const auto start = Clock::now();
  std::vector<PreparedRecord> prepared;
  std::vector<ScoredPrompt> prompts;
  for (const EvalRecord& record : records) {
    prepared.push_back(prepare(record, tokenizer, forcing));
    for (ScoredPrompt& part : prepared.back().parts()) prompts.push_back(std::move(part));
  }
  const BeforeAfter all{score_prompts(before, prompts),
                        after ? score_prompts(*after, prompts) : std::vector<PromptScore>()};
  const double seconds = seconds_since(start) / static_cast<double>(records.size());
  std::vector<RecordResult> results;
  auto first = std::ptrdiff_t{0};
  for (size_t r = 0; r < records.size(); ++r) {
    const auto end = first + static_cast<std::ptrdiff_t>(prepared[r].parts().size());
    BeforeAfter scores{{all.before.begin() + first, all.before.begin() + end}, {}};
    if (after) scores.after.assign(all.after.begin() + first, all.after.begin() + end);
    results.push_back(make_result(records[r], prepared[r], scores));
    results.back().score_seconds = seconds;
    first = end;
  }
  return results;
}

}  // namespace

std::vector<RecordResult> evaluate_model(Executor& executor, const Tokenizer& tokenizer, TeacherForcing forcing,
                                         std::span<const EvalRecord> records) {
  return evaluate_models(executor, nullptr, tokenizer, forcing, records);
}

std::vector<RecordResult> evaluate_joint_edits(Executor& original, Executor& edited, const Tokenizer& tokenizer,
                                               TeacherForcing forcing, std::span<const EvalRecord> records) {
  return evaluate_models(original, &edited, tokenizer, forcing, records);
}

}  // namespace loci
