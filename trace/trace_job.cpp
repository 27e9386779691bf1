#include "trace/trace_job.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "model/executor/executor.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/io/text_reader.h"

namespace loci {
namespace {

/// Facts per unit of work: few enough that little is lost when a job is interrupted, enough to fill waves of small
/// models.
constexpr int64_t kFactsPerUnit = 4;

/// How often each token occurs in a text.
std::vector<int64_t> count_tokens(const std::string& path, const Tokenizer& tokenizer, const Architecture& config) {
  std::vector<int64_t> counts(static_cast<size_t>(config.vocabulary));
  TextReader reader(path);
  for (std::string document; reader.next(document);)
    for (const int32_t token : tokenizer.encode_ids(document)) {
      require<InputError>(token < config.vocabulary, "the tokenizer's token {} is outside the model's vocabulary of {}",
                          token, config.vocabulary);
      ++counts[token];
    }
  return counts;
}

double root_mean_square(const EmbeddingLaw& law) {
  double sum = 0;
  for (const double value : law.mean) sum += value * value;
  for (const double value : law.root) sum += value * value;
  return std::sqrt(sum / static_cast<double>(law.width));
}

Noise measure_noise(const TraceJobOptions& options, const FactFile& facts, Context& context, const Model& model,
                    const Tokenizer& tokenizer) {
  Noise noise;
  noise.rule = NoiseRule::parse(options.noise);
  noise.seed = options.noise_seed;
  noise.level = noise.rule.value;
  if (noise.rule.kind == NoiseRule::Kind::subjects) {
    std::vector<std::vector<int32_t>> subjects;
    // The published code counts the token that begins a text (`<s>`) as one of each subject's.
    const TextKind kind = options.trace.quirks == Quirks::published ? TextKind::whole : TextKind::bare;
    for (const std::string& subject : facts.subjects)
      subjects.push_back(tokenizer.encode_ids(subject, SpecialTokens::parse, Tokenizer::kNoLimit, kind));
    noise.level = noise.rule.value * embedding_deviation(context, model, subjects);
  }
  if (noise.rule.needs_text()) {
    const auto counts = count_tokens(options.noise_text, tokenizer, model.config());
    noise.law = embedding_law(context, model, counts);
    noise.level = root_mean_square(*noise.law);
  }
  return noise;
}

/// What the result depends on; the names of files do not matter, their contents do.
Json job_configuration(Json config, const TraceJobOptions& options, const TraceOptions& trace, const FactFile& facts,
                       const std::string& weights_sha256, const std::string& base_edits_sha256) {
  if (!base_edits_sha256.empty()) config["base_edits_sha256"] = base_edits_sha256;
  config["kinds"] = Json::array();
  for (const TraceKind kind : trace.kinds) config["kinds"].push_back(trace_kind_name(kind));
  config["sever"] = Json::array();
  for (const Sever sever : trace.sever) config["sever"].push_back(sever_name(sever));
  config["facts_per_unit"] = kFactsPerUnit;
  config["facts_sha256"] = facts.sha256;
  config["weights_sha256"] = weights_sha256;
  if (!options.noise_text.empty()) config["noise_text_sha256"] = sha256_file(options.noise_text);
  return config;
}

StoredTrace stored_trace(const Fact& fact, FactTrace trace, const TraceOptions& options, const Tokenizer& tokenizer) {
  StoredTrace stored;
  stored.known_id = fact.known_id;
  stored.record = fact.record;
  stored.subject = fact.subject;
  stored.attribute = fact.attribute;
  stored.prompt = fact.prompt;
  stored.relation_id = fact.relation_id;
  stored.input_ids = fact.tokens;
  for (const int32_t& token : fact.tokens)
    stored.input_tokens.push_back(tokenizer.decode_text(std::span(&token, 1), TextCleanUp::as_configured));
  stored.subject_range = fact.subject_range;
  stored.answer = tokenizer.decode_text(std::span<const int32_t>(&trace.answer, 1), TextCleanUp::as_configured);
  stored.window = options.window;
  stored.trace = std::move(trace);
  return stored;
}

/// Traces the facts of a unit; what is returned writes them to its shard.
WriteShard trace_unit(std::span<const Fact> facts, Executor& executor, const Tokenizer& tokenizer,
                      const TraceOptions& options) {
  const auto accept = [&](const Fact& fact, int32_t answer) {
    const std::string text = tokenizer.decode_text(std::span<const int32_t>(&answer, 1), TextCleanUp::as_configured);
    return fact.attribute.empty() || strip(text) == fact.attribute;
  };
  return [&, facts, traces = trace_facts(executor, facts, options, accept)](H5File& shard) {
    for (size_t i = 0; i < facts.size(); ++i) write_trace(shard, stored_trace(facts[i], traces[i], options, tokenizer));
  };
}

void write_layer_scale(H5File& file, int64_t layers) {
  std::vector<int64_t> numbers(static_cast<size_t>(layers));
  for (int64_t l = 0; l < layers; ++l) numbers[l] = l;
  write_dataset(file, "/layer", numbers, {layers}, {.units = "1", .long_name = "layer"});
}

void write_file_attributes(H5File& file, const JobDescription& description, const std::string& noise,
                           const TraceOptions& options, const FactFile& facts) {
  write_attribute(file, "/", "kind", "trace");
  write_attribute(file, "/", "noise", noise);
  write_attribute(file, "/", "noise_level", options.noise.level);
  write_attribute(file, "/", "noise_seed", static_cast<int64_t>(options.noise.seed));
  write_attribute(file, "/", "samples", options.samples);
  write_attribute(file, "/", "window", options.window);
  write_attribute(file, "/", "corruption", options.corruption == Corruption::replace ? "replace" : "add");
  write_attribute(file, "/", "model_name", description.model_name);
  write_skipped_records(file, facts.skipped);
}

/// Puts the output together, and keeps the traces for the averages.
class TraceMerge {
 public:
  TraceMerge(const JobDescription& description, const std::string& noise, const TraceOptions& options,
             const FactFile& facts, int64_t layers)
      : description_(description), noise_(noise), options_(options), facts_(facts), layers_(layers) {}

  void start(H5File& output) const {
    write_file_attributes(output, description_, noise_, options_, facts_);
    write_layer_scale(output, layers_);
  }

  void add(H5File& output, const H5File& shard) {
    for (const std::string& name : group_members(shard, "/facts")) {
      copy_object(shard, "/facts/" + name, output, "/facts/" + name);
      label_trace(output, "/facts/" + name);
    }
    for (StoredTrace& stored : read_traces(shard)) traces_.push_back(std::move(stored));
  }

  void finish(H5File& output) {
    std::ranges::sort(traces_, {}, &StoredTrace::record);
    for (const TraceKind kind : options_.kinds)
      write_averages(output, kind, average_kind(traces_, kind, layers_, row_rule(options_)));
    if (!options_.sever.empty()) write_severed_averages(output, average_severed(traces_, layers_));
    finished_ = true;
  }

  /// All traces, once the output is whole; read from there where an earlier run has made it.
  std::vector<StoredTrace> take_traces() {
    if (!finished_) return read_traces(H5File::open_read(description_.output.path));
    return std::move(traces_);
  }

 private:
  const JobDescription& description_;
  const std::string& noise_;
  const TraceOptions& options_;
  const FactFile& facts_;
  int64_t layers_;
  std::vector<StoredTrace> traces_;
  bool finished_ = false;
};

}  // namespace

RowRule row_rule(const TraceOptions& options) {
  return options.quirks == Quirks::published ? RowRule::as_published : RowRule::each_token_once;
}

TraceJobOutcome run_trace_job(const Ranks& ranks, Context& context, const LoadedModel& loaded, const FactFile& facts,
                              const JobDescription& description, const TraceJobOptions& options) {
  const Model& model = loaded.model;
  const Tokenizer& tokenizer = loaded.tokenizer;
  TraceJobOutcome outcome{.options = options.trace, .traces = {}, .spending = {}};
  TraceOptions& trace = outcome.options;
  trace.noise = measure_noise(options, facts, context, model, tokenizer);
  spdlog::info("trace: noise {} of level {:.6g}", options.noise, trace.noise.level);
  const Json config = job_configuration(description.config, options, trace, facts, model.checkpoint().weights_sha256(),
                                        options.base_edits_sha256);
  std::span<const Fact> chosen = facts.facts;
  if (options.limit > 0) chosen = chosen.first(std::min(chosen.size(), static_cast<size_t>(options.limit)));
  outcome.facts = std::ssize(chosen);
  Executor executor(context, model);
  const Units units{std::ssize(chosen), kFactsPerUnit};
  TraceMerge merge(description, options.noise, trace, facts, model.config().layers);
  const auto finish = [&](H5File& output) {
    merge.finish(output);
    write_provenance(
        output, config,
        job_provenance(description.inputs, context, model, ranks.communicator.size(), options.base_edits_sha256));
  };
  const auto cut_unit = [&](const H5File& output, int64_t unit, H5File& shard) {
    for (const Fact& fact : units.slice(chosen, unit)) {
      const std::string group = fmt::format("/facts/{}", fact.known_id);
      copy_object(output, group, shard, group);
    }
  };
  outcome.before = run_units(
      ranks, description.output, config,
      {.name = "trace",
       .items = "facts",
       .units = units,
       .compute = [&](const UnitStore&, int64_t unit) { return trace_unit(units.slice(chosen, unit), executor, tokenizer, trace); },
       .merge = {.start = [&](H5File& output) { merge.start(output); },
                 .unit = [&](H5File& output, const H5File& shard) { merge.add(output, shard); },
                 .finish = finish},
       .count_items = [](const H5File& output) { return std::ssize(group_members(output, "/facts")); },
       .cut_unit = cut_unit});
  outcome.spending = spending_of_all(ranks.communicator, context, loaded);
  if (ranks.is_root()) outcome.traces = merge.take_traces();
  return outcome;
}

}  // namespace loci
