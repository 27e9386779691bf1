#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "app/common.h"
#include "app/comparison.h"
#include "app/edit_options.h"
#include "app/hparams_name.h"
#include "app/ranks.h"
#include "eval/eval_file.h"
#include "eval/eval_job.h"
#include "eval/metrics.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

struct EvalCommand {
  CommonOptions common;
  RankOptions ranks;
  EditOptions edit;
  GivenEdits edits;
  ComparisonCommand comparison;
  JobOutput output;
  std::string dataset;
  std::string records;
  std::string zsre_target = "answers";
  int64_t limit = 0;
  int64_t batch = -1;
  bool sequential = false;
  bool skip_invalid = false;
  Scored scored = Scored::model;

  bool makes_edits() const { return scored == Scored::own_edits; }
  RecordOptions record_options() const {
    return {.dataset = dataset_from_name(dataset),
            .zsre_target = zsre_target_from_name(zsre_target),
            .on_invalid = skip_invalid ? OnInvalid::skip : OnInvalid::refuse,
            .limit = limit};
  }
};

/// Prints what the file holds, whether it was made now or before.
void report(const EvalCommand& command, const EvalJobOutcome& outcome) {
  const H5File file = H5File::open_read(command.output.path);
  const std::vector<RecordResult> results = read_records(file);
  const auto summary = summarize(command.record_options().dataset, results);
  double edit_seconds = 0, score_seconds = 0;
  for (const RecordResult& result : results) {
    edit_seconds += result.edit_seconds;
    score_seconds += result.score_seconds;
  }
  const auto records = static_cast<double>(results.size());
  const int64_t peak = read_int_attribute(file, "/", "peak_memory_bytes");
  const int64_t failed = command.makes_edits() ? edits_that_did_not_take(results) : 0;
  if (failed > 0)
    spdlog::warn(
        "eval: {} of {} did not take: on the rewrite prompt the new target is not what the model says "
        "(docs/troubleshooting.md)",
        failed, count(std::ssize(results), "edit"));
  if (command.common.json) {
    Json printed = {{"output", command.output.path},
                    {"dataset", command.dataset},
                    {"records", results.size()},
                    {"done_before", outcome.before},
                    {"skipped", read_skipped_records(file).size()},
                    {"score_seconds_per_record", score_seconds / records},
                    {"peak_memory_bytes", peak},
                    {"summary", summary_to_json(summary)}};
    if (command.scored != Scored::model) printed["edit_seconds_per_record"] = edit_seconds / records;
    if (command.makes_edits()) printed["did_not_take"] = failed;
    add_spending(printed, outcome.spending);
    return print_json(printed);
  }
  fmt::print("{}", format_summary(summary));
  if (command.makes_edits()) fmt::print("{} of {} did not take\n", failed, count(std::ssize(results), "edit"));
  const std::string editing = command.makes_edits() ? fmt::format("edit {:.4f} s, ", edit_seconds / records) : "";
  fmt::print("{}; per record: {}scores {:.4f} s; peak memory {:.0f} MiB\n", count(std::ssize(results), "record"),
             editing, score_seconds / records, static_cast<double>(peak) / 1048576);
  print_done_before(outcome.before, std::ssize(results), "records");
}

/// Without a word about a method, a model is scored as it is, or with and without the edits of --edits.
Scored what_is_scored(const EvalCommand& command, const Command& app) {
  const bool of_method = app.given("method") ? command.edit.method != "none" : app.given("cov") || app.given("hparams");
  const bool wants_edits = of_method || command.comparison.asked_for();
  if (wants_edits) return Scored::own_edits;
  return command.edits ? Scored::given_edits : Scored::model;
}

void say_what_is_scored(const EvalCommand& command) {
  switch (command.scored) {
    case Scored::model:
      return spdlog::info("eval: no edits are made or given, so the model is scored as it is");
    case Scored::given_edits:
      return spdlog::info("eval: the model is scored without the edits of --edits, and with them");
    case Scored::own_edits:
      if (command.edits) spdlog::info("eval: the records are edited on top of the edits of --edits");
  }
}

EvalJobOutcome run_job(const Ranks& ranks, const Command& app, const EvalCommand& command) {
  Context context = make_rank_context(ranks, command.common);
  LoadedModel loaded = load_rank_model(ranks.communicator, context, command.common.model);
  return run_eval_job(ranks, context, loaded, describe_job(app, command.common, command.output),
                      {.records = command.records,
                       .record_options = command.record_options(),
                       .scored = command.scored,
                       .mode = command.sequential ? EditMode::sequential : EditMode::independent,
                       .batch_size = batch_size(command.batch),
                       .edit = edit_options(command.common, command.edit),
                       .given = command.edits});
}

ComparisonOptions comparison_of(const EvalCommand& command) {
  return comparison_options(command.comparison, edit_options(command.common, command.edit),
                            {.records = command.records,
                             .record_options = command.record_options(),
                             .mode = command.sequential ? EditMode::sequential : EditMode::independent,
                             .methods = {},
                             .edits_at = {},
                             .batch_size = batch_size(command.batch),
                             .given = command.edits});
}

void compare(const Ranks& ranks, const Command& app, const EvalCommand& command, const ComparisonOptions& options) {
  Context context = make_rank_context(ranks, command.common);
  LoadedModel loaded = load_rank_model(ranks.communicator, context, command.common.model);
  const ComparisonOutcome outcome =
      run_comparison_job(ranks, context, loaded, describe_job(app, command.common, command.output), options);
  if (ranks.is_root()) report_comparison(command.output.path, command.common.json, outcome);
}

void check_command(EvalCommand& command, const Command& app) {
  command.scored = what_is_scored(command, app);
  if (!command.makes_edits()) {
    std::vector<std::string> options(std::begin(kEditOptions), std::end(kEditOptions));
    options.emplace_back("sequential");
    options.emplace_back("batch");
    for (const std::string& option : options)
      require<InputError>(!app.given(option),
                          "--{} is for making edits, and none are made: leave --{} out, or say how by --method, "
                          "--cov and --hparams",
                          option, option);
  }
  if (!command.comparison.asked_for()) command.edit.hparams = hparams_file(command.edit.hparams, command.edit.method);
  require<InputError>(command.dataset == "zsre" || !app.given("zsre-target"), "--zsre-target is for --dataset zsre");
}

}  // namespace

void add_eval(Commands& commands, Launcher& launcher) {
  auto options = std::make_shared<EvalCommand>();
  Command& command =
      commands.add("eval", "edit every record of a data set and score it before and after, or score a model as it is");
  command.usage =
      "MODEL --dataset NAME --records FILE.json [--cov FILE] --output FILE.h5 [options]\n"
      "       loci eval MODEL --dataset NAME --records FILE.json --methods NAME,... --edits-at N,... --output FILE.h5";
  command.example =
      "loci eval data/model --dataset counterfact --records data/world/records.json --cov cov.h5 "
      "--hparams data/world/hparams.json --output eval.h5";
  command.page = "docs/study.md";
  command.add({.name = "dataset",
               .value = &options->dataset,
               .help = "the data set, which says how records are scored",
               .group = Group::input,
               .required = true,
               .choices = {"counterfact", "zsre"}});
  command.add({.name = "records",
               .value = &options->records,
               .type = "FILE.json",
               .help = "records of the data set, in its own or EasyEdit's form",
               .role = Role::input,
               .names = Names::file,
               .required = true});
  command.add({.name = "limit",
               .value = &options->limit,
               .type = "N",
               .help = "the first N records only; 0: all; it may grow on the same output, but not with --sequential",
               .group = Group::input,
               .min = 0});
  command.add({.name = "skip-invalid",
               .value = &options->skip_invalid,
               .help = "leave out records that cannot be run, and count them",
               .group = Group::input});
  add_zsre_target(command, options->zsre_target);
  add_given_edits(command, options->edits);
  add_output_options(command, options->output);
  std::vector<std::string> methods = method_names();
  methods.emplace_back("none");
  add_edit_options(command, options->edit, methods);
  add_batch_option(command, options->batch);
  command.option("method").shown_default = "rome where --cov or --hparams is given, else none";
  command.add({.name = "sequential",
               .value = &options->sequential,
               .help = "make each edit on the model with all earlier ones, then score all records together; rank 0 "
                       "makes the edits, and all ranks score"});
  add_comparison_options(command, options->comparison);
  add_common_options(command, options->common, {.compat = true, .seed = Role::by_content});
  add_rank_options(command, options->ranks);
  command.run = [options, &command, &launcher] {
    check_command(*options, command);
    check_named_files(command, options->output);
    if (options->comparison.asked_for()) {
      const ComparisonOptions comparison = comparison_of(*options);
      return launcher.run(options->ranks, [&](const Ranks& ranks) { compare(ranks, command, *options, comparison); });
    }
    launcher.run(options->ranks, [&](const Ranks& ranks) {
      if (ranks.is_root()) say_what_is_scored(*options);
      const EvalJobOutcome outcome = run_job(ranks, command, *options);
      if (ranks.is_root()) report(*options, outcome);
    });
  };
}

}  // namespace loci::app
