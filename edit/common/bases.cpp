#include "edit/common/bases.h"

#include <algorithm>
#include <set>

#include "kernels/gemm.h"

namespace loci {
namespace {

/// The distinct token sequences in front of the templates' `{}`, without white space that joins what follows.
std::vector<std::vector<int32_t>> template_tokens(const Tokenizer& tokenizer, std::span<const std::string> templates,
                                                  int64_t positions) {
  std::set<std::vector<int32_t>> distinct;
  for (const std::string& text : templates) {
    std::string prefix = text.substr(0, text.find("{}"));
    while (!prefix.empty() && prefix.back() == ' ') prefix.pop_back();
    if (!prefix.empty()) distinct.insert(tokenizer.encode_ids(prefix, SpecialTokens::parse, positions));
  }
  return {distinct.begin(), distinct.end()};
}

/// One prompt on its way to a base.
struct Entry {
  const EditPrompt* prompt;
  RecordingPtr prefix;  ///< covers [0, lookup); null where that is empty
};

/// Runs the tokens before the fact tokens.
void record_prefixes(Executor& executor, const TemplatePrefixes& prefixes, std::vector<Entry>& entries) {
  Plan plan;
  std::vector<size_t> entry_of;
  for (size_t i = 0; i < entries.size(); ++i) {
    const EditPrompt& prompt = *entries[i].prompt;
    const auto match = prefixes.longest(prompt.tokens, prompt.lookup);
    entries[i].prefix = match.recording;
    if (match.length == prompt.lookup) continue;
    plan.sequences.push_back({.tokens = {prompt.tokens.begin() + match.length, prompt.tokens.begin() + prompt.lookup},
                              .first_position = match.length,
                              .base = match.recording,
                              .record = true});
    entry_of.push_back(i);
  }
  if (plan.sequences.empty()) return;
  const Run run = executor.run(plan);
  for (size_t s = 0; s < entry_of.size(); ++s) entries[entry_of[s]].prefix = run.recordings[s];
}

/// Runs the rows from the fact tokens on up to block `layer` and the queries, keys and values of the next, and taps the
/// keys of the first `keys.rows()` entries.
std::vector<RecordingPtr> record_rest(Executor& executor, int64_t layer, std::span<const Entry> entries, Tensor& keys) {
  Plan plan;
  const bool last = layer + 1 == executor.model().config().layers;
  plan.stop = last ? StopAfter{Site::resid, layer} : StopAfter{Site::attn_out, layer + 1};
  plan.tap_output = keys.view();
  for (size_t i = 0; i < entries.size(); ++i) {
    const EditPrompt& prompt = *entries[i].prompt;
    plan.sequences.push_back({.tokens = {prompt.tokens.begin() + prompt.lookup, prompt.tokens.end()},
                              .first_position = prompt.lookup,
                              .base = entries[i].prefix,
                              .record = true});
    const auto sequence = static_cast<int64_t>(i);
    if (sequence < keys.rows()) plan.taps.push_back({sequence, prompt.lookup, Site::mlp_key, layer, sequence});
  }
  return executor.run(plan).recordings;
}

}  // namespace

TemplatePrefixes::TemplatePrefixes(Executor& executor, const Tokenizer& tokenizer,
                                   std::span<const std::string> templates)
    : tokens_(template_tokens(tokenizer, templates, executor.model().config().positions)) {
  if (tokens_.empty()) return;
  Plan plan;
  for (const auto& tokens : tokens_) plan.sequences.push_back({.tokens = tokens, .base = nullptr, .record = true});
  recordings_ = executor.run(plan).recordings;
}

TemplatePrefixes::Match TemplatePrefixes::longest(std::span<const int32_t> tokens, int64_t limit) const {
  Match best;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const auto compared = static_cast<size_t>(std::min<int64_t>(limit, std::ssize(tokens_[i])));
    const auto end =
        std::mismatch(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(compared), tokens_[i].begin());
    const auto length = static_cast<int64_t>(end.first - tokens.begin());
    if (length > best.length) best = {recordings_[i], length};
  }
  return best;
}

EditBases record_bases(Executor& executor, int64_t layer, const TemplatePrefixes& prefixes,
                       std::span<const PreparedRequest> requests) {
  EditBases bases;
  std::vector<Entry> entries;
  for (const PreparedRequest& request : requests) {
    bases.first_row.push_back(std::ssize(entries));
    for (const EditPrompt& prompt : request.prompts) entries.push_back({&prompt, nullptr});
  }
  const auto prompts = std::ssize(entries);
  for (const PreparedRequest& request : requests) entries.push_back({&request.essence, nullptr});

  record_prefixes(executor, prefixes, entries);
  const Architecture& config = executor.model().config();
  bases.keys = Tensor(executor.context(), prompts, config.mlp_width);
  const std::vector<RecordingPtr> recordings = record_rest(executor, layer, entries, bases.keys);
  for (size_t r = 0; r < requests.size(); ++r) {
    const auto first = recordings.begin() + bases.first_row[r];
    bases.prompts.emplace_back(first, first + static_cast<std::ptrdiff_t>(requests[r].prompts.size()));
    bases.essences.push_back(recordings[static_cast<size_t>(prompts) + r]);
  }
  const auto& block = executor.model().parameters().blocks[layer];
  bases.values = Tensor(executor.context(), prompts, config.width);
  linear(executor.context(), bases.keys.view(), block.down_weight, block.down_bias, bases.values.view());
  return bases;
}

}  // namespace loci
