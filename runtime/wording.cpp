#include "runtime/wording.h"

#include <algorithm>
#include <numeric>

namespace loci {
namespace {

OptionStyle option_style = OptionStyle::plain;

/// The candidate that is nearest to `word`; empty where none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // An abbreviation is as near as a slip of the finger.
    const bool begins = word.size() >= 2 && candidate.starts_with(word);
    const size_t distance = begins ? 1 : edit_distance(word, candidate);
    if (distance < best_distance) best = candidate;
    best_distance = std::min(best_distance, distance);
  }
  return best;
}

}  // namespace

std::string option(std::string_view name) {
  return option_style == OptionStyle::dashes ? fmt::format("--{}", name) : std::string(name);
}

void set_option_style(OptionStyle style) { option_style = style; }

size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<size_t> before(to.size() + 1), row(to.size() + 1), next(to.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= from.size(); ++i) {
    next[0] = i;
    for (size_t j = 1; j <= to.size(); ++j) {
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + (from[i - 1] != to[j - 1])});
      if (i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1])
        next[j] = std::min(next[j], before[j - 2] + 1);
    }
    before.swap(row);
    row.swap(next);
  }
  return row.back();
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates, std::string_view before,
                         std::string_view after) {
  const std::string found = nearest(word, candidates);
  return found.empty() ? "" : fmt::format("; did you mean {}{}{}?", before, found, after);
}

}  // namespace loci
