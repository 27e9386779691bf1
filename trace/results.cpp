#include "trace/results.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "runtime/error.h"

namespace loci {
namespace {

std::string group_of(const StoredTrace& stored) { return "/facts/" + std::to_string(stored.known_id); }

std::string scores_name(TraceKind kind) { return "scores_" + std::string(trace_kind_name(kind)); }

std::string_view kind_long_name(TraceKind kind) {
  switch (kind) {
    case TraceKind::state:
      return "probability of the answer with one block output restored";
    case TraceKind::mlp:
      return "probability of the answer with a window of MLP outputs restored";
    case TraceKind::attn:
      return "probability of the answer with a window of attention outputs restored";
  }
  return "";
}

void write_scores(H5File& file, const std::string& group, const FactTrace& trace, int64_t tokens) {
  for (const TraceKind kind : kTraceKinds) {
    const auto& scores = trace.of(kind);
    if (scores.empty()) continue;
    const auto layers = std::ssize(scores) / tokens;
    write_dataset(file, group + "/" + scores_name(kind), scores, {tokens, layers},
                  {.units = "1", .long_name = std::string(kind_long_name(kind))});
  }
  if (!trace.severed) return;
  const auto write = [&](const SeriesName& name, const std::vector<float>& scores) {
    if (scores.empty()) return;
    write_dataset(file, group + "/severed/" + name.in_files, scores, {1, std::ssize(scores)},
                  {.units = "1", .long_name = "probability of the answer with the subject's last token restored"});
  };
  visit_series(write, *trace.severed);
}

void read_scores(const H5File& file, const std::string& group, int64_t tokens, FactTrace& trace) {
  for (const TraceKind kind : kTraceKinds) {
    const std::string path = group + "/" + scores_name(kind);
    if (h5_exists(file, path)) trace.of(kind) = read_dataset<float>(file, path, {tokens, kAnyExtent}).values;
  }
  if (!h5_exists(file, group + "/severed")) return;
  const auto read = [&](const SeriesName& name, std::vector<float>& scores) {
    const std::string path = group + "/severed/" + name.in_files;
    if (h5_exists(file, path)) scores = read_dataset<float>(file, path, {1, kAnyExtent}).values;
  };
  visit_series(read, trace.severed.emplace());
}

}  // namespace

void write_trace(H5File& file, const StoredTrace& stored) {
  const std::string group = group_of(stored);
  create_group(file, group);
  write_attribute(file, group, "known_id", stored.known_id);
  write_attribute(file, group, "record", stored.record);
  write_attribute(file, group, "subject", stored.subject);
  write_attribute(file, group, "attribute", stored.attribute);
  write_attribute(file, group, "prompt", stored.prompt);
  write_attribute(file, group, "relation_id", stored.relation_id);
  write_attribute(file, group, "answer", stored.answer);
  write_attribute(file, group, "answer_token", stored.trace.answer);
  write_attribute(file, group, "high_score", static_cast<double>(stored.trace.high_score));
  write_attribute(file, group, "correct_prediction", stored.trace.correct ? 1 : 0);
  const std::vector<int64_t> range = {stored.subject_range.begin, stored.subject_range.end};
  write_attribute(file, group, "subject_range", std::span<const int64_t>(range));
  write_dataset(file, group + "/input_ids", stored.input_ids, {stored.tokens()},
                {.units = "1", .long_name = "token ids of the prompt"});
  write_strings(file, group + "/input_tokens", stored.input_tokens, {stored.tokens()},
                {.long_name = "tokens of the prompt, each decoded on its own"});
  if (!stored.trace.correct) return;
  write_attribute(file, group, "low_score", stored.trace.low_score);
  write_attribute(file, group, "window", stored.window);
  write_scores(file, group, stored.trace, stored.tokens());
}

StoredTrace read_trace(const H5File& file, const std::string& group) {
  StoredTrace stored;
  stored.known_id = read_int_attribute(file, group, "known_id");
  stored.record = read_int_attribute(file, group, "record");
  stored.subject = read_string_attribute(file, group, "subject");
  stored.attribute = read_string_attribute(file, group, "attribute");
  stored.prompt = read_string_attribute(file, group, "prompt");
  stored.relation_id = read_string_attribute(file, group, "relation_id");
  stored.answer = read_string_attribute(file, group, "answer");
  stored.trace.answer = static_cast<int32_t>(read_int_attribute(file, group, "answer_token"));
  stored.trace.high_score = static_cast<float>(read_double_attribute(file, group, "high_score"));
  stored.trace.correct = read_int_attribute(file, group, "correct_prediction") != 0;
  const auto range = read_ints_attribute(file, group, "subject_range");
  require<InputError>(range.size() == 2, "{}: {}: attribute \"subject_range\" must hold two numbers",
                      file.path().string(), group);
  stored.subject_range = {range[0], range[1]};
  stored.input_ids = read_dataset<int32_t>(file, group + "/input_ids").values;
  stored.input_tokens = read_strings(file, group + "/input_tokens").values;
  require<InputError>(range[0] >= 0 && range[0] < range[1] && range[1] <= stored.tokens() &&
                          stored.input_tokens.size() == stored.input_ids.size(),
                      "{}: {}: subject_range [{}, {}) or input_tokens do not fit {} tokens; trace the fact again",
                      file.path().string(), group, range[0], range[1], stored.tokens());
  if (!stored.trace.correct) return stored;
  stored.trace.low_score = read_double_attribute(file, group, "low_score");
  stored.window = read_int_attribute(file, group, "window");
  read_scores(file, group, stored.tokens(), stored.trace);
  return stored;
}

void label_trace(H5File& file, const std::string& group) {
  for (const TraceKind kind : kTraceKinds) {
    const std::string path = group + "/" + scores_name(kind);
    if (!h5_exists(file, path)) continue;
    label_axis(file, path, 0, "token");
    attach_scale(file, path, 1, "/layer", "layer");
  }
  visit_series([&](const SeriesName& name) {
    if (const std::string path = group + "/severed/" + name.in_files; h5_exists(file, path))
      attach_scale(file, path, 1, "/layer", "layer");
  });
}

std::vector<StoredTrace> read_traces(const H5File& file) {
  require<InputError>(h5_exists(file, "/facts"), "{}: there is no group /facts: the file holds no traces",
                      file.path().string());
  std::vector<StoredTrace> traces;
  for (const std::string& name : group_members(file, "/facts")) traces.push_back(read_trace(file, "/facts/" + name));
  std::sort(traces.begin(), traces.end(),
            [](const StoredTrace& a, const StoredTrace& b) { return a.record < b.record; });
  return traces;
}

Averages average_kind(const std::vector<StoredTrace>& traces, TraceKind kind, int64_t layers, RowRule rule) {
  std::vector<AveragedCase> cases;
  for (const StoredTrace& stored : traces)
    if (stored.trace.correct)
      cases.push_back({stored.trace.of(kind), stored.tokens(), stored.subject_range, stored.trace.low_score,
                       static_cast<double>(stored.trace.high_score)});
  return average(cases, layers, rule);
}

void write_averages(H5File& file, TraceKind kind, const Averages& averages) {
  const std::string group = "/averages/" + std::string(trace_kind_name(kind));
  create_group(file, group);
  std::vector<std::string> names;
  std::vector<int64_t> tokens, cases;
  std::vector<double> mean, deviation, confidence, effect;
  const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (size_t r = 0; r < kTokenRows; ++r) {
    const AveragedRow& row = averages.rows[r];
    names.emplace_back(token_row_name(static_cast<TokenRow>(r)));
    tokens.push_back(row.tokens);
    cases.push_back(row.cases);
    append(mean, row.mean);
    append(deviation, row.deviation);
    append(confidence, row.confidence);
    append(effect, averages.indirect_effect(static_cast<TokenRow>(r)));
  }
  const std::vector<int64_t> rows = {static_cast<int64_t>(kTokenRows)};
  const std::vector<int64_t> cells = {rows[0], averages.layers};
  write_strings(file, group + "/row", names, rows, {.long_name = "kind of token"});
  write_dataset(file, group + "/tokens", tokens, rows, {.units = "1", .long_name = "tokens pooled"});
  write_dataset(file, group + "/row_cases", cases, rows, {.units = "1", .long_name = "facts with such a token"});
  const auto write_cells = [&](const char* name, const std::vector<double>& values, const char* long_name) {
    write_dataset(file, group + "/" + name, values, cells, {.units = "1", .long_name = long_name});
    label_axis(file, group + "/" + name, 0, "row");
    attach_scale(file, group + "/" + name, 1, "/layer", "layer");
  };
  write_cells("mean", mean, "mean score");
  write_cells("deviation", deviation, "standard deviation of the scores");
  write_cells("confidence", confidence, "half width of the 95 % interval of the mean");
  write_cells("indirect_effect", effect, "average indirect effect: mean score less mean low_score");
  write_attribute(file, group, "cases", averages.cases);
  write_attribute(file, group, "mean_low", averages.mean_low);
  write_attribute(file, group, "mean_high", averages.mean_high);
  write_attribute(file, group, "total_effect", averages.total_effect);
  write_attribute(file, group, "mean_maximum", averages.mean_maximum);
  const auto write_best = [&](const std::string& name, const BestLayer& best) {
    write_attribute(file, group, name + "_mean_of_maxima", best.mean_of_maxima);
    write_attribute(file, group, name + "_best_mean", best.best_mean);
    write_attribute(file, group, name + "_best_layer", best.layer);
  };
  write_best("last_subject", averages.last_subject);
  write_best("last_token", averages.last_token);
}

SeveredAverages average_severed(const std::vector<StoredTrace>& traces, int64_t layers) {
  SeveredAverages averages;
  // First the sums of effects and of their squares.
  for (const StoredTrace& stored : traces) {
    if (!stored.trace.correct || !stored.trace.severed) continue;
    ++averages.cases;
    const auto add = [&](const SeriesName&, const std::vector<float>& scores, SeveredMean& mean) {
      if (scores.empty()) return;
      mean.effect.resize(static_cast<size_t>(layers));
      mean.confidence.resize(static_cast<size_t>(layers));
      for (int64_t l = 0; l < layers; ++l) {
        const double effect = static_cast<double>(scores.at(l)) - stored.trace.low_score;
        mean.effect[l] += effect;
        mean.confidence[l] += effect * effect;
      }
    };
    visit_series(add, *stored.trace.severed, averages);
  }
  const auto n = static_cast<double>(averages.cases);
  const auto finish = [n](const SeriesName&, SeveredMean& mean) {
    for (size_t l = 0; l < mean.effect.size(); ++l) {
      mean.effect[l] /= n;
      const double variance = std::max(0.0, mean.confidence[l] / n - mean.effect[l] * mean.effect[l]);
      mean.confidence[l] = 1.96 * std::sqrt(variance / n);
    }
  };
  visit_series(finish, averages);
  return averages;
}

void write_severed_averages(H5File& file, const SeveredAverages& averages) {
  const std::string group = "/averages/severed";
  create_group(file, group);
  write_attribute(file, group, "cases", averages.cases);
  const auto write = [&](const std::string& name, const std::vector<double>& values, const char* long_name) {
    if (values.empty()) return;
    const std::string path = group + "/" + name;
    write_dataset(file, path, values, {std::ssize(values)}, {.units = "1", .long_name = long_name});
    attach_scale(file, path, 0, "/layer", "layer");
  };
  const auto write_effect = [&](const SeriesName& name, const SeveredMean& mean) {
    write(name.in_files, mean.effect, "mean effect of the subject's last token restored, low_score taken off");
  };
  const auto write_confidence = [&](const SeriesName& name, const SeveredMean& mean) {
    write(fmt::format("{}_confidence", name.in_files), mean.confidence, "half width of the 95 % interval");
  };
  visit_series(write_effect, averages);
  visit_series(write_confidence, averages);
}

}  // namespace loci
