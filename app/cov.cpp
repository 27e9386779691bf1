#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/ranks.h"
#include "edit/moment_job.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

struct CovCommand {
  CommonOptions common;
  JobOutput output;
  RankOptions ranks;
  GivenEdits edits;
  std::string text;
  std::string tokens;
  std::string layers = "all";
  int64_t max_tokens_per_document = 0;
  int64_t max_documents = 0;
  int64_t max_tokens = 0;
  int64_t unit_tokens = kSecondMomentUnit;
  double checkpoint_seconds = 60;
  double until = 0;
  std::string probe;
  bool skip_invalid = false;
  bool eigenvectors = false;
};

int64_t parse_layer(std::string_view text, const std::string& all) {
  int64_t layer = -1;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), layer);
  require<InputError>(result.ec == std::errc() && result.ptr == text.data() + text.size() && layer >= 0,
                      "--layers {}: \"{}\" is not a layer; write 3, 0-11, or 1,4,7-9", all, text);
  return layer;
}

/// "0-11", "2", "1,4,7-9", "all"; rising and without repeats.
std::vector<int64_t> parse_layers(const std::string& text, int64_t count) {
  std::vector<bool> chosen(static_cast<size_t>(count));
  std::string_view rest = text == "all" ? std::string_view() : std::string_view(text);
  if (text == "all") chosen.assign(static_cast<size_t>(count), true);
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find(','));
    require<InputError>(part.size() + 1 != rest.size(), "--layers {}: it ends with a comma", text);
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const size_t dash = part.find('-');
    const int64_t first = parse_layer(part.substr(0, dash), text);
    const int64_t last = dash == part.npos ? first : parse_layer(part.substr(dash + 1), text);
    require<InputError>(first <= last, "--layers {}: \"{}\" runs backwards", text, part);
    require<InputError>(last < count, "--layers {}: the model has the layers 0 to {}", text, count - 1);
    for (int64_t layer = first; layer <= last; ++layer) chosen[layer] = true;
  }
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < count; ++layer)
    if (chosen[layer]) layers.push_back(layer);
  require<InputError>(!layers.empty(), "--layers is empty; write 3, 0-11, or 1,4,7-9");
  return layers;
}

SecondMomentOptions moment_options(const CovCommand& command, const Architecture& config) {
  SecondMomentOptions options;
  options.layers = parse_layers(command.layers, config.layers);
  options.max_tokens_per_document = command.max_tokens_per_document;
  require<InputError>(command.max_tokens_per_document <= config.positions,
                      "--max-tokens-per-document {}: the model's context holds {} tokens",
                      command.max_tokens_per_document, config.positions);
  if (command.max_documents > 0) options.max_documents = command.max_documents;
  if (command.max_tokens > 0) options.max_tokens = command.max_tokens;
  options.unit_tokens = command.unit_tokens;
  options.checkpoint_seconds = command.checkpoint_seconds;
  options.eigenvectors = command.eigenvectors;
  options.until = command.until;
  return options;
}

/// Of documents that were longer than one may be; 0 in results of versions that did not count them.
int64_t cut_count(const H5File& file, const char* name) {
  return has_attribute(file, "/", name) ? read_int_attribute(file, "/", name) : 0;
}

void report(const CovCommand& command, int64_t document_limit, const Spending& spending) {
  const H5File file = H5File::open_read(command.output.path);
  const int64_t tokens = read_int_attribute(file, "/", "tokens"),
                documents = read_int_attribute(file, "/", "documents");
  const int64_t width = read_int_attribute(file, "/", "mlp_width");
  const int64_t cut_documents = cut_count(file, "cut_documents"), cut_tokens = cut_count(file, "cut_tokens");
  Json layers = Json::array();
  if (!command.common.json) {
    fmt::print("{} tokens of {} documents, keys of {} values\n", tokens, documents, width);
    if (cut_documents > 0)
      fmt::print("{}\n", cut_sentence(cut_documents, documents, cut_tokens, tokens, document_limit));
  }
  for (const std::string& name : group_members(file, "/layers")) {
    const double condition = read_double_attribute(file, "/layers/" + name, "condition_number");
    const int64_t dead = dataset_info(file, "/layers/" + name + "/dead_rows").shape.at(0);
    // JSON has no infinity: null stands for a singular matrix.
    layers.push_back({{"layer", std::stoll(name)},
                      {"condition_number", std::isfinite(condition) ? Json(condition) : Json()},
                      {"dead_rows", dead}});
    if (!command.common.json)
      fmt::print("  layer {:<3} condition number {:.3g}, {} dead rows\n", name, condition, dead);
  }
  if (!command.common.json) return;
  Json summary = {{"output", command.output.path}, {"tokens", tokens},
                  {"documents", documents},        {"cut_documents", cut_documents},
                  {"cut_tokens", cut_tokens},      {"skipped", read_skipped_records(file).size()},
                  {"layers", std::move(layers)}};
  add_spending(summary, spending);
  print_json(summary);
}

void run(const Ranks& ranks, const Command& app, const CovCommand& command) {
  Context context = make_rank_context(ranks, command.common);
  LoadedModel loaded = load_rank_model(ranks.communicator, context, command.common.model);
  const Architecture& architecture = loaded.model.config();
  const Spending spending = run_moment_job(ranks, context, loaded, describe_job(app, command.common, command.output),
                                           {.text = command.text,
                                            .tokens = command.tokens,
                                            .on_invalid = command.skip_invalid ? OnInvalid::skip : OnInvalid::refuse,
                                            .moments = moment_options(command, architecture),
                                            .probe = command.probe,
                                            .base = command.edits});
  const int64_t limit = command.max_tokens_per_document ? command.max_tokens_per_document : architecture.positions;
  if (ranks.is_root()) report(command, limit, spending);
}

}  // namespace

void add_cov(Commands& commands, Launcher& launcher) {
  auto options = std::make_shared<CovCommand>();
  Command& command = commands.add("cov", "second moments of the keys of any set of layers, in one pass");
  command.usage = "MODEL --text FILE | --tokens FILE.h5 --output FILE.h5 [options]";
  command.example = "loci cov data/model --text wikipedia.jsonl.gz --layers 0-2 --output cov.h5";
  command.page = "docs/file_formats.md";
  command.add(
      {.name = "text",
       .value = &options->text,
       .type = "FILE",
       .help =
           "documents: one per line, or JSON lines with a field \"text\"; plain, .gz, .bz2 or .zst; -: standard input",
       .role = Role::input,
       .names = Names::file});
  command.add({.name = "tokens",
               .value = &options->tokens,
               .type = "FILE.h5",
               .help = "documents as loci tokenize wrote them",
               .role = Role::input,
               .names = Names::hdf5_file});
  add_given_edits(command, options->edits);
  // What was computed without it is the same with it, so a job that met a bad line can go on.
  command.add({.name = "skip-invalid",
               .value = &options->skip_invalid,
               .help = "leave out lines of --text that are not documents, and count them",
               .role = Role::no_effect,
               .group = Group::input});
  add_output_options(command, options->output);
  command.add({.name = "layers",
               .value = &options->layers,
               .type = "LIST",
               .help = "layers, such as 3, 0-11 or 1,4,7-9",
               .role = Role::by_content});
  command.add({.name = "max-tokens-per-document",
               .value = &options->max_tokens_per_document,
               .type = "N",
               .help = "cut documents to N tokens; 0: to the model's context",
               .min = 0});
  command.add({.name = "limit",
               .value = &options->max_documents,
               .type = "N",
               .help = "stop after N documents (also --max-documents); 0: read all",
               .alias = "max-documents",
               .min = 0});
  command.add({.name = "max-tokens",
               .value = &options->max_tokens,
               .type = "N",
               .help = "stop after N tokens; 0: read all",
               .min = 0});
  command.add({.name = "until",
               .value = &options->until,
               .type = "X",
               .help = "stop where C^-1 k of the facts of --probe changes by less than this, relatively, while the "
                       "tokens double; 0: read the whole text",
               .min = 0});
  command.add({.name = "probe",
               .value = &options->probe,
               .type = "FILE.json",
               .help = "edit requests whose directions --until watches",
               .role = Role::input,
               .names = Names::file,
               .group = Group::method});
  command.add({.name = "eigenvectors",
               .value = &options->eigenvectors,
               .help = "also write the eigenvectors of the second moments; alphaedit then need not find them",
               .role = Role::by_content});
  command.add({.name = "unit-tokens",
               .value = &options->unit_tokens,
               .type = "N",
               .help = "tokens per unit of work, about: what a rank does at a time",
               .group = Group::machine,
               .min = 1});
  command.add({.name = "checkpoint-seconds",
               .value = &options->checkpoint_seconds,
               .type = "SECONDS",
               .help = "keep a checkpoint at the end of a unit when so much time has passed, and when asked to stop",
               .role = Role::no_effect,
               .group = Group::machine,
               .min = 0});
  add_common_options(command, options->common, {});
  add_rank_options(command, options->ranks);
  command.run = [options, &command, &launcher] {
    check_named_files(command, options->output);
    launcher.run(options->ranks, [&](const Ranks& ranks) { run(ranks, command, *options); });
  };
}

}  // namespace loci::app
