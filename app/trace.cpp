#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/figure.h"
#include "app/nothing_to_do.h"
#include "app/ranks.h"
#include "app/trace_report.h"
#include "records/facts.h"
#include "runtime/error.h"
#include "trace/trace_job.h"

namespace loci::app {
namespace {

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

TraceOptions trace_options(const TraceCommand& command) {
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
  return options;
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

/// What the ranks agree on at the end of the job: as rank 0 has found it.
void require_traced(const Ranks& ranks, int64_t traced, int64_t facts, const std::string& output) {
  ranks.communicator.broadcast_value(traced, 0, "the number of facts traced");
  require<NothingToDoError>(traced > 0,
                            "trace: nothing was traced: the model predicted something else for {}; {} is complete and "
                            "holds what it predicted",
                            facts == 1 ? "the only fact" : fmt::format("all of the {} facts", facts), output);
}

/// Returns how many facts were traced.
int64_t report(const TraceCommand& command, const TraceJobOutcome& outcome, const FactFile& facts, int64_t layers) {
  const TraceResult result{.output = command.output.path,
                           .options = outcome.options,
                           .row_rule = row_rule(outcome.options),
                           .traces = outcome.traces,
                           .layers = layers,
                           .skipped = std::ssize(facts.skipped),
                           .of_prompt = command.of_prompt()};
  const bool drawn = !command.figure.empty() && result.traced() > 0;
  if (command.common.json) {
    Json summary = trace_summary(result);
    summary["done_before"] = outcome.before;
    add_spending(summary, outcome.spending);
    if (drawn) summary["figure"] = command.figure;
    print_json(summary);
  } else {
    print_trace(result);
    print_done_before(outcome.before, std::ssize(outcome.traces), "facts");
  }
  if (drawn) draw_figure("plot_trace.py", command.output.path, command.figure);
  return result.traced();
}

void run(const Ranks& ranks, const Command& app, const TraceCommand& command) {
  check_command(command);
  Context context = make_rank_context(ranks, command.common);
  LoadedModel loaded = load_rank_model(ranks.communicator, context, command.common.model);
  const EditChain edits = apply_given_edits(context, loaded.model, command.edits);
  const int64_t layers = loaded.model.config().layers;
  const FactFile facts = read_input(command, loaded.tokenizer, loaded.model.config().positions);
  if (ranks.is_root()) {
    log_skipped(facts.skipped);
    log_records(facts);
    warn_of_wide_window(command, layers);
  }
  const TraceJobOutcome outcome =
      run_trace_job(ranks, context, loaded, facts, describe_job(app, command.common, command.output),
                    {.trace = trace_options(command),
                     .noise = command.noise,
                     .noise_text = command.noise_text,
                     .noise_seed = command.noise_seed,
                     .limit = command.limit,
                     .base_edits_sha256 = edits.sha256()});
  int64_t traced = 0;
  if (ranks.is_root()) traced = report(command, outcome, facts, layers);
  require_traced(ranks, traced, outcome.facts, command.output.path);
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
