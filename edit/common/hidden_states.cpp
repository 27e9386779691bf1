#include "edit/common/hidden_states.h"

#include <algorithm>

namespace loci {
namespace {

/// Rows at a site of the fact tokens of prompts, [prompts, width of the site] on the host.
std::vector<float> rows_at_lookups(Executor& executor, BlockSite at, const TemplatePrefixes& prefixes,
                                   std::span<const EditPrompt* const> prompts) {
  const int64_t width = site_width(executor.model().config(), at.site);
  std::vector<float> rows;
  for (auto left = prompts; !left.empty();) {
    const size_t count =
        wave_length(left, executor.rows_per_wave(), [](const EditPrompt* prompt) { return prompt->lookup + 1; });
    Tensor taps(executor.context(), static_cast<int64_t>(count), width);
    Plan plan;
    plan.stop = StopAfter{at.site, at.layer};
    plan.tap_output = taps.view();
    for (const EditPrompt* prompt : left.first(count)) {
      const auto match = prefixes.longest(prompt->tokens, prompt->lookup);
      const auto sequence = std::ssize(plan.sequences);
      plan.sequences.push_back(
          {.tokens = {prompt->tokens.begin() + match.length, prompt->tokens.begin() + prompt->lookup + 1},
           .first_position = match.length,
           .base = match.recording});
      plan.taps.push_back({sequence, prompt->lookup, at.site, at.layer, sequence});
    }
    executor.run(plan);
    const std::vector<float> found = taps.to_host();
    rows.insert(rows.end(), found.begin(), found.end());
    left = left.subspan(count);
  }
  return rows;
}

/// The part of a prompt in the key of its request.
double share_of(const PreparedRequest& request, size_t prompt) {
  const bool bare = prompt == 0;
  const int64_t others = request.total_weight - 1;
  if (others <= 0) return bare ? 1 : 0;
  const int64_t among_others = request.prompts[prompt].weight - (bare ? 1 : 0);
  return (bare ? 0.5 : 0) + 0.5 * static_cast<double>(among_others) / static_cast<double>(others);
}

}  // namespace

std::vector<double> grouped_keys(Executor& executor, int64_t layer, const TemplatePrefixes& prefixes,
                                 std::span<const PreparedRequest> requests) {
  std::vector<const EditPrompt*> prompts;
  for (const PreparedRequest& request : requests)
    for (const EditPrompt& prompt : request.prompts) prompts.push_back(&prompt);
  const std::vector<float> rows = rows_at_lookups(executor, {Site::mlp_key, layer}, prefixes, prompts);
  const auto width = static_cast<size_t>(executor.model().config().mlp_width);
  std::vector<double> keys(requests.size() * width);
  auto row = rows.begin();
  for (size_t r = 0; r < requests.size(); ++r)
    for (size_t p = 0; p < requests[r].prompts.size(); ++p) {
      const double share = share_of(requests[r], p);
      for (size_t i = 0; i < width; ++i) keys[r * width + i] += share * static_cast<double>(*row++);
    }
  return keys;
}

std::vector<float> bare_states(Executor& executor, BlockSite at, const TemplatePrefixes& prefixes,
                               std::span<const PreparedRequest> requests) {
  std::vector<const EditPrompt*> prompts;
  for (const PreparedRequest& request : requests) prompts.push_back(&request.prompts[0]);
  return rows_at_lookups(executor, at, prefixes, prompts);
}

}  // namespace loci
