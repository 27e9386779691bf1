// Methods compared: against single evaluations, against plain computations, over interruptions and ranks.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <limits>

#include "edit/methods.h"
#include "eval/comparison_file.h"
#include "eval/comparison_job.h"
#include "eval/comparison_plan.h"
#include "eval/eval_file.h"
#include "eval/eval_job.h"
#include "eval/evaluation.h"
#include "eval/perplexity.h"
#include "runtime/io/npz.h"
#include "runtime/ranks/communicator_threads.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/plain_gpt.h"
#include "tests/support/small_inputs.h"

namespace loci::test {
namespace {

// --- Methods that fail -----------------------------------------------------------------------------------------------

constexpr int kNever = std::numeric_limits<int>::max();
std::atomic<int> writes_until_crash = kNever;

/// Another method, which ends the job after some writes ("crashing-...") or cannot write three requests
/// ("fragile-...").
class Wrapped : public TwoStepMethod {
 public:
  Wrapped(std::string_view name, Resources& resources)
      : crashes_(name.starts_with("crashing-")), inner_(make_method(name.substr(name.find('-') + 1), resources)) {}

  const TwoStepMethod* in_two_steps() const override { return inner_->in_two_steps() ? this : nullptr; }
  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    return inner_->prepare(request, where);
  }
  std::vector<EditBatch> edit(Executor& executor, std::span<const PreparedRequest> requests,
                              int64_t batch_size) const override {
    check(requests);
    return inner_->edit(executor, requests, batch_size);
  }
  std::vector<Edit> find(Executor& executor, std::span<const PreparedRequest> requests) const override {
    return inner_->in_two_steps()->find(executor, requests);
  }
  EditBatch write(Executor& executor, std::span<const PreparedRequest> requests,
                  std::vector<Edit> found) const override {
    check(requests);
    return inner_->in_two_steps()->write(executor, requests, std::move(found));
  }
  bool takes_batches() const override { return inner_->takes_batches(); }
  int64_t default_batch_size() const override { return inner_->default_batch_size(); }
  void take_up(const EditBatch& batch) override { inner_->take_up(batch); }
  void start_sequence() override { inner_->start_sequence(); }
  Json settings() const override { return inner_->settings(); }

 private:
  void check(std::span<const PreparedRequest> requests) const {
    if (crashes_)
      require<SystemError>(--writes_until_crash > 0, "the disk is full");
    else
      require<NumericalError>(requests.size() < 3, "three requests are too many");
  }

  bool crashes_;
  std::unique_ptr<Method> inner_;
};

std::unique_ptr<Method> make_wrapped(std::string_view name, Resources& resources) {
  return std::make_unique<Wrapped>(name, resources);
}

// --- Jobs ------------------------------------------------------------------------------------------------------------

constexpr int64_t kRecords = 20;
constexpr int64_t kWidth = 20;  // of the MLP

class ComparisonTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    for (const char* name : {"crashing-rome", "crashing-memit-seq", "fragile-ft"})
      if (std::ranges::find(methods(), name, &MethodEntry::name) == methods().end())
        methods().push_back({name, "a method of tests", make_wrapped});
  }
  static void TearDownTestSuite() {
    std::erase_if(methods(), [](const MethodEntry& entry) { return entry.make == make_wrapped; });
  }

  ComparisonTest() {
    write_random_model(dir_.path() / "model", 7, kWidth);
    write("records.json", counterfact_records(kRecords).dump());
    write("text.txt",
          "The quick brown fox jumps over 13 lazy dogs, and then it goes on and on until no window of this "
          "model holds what it does any more.\nShort.\nZwölf Boxkämpfer jagen Viktor.\n");
    write("templates.json", R"(["{}", "Yes. {}"])");
    write("rome.json", R"({"layers": [1], "v_num_grad_steps": 3, "mom2_adjustment": false})");
    write("memit.json", R"({"layers": [0, 1], "v_num_grad_steps": 3, "mom2_update_weight": 5})");
    write("ft.json", R"({"layers": [1], "num_steps": 3, "lr": 0.01})");
    for (const int64_t layer : {0, 1}) write_moments(layer);
  }

  void write(const std::string& name, const std::string& text) const { write_file_atomically(dir_.file(name), text); }
  std::string cov(int64_t layer) const { return dir_.file("h." + std::to_string(layer) + ".mlp.npz"); }

  /// I + a rank-one part, as the published code stores sums.
  void write_moments(int64_t layer) const {
    std::vector<float> sum(static_cast<size_t>(kWidth * kWidth));
    for (int64_t r = 0; r < kWidth; ++r)
      for (int64_t c = 0; c < kWidth; ++c)
        sum[r * kWidth + c] = (r == c ? 1.0f : 0.0f) + 0.01f * static_cast<float>((r + layer) * (c + layer));
    NpzWriter writer(cov(layer));
    writer.add<float>("mom2.mom2", sum, {kWidth, kWidth});
    writer.add_scalar<int64_t>("mom2.count", 1);
    writer.finish();
  }

  EditOptions method(const std::string& name) const {
    EditOptions options;
    options.method = name;
    const bool memit = name.find("memit") != name.npos, ft = name.find("ft") != name.npos;
    options.hparams = dir_.file(memit ? "memit.json" : ft ? "ft.json" : "rome.json");
    options.context_templates = dir_.file("templates.json");
    options.cov = {cov(0), cov(1)};
    options.for_several_methods = true;
    return options;
  }

  ComparisonOptions options(const std::vector<std::string>& names, std::vector<int64_t> edits_at,
                            int64_t records = kRecords) const {
    ComparisonOptions made{.records = dir_.file("records.json"),
                           .record_options = {.limit = records},
                           .methods = {},
                           .edits_at = std::move(edits_at),
                           .text = dir_.file("text.txt")};
    for (const std::string& name : names) made.methods.push_back(method(name));
    return made;
  }

  JobDescription description(const std::string& output, const char* command) const {
    return {.output = {.path = dir_.file(output)}, .config = {{"command", command}}, .inputs = Json::object()};
  }

  /// Runs a job on a model of its own, as so many ranks.
  void run(int ranks, const std::function<void(const Ranks&, Context&, LoadedModel&)>& job) const {
    const Interruption interruption;
    run_threads(ranks, {}, [&](Communicator& communicator) {
      Context context({.device = {}, .threads = 1});
      LoadedModel loaded = load_rank_model(communicator, context, dir_.path() / "model");
      job({communicator, interruption}, context, loaded);
    });
  }

  Comparison compare(const std::string& output, const ComparisonOptions& options, int ranks = 1) const {
    run(ranks, [&](const Ranks& rank, Context& context, LoadedModel& loaded) {
      run_comparison_job(rank, context, loaded, description(output, "compare"), options);
    });
    return read_comparison(H5File::open_read(dir_.file(output)));
  }

  /// What `loci eval` finds for one method.
  std::vector<RecordResult> evaluate(const std::string& name, int64_t batch, EditMode mode, int64_t records) const {
    const std::string output = name + std::to_string(batch) + std::to_string(records) + ".h5";
    run(1, [&](const Ranks& rank, Context& context, LoadedModel& loaded) {
      run_eval_job(rank, context, loaded, description(output, "eval"),
                   {.records = dir_.file("records.json"),
                    .record_options = {.limit = records},
                    .scored = Scored::own_edits,
                    .mode = mode,
                    .batch_size = batch,
                    .edit = method(name),
                    .given = {}});
    });
    return read_records(H5File::open_read(dir_.file(output)));
  }

  std::string refusal(const ComparisonOptions& options) const {
    return error_of<InputError>([&] { compare("refused.h5", options); });
  }

  TemporaryDir dir_;
};

/// Every number of a summary that a row has too; the tolerance is for other waves.
void expect_summary(const Comparison& comparison, const ComparisonRow& row, std::span<const RecordResult> results,
                    Phase phase, double tolerance = 0) {
  SCOPED_TRACE(row.method + " at " + std::to_string(row.edits));
  ASSERT_EQ(row.failure, "");
  size_t compared = 0;
  for (const MetricSummary& summary : summarize(Dataset::counterfact, results)) {
    const Estimate& expected = phase == Phase::before ? summary.before : summary.after;
    const auto metric = std::ranges::find(comparison.metrics, summary.name);
    if (metric == comparison.metrics.end() && summary.name != "score") continue;
    const Estimate found =
        summary.name == "score" ? row.score() : row.metric(static_cast<size_t>(metric - comparison.metrics.begin()));
    EXPECT_NEAR(found.mean, expected.mean, tolerance) << summary.name;
    EXPECT_NEAR(found.interval, expected.interval, tolerance) << summary.name;
    EXPECT_EQ(found.records, expected.records) << summary.name;
    ++compared;
  }
  EXPECT_EQ(compared, comparison.metrics.size() + 1);
}

TEST_F(ComparisonTest, OneBatchPerChunkIsWhatEvalFinds) {
  const std::vector<std::string> names = {"rome", "memit", "memit-rect", "ft"};
  const Comparison comparison = compare("c.h5", options(names, {1, 3, 17}));
  ASSERT_EQ(comparison.methods, names);
  ASSERT_EQ(comparison.rows.size(), 1 + 4 * 3u);
  ASSERT_EQ(std::ssize(comparison.case_ids), kRecords);
  for (size_t m = 0; m < names.size(); ++m) {
    const auto of_one = evaluate(names[m], 1, EditMode::independent, kRecords);
    expect_summary(comparison, comparison.row(static_cast<int64_t>(m), 0), of_one, Phase::after);
    expect_summary(comparison, comparison.rows[0], of_one, Phase::before);
    if (names[m] == "rome") continue;
    // Chunks of 17 are scored in parts of 16 records, so that other prompts share a wave.
    for (const int64_t point : {1, 2})
      expect_summary(comparison, comparison.row(static_cast<int64_t>(m), point),
                     evaluate(names[m], comparison.edits_at[point], EditMode::independent, kRecords), Phase::after,
                     point == 1 ? 0 : 1e-6);
  }
  // The metrics differ between rows, or equal numbers would say nothing.
  std::set<double> magnitudes;
  const auto efficacy_magnitude =
      static_cast<size_t>(std::ranges::find(comparison.metrics, "EM") - comparison.metrics.begin());
  for (const ComparisonRow& row : comparison.rows) magnitudes.insert(row.metric(efficacy_magnitude).mean);
  EXPECT_EQ(magnitudes.size(), comparison.rows.size());
  EXPECT_EQ(comparison.row(1, 1).chunks, 7);
  EXPECT_EQ(comparison.row(1, 1).measured_chunks, 7);
  EXPECT_EQ(comparison.row(1, 0).chunks, 20);
  EXPECT_EQ(comparison.row(1, 0).measured_chunks, kMeasuredChunks);
}

/// -log p of each predicted token, by the plain model in fp64.
double plain_nll(const PlainGpt& plain, std::span<const std::vector<int32_t>> windows) {
  double sum = 0;
  for (const std::vector<int32_t>& window : windows) {
    const PlainGpt::Rows logits = plain.logits(window);
    for (size_t t = 0; t + 1 < window.size(); ++t) {
      const double most = *std::ranges::max_element(logits[t]);
      double total = 0;
      for (const double logit : logits[t]) total += std::exp(logit - most);
      sum += most + std::log(total) - logits[t][static_cast<size_t>(window[t + 1])];
    }
  }
  return sum;
}

/// |sum of the changes| / |W| of a layer, from plain sums in fp64.
double plain_change(Context& context, const Model& model, int64_t layer, std::span<const Change> changes) {
  const std::vector<float> weight =
      stored_to_host(context, model.parameters().blocks[static_cast<size_t>(layer)].down_weight.stored());
  std::vector<double> sum(weight.size());
  for (const Change& change : changes) {
    const auto& one = std::get<LowRank>(change);
    if (one.weight.layer != layer) continue;
    const size_t out = one.values.size() / static_cast<size_t>(one.rank);
    for (int64_t r = 0; r < one.rank; ++r)
      for (size_t i = 0; i < one.key(r).size(); ++i)
        for (size_t j = 0; j < out; ++j)
          sum[i * out + j] += static_cast<double>(one.key(r)[i]) * static_cast<double>(one.value(r)[j]);
  }
  double change = 0, size = 0;
  for (size_t i = 0; i < sum.size(); ++i) {
    change += sum[i] * sum[i];
    size += static_cast<double>(weight[i]) * static_cast<double>(weight[i]);
  }
  return std::sqrt(change / size);
}

TEST_F(ComparisonTest, SingleRequestsOfAChunkBuildOnEachOther) {
  const int64_t n = 3, records = 8;
  const Comparison comparison = compare("c.h5", options({"rome"}, {n, records}, records));
  run(1, [&](const Ranks&, Context& context, LoadedModel& loaded) {
    const auto all =
        read_records(dir_.file("records.json"), {.limit = records}, loaded.tokenizer, loaded.model.config());
    const TextWindows text = read_text_windows(context, loaded.tokenizer, dir_.file("text.txt"), 0, 96);
    Executor original(context, loaded.model);
    Resources resources(method("rome"), original, loaded.tokenizer, Lineage{});
    const std::unique_ptr<Method> rome = make_method("rome", resources);
    for (const int64_t size : {n, records}) {
      std::vector<RecordResult> results;
      double nll = 0, change = 0;
      int64_t chunks = 0;
      for (int64_t first = 0; first < records; first += size, ++chunks) {
        const auto chunk =
            std::span(all.records)
                .subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(size, records - first)));
        Model model = loaded.model;
        Executor executor(context, model);
        std::vector<Change> changes;
        for (const EvalRecord& record : chunk) {
          const PreparedRequest request = rome->prepare(record.edit, "r");
          const std::vector<EditBatch> batches = rome->edit(executor, std::span(&request, 1), 1);
          EditedModel(batches.at(0).changes).fold_into(context, model);
          changes.push_back(batches[0].changes.at(0));
        }
        for (RecordResult& result : evaluate_model(executor, loaded.tokenizer, TeacherForcing::tokens, chunk))
          results.push_back(std::move(result));
        nll += plain_nll(PlainGpt(context, model), text.windows);
        change += plain_change(context, loaded.model, 1, changes);
      }
      const ComparisonRow& row = comparison.row(0, size == n ? 0 : 1);
      expect_summary(comparison, row, results, Phase::before);
      EXPECT_NEAR(row.nll(), nll / static_cast<double>(chunks * text.predicted_tokens()), 2e-5);
      EXPECT_EQ(row.text_tokens, chunks * text.predicted_tokens());
      ASSERT_EQ(row.changes.size(), 1u);
      EXPECT_NEAR(row.changes.at(1) / (change / static_cast<double>(chunks)), 1, 1e-5);
    }
    EXPECT_NEAR(comparison.rows[0].nll(),
                plain_nll(PlainGpt(context, loaded.model), text.windows) / static_cast<double>(text.predicted_tokens()),
                2e-5);
  });
}

TEST_F(ComparisonTest, TheChangeOfABatchIsThatOfItsProducts) {
  const Comparison comparison = compare("c.h5", options({"memit", "ft"}, {1, 5}));
  run(1, [&](const Ranks&, Context& context, LoadedModel& loaded) {
    const auto all = read_records(dir_.file("records.json"), {}, loaded.tokenizer, loaded.model.config());
    Executor executor(context, loaded.model);
    Resources resources(method("memit"), executor, loaded.tokenizer, Lineage{});
    const std::unique_ptr<Method> memit = make_method("memit", resources);
    for (const int64_t point : {0, 1}) {
      const int64_t n = comparison.edits_at[point];
      const int64_t chunks = std::min(kMeasuredChunks, kRecords / n);
      for (const int64_t layer : {0, 1}) {
        double change = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          std::vector<PreparedRequest> requests;
          for (int64_t r = chunk * n; r < (chunk + 1) * n; ++r)
            requests.push_back(memit->prepare(all.records[r].edit, "r"));
          change += plain_change(context, loaded.model, layer, memit->edit(executor, requests, 0).at(0).changes);
        }
        EXPECT_NEAR(comparison.row(0, point).changes.at(layer) / (change / static_cast<double>(chunks)), 1, 1e-4);
      }
    }
  });
  EXPECT_EQ(comparison.row(1, 0).changes.size(), 1u);
  EXPECT_GT(comparison.row(1, 0).changes.at(1), 0);
}

TEST_F(ComparisonTest, BatchesWithinAChunkBuildOnEachOther) {
  ComparisonOptions wanted = options({"memit-seq"}, {4}, 8);
  wanted.batch_size = 2;
  const Comparison chunks = compare("c.h5", wanted);
  // A chunk is the sequence of its records, and nothing of the chunk before counts.
  for (const int64_t first : {0, 4}) {
    Json records = Json::array();
    for (int64_t r = first; r < first + 4; ++r) records.push_back(counterfact_record(r));
    write("records.json", records.dump());
    std::filesystem::remove(dir_.file("memit-seq24.h5"));
    const auto results = evaluate("memit-seq", 2, EditMode::sequential, 4);
    const RecordValues values = record_values(Dataset::counterfact, results, Phase::after);
    for (size_t k = 0; k < values.columns.size(); ++k)
      for (size_t r = 0; r < 4; ++r)
        EXPECT_NEAR(chunks.row(0, 0).values[k][static_cast<size_t>(first) + r], values.columns[k][r], 1e-6)
            << k << " " << r;
  }
}

TEST_F(ComparisonTest, SequencesEndAsEvalSequentialDoes) {
  const std::vector<std::string> names = {"rome", "memit-seq", "ft"};
  ComparisonOptions wanted = options(names, {4, 8, 20});
  wanted.mode = EditMode::sequential;
  wanted.batch_size = 4;
  const Comparison comparison = compare("s.h5", wanted);
  for (size_t m = 0; m < names.size(); ++m) {
    const auto method = static_cast<int64_t>(m);
    const std::vector<double> kept = retention(comparison, method);
    for (const int64_t point : {0, 1, 2}) {
      const int64_t n = comparison.edits_at[point];
      const auto results = evaluate(names[m], names[m] == "rome" ? 1 : 4, EditMode::sequential, n);
      expect_summary(comparison, comparison.row(method, point), results, Phase::after);
      for (int64_t group = 0, first = 0; group < 3; first = comparison.edits_at[group++]) {
        const double found = kept[static_cast<size_t>(point * 3 + group)];
        if (group > point) {
          EXPECT_TRUE(std::isnan(found));
          continue;
        }
        const auto of_group = std::span(results).subspan(static_cast<size_t>(first),
                                                         static_cast<size_t>(comparison.edits_at[group] - first));
        EXPECT_EQ(found, summarize(Dataset::counterfact, of_group)[0].after.mean);
      }
    }
    if (names[m] == "rome")
      expect_summary(comparison, comparison.rows[0], evaluate("rome", 1, EditMode::sequential, 20), Phase::before);
  }
  const H5File file = H5File::open_read(dir_.file("s.h5"));
  EXPECT_EQ(dataset_info(file, "/retention").shape, (std::vector<int64_t>{3, 3, 3}));
  EXPECT_EQ(read_string_attribute(file, "/", "mode"), "sequential");
}

TEST_F(ComparisonTest, AnInterruptedJobGoesOnToTheSameBits) {
  for (const EditMode mode : {EditMode::independent, EditMode::sequential}) {
    ComparisonOptions wanted = options({"crashing-rome", "ft", "crashing-memit-seq"}, {4, 20});
    wanted.mode = mode;
    if (mode == EditMode::sequential) wanted.batch_size = 4;
    writes_until_crash = kNever;
    compare("whole.h5", wanted);
    const std::string hash = canonical_hash(dir_.file("whole.h5"));
    for (const int ranks : {1, 2})
      for (const int writes : {3, 24}) {
        SCOPED_TRACE(std::to_string(writes) + " writes, " + std::to_string(ranks) + " ranks");
        writes_until_crash = writes;
        EXPECT_THROW(compare("parts.h5", wanted, ranks), SystemError);
        EXPECT_FALSE(std::filesystem::exists(dir_.file("parts.h5")));
        writes_until_crash = kNever;
        int64_t before = 0;
        run(ranks, [&](const Ranks& rank, Context& context, LoadedModel& loaded) {
          const auto outcome = run_comparison_job(rank, context, loaded, description("parts.h5", "compare"), wanted);
          if (rank.is_root()) before = outcome.before;
        });
        EXPECT_GT(before, 0);
        EXPECT_EQ(canonical_hash(dir_.file("parts.h5")), hash);
        std::filesystem::remove(dir_.file("parts.h5"));
      }
    std::filesystem::remove(dir_.file("whole.h5"));
  }
}

TEST_F(ComparisonTest, AnyNumberOfRanksGivesTheSameBits) {
  for (const EditMode mode : {EditMode::independent, EditMode::sequential}) {
    ComparisonOptions wanted = options({"rome", "memit", "memit-seq", "ft"}, {1, 6, 20});
    wanted.mode = mode;
    if (mode == EditMode::sequential) {
      wanted.batch_size = 3;
      wanted.edits_at = {3, 12};
    }
    compare("one.h5", wanted);
    compare("three.h5", wanted, 3);
    EXPECT_EQ(canonical_hash(dir_.file("three.h5")), canonical_hash(dir_.file("one.h5")));
    std::filesystem::remove(dir_.file("one.h5"));
    std::filesystem::remove(dir_.file("three.h5"));
  }
}

TEST_F(ComparisonTest, AMethodThatFailsLeavesTheOthers) {
  const Comparison alone = compare("alone.h5", options({"rome"}, {1, 5, 20}));
  for (const int ranks : {1, 2}) {
    const Comparison comparison =
        compare("c" + std::to_string(ranks) + ".h5", options({"fragile-ft", "rome"}, {1, 5, 20}), ranks);
    // Sixteen requests of one edit each come in one call.
    for (const int64_t point : {0, 1, 2}) {
      EXPECT_EQ(comparison.row(0, point).failure, "three requests are too many");
      EXPECT_TRUE(comparison.row(0, point).values.empty());
      EXPECT_EQ(comparison.row(1, point).values, alone.row(0, point).values);
      EXPECT_EQ(comparison.row(1, point).nll(), alone.row(0, point).nll());
    }
  }
  ComparisonOptions wanted = options({"fragile-ft", "rome"}, {2, 3, 4}, 4);
  const Comparison some = compare("some.h5", wanted);
  EXPECT_EQ(some.row(0, 0).failure, "");
  EXPECT_EQ(some.row(0, 1).failure, "three requests are too many");
  wanted.mode = EditMode::sequential;
  wanted.batch_size = 4;
  wanted.edits_at = {4};
  const Comparison sequence = compare("sequence.h5", wanted, 2);
  EXPECT_EQ(sequence.row(0, 0).failure, "three requests are too many");
  EXPECT_EQ(sequence.row(1, 0).failure, "");
  EXPECT_NE(format_comparison(sequence).find("fragile-ft at 4 edits failed: three requests are too many"),
            std::string::npos);
  EXPECT_EQ(comparison_to_json(sequence)["rows"][1]["failure"], "three requests are too many");
  EXPECT_TRUE(std::isnan(retention(sequence, 0)[0]));
}

TEST_F(ComparisonTest, SingularSecondMomentsAreAFailureOfTheirMethod) {
  NpzWriter writer(cov(0));
  writer.add<float>("mom2.mom2", std::vector<float>(static_cast<size_t>(kWidth * kWidth)), {kWidth, kWidth});
  writer.add_scalar<int64_t>("mom2.count", 1);
  writer.finish();
  const Comparison comparison = compare("c.h5", options({"memit", "ft"}, {2, 4}, 4), 2);
  for (const int64_t point : {0, 1}) {
    expect_message(comparison.row(0, point).failure, {"second moment of layer 0"});
    EXPECT_EQ(comparison.row(1, point).failure, "");
  }
}

TEST_F(ComparisonTest, WhatCannotBeComparedIsRefused) {
  expect_message(refusal(options({"rome"}, {1, 30})), {"edits-at 30", "20 records", "give at most"});
  expect_message(refusal(options({"rome"}, {})), {"edits-at is missing"});
  expect_message(refusal(options({"rome"}, {5, 5})), {"edits-at: 5 follows 5", "rise"});
  expect_message(refusal(options({"rome"}, {0})), {"edits-at: 0 follows 0", "1 or more"});
  expect_message(refusal(options({"rome", "ft", "rome"}, {1})), {"methods: rome is given twice"});
  expect_message(refusal(options({"rhome"}, {1})), {"\"rhome\" is unknown", "memit"});
  expect_message(refusal(options({}, {1})), {"methods is missing"});
  ComparisonOptions wanted = options({"memit"}, {5, 10});
  wanted.mode = EditMode::sequential;
  expect_message(refusal(wanted), {"edits-at 5", "memit writes batches of 20", "batch"});
  wanted.batch_size = 3;
  wanted.edits_at = {3, 10};
  expect_message(refusal(wanted), {"edits-at 10", "memit writes batches of 3"});
  wanted = options({"rome"}, {1});
  wanted.text = dir_.file("absent.txt");
  expect_message(refusal(wanted), {"absent.txt"});
  write("letter.txt", "a\nb\n");
  wanted.text = dir_.file("letter.txt");
  expect_message(refusal(wanted), {"letter.txt", "two tokens"});
  EXPECT_FALSE(std::filesystem::exists(dir_.file("refused.h5.parts")));
}

TEST_F(ComparisonTest, ARecordThatOneMethodCannotRunIsLeftOutForAll) {
  Json records = counterfact_records(4);
  records[1]["requested_rewrite"]["prompt"] = std::string(85, 'x') + " {} is";  // too long after a template
  records[1]["requested_rewrite"]["subject"] = "He";
  records[1]["paraphrase_prompts"] = Json::array();
  records[1]["neighborhood_prompts"] = Json::array();
  write("records.json", records.dump());
  ComparisonOptions wanted = options({"ft", "rome"}, {1}, 0);
  expect_message(refusal(wanted), {"case_id 1"});
  wanted.record_options.on_invalid = OnInvalid::skip;
  const Comparison comparison = compare("c.h5", wanted);
  EXPECT_EQ(comparison.case_ids, (std::vector<int64_t>{0, 2, 3}));
  for (const ComparisonRow& row : comparison.rows) EXPECT_EQ(row.score().records, 3);
  wanted.methods = {method("ft")};
  EXPECT_EQ(compare("ft.h5", wanted).case_ids.size(), 4u);
}

// --- The text --------------------------------------------------------------------------------------------------------

TEST_F(ComparisonTest, WindowsPredictEachTokenOnce) {
  run(1, [&](const Ranks&, Context& context, LoadedModel& loaded) {
    const std::string text = read_text_file(dir_.file("text.txt"));
    const TextWindows whole = read_text_windows(context, loaded.tokenizer, dir_.file("text.txt"), 0, 1000);
    ASSERT_EQ(whole.windows.size(), 3u);
    EXPECT_EQ(whole.predicted_tokens(), std::ssize(text) - 3 - 3);  // neither line ends nor first tokens
    for (const int64_t positions : {2, 7, 50}) {
      const TextWindows cut = read_text_windows(context, loaded.tokenizer, dir_.file("text.txt"), 0, positions);
      std::vector<int32_t> predicted, all;
      for (const auto& window : cut.windows) {
        EXPECT_LE(std::ssize(window), positions);
        predicted.insert(predicted.end(), window.begin() + 1, window.end());
      }
      for (const auto& window : whole.windows) all.insert(all.end(), window.begin() + 1, window.end());
      EXPECT_EQ(predicted, all);
    }
    const TextWindows limited = read_text_windows(context, loaded.tokenizer, dir_.file("text.txt"), 40, 1000);
    ASSERT_EQ(limited.windows.size(), 1u);
    EXPECT_EQ(std::ssize(limited.windows[0]), 40);
    EXPECT_NE(limited.sha256(), whole.sha256());
  });
}

// --- Plans -----------------------------------------------------------------------------------------------------------

int64_t parts_with(const std::vector<Stage>& stages, Work work, int64_t row) {
  int64_t records = 0;
  for (const Stage& stage : stages)
    if (stage.work == work && stage.row == row)
      for (const Part& part : stage.parts) records += part.count;
  return records;
}

TEST(ComparisonPlan, EveryRecordIsWrittenAndScoredOncePerRow) {
  const std::vector<std::optional<MethodTraits>> methods = {MethodTraits{"one", false, false, 1}, std::nullopt,
                                                            MethodTraits{"two", true, true, 0},
                                                            MethodTraits{"ft", true, false, 1}};
  for (const std::optional<int64_t> batch : {std::optional<int64_t>(), std::optional<int64_t>(5)}) {
    const ComparisonShape shape{
        .edits_at = {1, 5, 40, 103}, .batch = batch, .records = 103, .text = {{0, 0, 2}, {0, 2, 1}}};
    const std::vector<Stage> stages = plan_comparison(shape, methods);
    EXPECT_EQ(parts_with(stages, Work::score, 0), 103);
    for (const int64_t m : {0, 2, 3})
      for (int64_t point = 0; point < 4; ++point) {
        const int64_t row = row_of(shape, m, point), direct = parts_with(stages, Work::write_and_score, row);
        EXPECT_EQ(direct + parts_with(stages, Work::write, row) + parts_with(stages, Work::extend, row), 103);
        EXPECT_EQ(direct + parts_with(stages, Work::score, row), 103);
        const int64_t chunks = std::min(kMeasuredChunks, (103 + shape.edits_at[point] - 1) / shape.edits_at[point]);
        EXPECT_EQ(parts_with(stages, Work::measure, row), 3 * chunks);
      }
    EXPECT_EQ(parts_with(stages, Work::find, row_of(shape, 2, 0)), 103);  // once for all sizes of chunks
    for (const Stage& stage : stages) EXPECT_NE(stage.method, 1);
  }
}

TEST(ComparisonPlan, SequencesAreScoredWhereTheyStand) {
  const ComparisonShape shape{.mode = EditMode::sequential, .edits_at = {10, 40}, .batch = 10, .records = 60};
  const std::vector<std::optional<MethodTraits>> methods = {MethodTraits{"one", false, false, 1},
                                                            MethodTraits{"two", true, true, 0}};
  const std::vector<Stage> stages = plan_comparison(shape, methods);
  for (const int64_t m : {0, 1}) {
    int64_t written = 0, next = 0;
    for (const Stage& stage : stages) {
      if (stage.method != m) continue;
      for (const Part& part : stage.parts) {
        if (stage.work == Work::extend) {
          EXPECT_EQ(part.first, written);
          EXPECT_EQ(stage.order, UnitOrder::one_by_one);
          written += part.count;
        }
        if (stage.work == Work::score && part.first == 0) {
          EXPECT_EQ(written, shape.edits_at[next++]);
        }
      }
    }
    EXPECT_EQ(next, 2);
  }
}

// --- Files and tables ------------------------------------------------------------------------------------------------

Comparison some_comparison(EditMode mode) {
  Comparison comparison{.mode = mode,
                        .model_name = "gpt",
                        .methods = {"rome", "ft"},
                        .edits_at = {1, 2},
                        .metrics = {"ES", "PS", "NS"},
                        .metric_long_names = {"e", "p", "n"},
                        .case_ids = {7, 8}};
  const auto values = [&](int64_t edits) {
    const size_t scored = mode == EditMode::sequential && edits > 0 ? static_cast<size_t>(edits) : 2;
    return std::vector<std::vector<double>>{std::vector<double>(scored, 0.5), std::vector<double>(scored, 0.25),
                                            std::vector<double>(scored, 1.0)};
  };
  comparison.rows.push_back({.method = kUnedited, .values = values(0), .nll_sum = 20, .text_tokens = 10});
  for (const std::string& method : comparison.methods)
    for (const int64_t n : comparison.edits_at)
      comparison.rows.push_back({.method = method,
                                 .edits = n,
                                 .values = values(n),
                                 .nll_sum = 30,
                                 .text_tokens = 10,
                                 .chunks = 2,
                                 .measured_chunks = 1,
                                 .changes = {{3, 0.25}, {4, 0.5}},
                                 .edit_seconds = 0.5,
                                 .peak_memory_bytes = 1 << 21});
  comparison.rows[4] = {.method = "ft", .edits = 2, .failure = "it is singular", .values = {}};
  return comparison;
}

TEST(ComparisonFile, ComesBackAsItWas) {
  for (const EditMode mode : {EditMode::independent, EditMode::sequential}) {
    const TemporaryDir dir;
    const Comparison comparison = some_comparison(mode);
    write_hdf5_atomically(dir.file("a.h5"), [&](H5File& file) { write_comparison(file, comparison); });
    const Comparison back = read_comparison(H5File::open_read(dir.file("a.h5")));
    EXPECT_EQ(comparison_to_json(back), comparison_to_json(comparison));
    EXPECT_EQ(format_comparison(back), format_comparison(comparison));
    for (size_t r = 0; r < back.rows.size(); ++r) EXPECT_EQ(back.rows[r].values, comparison.rows[r].values);
    const H5File file = H5File::open_read(dir.file("a.h5"));
    EXPECT_EQ(read_dataset<double>(file, "/mean").values[0], 0.5);
    EXPECT_NEAR(read_dataset<double>(file, "/rows/perplexity").values[1], std::exp(3.0), 1e-12);
    EXPECT_NEAR(read_dataset<double>(file, "/rows/score").values[1], 3 / (2 + 4 + 1.0), 1e-12);
  }
}

TEST(ComparisonFile, ContradictionsAreRefused) {
  const TemporaryDir dir;
  const auto refused = [&](const std::string& path, const std::function<void(H5File&)>& replace) {
    SCOPED_TRACE(path);
    const std::string whole = dir.file("whole.h5");
    write_hdf5_atomically(whole, [&](H5File& file) { write_comparison(file, some_comparison(EditMode::sequential)); });
    write_hdf5_atomically(dir.file("a.h5"), [&](H5File& file) {
      const H5File source = H5File::open_read(whole);
      for (const char* name : {"kind", "dataset", "mode", "model_name"})
        write_attribute(file, "/", name, read_string_attribute(source, "/", name));
      for (const std::string& object : object_paths(source))
        if (object != path && !h5_is_group(source, object)) copy_object(source, object, file, object);
      if (replace) replace(file);
    });
    EXPECT_THROW(read_comparison(H5File::open_read(dir.file("a.h5"))), InputError);
  };
  refused("/values", {});
  refused("/edits_at", [](H5File& file) {
    write_dataset<int64_t>(file, "/edits_at", std::vector<int64_t>{1, 9}, {2});
  });
  refused("/rows/edits", [](H5File& file) {
    write_dataset<int64_t>(file, "/rows/edits", std::vector<int64_t>{0, 1, 9, 1, 2}, {5});
  });
  refused("/changes/row", [](H5File& file) {
    write_dataset<int64_t>(file, "/changes/row", std::vector<int64_t>{1, 1, 2, 2, 3, 9}, {6});
  });
  refused("", [](H5File& file) { write_attribute(file, "/", "kind", "eval"); });
  refused("", [](H5File& file) { write_attribute(file, "/", "mode", "both"); });
}

TEST(ComparisonTables, ShowNumbersAndFailures) {
  const Comparison comparison = some_comparison(EditMode::sequential);
  const TextTable table = comparison_table(comparison);
  ASSERT_EQ(table.rows.size(), 5u);
  EXPECT_EQ(table.header, (std::vector<std::string>{"method", "edits", "ES [%]", "PS [%]", "NS [%]", "score [%]",
                                                    "perplexity", "change [%]", "s/edit", "MiB"}));
  const auto texts = [&](size_t row) {
    std::vector<std::string> all;
    for (const TableCell& cell : table.rows[row]) all.push_back(cell.text);
    return all;
  };
  EXPECT_EQ(texts(0),
            (std::vector<std::string>{"unedited", "0", "50.00", "25.00", "100.00", "42.86", "7.389", "-", "-", "-"}));
  EXPECT_EQ(texts(1),
            (std::vector<std::string>{"rome", "1", "50.00", "25.00", "100.00", "42.86", "20.09", "50", "0.5", "2"}));
  EXPECT_EQ(texts(4), (std::vector<std::string>{"ft", "2", "failed"}));
  const TextTable kept = retention_table(comparison, 0);
  EXPECT_EQ(kept.header, (std::vector<std::string>{"after", "1-1", "2-2"}));
  EXPECT_EQ(kept.rows[0][1].text, "50.00");
  EXPECT_EQ(kept.rows[0][2].text, "");
  EXPECT_EQ(kept.rows[1][2].text, "50.00");
  EXPECT_EQ(retention_table(comparison, 1).rows[1][1].text, "-");
}

}  // namespace
}  // namespace loci::test
