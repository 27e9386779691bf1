#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/figure.h"
#include "app/model_name.h"
#include "app/nothing_to_do.h"
#include "app/ranks.h"
#include "app/trace_report.h"
#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "records/facts.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/io/text_reader.h"
#include "trace/results.h"
#include "trace/sweep.h"

namespace loci::app {
namespace {

/// Facts a unit of work: few enough that little is lost when a job is interrupted, enough to fill waves of small
/// models.
constexpr int64_t kFactsPerUnit = 4;

struct TraceCommand {
  CommonOptions common;
  RankOptions ranks;
  JobOutput output;
  GivenEdits edits;
  std::string facts;
  std::string prompt, subject, attribute;  // instead of a file of facts
  std::string figure;
  std::vector<std::string> kinds = {"state", "mlp", "attn"};
  std::vector<std::string> sever;
  int64_t window = 10;
  int64_t samples = 10;
  std::string noise = "s3";
  std::string noise_text;
  uint32_t noise_seed = 1;
  int64_t limit = 0;
  bool replace = false;
  bool skip_invalid = false;

  bool of_prompt() const { return facts.empty(); }
};

bool contains(const std::vector<std::string>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

TraceOptions trace_options(const TraceCommand& command, Noise noise) {
  TraceOptions options;
  options.kinds.clear();
  for (const TraceKind kind : kTraceKinds)
    if (contains(command.kinds, trace_kind_name(kind))) options.kinds.push_back(kind);
  for (const Sever sever : {Sever::mlp, Sever::attn})
    if (contains(command.sever, sever_name(sever))) options.sever.push_back(sever);
  options.window = command.window;
  options.samples = command.samples;
  options.corruption = command.replace ? Corruption::replace : Corruption::add;
  options.quirks = command.common.rome() ? Quirks::published : Quirks::none;
  options.noise = std::move(noise);
  return options;
}

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

Noise measure_noise(const TraceCommand& command, const FactFile& facts, Context& context, const Model& model,
                    const Tokenizer& tokenizer) {
  Noise noise;
  noise.rule = NoiseRule::parse(command.noise);
  noise.seed = command.noise_seed;
  noise.level = noise.rule.value;
  if (noise.rule.kind == NoiseRule::Kind::subjects) {
    std::vector<std::vector<int32_t>> subjects;
    for (const std::string& subject : facts.subjects) subjects.push_back(tokenizer.encode_ids(subject));
    noise.level = noise.rule.value * embedding_deviation(context, model, subjects);
  }
  if (noise.rule.needs_text()) {
    const auto counts = count_tokens(command.noise_text, tokenizer, model.config());
    noise.law = embedding_law(context, model, counts);
    noise.level = root_mean_square(*noise.law);
  }
  return noise;
}

void check_input(const TraceCommand& command) {
  if (!command.of_prompt()) {
    require<InputError>(command.prompt.empty() && command.subject.empty() && command.attribute.empty(),
                        "--facts and --prompt, --subject, --attribute are two ways to say what is traced: give one");
    return;
  }
  require<InputError>(!command.prompt.empty(),
                      "trace needs --facts FILE.json, or --prompt TEXT with --subject TEXT, to know what to trace");
  require<InputError>(!command.subject.empty(),
                      "--prompt: give the part of it whose tokens are corrupted with --subject TEXT");
  require<InputError>(command.limit == 0 && !command.skip_invalid,
                      "--limit and --skip-invalid belong to --facts, not to --prompt");
}

void check_command(const TraceCommand& command) {
  check_input(command);
  const bool needs_text = NoiseRule::parse(command.noise).needs_text();
  require<InputError>(!needs_text || !command.noise_text.empty(),
                      "--noise {}: give the text whose embeddings it follows with --noise-text FILE", command.noise);
  require<InputError>(needs_text || command.noise_text.empty(),
                      "--noise-text belongs to --noise m and --noise t, not to --noise {}", command.noise);
  if (!command.figure.empty()) check_figure_name(command.figure);
}

/// The facts of the file, or the one that the options tell.
FactFile read_input(const TraceCommand& command, const Tokenizer& tokenizer, int64_t max_tokens) {
  const auto choice = command.common.rome() ? SubjectChoice::first_occurrence : SubjectChoice::whole_word;
  const OnInvalid on_invalid = command.skip_invalid ? OnInvalid::skip : OnInvalid::refuse;
  if (!command.of_prompt()) return read_facts(command.facts, tokenizer, max_tokens, on_invalid, choice);
  Json fact = {{"known_id", 0}, {"subject", command.subject}, {"prompt", command.prompt}};
  if (!command.attribute.empty()) fact["attribute"] = command.attribute;
  return parse_facts(Json::array({fact}).dump(), "--prompt", tokenizer, max_tokens, on_invalid, choice);
}

void warn_of_wide_window(const TraceCommand& command, int64_t layers) {
  const bool windows = contains(command.kinds, "mlp") || contains(command.kinds, "attn");
  if (windows && command.window >= layers)
    spdlog::warn(
        "--window {}: the model has {} layers, so a window restores most or all of them at once, and the effects of "
        "mlp and attn hardly depend on the layer; a smaller window tells layers apart",
        command.window, layers);
}

/// What the result depends on; the names of files do not matter, their contents do.
Json job_configuration(const Command& app, const TraceCommand& command, const TraceOptions& options,
                       const FactFile& facts, const std::string& weights_sha256) {
  Json config = resolved_configuration(app, command.common);
  config["kinds"] = Json::array();
  for (const TraceKind kind : options.kinds) config["kinds"].push_back(trace_kind_name(kind));
  config["sever"] = Json::array();
  for (const Sever sever : options.sever) config["sever"].push_back(sever_name(sever));
  config["facts_per_unit"] = kFactsPerUnit;
  config["facts_sha256"] = facts.sha256;
  config["weights_sha256"] = weights_sha256;
  if (!command.noise_text.empty()) config["noise_text_sha256"] = sha256_file(command.noise_text);
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

RowRule row_rule(const TraceOptions& options) {
  return options.quirks == Quirks::published ? RowRule::as_published : RowRule::each_token_once;
}

void write_layer_scale(H5File& file, int64_t layers) {
  std::vector<int64_t> numbers(static_cast<size_t>(layers));
  for (int64_t l = 0; l < layers; ++l) numbers[l] = l;
  write_dataset(file, "/layer", numbers, {layers}, {.units = "1", .long_name = "layer"});
}

void write_file_attributes(H5File& file, const TraceCommand& command, const TraceOptions& options,
                           const FactFile& facts) {
  write_attribute(file, "/", "kind", "trace");
  write_attribute(file, "/", "noise", command.noise);
  write_attribute(file, "/", "noise_level", options.noise.level);
  write_attribute(file, "/", "noise_seed", static_cast<int64_t>(options.noise.seed));
  write_attribute(file, "/", "samples", options.samples);
  write_attribute(file, "/", "window", options.window);
  write_attribute(file, "/", "corruption", command.replace ? "replace" : "add");
  write_attribute(file, "/", "model_name", model_name(command.common.model));
  write_skipped_records(file, facts.skipped);
}

/// Puts the output together, and keeps the traces for the averages.
class TraceMerge {
 public:
  TraceMerge(const TraceCommand& command, const TraceOptions& options, const FactFile& facts, int64_t layers)
      : command_(command), options_(options), facts_(facts), layers_(layers) {}

  void start(H5File& output) const {
    write_file_attributes(output, command_, options_, facts_);
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
    if (!finished_) return read_traces(H5File::open_read(command_.output.path));
    return std::move(traces_);
  }

 private:
  const TraceCommand& command_;
  const TraceOptions& options_;
  const FactFile& facts_;
  int64_t layers_;
  std::vector<StoredTrace> traces_;
  bool finished_ = false;
};

/// What the ranks agree on at the end of the job: as rank 0 has found it.
void require_traced(const Ranks& ranks, int64_t traced, int64_t facts, const std::string& output) {
  ranks.communicator.broadcast_value(traced, 0, "the number of facts traced");
  require<NothingToDoError>(traced > 0,
                            "trace: nothing was traced: the model predicted something else for {}; {} is complete and "
                            "holds what it predicted",
                            facts == 1 ? "the only fact" : fmt::format("all of the {} facts", facts), output);
}

/// `traces` are those of the output, of which earlier runs have made `before`. Returns how many facts were traced.
int64_t report(const TraceCommand& command, const TraceOptions& options, const FactFile& facts,
               const std::vector<StoredTrace>& traces, int64_t before, int64_t layers, const Spending& spending) {
  const TraceResult result{.output = command.output.path,
                           .options = options,
                           .row_rule = row_rule(options),
                           .traces = traces,
                           .layers = layers,
                           .skipped = std::ssize(facts.skipped),
                           .of_prompt = command.of_prompt()};
  const bool drawn = !command.figure.empty() && result.traced() > 0;
  if (command.common.json) {
    Json summary = trace_summary(result);
    summary["done_before"] = before;
    add_spending(summary, spending);
    if (drawn) summary["figure"] = command.figure;
    print_json(summary);
  } else {
    print_trace(result);
    print_done_before(before, std::ssize(traces), "facts");
  }
  if (drawn) draw_figure("plot_trace.py", command.output.path, command.figure);
  return result.traced();
}

void run(const Ranks& ranks, const Command& app, const TraceCommand& command) {
  check_command(command);
  Context context = make_rank_context(ranks, command.common);
  LoadedModel loaded = load_rank_model(ranks, context, command.common);
  const EditChain edits = apply_given_edits(context, loaded.model, command.edits);
  const Model& model = loaded.model;
  const Tokenizer& tokenizer = loaded.tokenizer;
  const FactFile facts = read_input(command, tokenizer, model.config().positions);
  log_skipped(ranks, facts.skipped);
  log_records(ranks, facts);
  if (ranks.is_root()) warn_of_wide_window(command, model.config().layers);
  const TraceOptions options = trace_options(command, measure_noise(command, facts, context, model, tokenizer));
  spdlog::info("trace: noise {} of level {:.6g}", command.noise, options.noise.level);
  Json config = job_configuration(app, command, options, facts, model.checkpoint().weights_sha256());
  note_base_edits(config, edits);
  std::span<const Fact> chosen = facts.facts;
  if (command.limit > 0) chosen = chosen.first(std::min(chosen.size(), static_cast<size_t>(command.limit)));
  Executor executor(context, model);
  const Units units{std::ssize(chosen), kFactsPerUnit};
  TraceMerge merge(command, options, facts, model.config().layers);
  const int64_t before = run_units(
      ranks, command.output, config,
      {.name = "trace",
       .items = "facts",
       .units = units,
       .compute = [&](int64_t unit) { return trace_unit(units.slice(chosen, unit), executor, tokenizer, options); },
       .merge = {.start = [&](H5File& output) { merge.start(output); },
                 .unit = [&](H5File& output, const H5File& shard) { merge.add(output, shard); },
                 .finish =
                     [&](H5File& output) {
                       merge.finish(output);
                       write_provenance(output, config,
                                        job_provenance(app, context, model, ranks.communicator.size(), edits.sha256()));
                     }},
       .count_items = [](const H5File& output) { return std::ssize(group_members(output, "/facts")); },
       .cut_unit =
           [&](const H5File& output, int64_t unit, H5File& shard) {
             for (const Fact& fact : units.slice(chosen, unit))
               copy_object(output, fmt::format("/facts/{}", fact.known_id), shard,
                           fmt::format("/facts/{}", fact.known_id));
           }});
  const Spending spending = spending_of_all(ranks, context, loaded);
  int64_t traced = 0;
  if (ranks.is_root())
    traced = report(command, options, facts, merge.take_traces(), before, model.config().layers, spending);
  require_traced(ranks, traced, std::ssize(chosen), command.output.path);
}

}  // namespace

void add_trace(Commands& commands, Launcher& launcher) {
  auto options = std::make_shared<TraceCommand>();
  Command& command = commands.add("trace", "causal traces: where a model recalls facts");
  command.usage =
      "MODEL --facts FILE.json --output FILE.h5 [options]\n"
      "       loci trace MODEL --prompt TEXT --subject TEXT --output FILE.h5 [options]";
  command.example = "loci trace data/model --facts data/world/known_facts.json --output traces.h5";
  command.page = "docs/tracing.md";
  command.add({.name = "facts",
               .value = &options->facts,
               .type = "FILE.json",
               .help =
                   "facts with subject and prompt, and optionally known_id, attribute, template: a JSON list or JSON "
                   "Lines",
               .role = Role::input,
               .names = Names::file});
  command.add({.name = "prompt",
               .value = &options->prompt,
               .type = "TEXT",
               .help = "trace this prompt alone, instead of --facts",
               .group = Group::input});
  command.add({.name = "subject",
               .value = &options->subject,
               .type = "TEXT",
               .help = "the part of --prompt whose tokens are corrupted",
               .group = Group::input});
  command.add({.name = "attribute",
               .value = &options->attribute,
               .type = "TEXT",
               .help = "how the model should go on after --prompt; without it, what the model predicts is traced",
               .group = Group::input});
  add_given_edits(command, options->edits);
  command.add({.name = "limit",
               .value = &options->limit,
               .type = "N",
               .help = "trace the first N facts only; 0: all",
               .group = Group::input,
               .min = 0});
  command.add({.name = "skip-invalid",
               .value = &options->skip_invalid,
               .help = "leave out records that cannot be traced, and count them",
               .group = Group::input});
  add_output_options(command, options->output);
  command.add({.name = "figure",
               .value = &options->figure,
               .type = "IMAGE",
               .help =
                   "also draw the prompt's trace, or the averages of the facts (.png, .svg or .pdf; needs Python with "
                   "h5py and matplotlib)",
               .role = Role::output,
               .names = Names::file});
  command.add({.name = "kinds",
               .value = &options->kinds,
               .help = "what is restored",
               .role = Role::by_content,
               .commas = true,
               .choices = {"state", "mlp", "attn"}});
  command.add({.name = "sever",
               .value = &options->sever,
               .help = "also sever these modules at the last subject token",
               .role = Role::by_content,
               .commas = true,
               .choices = {"mlp", "attn"}});
  command.add({.name = "window",
               .value = &options->window,
               .type = "N",
               .help = "layers that mlp and attn restore together",
               .min = 1,
               .max = 100000});
  command.add({.name = "samples",
               .value = &options->samples,
               .type = "N",
               .help = "corrupted copies of each prompt",
               .min = 1,
               .max = 100000});
  command.add({.name = "noise",
               .value = &options->noise,
               .type = "0.1|s3|u3|m|t3",
               .help =
                   "0.1: normal of that level; s3: 3 deviations of the subjects' embeddings; u3: uniform in (-3, 3); "
                   "m, t3: normal or Student's t with the law of the embeddings of --noise-text"});
  command.add({.name = "noise-text",
               .value = &options->noise_text,
               .type = "FILE",
               .help = "text for --noise m and t, one document per line or JSON lines",
               .role = Role::input,
               .names = Names::file,
               .group = Group::method});
  command.add({.name = "noise-seed",
               .value = &options->noise_seed,
               .type = "N",
               .help = "seed of the noise; published traces: 1"});
  command.add({.name = "replace",
               .value = &options->replace,
               .help = "replace the subject's embeddings by noise instead of adding it"});
  add_common_options(command, options->common, {.compat = true});  // --noise-seed is what is drawn by
  add_rank_options(command, options->ranks);
  command.run = [options, &command, &launcher] {
    check_named_files(command, options->output);
    launcher.run(options->ranks, [&](const Ranks& ranks) { run(ranks, command, *options); });
  };
}

}  // namespace loci::app
