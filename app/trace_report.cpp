#include "app/trace_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "records/subject.h"
#include "runtime/shown_text.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

/// How many facts that were not traced are named on a screen.
constexpr size_t kNamedFacts = 20;
/// How many cells of a prompt's trace are told per kind.
constexpr size_t kStrongestCells = 5;

/// As probabilities and effects are printed.
std::string decimals(double value) { return fixed(value, 4); }

std::string signed_decimals(double value) {
  const std::string text = decimals(value);
  return text.starts_with('-') ? text : "+" + text;
}

std::vector<const StoredTrace*> not_traced(const TraceResult& result) {
  std::vector<const StoredTrace*> facts;
  for (const StoredTrace& stored : result.traces)
    if (!stored.trace.correct) facts.push_back(&stored);
  return facts;
}

Json not_traced_json(const TraceResult& result) {
  Json facts = Json::array();
  for (const StoredTrace* fact : not_traced(result))
    facts.push_back({{"known_id", fact->known_id},
                     {"record", fact->record},
                     {"prompt", fact->prompt},
                     {"expected", fact->attribute},
                     {"predicted", fact->answer},
                     {"probability", fact->trace.high_score}});
  return facts;
}

/// Whether the model predicted the first token of an attribute that has several.
bool is_beginning(const StoredTrace& fact) {
  const std::string_view answer = strip(fact.answer);
  return !answer.empty() && fact.attribute.starts_with(answer);
}

void print_not_traced(const TraceResult& result) {
  const auto facts = not_traced(result);
  if (facts.empty()) return;
  fmt::print("not traced, because the model predicted something else:\n");
  for (size_t i = 0; i < std::min(facts.size(), kNamedFacts); ++i) {
    const StoredTrace& fact = *facts[i];
    const std::string name = result.of_prompt ? "" : fmt::format("fact {}: ", fact.known_id);
    fmt::print("  {}{}: expected {}, predicted {} ({}){}\n", name, shown(fact.prompt), shown(fact.attribute),
               shown(fact.answer), decimals(static_cast<double>(fact.trace.high_score)),
               is_beginning(fact) ? ", which is only its beginning" : "");
  }
  if (facts.size() > kNamedFacts)
    fmt::print("  and {} more, listed in {} (facts whose correct_prediction is 0)\n", facts.size() - kNamedFacts,
               result.output);
}

Json best_json(const BestLayer& best) {
  return {{"mean_of_maxima", best.mean_of_maxima}, {"best_mean", best.best_mean}, {"layer", best.layer}};
}

Json averages_json(const Averages& averages) {
  Json rows = Json::array();
  for (size_t r = 0; r < kTokenRows; ++r) {
    const auto which = static_cast<TokenRow>(r);
    rows.push_back({{"row", token_row_name(which)},
                    {"tokens", averages.row(which).tokens},
                    {"cases", averages.row(which).cases},
                    {"indirect_effect", averages.indirect_effect(which)},
                    {"confidence", averages.row(which).confidence}});
  }
  return {{"cases", averages.cases},
          {"mean_high", averages.mean_high},
          {"mean_low", averages.mean_low},
          {"total_effect", averages.total_effect},
          {"mean_maximum", averages.mean_maximum},
          {"last_subject", best_json(averages.last_subject)},
          {"last_token", best_json(averages.last_token)},
          {"rows", rows}};
}

Json severed_json(const SeveredAverages& averages) {
  Json json = {{"cases", averages.cases}, {"ordinary", averages.ordinary.effect}};
  const auto add = [&](const SeriesName& name, const SeveredMean& mean) {
    if (!mean.effect.empty()) json[name.in_files] = mean.effect;
  };
  visit_series(add, averages);
  return json;
}

Json strongest_json(const StoredTrace& fact, TraceKind kind, int64_t layers) {
  Json cells = Json::array();
  for (const EffectCell& cell : strongest_cells(fact.trace.of(kind), layers, fact.trace.low_score, kStrongestCells))
    cells.push_back({{"token", cell.token},
                     {"text", fact.input_tokens.at(static_cast<size_t>(cell.token))},
                     {"layer", cell.layer},
                     {"indirect_effect", cell.effect}});
  return cells;
}

void print_averages(TraceKind kind, const Averages& averages) {
  fmt::print("{}: total effect {} (clean {}, corrupted {}) over {}\n", trace_kind_name(kind),
             decimals(averages.total_effect), decimals(averages.mean_high), decimals(averages.mean_low),
             count(averages.cases, "fact"));
  for (size_t r = 0; r < kTokenRows; ++r) {
    const AveragedRow& row = averages.rows[r];
    if (row.cases == 0) continue;
    const auto best = static_cast<size_t>(std::max_element(row.mean.begin(), row.mean.end()) - row.mean.begin());
    // The interval of a single fact is not known.
    const std::string interval = row.cases > 1 ? " ± " + decimals(row.confidence[best]) : "";
    fmt::print("  {:<24} largest average indirect effect {}{} at layer {} ({})\n",
               token_row_name(static_cast<TokenRow>(r)), decimals(row.mean[best] - averages.mean_low), interval, best,
               count(row.cases, "fact"));
  }
}

void print_severed(const SeveredAverages& averages) {
  const auto line = [](const SeriesName& name, const SeveredMean& mean) {
    if (mean.effect.empty()) return;
    fmt::print("  {:<24}", name.shown);
    for (const double effect : mean.effect) fmt::print(" {}", decimals(effect));
    fmt::print("\n");
  };
  fmt::print("severed: {} at the last subject token by layer{}\n",
             averages.cases == 1 ? "indirect effect" : "average indirect effect",
             averages.cases == 1 ? "" : ", over " + count(averages.cases, "fact"));
  visit_series(line, averages);
}

void print_strongest(const StoredTrace& fact, TraceKind kind, int64_t layers) {
  for (const EffectCell& cell : strongest_cells(fact.trace.of(kind), layers, fact.trace.low_score, kStrongestCells)) {
    const bool in_subject = cell.token >= fact.subject_range.begin && cell.token < fact.subject_range.end;
    const std::string text = shown(fact.input_tokens.at(static_cast<size_t>(cell.token))) + (in_subject ? "*" : "");
    fmt::print("  {:<6} {:>6} {:>6}  {:<24} {:>15}\n", trace_kind_name(kind), cell.layer, cell.token, text,
               signed_decimals(cell.effect));
  }
}

void print_prompt(const TraceResult& result) {
  const StoredTrace& fact = result.traces.front();
  const std::string answer = shown(fact.answer);
  fmt::print("{} -> {}: probability {} clean, {} with the subject corrupted\n", shown(fact.prompt), answer,
             decimals(static_cast<double>(fact.trace.high_score)), decimals(fact.trace.low_score));
  fmt::print("what restoring adds to the probability of {}, the largest effects of each kind (*: subject token):\n",
             answer);
  fmt::print("  {:<6} {:>6} {:>6}  {:<24} {:>15}\n", "kind", "layer", "token", "", "indirect effect");
  for (const TraceKind kind : result.options.kinds) print_strongest(fact, kind, result.layers);
}

void print_noise_of_prompt(const Noise& noise) {
  fmt::print("noise level {:.6g}", noise.level);
  if (noise.rule.kind == NoiseRule::Kind::subjects)
    fmt::print(
        ", measured on the embeddings of this subject alone; for a level that can be compared between prompts, give "
        "--noise NUMBER, or trace with --facts");
  fmt::print("\n");
}

}  // namespace

int64_t TraceResult::traced() const {
  return std::ranges::count_if(traces, [](const StoredTrace& stored) { return stored.trace.correct; });
}

Json trace_summary(const TraceResult& result) {
  const auto all = std::ssize(result.traces);
  Json summary = {{"output", result.output},
                  {"facts", all},
                  {"traced", result.traced()},
                  {"answered_otherwise", all - result.traced()},
                  {"not_traced", not_traced_json(result)},
                  {"skipped", result.skipped},
                  {"noise_level", result.options.noise.level}};
  for (const TraceKind kind : result.options.kinds) {
    const std::string name(trace_kind_name(kind));
    summary["averages"][name] = averages_json(average_kind(result.traces, kind, result.layers, result.row_rule));
    if (result.of_prompt && result.traced() > 0)
      summary["strongest"][name] = strongest_json(result.traces.front(), kind, result.layers);
  }
  if (!result.options.sever.empty())
    summary["averages"]["severed"] = severed_json(average_severed(result.traces, result.layers));
  return summary;
}

void print_trace(const TraceResult& result) {
  const int64_t traced = result.traced();
  if (result.of_prompt) {
    print_noise_of_prompt(result.options.noise);
  } else {
    fmt::print("{} traced, {} not traced, {} skipped, noise level {:.6g}\n", count(traced, "fact"),
               std::ssize(result.traces) - traced, count(result.skipped, "record"), result.options.noise.level);
  }
  print_not_traced(result);
  if (traced == 0) return;
  if (result.of_prompt) print_prompt(result);
  for (const TraceKind kind : result.options.kinds)
    if (!result.of_prompt) print_averages(kind, average_kind(result.traces, kind, result.layers, result.row_rule));
  if (!result.options.sever.empty()) print_severed(average_severed(result.traces, result.layers));
}

}  // namespace loci::app
