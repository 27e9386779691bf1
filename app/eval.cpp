#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>

#include "app/common.h"
#include "app/edit_options.h"
#include "app/model_name.h"
#include "app/ranks.h"
#include "edit/edit_units.h"
#include "eval/eval_file.h"
#include "eval/evaluation.h"
#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

/// What the records are scored with.
enum class Scored {
  model,        ///< as it is
  given_edits,  ///< the model without the edits of --edits, and with them
  own_edits,    ///< each record's own edit, or all of them in sequence
};

struct EvalCommand {
  CommonOptions common;
  RankOptions ranks;
  EditOptions edit;
  GivenEdits edits;
  JobOutput output;
  std::string dataset;
  std::string records;
  std::string zsre_target = "answers";
  int64_t limit = 0;
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

/// The most memory that the job took on its device: of the process on the CPU.
int64_t peak_bytes(const Context& context) {
  if (!context.on_cpu()) return context.peak_bytes();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

struct EvalOutcome {
  int64_t before = 0;  ///< records that earlier runs have done
  Spending spending;
};

/// The job: records in, an evaluation out.
class EvalJob {
 public:
  EvalJob(const Ranks& ranks, const Command& app, const EvalCommand& command)
      : ranks_(ranks),
        app_(app),
        command_(command),
        context_(make_rank_context(ranks, command.common)),
        loaded_(load_rank_model(ranks, context_, command.common)),
        base_(command.makes_edits() ? apply_given_edits(context_, loaded_.model, command.edits) : EditChain()),
        executor_(context_, loaded_.model),
        edited_(loaded_.model),
        edited_executor_(context_, edited_) {
    LoadedRecords loaded = read_records(command.records, command.record_options(), tokenizer_, model_.config());
    log_records(ranks, loaded);
    records_ = std::move(loaded.records);
    skipped_ = std::move(loaded.skipped);
    config_ = resolved_configuration(app, command_.common);
    note_base_edits(config_, base_);
    if (command.makes_edits())
      prepare_own_edits();
    else
      read_given_edits();
    log_skipped(ranks, skipped_);
    config_["records_sha256"] = loaded.sha256;
    config_["weights_sha256"] = model_.checkpoint().weights_sha256();
    config_["records_per_unit"] = units().per_unit;
    config_["passes"] = units().passes;
  }

  EvalOutcome run() {
    UnitJob job{.name = "eval",
                .items = command_.sequential ? "edits and scores" : "records",
                .units = units(),
                .compute = [&](int64_t unit) { return makes_edits(unit) ? edit_unit(unit) : score_unit(unit); },
                .resume =
                    [&](const UnitStore& store, int64_t unit) {
                      if (makes_edits(unit)) apply_done(store, unit);
                    },
                .merge = {.unit = [&](H5File&, const H5File& shard) { take_over(shard); },
                          .finish = [&](H5File& output) { write_results(output); }}};
    if (command_.sequential) job.order = {UnitOrder::one_by_one, UnitOrder::any};
    // Scores after a sequence of edits are others where the sequence is longer.
    if (!command_.sequential) {
      job.count_items = [](const H5File& output) { return dataset_info(output, "/records/case_id").shape.at(0); };
      job.cut_unit = [&](const H5File& output, int64_t unit, H5File& shard) { cut_unit(output, unit, shard); };
    }
    const int64_t before = run_units(ranks_, command_.output, config_, job);
    return {before, spending_of_all(ranks_, context_, loaded_)};
  }

 private:
  /// --edits: every record is scored with these, together. Without them the model is scored as it is.
  void read_given_edits() {
    if (command_.edits)
      config_["edits_sha256"] = apply_given_edits(context_, edited_, command_.edits).sha256();
    else
      config_["method"] = "none";
  }

  void prepare_own_edits() {
    PreparedEdits prepared = prepare_edits(command_.common, command_.edit, executor_, tokenizer_, base_.on(model_));
    method_ = std::move(prepared.method);
    if (command_.sequential && ranks_.is_root()) warn_of_sequence(*method_);
    config_["edit"] = prepared.config;
    std::vector<EvalRecord> valid;
    for (EvalRecord& record : records_) {
      std::optional<PreparedRequest> request =
          prepare_or_skip(*method_, record.edit, command_.records, command_.record_options().on_invalid, skipped_);
      if (!request) continue;
      requests_.push_back(std::move(*request));
      valid.push_back(std::move(record));
    }
    require<InputError>(!valid.empty(), "{}: no record can be edited", command_.records);
    records_ = std::move(valid);
  }

  TeacherForcing forcing() const { return command_.common.rome() ? TeacherForcing::text : TeacherForcing::tokens; }
  /// With --sequential a first pass makes the edits, so that they too survive an interruption.
  Units units() const { return {std::ssize(records_), requests_per_unit(context_), command_.sequential ? 2 : 1}; }
  bool makes_edits(int64_t unit) const { return command_.sequential && units().pass(unit) == 0; }

  std::span<const PreparedRequest> requests_of(int64_t unit) const {
    return units().slice(std::span<const PreparedRequest>(requests_), unit);
  }

  WriteShard edit_unit(int64_t unit) {
    EditUnit made =
        make_edits_in_sequence(edited_executor_, edited_, tokenizer_, *method_, requests_of(unit), Outcomes::leave_out);
    note(made);
    return write_edit_unit(std::move(made), model_.config(), units().first(unit));
  }

  void apply_done(const UnitStore& store, int64_t unit) {
    const EditUnit done =
        read_edit_unit(store.open_unit(unit), model_.config(), units().first(unit), units().size(unit));
    for (const EditBatch& batch : done.batches) EditedModel(batch.changes).fold_into(context_, edited_);
    note(done);
  }

  void note(const EditUnit& unit) {
    for (const EditBatch& batch : unit.batches)
      sequential_.insert(sequential_.end(), batch.edits.size(), {norm_of(batch.changes), unit.seconds});
  }

  WriteShard score_unit(int64_t unit) {
    return [results = scores_of(unit)](H5File& shard) { write_records(shard, results); };
  }

  std::vector<RecordResult> scores_of(int64_t unit) {
    const auto records = units().slice(std::span<const EvalRecord>(records_), unit);
    if (command_.sequential) return scores_of_sequential_edits(unit, records);
    switch (command_.scored) {
      case Scored::model:
        return evaluate_model(executor_, tokenizer_, forcing(), records);
      case Scored::given_edits:
        return evaluate_joint_edits(executor_, edited_executor_, tokenizer_, forcing(), records);
      case Scored::own_edits:
        break;
    }
    return scores_of_own_edits(unit, records);
  }

  std::vector<RecordResult> scores_of_sequential_edits(int64_t unit, std::span<const EvalRecord> records) {
    std::vector<RecordResult> results =
        evaluate_joint_edits(executor_, edited_executor_, tokenizer_, forcing(), records);
    for (size_t r = 0; r < results.size(); ++r) {
      const SequentialEdit& edit = sequential_[static_cast<size_t>(units().first(unit)) + r];
      results[r].update_norm = edit.update_norm;
      results[r].edit_seconds = edit.seconds;
    }
    return results;
  }

  std::vector<RecordResult> scores_of_own_edits(int64_t unit, std::span<const EvalRecord> records) {
    const EditUnit made = make_edits(executor_, tokenizer_, *method_, requests_of(unit), Outcomes::leave_out);
    std::vector<RecordResult> results = evaluate_own_edits(executor_, tokenizer_, forcing(), records, made.batches);
    for (RecordResult& result : results) result.edit_seconds = made.seconds;
    return results;
  }

  void take_over(const H5File& shard) {
    if (h5_exists(shard, "/edits")) return;  // of the first pass
    for (RecordResult& result : read_records(shard)) results_.push_back(std::move(result));
  }

  void cut_unit(const H5File& output, int64_t unit, H5File& shard) {
    if (earlier_.empty()) earlier_ = read_records(output);
    write_records(shard, units().slice(std::span<const RecordResult>(earlier_), unit));
  }

  void write_results(H5File& output) const {
    require<ShapeError>(results_.size() == records_.size(), "{} results of {} records", results_.size(),
                        records_.size());
    write_provenance(output, config_,
                     job_provenance(app_, context_, model_, ranks_.communicator.size(), base_.sha256()));
    write_attribute(output, "/", "kind", "eval");
    write_attribute(output, "/", "dataset", command_.dataset);
    write_attribute(output, "/", "model_name", model_name(command_.common.model));
    write_skipped_records(output, skipped_);
    write_attribute(output, "/", "peak_memory_bytes", peak_bytes(context_));
    write_records(output, results_);
    write_summary(output, summarize(command_.record_options().dataset, results_));
  }

  const Ranks& ranks_;
  const Command& app_;
  const EvalCommand& command_;
  Context context_;
  LoadedModel loaded_;
  const Model& model_ = loaded_.model;
  const Tokenizer& tokenizer_ = loaded_.tokenizer;
  EditChain base_;  // --edits with a method: what the model had before the records' edits
  Executor executor_;
  Model edited_;  // all edits together, with --edits alone or --sequential
  Executor edited_executor_;
  std::vector<EvalRecord> records_;
  std::vector<std::string> skipped_;
  std::unique_ptr<Method> method_;
  std::vector<PreparedRequest> requests_;  // of the records, where they are edited
  struct SequentialEdit {
    double update_norm, seconds;
  };
  std::vector<SequentialEdit> sequential_;  // of the records in their order
  std::vector<RecordResult> results_;       // on rank 0, of the units merged so far
  std::vector<RecordResult> earlier_;       // on rank 0, of an output of fewer records
  Json config_;
};

/// Prints what the file holds, whether it was made now or before.
void report(const EvalCommand& command, const EvalOutcome& outcome) {
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
  const bool wants_edits =
      app.given("method") ? command.edit.method != "none" : app.given("cov") || app.given("hparams");
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

void check_command(EvalCommand& command, const Command& app) {
  command.scored = what_is_scored(command, app);
  if (!command.makes_edits()) {
    std::vector<std::string> options(std::begin(kEditOptions), std::end(kEditOptions));
    options.emplace_back("sequential");
    for (const std::string& option : options)
      require<InputError>(!app.given(option),
                          "--{} is for making edits, and none are made: leave --{} out, or say how by --method, "
                          "--cov and --hparams",
                          option, option);
  }
  require<InputError>(command.dataset == "zsre" || !app.given("zsre-target"), "--zsre-target is for --dataset zsre");
}

}  // namespace

void add_eval(Commands& commands, Launcher& launcher) {
  auto options = std::make_shared<EvalCommand>();
  Command& command =
      commands.add("eval", "edit every record of a data set and score it before and after, or score a model as it is");
  command.usage = "MODEL --dataset NAME --records FILE.json [--cov FILE] --output FILE.h5 [options]";
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
  command.option("method").shown_default = "rome where --cov or --hparams is given, else none";
  command.add({.name = "sequential",
               .value = &options->sequential,
               .help = "make each edit on the model with all earlier ones, then score all records together; rank 0 "
                       "makes the edits, and all ranks score"});
  add_common_options(command, options->common, {.compat = true, .seed = Role::by_content});
  add_rank_options(command, options->ranks);
  command.run = [options, &command, &launcher] {
    check_command(*options, command);
    check_named_files(command, options->output);
    launcher.run(options->ranks, [&](const Ranks& ranks) {
      if (ranks.is_root()) say_what_is_scored(*options);
      const EvalOutcome outcome = EvalJob(ranks, command, *options).run();
      if (ranks.is_root()) report(*options, outcome);
    });
  };
}

}  // namespace loci::app
