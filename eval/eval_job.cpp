#include "eval/eval_job.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <memory>
#include <optional>
#include <span>

#include "edit/edit_units.h"
#include "edit/methods.h"
#include "eval/eval_file.h"
#include "eval/evaluation.h"
#include "model/executor/executor.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// The most memory that the job took on its device: of the process on the CPU.
int64_t peak_bytes(const Context& context) {
  if (!context.on_cpu()) return context.peak_bytes();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

/// What the units of a pass do.
enum class Work { find, edit, edit_and_score, score };

/// The job: records in, an evaluation out.
class EvalJob {
 public:
  EvalJob(const Ranks& ranks, Context& context, LoadedModel& loaded, const JobDescription& description,
          const EvalJobOptions& options)
      : ranks_(ranks),
        description_(description),
        options_(options),
        context_(context),
        loaded_(loaded),
        base_(makes_edits() ? apply_given_edits(context_, loaded_.model, options.given) : EditChain()),
        executor_(context_, loaded_.model),
        edited_(loaded_.model),
        edited_executor_(context_, edited_) {
    LoadedRecords read = read_records(options.records, options.record_options, tokenizer_, model_.config());
    if (ranks.is_root()) log_records(read);
    records_ = std::move(read.records);
    skipped_ = std::move(read.skipped);
    config_ = description.config;
    note_base_edits(config_, base_);
    if (makes_edits())
      prepare_own_edits();
    else
      read_given_edits();
    if (ranks.is_root()) log_skipped(skipped_);
    config_["records_sha256"] = read.sha256;
    config_["weights_sha256"] = model_.checkpoint().weights_sha256();
    plan_passes();
    config_["records_per_unit"] = units_.passes()[0].per_unit;
    config_["passes"] = units_.passes().size();
  }

  EvalJobOutcome run() {
    UnitJob job{.name = "eval",
                .items = work_.size() > 1 ? "edits and scores" : "records",
                .units = units_,
                .compute = [&](const UnitStore& store, int64_t unit) { return compute(store, unit); },
                .resume =
                    [&](const UnitStore& store, int64_t unit) {
                      if (work_of(unit) == Work::edit) apply_done(store, unit);
                    },
                .merge = {.unit = [&](H5File&, const H5File& shard) { take_over(shard); },
                          .finish = [&](H5File& output) { write_results(output); }}};
    // Scores after a sequence of edits are others where the sequence is longer, and so are those of a batch.
    if (work_.size() == 1) {
      job.count_items = [](const H5File& output) { return dataset_info(output, "/records/case_id").shape.at(0); };
      job.cut_unit = [&](const H5File& output, int64_t unit, H5File& shard) { cut_unit(output, unit, shard); };
    }
    const int64_t before = run_units(ranks_, description_.output, config_, job);
    return {before * std::ssize(records_) / units_.items(), spending_of_all(ranks_.communicator, context_, loaded_)};
  }

 private:
  bool makes_edits() const { return options_.scored == Scored::own_edits; }
  bool is_sequential() const { return options_.mode == EditMode::sequential; }

  /// Every record is scored with the given edits, together. Without them the model is scored as it is.
  void read_given_edits() {
    if (options_.given)
      config_["edits_sha256"] = apply_given_edits(context_, edited_, options_.given).sha256();
    else
      config_["method"] = "none";
  }

  void prepare_own_edits() {
    PreparedEdits prepared = prepare_edits(options_.edit, executor_, tokenizer_, base_.on(model_));
    resources_ = std::move(prepared.resources);
    method_ = std::move(prepared.method);
    batch_size_ = batch_size_of(*method_, options_.edit.method, options_.batch_size);
    if (batch_size_ != 1) config_["batch"] = batch_size_;
    if (is_sequential() && ranks_.is_root()) warn_of_sequence(*method_);
    config_["edit"] = prepared.config;
    std::vector<EvalRecord> valid;
    for (EvalRecord& record : records_) {
      std::optional<PreparedRequest> request = prepare_or_skip(*method_, record.edit, options_.records.string(),
                                                               options_.record_options.on_invalid, skipped_);
      if (!request) continue;
      requests_.push_back(std::move(*request));
      valid.push_back(std::move(record));
    }
    require<InputError>(!valid.empty(), "{}: no record can be edited", options_.records.string());
    records_ = std::move(valid);
  }

  TeacherForcing forcing() const { return options_.edit.forcing; }

  /// In sequential mode passes of their own make the edits, so that they too survive an interruption.
  void plan_passes() {
    const auto records = std::ssize(records_);
    std::vector<UnitPass> units;
    const auto add = [&](Work work, const EditPass& pass) {
      work_.push_back(work);
      passes_.push_back(pass);
      units.push_back(pass.units);
    };
    if (makes_edits()) {
      for (const EditPass& pass : edit_passes(context_, *method_, records, batch_size_, options_.mode))
        add(pass.finds ? Work::find : is_sequential() ? Work::edit : Work::edit_and_score, pass);
    }
    if (!makes_edits() || is_sequential()) add(Work::score, {false, 0, {records, requests_per_unit(context_)}});
    units_ = Units(std::move(units));
  }
  Work work_of(int64_t unit) const { return work_[static_cast<size_t>(units_.pass(unit))]; }
  const EditPass& pass_of(int64_t unit) const { return passes_[static_cast<size_t>(units_.pass(unit))]; }
  /// Of a unit's records among all.
  int64_t first_of(int64_t unit) const { return pass_of(unit).first + units_.first(unit); }

  std::span<const PreparedRequest> requests_of(int64_t unit) const {
    return std::span<const PreparedRequest>(requests_).subspan(static_cast<size_t>(first_of(unit)),
                                                               static_cast<size_t>(units_.size(unit)));
  }
  std::span<const EvalRecord> records_of(int64_t unit) const {
    return std::span<const EvalRecord>(records_).subspan(static_cast<size_t>(first_of(unit)),
                                                         static_cast<size_t>(units_.size(unit)));
  }
  FoundEdits found_for(const UnitStore& store, int64_t unit) const {
    const int64_t before = units_.pass(unit) - 1;
    if (before < 0 || work_[static_cast<size_t>(before)] != Work::find) return {};
    return read_found_edits(store, model_.config(), passes_[static_cast<size_t>(before)], units_.first_unit(before),
                            first_of(unit), units_.size(unit));
  }

  WriteShard compute(const UnitStore& store, int64_t unit) {
    switch (work_of(unit)) {
      case Work::find:
        return find_edits(is_sequential() ? edited_executor_ : executor_, *method_->in_two_steps(), requests_of(unit),
                          first_of(unit));
      case Work::edit:
        return edit_unit(store, unit);
      case Work::edit_and_score:
        return [results = scores_of_own_edits(store, unit)](H5File& shard) { write_records(shard, results); };
      case Work::score:
        break;
    }
    return [results = scores_of(unit)](H5File& shard) { write_records(shard, results); };
  }

  WriteShard edit_unit(const UnitStore& store, int64_t unit) {
    EditUnit made = make_edits_in_sequence(edited_executor_, edited_, tokenizer_, *method_, requests_of(unit),
                                           batch_size_, Outcomes::leave_out, found_for(store, unit));
    note(made);
    return write_edit_unit(std::move(made), model_.config(), first_of(unit), batch_size_);
  }

  void apply_done(const UnitStore& store, int64_t unit) {
    const EditUnit done = read_edit_unit(store.open_unit(unit), model_.config(), first_of(unit), units_.size(unit));
    for (const EditBatch& batch : done.batches) {
      EditedModel(batch.changes).fold_into(context_, edited_);
      method_->take_up(batch);
    }
    note(done);
  }

  void note(const EditUnit& unit) {
    for (const EditBatch& batch : unit.batches)
      sequential_.insert(sequential_.end(), batch.edits.size(), {norm_of(batch.changes), unit.seconds});
  }

  std::vector<RecordResult> scores_of(int64_t unit) {
    const auto records = records_of(unit);
    if (options_.scored == Scored::model) return evaluate_model(executor_, tokenizer_, forcing(), records);
    std::vector<RecordResult> results =
        evaluate_joint_edits(executor_, edited_executor_, tokenizer_, forcing(), records);
    if (!is_sequential()) return results;
    for (size_t r = 0; r < results.size(); ++r) {
      const SequentialEdit& edit = sequential_[static_cast<size_t>(first_of(unit)) + r];
      results[r].update_norm = edit.update_norm;
      results[r].edit_seconds = edit.seconds;
    }
    return results;
  }

  std::vector<RecordResult> scores_of_own_edits(const UnitStore& store, int64_t unit) {
    const EditUnit made = make_edits(executor_, tokenizer_, *method_, requests_of(unit), batch_size_,
                                     Outcomes::leave_out, found_for(store, unit));
    std::vector<RecordResult> results =
        evaluate_own_edits(executor_, tokenizer_, forcing(), records_of(unit), made.batches);
    for (RecordResult& result : results) result.edit_seconds = made.seconds;
    return results;
  }

  void take_over(const H5File& shard) {
    if (h5_exists(shard, "/edits")) return;  // of a pass that makes them
    for (RecordResult& result : read_records(shard)) results_.push_back(std::move(result));
  }

  void cut_unit(const H5File& output, int64_t unit, H5File& shard) {
    if (earlier_.empty()) earlier_ = read_records(output);
    write_records(shard, units_.slice(std::span<const RecordResult>(earlier_), unit));
  }

  void write_results(H5File& output) const {
    require<ShapeError>(results_.size() == records_.size(), "{} results of {} records", results_.size(),
                        records_.size());
    write_provenance(output, config_,
                     job_provenance(description_.inputs, context_, model_, ranks_.communicator.size(), base_.sha256()));
    write_attribute(output, "/", "kind", "eval");
    write_attribute(output, "/", "dataset", dataset_name(options_.record_options.dataset));
    write_attribute(output, "/", "model_name", description_.model_name);
    write_skipped_records(output, skipped_);
    write_attribute(output, "/", "peak_memory_bytes", peak_bytes(context_));
    write_records(output, results_);
    write_summary(output, summarize(options_.record_options.dataset, results_));
  }

  const Ranks& ranks_;
  const JobDescription& description_;
  const EvalJobOptions& options_;
  Context& context_;
  LoadedModel& loaded_;
  const Model& model_ = loaded_.model;
  const Tokenizer& tokenizer_ = loaded_.tokenizer;
  EditChain base_;  // what the model had before the records' edits
  Executor executor_;
  Model edited_;  // with all edits together: given ones alone, or those made in sequence
  Executor edited_executor_;
  std::vector<EvalRecord> records_;
  std::vector<std::string> skipped_;
  std::unique_ptr<Resources> resources_;
  std::unique_ptr<Method> method_;
  int64_t batch_size_ = 1;
  std::vector<PreparedRequest> requests_;  // of the records, where they are edited
  std::vector<Work> work_;                 // of each pass
  std::vector<EditPass> passes_;
  Units units_{std::vector<UnitPass>()};
  struct SequentialEdit {
    double update_norm, seconds;
  };
  std::vector<SequentialEdit> sequential_;  // of the records in their order
  std::vector<RecordResult> results_;       // on rank 0, of the units merged so far
  std::vector<RecordResult> earlier_;       // on rank 0, of an output of fewer records
  Json config_;
};

}  // namespace

EvalJobOutcome run_eval_job(const Ranks& ranks, Context& context, LoadedModel& loaded,
                            const JobDescription& description, const EvalJobOptions& options) {
  return EvalJob(ranks, context, loaded, description, options).run();
}

}  // namespace loci
