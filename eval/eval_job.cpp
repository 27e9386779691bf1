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
    config_["records_per_unit"] = units().per_unit;
    config_["passes"] = units().passes;
  }

  EvalJobOutcome run() {
    UnitJob job{.name = "eval",
                .items = is_sequential() ? "edits and scores" : "records",
                .units = units(),
                .compute = [&](int64_t unit) { return makes_edits(unit) ? edit_unit(unit) : score_unit(unit); },
                .resume =
                    [&](const UnitStore& store, int64_t unit) {
                      if (makes_edits(unit)) apply_done(store, unit);
                    },
                .merge = {.unit = [&](H5File&, const H5File& shard) { take_over(shard); },
                          .finish = [&](H5File& output) { write_results(output); }}};
    if (is_sequential()) job.order = {UnitOrder::one_by_one, UnitOrder::any};
    // Scores after a sequence of edits are others where the sequence is longer.
    if (!is_sequential()) {
      job.count_items = [](const H5File& output) { return dataset_info(output, "/records/case_id").shape.at(0); };
      job.cut_unit = [&](const H5File& output, int64_t unit, H5File& shard) { cut_unit(output, unit, shard); };
    }
    const int64_t before = run_units(ranks_, description_.output, config_, job);
    return {before, spending_of_all(ranks_.communicator, context_, loaded_)};
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
    batch_size_ = options_.batch_size.value_or(method_->default_batch_size());
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
  /// In sequential mode a first pass makes the edits, so that they too survive an interruption.
  Units units() const {
    const auto records = std::ssize(records_);
    return {records, requests_per_unit(context_, batch_size_, records), is_sequential() ? 2 : 1};
  }
  bool makes_edits(int64_t unit) const { return is_sequential() && units().pass(unit) == 0; }

  std::span<const PreparedRequest> requests_of(int64_t unit) const {
    return units().slice(std::span<const PreparedRequest>(requests_), unit);
  }

  WriteShard edit_unit(int64_t unit) {
    EditUnit made = make_edits_in_sequence(edited_executor_, edited_, tokenizer_, *method_, requests_of(unit),
                                           batch_size_, Outcomes::leave_out);
    note(made);
    return write_edit_unit(std::move(made), model_.config(), units().first(unit), batch_size_);
  }

  void apply_done(const UnitStore& store, int64_t unit) {
    const EditUnit done =
        read_edit_unit(store.open_unit(unit), model_.config(), units().first(unit), units().size(unit));
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

  WriteShard score_unit(int64_t unit) {
    return [results = scores_of(unit)](H5File& shard) { write_records(shard, results); };
  }

  std::vector<RecordResult> scores_of(int64_t unit) {
    const auto records = units().slice(std::span<const EvalRecord>(records_), unit);
    if (is_sequential()) return scores_of_sequential_edits(unit, records);
    switch (options_.scored) {
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
    const EditUnit made =
        make_edits(executor_, tokenizer_, *method_, requests_of(unit), batch_size_, Outcomes::leave_out);
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
