#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/hparams_name.h"
#include "app/ranks.h"
#include "edit/edit_job.h"
#include "edit/edited_checkpoint.h"
#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "records/edit_requests.h"
#include "runtime/error.h"
#include "runtime/jobs/unit_store.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

struct EditCommand {
  CommonOptions common;
  RankOptions ranks;
  EditOptions edit;
  GivenEdits edits;
  JobOutput output;
  std::string requests;
  int64_t limit = 0;
  int64_t batch = -1;
  std::string export_dir;
  std::string zsre_target = "answers";
  bool sequential = false;
  bool skip_invalid = false;
  bool revert = false;

  OnExistingCheckpoint on_existing_checkpoint() const {
    return output.overwrite ? OnExistingCheckpoint::replace : OnExistingCheckpoint::refuse;
  }
};

// --- Edited checkpoints ----------------------------------------------------------------------------------------------

void export_edits(const EditCommand& command, const GivenEdits& edits, FileOrigin origin) {
  Context context = command.common.make_context();
  Model model = Model::load(context, command.common.model);
  const EditChain chain = apply_given_edits(context, model, edits, origin);
  write_edited_checkpoint(context, model, chain, command.export_dir, command.on_existing_checkpoint());
  spdlog::info("edit: the edited model is in {}", command.export_dir);
}

// --- The command -----------------------------------------------------------------------------------------------------

std::string edit_name(const EditReport& edit) {
  return fmt::format("case {}: {} -> {}", edit.request.case_id, edit.request.subject, edit.request.target_new);
}

Json edit_json(const EditReport& edit) {
  Json json = edit.outcome ? outcome_to_json(*edit.outcome) : Json::object();
  json.update({{"case_id", edit.request.case_id},
               {"subject", edit.request.subject},
               {"target_new", edit.request.target_new},
               {"layer", edit.layer},
               {"steps", edit.steps},
               {"update_norm", edit.update_norm}});
  if (edit.steps > 0) json.update({{"first_loss", edit.first_loss.total}, {"last_loss", edit.last_loss.total}});
  return json;
}

void print_edit(const EditReport& edit) {
  const std::string loss = edit.steps == 0 ? ""
                                           : fmt::format(" loss {:.3f} -> {:.3f} in {},", edit.first_loss.total,
                                                         edit.last_loss.total, count(edit.steps, "step"));
  fmt::print("{}: layer {},{} |update| {:.4g}\n", edit_name(edit), edit.layer, loss, edit.update_norm);
  if (!edit.outcome) return;
  fmt::print("  {}: {}\n", edit.outcome->took() ? "took" : "did not take",
             describe_change(edit.outcome->before, edit.outcome->after));
  if (edit.outcome->with_all)
    fmt::print("  with all edits: {}\n", describe_change(edit.outcome->after, *edit.outcome->with_all));
}

/// Failed edits that are named one by one; the others are counted.
constexpr int64_t kNamedFailures = 10;

void warn_of_failure(const EditReport& edit) {
  const PromptAnswer& after = edit.outcome->after;
  const bool first_wins = after.target_new.first == after.most_likely_probability;
  spdlog::warn("{}: the edit did not take: {}, and {} has a probability of {:.3g}", edit_name(edit),
               first_wins ? "the model begins the new target but continues it with other tokens"
                          : fmt::format("after it the most likely token is {} ({:.3g})", Json(after.most_likely).dump(),
                                        after.most_likely_probability),
               Json(edit.request.target_new).dump(), after.target_new.whole);
}

/// Names the edits that did not take, and says what to try. Returns their number.
int64_t warn_of_failures(const std::vector<EditReport>& edits) {
  int64_t failed = 0, forgotten = 0;
  for (const EditReport& edit : edits) {
    if (!edit.outcome) continue;
    forgotten += edit.outcome->took() && edit.outcome->with_all && !edit.outcome->with_all->says_new;
    if (edit.outcome->took()) continue;
    if (++failed <= kNamedFailures) warn_of_failure(edit);
  }
  if (forgotten > 0)
    spdlog::warn("edit: {} of {} took, but not with all edits together: later edits undid them", forgotten,
                 count(std::ssize(edits), "edit"));
  if (failed > 0)
    spdlog::warn(
        "edit: {} of {} did not take; try a larger \"v_lr\", \"clamp_norm_factor\" or \"v_num_grad_steps\" in "
        "--hparams, or another --layer (docs/troubleshooting.md)",
        failed, count(std::ssize(edits), "edit"));
  return failed;
}

/// Of the time that making them took, without loading and scoring. 0: the file does not say.
double edits_per_second(const std::vector<EditReport>& edits) {
  double seconds = 0;
  for (const EditReport& edit : edits) seconds += edit.seconds;
  return seconds > 0 ? static_cast<double>(edits.size()) / seconds : 0;
}

/// What the output holds, whether it was made now or before.
void report(const EditCommand& command, const EditJobOutcome& outcome) {
  const H5File file = H5File::open_read(command.output.path);
  std::vector<EditReport> edits;
  for (int64_t i = 0; i < std::ssize(group_members(file, "/edits")); ++i) edits.push_back(read_edit_report(file, i));
  if (!command.common.json)
    for (const EditReport& edit : edits) print_edit(edit);
  const int64_t failed = warn_of_failures(edits);
  if (!command.common.json) {
    if (failed > 0)
      fmt::print("{} of {} did not take\n", failed, count(std::ssize(edits), "edit"));
    else if (std::ranges::all_of(edits, [](const EditReport& edit) { return edit.outcome.has_value(); }))
      fmt::print("{} took\n", count(std::ssize(edits), "edit"));
    if (const double speed = edits_per_second(edits); speed > 0 && edits.size() > 1)
      fmt::print("{:.3g} edits/s\n", speed);
    return print_done_before(outcome.before, std::ssize(edits), "requests");
  }
  Json summary = {{"output", command.output.path},
                  {"done_before", outcome.before},
                  {"mode", read_string_attribute(file, "/", "mode")},
                  {"skipped", read_skipped_records(file).size()},
                  {"did_not_take", failed},
                  {"edits_per_second", edits_per_second(edits)},
                  {"edits", Json::array()}};
  for (const EditReport& edit : edits) summary["edits"].push_back(edit_json(edit));
  add_spending(summary, outcome.spending);
  print_json(summary);
}

void check_command(const EditCommand& command, const Command& app) {
  const bool makes = !command.requests.empty();
  require<InputError>(makes || command.revert || command.edits,
                      "give one of --requests FILE (make edits), --edits FILE (export the model with these edits) and "
                      "--revert");
  require<InputError>(!command.revert || !(makes || command.edits),
                      "--revert takes out all edits of an exported model; leave --requests and --edits out");
  require<InputError>(makes == !command.output.path.empty(), "--output FILE.h5 belongs to --requests FILE{}",
                      makes ? " and is missing" : "");
  require<InputError>(makes || !command.export_dir.empty(), "--export DIR is missing: the folder for the checkpoint");
  std::vector<std::string> options(std::begin(kEditOptions), std::end(kEditOptions));
  options.insert(options.end(), {"method", "batch", "limit", "sequential", "skip-invalid", "zsre-target"});
  for (const std::string& option : options)
    require<InputError>(makes || !app.given(option), "--{} is for --requests FILE, which makes edits; leave it out",
                        option);
}

/// Without requests: an edited model, or the one that it was made from.
void write_model(const EditCommand& command) {
  if (command.revert) {
    write_reverted_checkpoint(command.common.model, command.export_dir, command.on_existing_checkpoint());
    spdlog::info("edit: the original model is in {}", command.export_dir);
  } else {
    export_edits(command, command.edits, FileOrigin::handed_in);
  }
  if (command.common.json) print_json({{"export", command.export_dir}});
}

EditJobOutcome make_edits(const Ranks& ranks, const Command& app, const EditCommand& command) {
  Context context = make_rank_context(ranks, command.common);
  LoadedModel loaded = load_rank_model(ranks.communicator, context, command.common.model);
  if (!command.export_dir.empty())
    require_free_folder(command.export_dir, command.common.model, command.on_existing_checkpoint());
  return run_edit_job(ranks, context, loaded, describe_job(app, command.common, command.output),
                      {.requests = command.requests,
                       .zsre_target = zsre_target_from_name(command.zsre_target),
                       .on_invalid = command.skip_invalid ? OnInvalid::skip : OnInvalid::refuse,
                       .limit = command.limit,
                       .mode = command.sequential ? EditMode::sequential : EditMode::independent,
                       .batch_size = batch_size(command.batch),
                       .edit = edit_options(command.common, command.edit),
                       .base = command.edits});
}

void run(const Ranks& ranks, const Command& app, const EditCommand& command) {
  check_command(command, app);
  const EditJobOutcome outcome = command.requests.empty() ? EditJobOutcome{} : make_edits(ranks, app, command);
  if (!ranks.is_root()) return;  // the rest is quick
  if (command.requests.empty()) return write_model(command);
  if (!command.export_dir.empty())
    export_edits(command, command.edits.then(command.output.path), FileOrigin::own_output);
  report(command, outcome);
}

}  // namespace

void add_edit(Commands& commands, Launcher& launcher) {
  auto options = std::make_shared<EditCommand>();
  Command& command = commands.add("edit", "write facts into a model");
  command.usage =
      "MODEL --requests FILE.json --cov FILE --output FILE.h5 [options]\n"
      "       loci edit MODEL --edits FILE.h5 --export DIR\n"
      "       loci edit MODEL --revert --export DIR";
  command.example =
      "loci edit data/model --requests requests.json --cov cov.h5 --hparams data/world/hparams.json --output edits.h5";
  command.page = "docs/troubleshooting.md, docs/file_formats.md";
  command.add({.name = "requests",
               .value = &options->requests,
               .type = "FILE.json",
               .help = "edit requests: records of CounterFact, EasyEdit or zsRE",
               .role = Role::input,
               .names = Names::file});
  command.add({.name = "limit",
               .value = &options->limit,
               .type = "N",
               .help = "the first N requests only; 0: all; it may grow on the same output",
               .group = Group::input,
               .min = 0});
  command.add({.name = "skip-invalid",
               .value = &options->skip_invalid,
               .help = "leave out requests that cannot be run, and count them",
               .group = Group::input});
  add_zsre_target(command, options->zsre_target);
  add_given_edits(command, options->edits);
  command.add({.name = "output",
               .value = &options->output.path,
               .type = "FILE.h5",
               .help = "edit file (HDF5); an interrupted job continues there",
               .role = Role::output,
               .names = Names::file});
  add_overwrite_option(command, options->output.overwrite);
  command.add({.name = "export",
               .value = &options->export_dir,
               .type = "DIR",
               .help = "write the edited model as a Hugging Face checkpoint",
               .role = Role::output,
               .names = Names::folder});
  command.add({.name = "revert",
               .value = &options->revert,
               .help = "MODEL was written by --export: write the model it was made from to --export DIR",
               .role = Role::no_effect,
               .group = Group::output});
  add_edit_options(command, options->edit);
  add_batch_option(command, options->batch);
  command.add({.name = "sequential",
               .value = &options->sequential,
               .help = "apply each edit before the next one is made; rank 0 alone does it, other ranks wait"});
  add_common_options(command, options->common, {.compat = true, .seed = Role::by_content});
  add_rank_options(command, options->ranks);
  command.run = [options, &command, &launcher] {
    options->edit.hparams = hparams_file(options->edit.hparams, options->edit.method);
    check_named_files(command, options->output);
    launcher.run(options->ranks, [&](const Ranks& ranks) { run(ranks, command, *options); });
  };
}

}  // namespace loci::app
