#include "eval/comparison_job.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <span>

#include "edit/edit_units.h"
#include "edit/methods.h"
#include "eval/comparison_file.h"
#include "eval/comparison_plan.h"
#include "eval/evaluation.h"
#include "eval/perplexity.h"
#include "model/executor/executor.h"
#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// Tokens of the text that a unit predicts.
constexpr int64_t kTextTokensPerUnit = 8192;

// What shards hold beside edits.
constexpr const char* kFailure = "failure";
constexpr const char* kEdits = "edits";
constexpr const char* kSeconds = "seconds";  // per edit
constexpr const char* kPeak = "peak_memory_bytes";

/// A method, and what the job knows of it without having made it.
struct Compared {
  EditOptions options;
  Json config;
  std::optional<MethodTraits> traits;     ///< nothing where it failed when it was made
  std::string failure;                    ///< why
  std::vector<PreparedRequest> requests;  ///< of the records
};

void write_failure(H5File& shard, const std::string& sentence) { write_attribute(shard, "/", kFailure, sentence); }

std::string failure_in(const H5File& shard) {
  return has_attribute(shard, "/", kFailure) ? read_string_attribute(shard, "/", kFailure) : std::string();
}

/// What is needed to have a batch's changes again, and to know how many edits they were.
EditBatch changes_only(std::span<const EditBatch> batches) {
  EditBatch one;
  for (const EditBatch& batch : batches) {
    for (const Edit& edit : batch.edits)
      one.edits.push_back(
          {.request = edit.request, .method = edit.method, .layer = edit.layer, .recorded = {}, .loss_curve = {}});
    one.changes.insert(one.changes.end(), batch.changes.begin(), batch.changes.end());
  }
  return one;
}

void require_finite(std::span<const EditBatch> batches) {
  for (const EditBatch& batch : batches)
    for (const Change& change : batch.changes)
      require<NumericalError>(is_finite(change), "{}: the change of layer {} is not finite", batch.edits.at(0).method,
                              weight_of(change).layer);
}

bool is_matrix(Role role) {
  return role == Role::qkv_weight || role == Role::out_weight || role == Role::up_weight || role == Role::down_weight;
}

/// |W' - W| / |W| by layer, over the layer's matrices that changed.
std::map<int64_t, double> relative_changes(Context& context, const Model& original, const Model& edited,
                                           const std::set<WeightId>& changed) {
  std::map<int64_t, std::pair<double, double>> sums;
  for (const WeightId& id : changed) {
    if (!is_matrix(id.role)) continue;
    const auto values = [&](const Model& model) {
      return stored_to_host(context, weight_of(model.parameters(), id).stored());
    };
    const std::vector<float> before = values(original), after = values(edited);
    auto& [change, size] = sums[id.layer];
    for (size_t i = 0; i < before.size(); ++i) {
      const auto w = static_cast<double>(before[i]), difference = static_cast<double>(after[i]) - w;
      change += difference * difference;
      size += w * w;
    }
  }
  std::map<int64_t, double> relative;
  for (const auto& [layer, sum] : sums) relative[layer] = std::sqrt(sum.first / sum.second);
  return relative;
}

/// The job: records and methods in, a comparison out.
class ComparisonJob {
 public:
  ComparisonJob(const Ranks& ranks, Context& context, LoadedModel& loaded, const JobDescription& description,
                const ComparisonOptions& options)
      : ranks_(ranks),
        description_(description),
        options_(options),
        context_(context),
        loaded_(loaded),
        base_(apply_given_edits(context_, loaded_.model, options.given)),
        executor_(context_, loaded_.model),
        edited_(loaded_.model),
        edited_executor_(context_, edited_) {
    LoadedRecords read = read_records(options.records, options.record_options, tokenizer_, model_.config());
    if (ranks.is_root()) log_records(read);
    records_ = std::move(read.records);
    skipped_ = std::move(read.skipped);
    if (!options.text.empty())
      text_ = read_text_windows(context_, tokenizer_, options.text, options.text_limit, model_.config().positions);
    prepare_methods();
    if (ranks.is_root()) log_skipped(skipped_);
    plan();
    configure(read.sha256);
    if (ranks.is_root())
      spdlog::info("eval: compares {} on {}, in {}", count(std::ssize(methods_), "method"),
                   count(std::ssize(records_), "record"), count(units_.count(), "unit"));
  }

  ComparisonOutcome run() {
    const UnitJob job{.name = "eval",
                      .items = "units",
                      .units = units_,
                      .compute = [&](const UnitStore& store, int64_t unit) { return compute(store, unit); },
                      .resume =
                          [&](const UnitStore& store, int64_t unit) {
                            if (stage_of(unit).work == Work::extend) apply_done(store, unit);
                          },
                      .merge = {.start = [&](H5File&) { start_result(); },
                                .unit = [&](H5File&, const H5File& shard) { take_over(shard); },
                                .finish = [&](H5File& output) { write_result(output); }}};
    const int64_t before = run_units(ranks_, description_.output, config_, job);
    return {before, units_.items(), spending_of_all(ranks_.communicator, context_, loaded_)};
  }

 private:
  // --- Before any work ---

  bool is_sequential() const { return options_.mode == EditMode::sequential; }
  TeacherForcing forcing() const { return options_.methods.at(0).forcing; }

  void prepare_methods() {
    std::set<std::string> names;
    for (const EditOptions& one : options_.methods) {
      require<InputError>(names.insert(one.method).second, "{}: {} is given twice", option("methods"), one.method);
      methods_.push_back({.options = one, .config = {}, .traits = {}, .failure = {}, .requests = {}});
    }
    require<InputError>(!methods_.empty(), "{} is missing: which methods are compared", option("methods"));
    std::vector<bool> valid(records_.size(), true);
    // The last one to be made is the first to work.
    for (int64_t m = std::ssize(methods_) - 1; m >= 0; --m) prepare_method(m, valid);
    keep_valid(valid);
    require<InputError>(!records_.empty(), "{}: there is no record that all methods can edit",
                        options_.records.string());
  }

  /// A record that one method cannot run is left out for all of them.
  void prepare_method(int64_t m, std::vector<bool>& valid) {
    Compared& compared = methods_[m];
    try {
      const Method& writing = method(m);
      compared.config = made_->config;
      compared.traits = {compared.options.method, writing.takes_batches(), writing.in_two_steps() != nullptr,
                         writing.default_batch_size()};
      if (is_sequential() && ranks_.is_root()) warn_of_sequence(writing);
    } catch (const NumericalError& error) {
      compared.config = {{"method", compared.options.method}, {kFailure, error.what()}};
      compared.failure = error.what();
      return;
    }
    for (size_t r = 0; r < records_.size(); ++r) {
      std::optional<PreparedRequest> request;
      if (valid[r])
        request = prepare_or_skip(*made_->method, records_[r].edit, options_.records.string(),
                                  options_.record_options.on_invalid, skipped_);
      valid[r] = request.has_value();
      compared.requests.push_back(request ? std::move(*request) : PreparedRequest{});
    }
  }

  void keep_valid(const std::vector<bool>& valid) {
    const auto keep = [&](auto& all) {
      size_t kept = 0;
      for (size_t i = 0; i < all.size(); ++i)
        if (valid[i]) {
          if (kept != i) all[kept] = std::move(all[i]);
          ++kept;
        }
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(kept), all.end());
    };
    keep(records_);
    for (Compared& compared : methods_)
      if (compared.traits) keep(compared.requests);
  }

  /// One method at a time is in memory: second moments and null spaces are large.
  Method& method(int64_t m) {
    if (made_index_ != m) {
      made_index_ = -1;
      made_.reset();
      made_.emplace(prepare_edits(methods_[m].options, executor_, tokenizer_, base_.on(model_)));
      made_index_ = m;
    }
    return *made_->method;
  }

  void plan() {
    ComparisonShape shape{.mode = options_.mode,
                          .edits_at = options_.edits_at,
                          .batch = options_.batch_size,
                          .records = std::ssize(records_),
                          .records_per_unit = requests_per_unit(context_),
                          .text = text_parts(),
                          .records_file = options_.records.string()};
    std::vector<std::optional<MethodTraits>> traits;
    std::vector<MethodTraits> working;
    for (const Compared& compared : methods_) {
      traits.push_back(compared.traits);
      if (compared.traits) working.push_back(*compared.traits);
    }
    check_points(shape, working);
    stages_ = plan_comparison(shape, traits);
    std::vector<UnitPass> passes;
    for (const Stage& stage : stages_) passes.push_back({std::ssize(stage.parts), 1, stage.order});
    units_ = Units(std::move(passes));
  }

  std::vector<Part> text_parts() const {
    std::vector<Part> parts;
    int64_t tokens = kTextTokensPerUnit;
    for (size_t w = 0; w < text_.windows.size(); ++w) {
      if (tokens >= kTextTokensPerUnit) {
        parts.push_back({0, static_cast<int64_t>(w), 0});
        tokens = 0;
      }
      ++parts.back().count;
      tokens += std::ssize(text_.windows[w]);
    }
    return parts;
  }

  void configure(const std::string& records_sha256) {
    config_ = description_.config;
    note_base_edits(config_, base_);
    for (const Compared& compared : methods_) config_["methods"].push_back(compared.config);
    config_["edits_at"] = options_.edits_at;
    if (options_.batch_size) config_["batch"] = *options_.batch_size;
    if (!options_.text.empty())
      config_["text"] = {{"sha256", text_.sha256()}, {"predicted_tokens", text_.predicted_tokens()}};
    config_["records_sha256"] = records_sha256;
    config_["weights_sha256"] = model_.checkpoint().weights_sha256();
    config_["records_per_unit"] = requests_per_unit(context_);
    config_["passes"] = units_.passes().size();
  }

  // --- The work ---

  const Stage& stage_of(int64_t unit) const { return stages_[static_cast<size_t>(units_.pass(unit))]; }
  const Part& part_of(int64_t unit) const { return stage_of(unit).parts[static_cast<size_t>(units_.first(unit))]; }
  std::span<const PreparedRequest> requests_of(const Stage& stage, const Part& part) const {
    return std::span<const PreparedRequest>(methods_[stage.method].requests)
        .subspan(static_cast<size_t>(part.first), static_cast<size_t>(part.count));
  }
  std::span<const EvalRecord> records_of(const Part& part) const {
    return std::span<const EvalRecord>(records_).subspan(static_cast<size_t>(part.first),
                                                         static_cast<size_t>(part.count));
  }

  /// What cannot be computed is a result too.
  WriteShard compute(const UnitStore& store, int64_t unit) {
    const Stage& stage = stage_of(unit);
    std::string failure;
    try {
      return work(store, stage, part_of(unit));
    } catch (const NumericalError& error) {
      failure = error.what();
    }
    if (stage.work == Work::extend) state_.failure = failure;
    return [failure](H5File& shard) { write_failure(shard, failure); };
  }

  WriteShard work(const UnitStore& store, const Stage& stage, const Part& part) {
    if (stage.run >= 0) enter_sequence(stage);
    switch (stage.work) {
      case Work::find:
        return find(stage, part);
      case Work::write:
        return write_chunk(store, stage, part);
      case Work::write_and_score:
        return write_and_score(store, stage, part);
      case Work::extend:
        return extend(store, stage, part);
      case Work::score:
        if (stage.written >= 0) load_chunk(store, stage, part);
        return score(stage, part);
      case Work::measure:
        if (stage.written >= 0) load_chunk(store, stage, part);
        return measure(stage, part);
    }
    throw_error<ShapeError>("a stage without work");
  }

  WriteShard find(const Stage& stage, const Part& part) {
    Method& finding = method(stage.method);
    context_.reset_peak();
    return with_peak(find_edits(stage.run >= 0 ? edited_executor_ : executor_, *finding.in_two_steps(),
                                requests_of(stage, part), part.first),
                     context_.peak_bytes());
  }

  /// Throws the NumericalError that ended the search for one of the requests.
  FoundEdits found_for(const UnitStore& store, int64_t found, int64_t first, int64_t count) const {
    if (found < 0) return {};
    const Stage& stage = stages_[static_cast<size_t>(found)];
    const int64_t begin = stage.parts.front().first, per_unit = stage.parts.front().count;
    for (int64_t i = (first - begin) / per_unit; i <= (first + count - 1 - begin) / per_unit; ++i)
      throw_failure(failure_in(store.open_unit(units_.first_unit(found) + i)));
    const EditPass pass{true, begin, {stage.parts.back().first + stage.parts.back().count - begin, per_unit}};
    return read_found_edits(store, model_.config(), pass, units_.first_unit(found), first, count);
  }

  static void throw_failure(const std::string& sentence) {
    if (!sentence.empty()) throw NumericalError(sentence);
  }

  static WriteShard with_peak(WriteShard write, int64_t peak) {
    return [write = std::move(write), peak](H5File& shard) {
      write(shard);
      write_attribute(shard, "/", kPeak, peak);
    };
  }
  /// Shards of edits say how many they were, and what they took.
  static WriteShard with_costs(WriteShard write, int64_t edits, double seconds, int64_t peak) {
    return with_peak(
        [write = std::move(write), edits, seconds](H5File& shard) {
          write(shard);
          write_attribute(shard, "/", kEdits, edits);
          write_attribute(shard, "/", kSeconds, seconds);
        },
        peak);
  }

  // --- Chunks, each from the original model ---

  WriteShard write_chunk(const UnitStore& store, const Stage& stage, const Part& chunk) {
    Method& writing = method(stage.method);
    const auto requests = requests_of(stage, chunk);
    writing.start_sequence();
    context_.reset_peak();
    EditUnit made;
    if (stage.batch >= stage.edits) {
      made = make_edits(executor_, tokenizer_, writing, requests, 0, Outcomes::leave_out,
                        found_for(store, stage.found, chunk.first, chunk.count));
    } else {
      state_ = {};
      edited_ = model_;
      made = make_edits_in_sequence(edited_executor_, edited_, tokenizer_, writing, requests, stage.batch,
                                    Outcomes::leave_out);
    }
    require_finite(made.batches);
    std::vector<EditBatch> kept = {changes_only(made.batches)};
    return with_costs([kept = std::move(kept), architecture = model_.config()](
                          H5File& shard) { write_batches(shard, architecture, kept, 0, 0); },
                      chunk.count, made.seconds, context_.peak_bytes());
  }

  /// Of one chunk, or of many of one request each.
  WriteShard write_and_score(const UnitStore& store, const Stage& stage, const Part& part) {
    Method& writing = method(stage.method);
    writing.start_sequence();
    context_.reset_peak();
    EditUnit made = write_chunks(store, stage, part, writing);
    const int64_t peak = context_.peak_bytes();
    require_finite(made.batches);
    const RecordValues values = record_values(
        options_.record_options.dataset,
        evaluate_own_edits(executor_, tokenizer_, forcing(), records_of(part), made.batches), Phase::after);
    std::vector<EditBatch> kept;
    for (size_t b = 0; b < made.batches.size(); ++b)
      if (part.first / stage.edits + static_cast<int64_t>(b) < kMeasuredChunks)
        kept.push_back(changes_only(std::span(made.batches).subspan(b, 1)));
    return with_costs(
        [kept = std::move(kept), values, architecture = model_.config()](H5File& shard) {
          write_batches(shard, architecture, kept, 0, 0);
          write_values(shard, values);
        },
        part.count, made.seconds, peak);
  }

  EditUnit write_chunks(const UnitStore& store, const Stage& stage, const Part& part, const Method& writing) {
    const auto requests = requests_of(stage, part);
    if (stage.found < 0) return make_edits(executor_, tokenizer_, writing, requests, stage.edits, Outcomes::leave_out);
    EditUnit all;
    for (int64_t first = 0; first < part.count; first += stage.edits) {
      const int64_t count = std::min(stage.edits, part.count - first);
      EditUnit one = make_edits(executor_, tokenizer_, writing,
                                requests.subspan(static_cast<size_t>(first), static_cast<size_t>(count)), 0,
                                Outcomes::leave_out, found_for(store, stage.found, part.first + first, count));
      all.batches.push_back(std::move(one.batches.at(0)));
      all.seconds += one.seconds * static_cast<double>(count) / static_cast<double>(part.count);
    }
    return all;
  }

  static void write_values(H5File& shard, const RecordValues& values) {
    std::vector<double> all;
    for (const std::vector<double>& column : values.columns) all.insert(all.end(), column.begin(), column.end());
    write_dataset(shard, "/values", all, {std::ssize(values.columns), std::ssize(values.columns.at(0))});
  }

  /// Brings the edited model to the edits of a chunk.
  void load_chunk(const UnitStore& store, const Stage& stage, const Part& part) {
    if (state_.written == stage.written && state_.chunk == part.chunk) return throw_failure(state_.failure);
    const Stage& written = stages_[static_cast<size_t>(stage.written)];
    const int64_t first = part.chunk * stage.edits;
    const auto holder = std::ranges::find_if(
        written.parts, [&](const Part& one) { return one.first <= first && first < one.first + one.count; });
    const H5File shard = store.open_unit(units_.first_unit(stage.written) + (holder - written.parts.begin()));
    state_ = {.written = stage.written, .chunk = part.chunk, .failure = failure_in(shard)};
    edited_ = model_;
    throw_failure(state_.failure);
    const int64_t count = std::min(stage.edits, std::ssize(records_) - first);
    fold(read_batches(shard, model_.config(), first - holder->first, count));
  }

  void fold(std::span<const EditBatch> batches) {
    for (const EditBatch& batch : batches) {
      EditedModel(batch.changes).fold_into(context_, edited_);
      for (const Change& change : batch.changes) state_.changed.insert(weight_of(change));
    }
  }

  // --- Sequences ---

  /// Brings the edited model to the beginning of a sequence, unless it is in it; throws what has ended it.
  void enter_sequence(const Stage& stage) {
    if (state_.method != stage.method || state_.run != stage.run) {
      state_ = {.method = stage.method, .run = stage.run};
      edited_ = model_;
      if (ranks_.is_root()) method(stage.method).start_sequence();
    }
    throw_failure(state_.failure);
  }

  WriteShard extend(const UnitStore& store, const Stage& stage, const Part& part) {
    Method& writing = method(stage.method);
    FoundEdits found = found_for(store, stage.found, part.first, part.count);
    context_.reset_peak();
    EditUnit made = make_edits_in_sequence(edited_executor_, edited_, tokenizer_, writing, requests_of(stage, part),
                                           stage.batch, Outcomes::leave_out, std::move(found));
    require_finite(made.batches);
    for (const EditBatch& batch : made.batches)
      for (const Change& change : batch.changes) state_.changed.insert(weight_of(change));
    const double seconds = made.seconds;
    return with_costs(write_edit_unit(std::move(made), model_.config(), part.first, stage.batch), part.count, seconds,
                      context_.peak_bytes());
  }

  /// What an earlier run, or rank 0, has added to the sequence, where something is left that needs it.
  void apply_done(const UnitStore& store, int64_t unit) {
    const Stage& stage = stage_of(unit);
    if (is_done(store, stage.method)) return;
    try {
      enter_sequence(stage);
    } catch (const NumericalError&) {
      return;
    }
    const H5File shard = store.open_unit(unit);
    state_.failure = failure_in(shard);
    if (!state_.failure.empty()) return;
    const Part& part = part_of(unit);
    const EditUnit done = read_edit_unit(shard, model_.config(), part.first, part.count);
    fold(done.batches);
    if (!ranks_.is_root()) return;  // which alone makes batches
    for (const EditBatch& batch : done.batches) method(stage.method).take_up(batch);
  }

  /// Whether all units of a method are.
  bool is_done(const UnitStore& store, int64_t method) const {
    for (int64_t s = 0; s < std::ssize(stages_); ++s) {
      if (stages_[s].method != method) continue;
      for (int64_t unit = units_.first_unit(s); unit < units_.end_unit(s); ++unit)
        if (!store.is_done(unit)) return false;
    }
    return true;
  }

  // --- Looking at an edited model ---

  Executor& executor_of(const Stage& stage) { return stage.method < 0 ? executor_ : edited_executor_; }

  WriteShard score(const Stage& stage, const Part& part) {
    const std::vector<RecordResult> results =
        evaluate_model(executor_of(stage), tokenizer_, forcing(), records_of(part));
    return [values = record_values(options_.record_options.dataset, results, Phase::before)](H5File& shard) {
      write_values(shard, values);
    };
  }

  WriteShard measure(const Stage& stage, const Part& part) {
    const NllSum sum = score_windows(
        executor_of(stage),
        std::span(text_.windows).subspan(static_cast<size_t>(part.first), static_cast<size_t>(part.count)));
    std::vector<int64_t> layers;
    std::vector<double> changes;
    if (part.first == 0 && stage.method >= 0)
      for (const auto& [layer, change] : relative_changes(context_, model_, edited_, state_.changed)) {
        layers.push_back(layer);
        changes.push_back(change);
      }
    return [=](H5File& shard) {
      write_attribute(shard, "/", "nll", sum.nll);
      write_attribute(shard, "/", "tokens", sum.tokens);
      write_dataset(shard, "/layers", layers, {std::ssize(layers)});
      write_dataset(shard, "/changes", changes, {std::ssize(changes)});
    };
  }

  // --- The result, on rank 0 ---

  void start_result() {
    const RecordValues names = record_values(options_.record_options.dataset, {}, Phase::before);
    result_ = {.dataset = options_.record_options.dataset,
               .mode = options_.mode,
               .model_name = description_.model_name,
               .edits_at = options_.edits_at,
               .metrics = names.names,
               .metric_long_names = names.long_names};
    for (const EvalRecord& record : records_) result_.case_ids.push_back(record.edit.case_id);
    result_.rows.push_back({.method = kUnedited, .edits = 0, .failure = {}, .values = {}});
    for (const Compared& compared : methods_) {
      result_.methods.push_back(compared.options.method);
      for (const int64_t n : options_.edits_at)
        result_.rows.push_back(
            {.method = compared.options.method, .edits = n, .failure = compared.failure, .values = {}});
    }
    edits_.assign(result_.rows.size(), 0);
    merged_ = 0;
  }

  void take_over(const H5File& shard) {
    const int64_t unit = merged_++;
    const Stage& stage = stage_of(unit);
    const Part& part = part_of(unit);
    if (stage.work == Work::find) return take_peak(shard, stage);  // what failed there is told by what it was for
    ComparisonRow& row = result_.rows.at(static_cast<size_t>(stage.row));
    if (const std::string failure = failure_in(shard); !failure.empty() && row.failure.empty()) row.failure = failure;
    if (row.failed()) return;
    if (has_attribute(shard, "/", kSeconds)) take_costs(shard, row, edits_[static_cast<size_t>(stage.row)]);
    if (h5_exists(shard, "/values")) take_values(shard, row);
    if (stage.work == Work::measure) take_measures(shard, part, row);
    if (stage.method >= 0) row.chunks = stage.run >= 0 ? 1 : (std::ssize(records_) + stage.edits - 1) / stage.edits;
  }

  static void take_costs(const H5File& shard, ComparisonRow& row, int64_t& edits) {
    const int64_t some = read_int_attribute(shard, "/", kEdits);
    row.edit_seconds = (row.edit_seconds * static_cast<double>(edits) +
                        read_double_attribute(shard, "/", kSeconds) * static_cast<double>(some)) /
                       static_cast<double>(edits + some);
    edits += some;
    row.peak_memory_bytes = std::max(row.peak_memory_bytes, read_int_attribute(shard, "/", kPeak));
  }

  /// What is found from the original model is for all rows of a method.
  void take_peak(const H5File& shard, const Stage& stage) {
    if (!has_attribute(shard, "/", kPeak)) return;
    const auto rows = stage.run >= 0 ? size_t{1} : options_.edits_at.size();
    for (ComparisonRow& row : std::span(result_.rows).subspan(static_cast<size_t>(stage.row), rows))
      row.peak_memory_bytes = std::max(row.peak_memory_bytes, read_int_attribute(shard, "/", kPeak));
  }

  static void take_values(const H5File& shard, ComparisonRow& row) {
    const H5Array<double> values = read_dataset<double>(shard, "/values");
    row.values.resize(static_cast<size_t>(values.shape.at(0)));
    for (size_t k = 0; k < row.values.size(); ++k) {
      const auto begin = values.values.begin() + static_cast<std::ptrdiff_t>(k) * values.shape.at(1);
      row.values[k].insert(row.values[k].end(), begin, begin + values.shape.at(1));
    }
  }

  static void take_measures(const H5File& shard, const Part& part, ComparisonRow& row) {
    row.nll_sum += read_double_attribute(shard, "/", "nll");
    row.text_tokens += read_int_attribute(shard, "/", "tokens");
    if (part.first != 0) return;
    ++row.measured_chunks;
    const auto layers = read_dataset<int64_t>(shard, "/layers").values;
    const auto changes = read_dataset<double>(shard, "/changes").values;
    for (size_t i = 0; i < layers.size(); ++i) row.changes[layers[i]] += changes[i];  // a sum until the end
  }

  void write_result(H5File& output) {
    for (ComparisonRow& row : result_.rows) {
      if (row.failed()) row = {.method = row.method, .edits = row.edits, .failure = row.failure, .values = {}};
      for (auto& [layer, change] : row.changes) change /= static_cast<double>(row.measured_chunks);
    }
    write_provenance(output, config_,
                     job_provenance(description_.inputs, context_, model_, ranks_.communicator.size(), base_.sha256()));
    write_skipped_records(output, skipped_);
    write_comparison(output, result_);
  }

  const Ranks& ranks_;
  const JobDescription& description_;
  const ComparisonOptions& options_;
  Context& context_;
  LoadedModel& loaded_;
  const Model& model_ = loaded_.model;
  const Tokenizer& tokenizer_ = loaded_.tokenizer;
  EditChain base_;  // what the model had before
  Executor executor_;
  Model edited_;
  Executor edited_executor_;
  /// What the edited model is: a chunk that some stage has written, or a sequence so far.
  struct State {
    int64_t method = -1, run = -1;     // of a sequence
    int64_t written = -1, chunk = -1;  // of a chunk
    std::set<WeightId> changed = {};
    std::string failure = {};  // why it is not that
  };
  State state_;
  std::vector<EvalRecord> records_;
  std::vector<std::string> skipped_;
  TextWindows text_;
  std::vector<Compared> methods_;
  std::optional<PreparedEdits> made_;
  int64_t made_index_ = -1;
  std::vector<Stage> stages_;
  Units units_{std::vector<UnitPass>()};
  Comparison result_;
  std::vector<int64_t> edits_;  // by row: whose costs are taken over
  int64_t merged_ = 0;          // units
  Json config_;
};

}  // namespace

ComparisonOutcome run_comparison_job(const Ranks& ranks, Context& context, LoadedModel& loaded,
                                     const JobDescription& description, const ComparisonOptions& options) {
  return ComparisonJob(ranks, context, loaded, description, options).run();
}

}  // namespace loci
