#include "edit/edit_job.h"

#include <fmt/format.h>

#include <optional>

#include "edit/edit_units.h"
#include "edit/methods.h"
#include "model/executor/executor.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// The job: requests in, an edit file out.
class EditJob {
 public:
  EditJob(const Ranks& ranks, Context& context, LoadedModel& loaded, const JobDescription& description,
          const EditJobOptions& options)
      : ranks_(ranks),
        description_(description),
        options_(options),
        context_(context),
        loaded_(loaded),
        base_(apply_given_edits(context_, model_, options.base)),
        executor_(context_, model_) {
    LoadedRequests requests =
        read_requests(options.requests, tokenizer_, model_.config(), options.on_invalid, options.zsre_target);
    if (ranks.is_root()) log_records(requests);
    skipped_ = std::move(requests.skipped);
    PreparedEdits prepared = prepare_edits(options.edit, executor_, tokenizer_, base_.on(model_));
    resources_ = std::move(prepared.resources);
    method_ = std::move(prepared.method);
    batch_size_ = batch_size_of(*method_, options.edit.method, options.batch_size);
    if (options.mode == EditMode::sequential && ranks.is_root()) warn_of_sequence(*method_);
    choose_requests(requests.requests);
    passes_ = edit_passes(context_, *method_, std::ssize(requests_), batch_size_, options.mode);
    std::vector<UnitPass> unit_passes;
    for (const EditPass& pass : passes_) unit_passes.push_back(pass.units);
    units_ = Units(std::move(unit_passes));
    if (ranks.is_root()) log_skipped(skipped_);
    config_ = job_configuration(prepared.config, requests.sha256);
  }

  EditJobOutcome run() {
    UnitJob job{.name = "edit",
                .items = passes_.size() > 1 ? "searches and writes" : "requests",
                .units = units_,
                .compute = [&](const UnitStore& store, int64_t unit) { return run_unit(store, unit); },
                .resume =
                    [&](const UnitStore& store, int64_t unit) {
                      if (is_sequential() && !pass_of(unit).finds) apply_done(store, unit);
                    },
                .merge = {.unit =
                              [&](H5File& output, const H5File& shard) {
                                if (!holds_found_edits(shard)) take_over(output, shard);
                              },
                          .finish = [&](H5File& output) { describe(output); }}};
    // Of a sequence whose batches are found first, the later passes hang on the length of the earlier ones.
    if ((passes_.size() == 1 && !method_->has_state()) || !is_sequential()) {
      job.count_items = [](const H5File& output) { return std::ssize(group_members(output, "/edits")); };
      job.cut_unit = [&](const H5File& output, int64_t unit, H5File& shard) { cut_unit(output, unit, shard); };
    }
    const int64_t before = run_units(ranks_, description_.output, config_, job);
    return {before * std::ssize(requests_) / units_.items(), spending_of_all(ranks_.communicator, context_, loaded_)};
  }

 private:
  bool is_sequential() const { return options_.mode == EditMode::sequential; }

  Json job_configuration(const Json& prepared, const std::string& requests_sha256) const {
    Json config = description_.config;
    note_base_edits(config, base_);
    config["edit"] = prepared;
    config["requests_sha256"] = requests_sha256;
    config["weights_sha256"] = model_.checkpoint().weights_sha256();
    config["requests_per_unit"] = units_.passes()[0].per_unit;
    if (batch_size_ != 1) config["batch"] = batch_size_;
    return config;
  }

  /// Keeps the first `limit` requests that the method can run.
  void choose_requests(std::span<const EditRequest> requests) {
    const int64_t limit = options_.limit > 0 ? options_.limit : std::ssize(requests);
    for (const EditRequest& request : requests) {
      if (std::ssize(requests_) == limit) return;
      std::optional<PreparedRequest> prepared =
          prepare_or_skip(*method_, request, options_.requests.string(), options_.on_invalid, skipped_);
      if (prepared) requests_.push_back(std::move(*prepared));
    }
    require<InputError>(!requests_.empty(), "{}: there is no edit request in it that can be run",
                        options_.requests.string());
  }

  const EditPass& pass_of(int64_t unit) const { return passes_[static_cast<size_t>(units_.pass(unit))]; }
  /// Of a unit's requests among all.
  int64_t first_of(int64_t unit) const { return pass_of(unit).first + units_.first(unit); }

  WriteShard run_unit(const UnitStore& store, int64_t unit) {
    const auto requests = std::span<const PreparedRequest>(requests_).subspan(static_cast<size_t>(first_of(unit)),
                                                                              static_cast<size_t>(units_.size(unit)));
    if (pass_of(unit).finds) return find_edits(executor_, *method_->in_two_steps(), requests, first_of(unit));
    FoundEdits found = found_for(store, unit);
    EditUnit made = is_sequential() ? make_edits_in_sequence(executor_, model_, tokenizer_, *method_, requests,
                                                             batch_size_, Outcomes::score, std::move(found))
                                    : make_edits(executor_, tokenizer_, *method_, requests, batch_size_,
                                                 Outcomes::score, std::move(found));
    return write_edit_unit(std::move(made), model_.config(), first_of(unit), batch_size_);
  }

  FoundEdits found_for(const UnitStore& store, int64_t unit) const {
    const int64_t before = units_.pass(unit) - 1;
    if (before < 0 || !passes_[static_cast<size_t>(before)].finds) return {};
    return read_found_edits(store, model_.config(), passes_[static_cast<size_t>(before)], units_.first_unit(before),
                            first_of(unit), units_.size(unit));
  }

  /// Sequential edits build on those of units that an earlier run did.
  void apply_done(const UnitStore& store, int64_t unit) {
    const EditUnit done = read_edit_unit(store.open_unit(unit), model_.config(), first_of(unit), units_.size(unit));
    for (const EditBatch& batch : done.batches) {
      EditedModel(batch.changes).fold_into(context_, model_);
      method_->take_up(batch);
    }
  }

  void take_over(H5File& output, const H5File& shard) {
    append_batches(output, shard);
    state_ = read_state(shard);
  }

  void describe(H5File& output) {
    write_provenance(output, config_,
                     job_provenance(description_.inputs, context_, model_, ranks_.communicator.size(), base_.sha256()));
    write_attribute(output, "/", "kind", "edits");
    write_attribute(output, "/", "mode", edit_mode_name(options_.mode));
    write_skipped_records(output, skipped_);
    const std::span<const std::string> templates = method_->context_templates();
    if (!templates.empty())
      write_strings(output, "/context_templates", templates, {std::ssize(templates)},
                    {.units = "", .long_name = "context templates, with {} where the prompt stands"});
    write_recorded(output, "", state_);
    method_->describe(output);
    if (is_sequential()) describe_end(output);
  }

  /// After the last of sequential edits the model has them all.
  void describe_end(H5File& output) {
    std::vector<EditRequest> requests;
    for (const PreparedRequest& prepared : requests_) requests.push_back(prepared.request);
    const std::vector<PromptAnswer> answers = answer_bare_prompts(executor_, tokenizer_, requests);
    for (size_t i = 0; i < answers.size(); ++i) write_answer_with_all(output, edit_group(i), answers[i]);
  }

  void cut_unit(const H5File& output, int64_t unit, H5File& shard) const {
    const auto copy = pass_of(unit).finds ? copy_found_edits : copy_batches;
    copy(output, first_of(unit), units_.size(unit), shard);
  }

  const Ranks& ranks_;
  const JobDescription& description_;
  const EditJobOptions& options_;
  Context& context_;
  LoadedModel& loaded_;
  Model& model_ = loaded_.model;
  const Tokenizer& tokenizer_ = loaded_.tokenizer;
  EditChain base_;  // what the model had before
  Executor executor_;
  std::vector<PreparedRequest> requests_;
  std::vector<std::string> skipped_;  // one sentence each
  std::unique_ptr<Resources> resources_;
  std::unique_ptr<Method> method_;
  int64_t batch_size_ = 1;
  std::vector<EditPass> passes_;
  std::vector<RecordedValues> state_;  // on rank 0, after the last batch merged so far
  Units units_{std::vector<UnitPass>()};
  Json config_;
};

}  // namespace

EditJobOutcome run_edit_job(const Ranks& ranks, Context& context, LoadedModel& loaded,
                            const JobDescription& description, const EditJobOptions& options) {
  return EditJob(ranks, context, loaded, description, options).run();
}

}  // namespace loci
