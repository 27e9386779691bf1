#include "app/export/trace.h"

#include <fmt/format.h>

#include <string_view>

#include "app/export/csv.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/npz.h"
#include "trace/results.h"

namespace loci::app {
namespace {

void add_subject_range(NpzWriter& writer, const StoredTrace& stored) {
  writer.add<int64_t>("subject_range", {stored.subject_range.begin, stored.subject_range.end}, {2});
}

void write_kind(const std::filesystem::path& path, const StoredTrace& stored, TraceKind kind) {
  const FactTrace& trace = stored.trace;
  NpzWriter writer(path);
  if (trace.correct) {
    const auto layers = std::ssize(trace.of(kind)) / stored.tokens();
    writer.add<float>("scores", trace.of(kind), {stored.tokens(), layers});
    writer.add_scalar<double>("low_score", trace.low_score);
    writer.add_scalar<float>("high_score", trace.high_score);
    writer.add<int64_t>("input_ids", {stored.input_ids.begin(), stored.input_ids.end()}, {stored.tokens()});
    const std::vector<int64_t> shape = {stored.tokens()};
    writer.add_strings("input_tokens", stored.input_tokens, shape);
    add_subject_range(writer, stored);
    writer.add_string("answer", stored.answer);
    writer.add_scalar<int64_t>("window", stored.window);
  }
  writer.add_boolean("correct_prediction", trace.correct);
  if (trace.correct) writer.add_string("kind", kind == TraceKind::state ? "" : trace_kind_name(kind));
  writer.finish();
}

void write_series(const std::filesystem::path& path, const StoredTrace& stored, const std::vector<float>& scores) {
  NpzWriter writer(path);
  writer.add<float>("scores", scores, {1, std::ssize(scores)});
  writer.add_scalar<double>("low_score", stored.trace.low_score);
  writer.add_scalar<double>("high_score", static_cast<double>(stored.trace.high_score));
  add_subject_range(writer, stored);
  writer.finish();
}

std::string knowledge_name(const StoredTrace& stored, TraceKind kind) {
  const std::string suffix = kind == TraceKind::state ? "" : fmt::format("_{}", trace_kind_name(kind));
  return fmt::format("knowledge_{}{}.npz", stored.known_id, suffix);
}

/// Which kinds a file was made with: those of its averages, since facts that were not traced have no scores.
std::vector<TraceKind> kinds_of(const H5File& file) {
  std::vector<TraceKind> kinds;
  for (const TraceKind kind : kTraceKinds)
    if (h5_exists(file, fmt::format("/averages/{}", trace_kind_name(kind)))) kinds.push_back(kind);
  return kinds;
}

int64_t export_npz(const H5File& file, const std::filesystem::path& folder) {
  int64_t files = 0;
  const auto kinds = kinds_of(file);
  for (const StoredTrace& stored : read_traces(file)) {
    for (const TraceKind kind : kinds) {
      write_kind(folder / knowledge_name(stored, kind), stored, kind);
      ++files;
    }
    if (!stored.trace.severed) continue;
    const auto write = [&](const SeriesName& name, const std::vector<float>& scores) {
      if (scores.empty()) return;
      write_series(folder / fmt::format("severed_{}_{}.npz", stored.known_id, name.in_files), stored, scores);
      ++files;
    };
    visit_series(write, *stored.trace.severed);
  }
  return files;
}

std::string_view place_of(const StoredTrace& stored, int64_t token) {
  return token >= stored.subject_range.begin && token < stored.subject_range.end ? "subject" : "";
}

std::string cells_csv(const std::vector<StoredTrace>& traces) {
  std::string text = "known_id,kind,position,token,part,layer,score,low_score,high_score\n";
  for (const StoredTrace& stored : traces) {
    for (const TraceKind kind : kTraceKinds) {
      const auto& scores = stored.trace.of(kind);
      const auto layers = std::ssize(scores) / std::max<int64_t>(1, stored.tokens());
      for (int64_t i = 0; i < std::ssize(scores); ++i) {
        const int64_t token = i / layers;
        text += fmt::format("{},{},{},{},{},{},{:.9g},{:.9g},{:.9g}\n", stored.known_id, trace_kind_name(kind), token,
                            csv_quoted(stored.input_tokens[token]), place_of(stored, token), i % layers, scores[i],
                            stored.trace.low_score, stored.trace.high_score);
      }
    }
  }
  return text;
}

std::string averages_csv(const H5File& file) {
  std::string text = "kind,row,tokens,cases,layer,mean,deviation,confidence,indirect_effect\n";
  for (const TraceKind kind : kinds_of(file)) {
    const std::string group = fmt::format("/averages/{}/", trace_kind_name(kind));
    const auto rows = read_strings(file, group + "row").values;
    const auto tokens = read_dataset<int64_t>(file, group + "tokens").values;
    const auto cases = read_dataset<int64_t>(file, group + "row_cases").values;
    const auto mean = read_dataset<double>(file, group + "mean");
    const auto deviation = read_dataset<double>(file, group + "deviation", mean.shape).values;
    const auto confidence = read_dataset<double>(file, group + "confidence", mean.shape).values;
    const auto effect = read_dataset<double>(file, group + "indirect_effect", mean.shape).values;
    const auto layers = static_cast<size_t>(mean.shape.at(1));
    for (size_t i = 0; i < mean.values.size(); ++i)
      text += fmt::format("{},{},{},{},{},{:.9g},{:.9g},{:.9g},{:.9g}\n", trace_kind_name(kind), rows.at(i / layers),
                          tokens.at(i / layers), cases.at(i / layers), i % layers, mean.values[i], deviation[i],
                          confidence[i], effect[i]);
  }
  return text;
}

/// Scores of single facts, then their averages, whose known_id is empty.
std::string severed_csv(const std::vector<StoredTrace>& traces, int64_t layers) {
  std::string text = "known_id,severed,layer,score,low_score,indirect_effect,confidence\n";
  for (const StoredTrace& stored : traces) {
    if (!stored.trace.severed) continue;
    const auto write = [&](const SeriesName& name, const std::vector<float>& scores) {
      for (size_t l = 0; l < scores.size(); ++l)
        text += fmt::format("{},{},{},{:.9g},{:.9g},{:.9g},\n", stored.known_id, name.severed, l, scores[l],
                            stored.trace.low_score, static_cast<double>(scores[l]) - stored.trace.low_score);
    };
    visit_series(write, *stored.trace.severed);
  }
  const auto write = [&](const SeriesName& name, const SeveredMean& mean) {
    for (size_t l = 0; l < mean.effect.size(); ++l)
      text += fmt::format(",{},{},,,{:.9g},{:.9g}\n", name.severed, l, mean.effect[l], mean.confidence[l]);
  };
  const SeveredAverages averages = average_severed(traces, layers);
  visit_series(write, averages);
  return text;
}

}  // namespace

int64_t export_traces(const H5File& file, const std::string& format, const std::filesystem::path& folder) {
  if (format == "npz") return export_npz(file, folder);
  require<InputError>(format == "csv", "--format {}: traces are exported as npz or csv", format);
  const std::vector<StoredTrace> traces = read_traces(file);
  write_file_atomically(folder / "traces.csv", cells_csv(traces));
  write_file_atomically(folder / "averages.csv", averages_csv(file));
  if (!h5_exists(file, "/averages/severed")) return 2;
  const int64_t layers = dataset_info(file, "/layer").shape.at(0);
  write_file_atomically(folder / "severed.csv", severed_csv(traces, layers));
  return 3;
}

}  // namespace loci::app
