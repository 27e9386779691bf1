// Training: data, schedule, exact resume after a killed process, several ranks, and what is refused.
#include "model/train/trainer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <numeric>

#include "model/train/job.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/settings.h"
#include "runtime/jobs/output_lock.h"
#include "runtime/ranks/communicator_threads.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/page.h"
#include "tests/support/paths.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

class TrainingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  TrainingTest() {
    spdlog::set_level(spdlog::level::warn);
    write_byte_tokenizer(dir_.path() / "tokenizer");
    std::string text;
    const char* const animals[] = {"cat", "dog", "hen", "cow", "owl"};
    const char* const sounds[] = {"meow", "woof", "cluck", "moo", "hoot"};
    for (int i = 0; i < 60; ++i) {
      const std::string animal = animals[i % 5];
      text += Json{{"text", "the " + animal + " says " + sounds[i % 5]}, {"subjects", {{4, 7}}}}.dump() + "\n";
    }
    write_file_atomically(dir_.path() / "text.jsonl", text);
  }

  Json json() const {
    return {{"tokenizer", dir_.file("tokenizer")},
            {"model", {{"layers", 2}, {"width", 20}, {"heads", 5}, {"positions", 32}, {"mlp_width", 33}}},
            {"text", dir_.file("text.jsonl")},
            {"validation_fraction", 0.1},
            {"sequences", {{"join_most", 2}, {"join_probability", 0.3}, {"endoftext_before", 0.2}}},
            {"epochs", 2},
            {"tokens_per_step", 100},
            {"tokens_per_wave", 50},
            {"learning_rate", 0.02},
            {"warmup_steps", 5},
            {"mlp_drop", {{"first_layer", 1}, {"probability", 0.3}}},
            {"attention_cut", {{"layers", 1}, {"probability", 0.5}}},
            {"name_mlp_drop", {{"layers", 1}, {"probability", 0.5}}},
            {"validate_every", 7},
            {"checkpoint_every", 3},
            {"seed", 3}};
  }
  TrainingJob job(const std::string& output, const Json& config) const {
    return {.config = training_config_from_json(config, "test"),
            .output = dir_.path() / output,
            .on_existing = OnExisting::resume,
            .on_step = {}};
  }
  TrainingSummary train(const std::string& output) { return train(output, json()); }
  TrainingSummary train(const std::string& output, const Json& config) {
    Context context(device_options(2));
    return run_training(context, job(output, config));
  }
  /// The job as several ranks in threads; rank 0's summary. `on_step` also gets the rank.
  using OnRankStep = std::function<void(int rank, const StepReport& report)>;
  TrainingSummary train_as(int ranks, const std::string& output, const Json& config, const OnRankStep& on_step = {},
                           const Interruption* interruption = nullptr) {
    TrainingSummary summary;
    run_threads(ranks, {}, [&](Communicator& communicator) {
      Context context(device_options(1));
      HostStagedDeviceCommunicator device(communicator, context);
      TrainingJob own = job(output, config);
      if (on_step) own.on_step = [&](const StepReport& report) { on_step(communicator.rank(), report); };
      TrainingSummary made = run_training(context, own, {.communicator = &device, .interruption = interruption});
      if (communicator.is_root()) summary = std::move(made);
    });
    return summary;
  }
  /// A few steps of one to five waves.
  Json several_waves() const {
    Json config = json();
    config["tokens_per_wave"] = 25;
    config.erase("epochs");
    config["steps"] = on_emulated_device() ? 3 : 11;
    config["validate_every"] = 2;
    config["checkpoint_every"] = 2;
    return config;
  }
  void expect_same(const TrainingSummary& ours, const TrainingSummary& theirs) {
    EXPECT_EQ(ours.steps, theirs.steps);
    EXPECT_EQ(ours.tokens, theirs.tokens);
    ASSERT_EQ(ours.losses.size(), theirs.losses.size());
    for (size_t i = 0; i < theirs.losses.size(); ++i) {
      EXPECT_EQ(ours.losses[i].step, theirs.losses[i].step);
      EXPECT_EQ(ours.losses[i].training, theirs.losses[i].training);
      EXPECT_EQ(ours.losses[i].validation, theirs.losses[i].validation);
    }
  }
  std::string weights(const std::string& output) const {
    return read_text_file(dir_.path() / output / "model.safetensors");
  }

  TemporaryDir dir_;
};

TEST_F(TrainingTest, LossGoesDownAndTheResultLoads) {
  if (on_emulated_device()) GTEST_SKIP() << "minutes of emulation; the other tests run the same steps";
  Json config = json();
  config["epochs"] = 30;
  config["tokens_per_step"] = 200;
  for (const char* key : {"mlp_drop", "attention_cut", "name_mlp_drop"}) config.erase(key);
  const TrainingSummary summary = train("model", config);
  ASSERT_GE(summary.losses.size(), 2u);
  EXPECT_GT(summary.losses.front().training, 3.0);
  EXPECT_LT(summary.losses.back().training, 1.0);
  EXPECT_LT(summary.losses.back().validation, 1.0);
  Context context(device_options());
  const Model model = Model::load(context, dir_.path() / "model");
  EXPECT_EQ(model.config().vocabulary, 257);
  EXPECT_EQ(model.config().eos_tokens, std::vector<int64_t>{256});
  EXPECT_EQ(Tokenizer::load(dir_.path() / "model").vocabulary_size(), 257);
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "model" / "training.h5"));
}

TEST_F(TrainingTest, InterruptedTrainingGivesTheSameBits) {
  const TrainingSummary whole = train("whole");
  ASSERT_GT(whole.steps, 12);
  struct Stop {};
  for (const int64_t stop_at : {4, 11}) {  // between two checkpoints: steps are done again
    Context context(device_options(2));
    TrainingJob interrupted = job("resumed", json());
    interrupted.on_step = [stop_at](const StepReport& report) {
      if (report.step == stop_at) throw Stop{};
    };
    EXPECT_THROW(run_training(context, interrupted), Stop);
    EXPECT_FALSE(std::filesystem::exists(dir_.path() / "resumed" / "model.safetensors"));
  }
  expect_same(train("resumed"), whole);
  EXPECT_EQ(weights("resumed"), weights("whole"));
}

TEST_F(TrainingTest, BitsDoNotDependOnTheNumberOfRanks) {
  const Json config = several_waves();
  const TrainingSummary whole = train("whole", config);
  for (const int ranks : {1, 2, 3, 4}) {
    const std::string output = fmt::format("ranks_{}", ranks);
    expect_same(train_as(ranks, output, config), whole);
    EXPECT_EQ(weights(output), weights("whole")) << ranks << " ranks";
    EXPECT_EQ(parse_json_file(dir_.path() / output / "training.json").at("world_size"), ranks);
    EXPECT_FALSE(std::filesystem::exists(dir_.path() / output / "training.h5"));
  }
  EXPECT_EQ(train_as(3, "ranks_2", config).outcome, TrainingSummary::Outcome::found_complete);
}

// A step of one wave leaves nothing to share out; the ranks without work keep up with the one that has it.
TEST_F(TrainingTest, RanksWithoutAWaveMakeTheSameSteps) {
  Json config = several_waves();
  config["tokens_per_wave"] = 100;
  const TrainingSummary whole = train("whole", config);
  expect_same(train_as(3, "ranks", config), whole);
  EXPECT_EQ(weights("ranks"), weights("whole"));
}

TEST_F(TrainingTest, AnotherNumberOfRanksContinuesToTheSameBits) {
  const Json config = several_waves();
  const TrainingSummary whole = train("whole", config);
  struct Stop {};
  const auto stop_at = [](int victim, int64_t step) {
    return [victim, step](int rank, const StepReport& report) {
      if (rank == victim && report.step == step) throw Stop{};
    };
  };
  // Of rank 1, then of rank 0, behind and between checkpoints: no rank is left waiting.
  EXPECT_THROW(train_as(3, "resumed", config, stop_at(1, 2)), Stop);
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "resumed" / "model.safetensors"));
  if (!on_emulated_device()) {
    EXPECT_THROW(train_as(2, "resumed", config, stop_at(0, 5)), Stop);
    EXPECT_THROW(train_as(1, "resumed", config, stop_at(0, 7)), Stop);
  }
  EXPECT_TRUE(std::filesystem::exists(dir_.path() / "resumed" / "training.h5"));
  std::atomic<int64_t> first = 0;
  const TrainingSummary resumed = train_as(4, "resumed", config, [&](int, const StepReport& report) {
    int64_t none = 0;
    first.compare_exchange_strong(none, report.step);
  });
  EXPECT_EQ(first, on_emulated_device() ? 3 : 7) << "steps before the checkpoint were done again";
  expect_same(resumed, whole);
  EXPECT_EQ(weights("resumed"), weights("whole"));
}

TEST_F(TrainingTest, RanksThatAreAskedToStopLeaveBehindACheckpoint) {
  const Json config = several_waves();
  train("whole", config);
  {
    const Interruption interruption;
    std::atomic<int> steps = 0;
    const auto ask = [&](int rank, const StepReport& report) {
      ++steps;
      if (rank == 1 && report.step == 1) kill(getpid(), SIGTERM);
      while (report.step == 1 && interruption.signal() == 0) usleep(1000);
    };
    const std::string message = error_of<InterruptedError>([&] { train_as(2, "stopped", config, ask, &interruption); });
    expect_message(message, {"interrupted by SIGTERM after step 1 of", "run the same command again to continue"});
    EXPECT_EQ(steps, 2) << "one of each rank";
  }
  EXPECT_TRUE(std::filesystem::exists(dir_.path() / "stopped" / "training.h5"));
  std::atomic<int64_t> first = 0;
  train_as(3, "stopped", config, [&](int, const StepReport& report) {
    int64_t none = 0;
    first.compare_exchange_strong(none, report.step);
  });
  EXPECT_EQ(first, 2);
  EXPECT_EQ(weights("stopped"), weights("whole"));
}

TEST_F(TrainingTest, RanksWithOtherTextAreRefused) {
  std::filesystem::copy(dir_.path() / "text.jsonl", dir_.path() / "other.jsonl");
  std::ofstream(dir_.path() / "other.jsonl", std::ios::app) << "{\"text\": \"the fox says nothing\"}\n";
  const auto train_both = [&] {
    run_threads(2, {}, [&](Communicator& communicator) {
      Context context(device_options(1));
      HostStagedDeviceCommunicator device(communicator, context);
      Json config = json();
      if (!communicator.is_root()) config["text"] = dir_.file("other.jsonl");
      run_training(context, job("refused", config), {.communicator = &device});
    });
  };
  expect_message(error_of<ConfigurationMismatch>(train_both), {"rank 1", "training_data_sha256", "rank 0"});
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "refused"));
}

TEST_F(TrainingTest, RanksFineTuneTheGivenWeights) {
  Json config = several_waves();
  config["steps"] = 2;
  train("model", config);
  config.erase("model");
  config.erase("tokenizer");
  config["initial_model"] = dir_.file("model");
  train("whole", config);
  train_as(2, "ranks", config);
  EXPECT_EQ(weights("ranks"), weights("whole"));
  EXPECT_NE(weights("ranks"), weights("model"));
}

TEST_F(TrainingTest, KilledProcessResumesToTheSameBits) {
  if (device_options().device.type != DeviceType::cpu) GTEST_SKIP() << "a child cannot use the GPU of its parent";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Context context(device_options(2));
    TrainingJob killed = job("killed", json());
    killed.on_step = [](const StepReport& report) {
      if (report.step == 8) kill(getpid(), SIGKILL);
    };
    run_training(context, killed);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_TRUE(std::filesystem::exists(dir_.path() / "killed" / "training.h5"));
  train("killed");
  train("whole");
  EXPECT_EQ(weights("killed"), weights("whole"));
}

TEST_F(TrainingTest, TwoJobsDoNotWriteOneOutput) {
  const auto folder = dir_.path() / "model", file = folder / "training.lock";
  {
    const OutputLock other(file, folder);
    EXPECT_THROW(train("model"), SystemError);
    EXPECT_FALSE(std::filesystem::exists(folder / "training.h5"));
  }
  train("model");
  EXPECT_TRUE(std::filesystem::exists(folder / "model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(TrainingTest, FinishedTrainingIsFoundAndAnotherConfigurationRefused) {
  const TrainingSummary first = train("model");
  const auto written = std::filesystem::last_write_time(dir_.path() / "model" / "model.safetensors");
  const TrainingSummary again = train("model");
  EXPECT_EQ(again.outcome, TrainingSummary::Outcome::found_complete);
  EXPECT_EQ(again.steps, first.steps);
  EXPECT_EQ(std::filesystem::last_write_time(dir_.path() / "model" / "model.safetensors"), written);
  Json other = json();
  other["learning_rate"] = 0.01;
  expect_message(error_of<ConfigurationMismatch>([&] { train("model", other); }),
                 {"training.json: belongs to another configuration (learning_rate: ", "now it is 0.01", "overwrite"});
  Context context(device_options());
  TrainingJob replacing = job("model", other);
  replacing.on_existing = OnExisting::overwrite;
  EXPECT_EQ(run_training(context, replacing).outcome, TrainingSummary::Outcome::trained);
}

TEST_F(TrainingTest, ModelsOfOtherOriginAreLeftAlone) {
  std::filesystem::create_directories(dir_.path() / "model");
  write_file_atomically(dir_.path() / "model" / "model.safetensors", "precious");
  EXPECT_THROW(train("model"), InputError);
  EXPECT_EQ(weights("model"), "precious");
}

TEST_F(TrainingTest, DamagedCheckpointIsRefused) {
  Context context(device_options(2));
  struct Stop {};
  TrainingJob interrupted = job("model", json());
  interrupted.on_step = [](const StepReport& report) {
    if (report.step == 4) throw Stop{};
  };
  EXPECT_THROW(run_training(context, interrupted), Stop);
  Json other = json();
  other["learning_rate"] = 0.01;
  expect_message(error_of<ConfigurationMismatch>([&] { train("model", other); }),
                 {"training.h5: belongs to another configuration (learning_rate: ", "or another output"});
  const auto path = dir_.path() / "model" / "training.h5";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  expect_message(error_of<InputError>([&] { train("model"); }), {"training.h5", "overwrite to train from the start"});
}

TEST_F(TrainingTest, FineTuningStartsFromTheGivenWeights) {
  train("model");
  Json config = json();
  config.erase("model");
  config.erase("tokenizer");
  config.erase("epochs");
  config["initial_model"] = dir_.file("model");
  config["steps"] = 1;
  config["learning_rate"] = 0.0;
  train("same", config);
  EXPECT_EQ(weights("same"), weights("model"));
  config["learning_rate"] = 0.01;
  config["stored_type"] = "fp16";
  train("tuned", config);
  EXPECT_LT(weights("tuned").size(), weights("model").size() * 6 / 10);
}

TEST_F(TrainingTest, DivergenceIsReportedAndNothingWritten) {
  Json config = json();
  config["learning_rate"] = 100.0;
  config["gradient_clip"] = 0;
  config["warmup_steps"] = 0;
  config["initial_deviation"] = 10.0;
  config["epochs"] = 200;
  try {
    train("model", config);
  } catch (const NumericalError& error) {
    EXPECT_NE(std::string(error.what()).find("not finite"), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(dir_.path() / "model" / "model.safetensors"));
  }
}

TEST_F(TrainingTest, BadConfigurationsAreRefused) {
  const auto refused = [&](const char* key, const Json& value, const std::string& named) {
    Json config = json();
    if (value.is_null())
      config.erase(key);
    else
      config[key] = value;
    try {
      train("refused", config);
      ADD_FAILURE() << key << " = " << value << " was accepted";
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
    }
    EXPECT_FALSE(std::filesystem::exists(dir_.path() / "refused" / "model.safetensors"));
  };
  refused("epoch", 3, "epoch");
  refused("epochs", 0, "epochs");
  refused("epochs", 1.5, "epochs");
  refused("steps", 10, "steps");
  refused("tokenizer", nullptr, "tokenizer");
  refused("tokenizer", dir_.file("nowhere"), "nowhere");
  refused("model", nullptr, "model");
  refused("model", Json{{"layers", 2}, {"width", 20}, {"heads", 3}, {"positions", 8}}, "heads");
  refused("model", Json{{"layers", 0}, {"width", 20}, {"heads", 5}, {"positions", 8}}, "layers");
  refused("model", Json{{"layers", 2}, {"width", 20}, {"heads", 5}, {"positions", 8}, {"depth", 1}}, "depth");
  refused("initial_model", "x", "initial_model");
  refused("text", nullptr, "text");
  refused("text", Json::array(), "text");
  refused("text", dir_.file("missing.txt"), "missing.txt");
  refused("tokens_per_step", 0, "tokens_per_step");
  refused("learning_rate", -1, "learning_rate");
  refused("learning_rate", "fast", "learning_rate");
  refused("beta_1", 1, "beta_1");
  refused("validation_fraction", 0.9, "validation_fraction");
  refused("validation_text", dir_.file("text.jsonl"), "validation_fraction");
  refused("sequences", Json{{"join", 3}}, "join");
  refused("sequences", Json{{"max_tokens", 33}}, "max_tokens");
  refused("sequences", Json{{"max_tokens", 1}}, "1 tokens");
  refused("mlp_drop", Json{{"first_layer", 2}, {"probability", 0.5}}, "first_layer");
  refused("mlp_drop", Json{{"first_layer", 0}, {"probability", 1.5}}, "probability");
  refused("attention_cut", Json{{"layers", 3}, {"probability", 0.5}}, "attention_cut");
  refused("name_mlp_drop", Json{{"layers", 1}}, "probability");
  refused("stored_type", "int8", "stored_type");
  refused("seed", -1, "seed");
}

TEST_F(TrainingTest, SubjectsOutsideTheirTextAreRefused) {
  for (const char* subjects :
       {"[[4, 99]]", "[[5, 5]]", "[[4, 7], [6, 9]]", "[[-1, 2]]", "[[1]]", "[1, 2]", "\"x\"", "[[0.5, 2]]"}) {
    write_file_atomically(dir_.path() / "bad.jsonl",
                          fmt::format("{{\"text\": \"the cat says meow\", \"subjects\": {}}}\n", subjects));
    Json config = json();
    config["text"] = dir_.file("bad.jsonl");
    EXPECT_THROW(train("refused", config), InputError) << subjects;
  }
}

TEST(TrainingConfig, StoredFormStays) {
  const Json given = {{"tokenizer", "t"},
                      {"model", {{"layers", 2}, {"width", 20}, {"heads", 5}, {"positions", 8}}},
                      {"text", "a"},
                      {"steps", 7}};
  EXPECT_EQ(
      training_config_to_json(training_config_from_json(given, "test")).dump(),
      R"({"attention_cut":{"layers":0,"probability":0.0},"beta_1":0.9,"beta_2":0.95,"checkpoint_every":500,)"
      R"("embedding_weight_decay":0.0,"epsilon":1e-08,"gradient_clip":1.0,"initial_deviation":0.02,)"
      R"("learning_rate":0.001,"learning_rate_floor":0.1,"mlp_drop":[],"model":{"activation":"gelu_new","heads":5,)"
      R"("layer_norm_epsilon":1e-05,"layers":2,"mlp_width":80,"positions":8,"tied":true,"width":20},)"
      R"("name_mlp_drop":{"factor":0.0,"layers":0,"probability":0.0},"report_every":20,)"
      R"("seed":0,"sequences":{"endoftext_after":true,"endoftext_before":0.0,"join_most":1,"join_probability":0.0,)"
      R"("join_separator":" ","max_tokens":0},"steps":7,"stored_type":"fp32","text":["a"],"tokenizer":"t",)"
      R"("tokens_per_step":8192,"tokens_per_wave":2048,"validate_every":500,"warmup_steps":100,"weight_decay":0.1})");
}

TEST(TrainingConfig, PageTellsEveryKey) {
  TrainingConfig config;
  expect_in_page("training.md", settings_table(fields_of(config)));
}

TEST(TrainingConfig, SurvivesJson) {
  const Json given = {{"tokenizer", "t"},
                      {"model", {{"layers", 2}, {"width", 20}, {"heads", 5}, {"positions", 8}, {"tied", false}}},
                      {"text", {"a", "b"}},
                      {"steps", 7},
                      {"mlp_drop", {{"first_layer", 1}, {"probability", 0.25}}}};
  const Json resolved = training_config_to_json(training_config_from_json(given, "test"));
  EXPECT_EQ(training_config_to_json(training_config_from_json(resolved, "test")), resolved);
  EXPECT_EQ(resolved["text"], given["text"]);
  EXPECT_EQ(resolved["model"]["mlp_width"], 80);
  EXPECT_EQ(resolved["mlp_drop"][0]["factor"], 0.0);
}

TEST(LearningRate, WarmsUpAndFallsToTheFloor) {
  TrainingConfig config;
  config.learning_rate = 2;
  config.warmup_steps = 4;
  config.learning_rate_floor = 0.25;
  EXPECT_DOUBLE_EQ(learning_rate(config, 0, 104), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 3, 104), 2);
  EXPECT_DOUBLE_EQ(learning_rate(config, 4, 104), 2);
  EXPECT_DOUBLE_EQ(learning_rate(config, 54, 104), 1.25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 104, 104), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 500, 104), 0.5);
}

Corpus numbered_corpus(int documents, bool joined) {
  Corpus corpus;
  for (int i = 0; i < documents; ++i) {
    TrainingSequence document;
    for (int t = 0; t < 2 + i % 5; ++t) document.tokens.push_back(i);
    document.subjects = {{1, 2}};
    corpus.alone.push_back(document);
    if (!joined) continue;
    document.tokens.insert(document.tokens.begin(), 1000);
    document.subjects = {{2, 3}};
    corpus.joined.push_back(document);
  }
  return corpus;
}

TEST(SequenceMaker, EachEpochHoldsEveryDocumentOnceInItsOwnOrder) {
  const Corpus corpus = numbered_corpus(50, true);
  const SequenceOptions options{
      .join_most = 3, .join_probability = 0.5, .endoftext_before = 0.5, .endoftext_after = true};
  const SequenceMaker maker(corpus, options, 999, 20, 1);
  for (const int64_t epoch : {0, 1}) {
    std::vector<int> seen(50);
    for (const TrainingSequence& sequence : maker.epoch(epoch)) {
      EXPECT_LE(sequence.size(), 20);
      EXPECT_EQ(sequence.tokens.back(), 999);
      for (const TokenSpan& subject : sequence.subjects) {
        const int32_t token = sequence.tokens[subject.begin];
        ++seen[token];
        EXPECT_EQ(subject.end, subject.begin + 1);
      }
    }
    EXPECT_EQ(seen, std::vector<int>(50, 1));
  }
  EXPECT_EQ(maker.epoch(0), maker.epoch(0));
  EXPECT_NE(maker.epoch(0), maker.epoch(1));
  EXPECT_NE(SequenceMaker(corpus, options, 999, 20, 2).epoch(0), maker.epoch(0));
}

TEST(SequenceMaker, LongDocumentsAreCutWithoutLosingAPrediction) {
  Corpus corpus;
  corpus.alone.resize(1);
  corpus.alone[0].tokens.resize(23);
  std::iota(corpus.alone[0].tokens.begin(), corpus.alone[0].tokens.end(), 0);
  corpus.alone[0].subjects = {{6, 10}, {22, 23}};
  const SequenceMaker maker(corpus, {.endoftext_after = false}, -1, 8, 1);
  const auto pieces = maker.plain();
  std::vector<int32_t> predicted;
  for (const TrainingSequence& piece : pieces) {
    EXPECT_LE(piece.size(), 8);
    predicted.insert(predicted.end(), piece.tokens.begin() + 1, piece.tokens.end());
  }
  std::vector<int32_t> expected(22);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(predicted, expected);
  EXPECT_EQ(pieces[0].subjects, (std::vector<TokenSpan>{{6, 8}}));
  EXPECT_EQ(pieces[1].subjects, (std::vector<TokenSpan>{{0, 3}}));
  EXPECT_THROW(SequenceMaker(corpus, {}, -1, 8, 1), InputError);
}

TEST(SequenceMaker, RunsKeepToTheirBudget) {
  const Corpus corpus = numbered_corpus(40, false);
  const auto sequences = SequenceMaker(corpus, {}, 999, 20, 1).epoch(0);
  const auto starts = cut_into_runs(sequences, 15);
  EXPECT_EQ(starts.front(), 0u);
  EXPECT_EQ(starts.back(), sequences.size());
  for (size_t r = 0; r + 1 < starts.size(); ++r) {
    int64_t tokens = 0;
    for (size_t s = starts[r]; s < starts[r + 1]; ++s) tokens += sequences[s].size();
    EXPECT_LE(tokens, 15);
    EXPECT_GT(tokens, 0);
  }
  EXPECT_EQ(cut_into_runs(sequences, 1).size(), sequences.size() + 1) << "a sequence above the budget is a run alone";
}

TEST(HoldOut, TakesTheFractionAndNothingTwice) {
  Corpus corpus = numbered_corpus(50, true);
  const Corpus held = hold_out(corpus, 0.2, 7);
  EXPECT_EQ(held.size(), 10u);
  EXPECT_EQ(corpus.size(), 40u);
  EXPECT_EQ(held.joined.size(), 10u);
  std::vector<int> seen(50);
  for (const auto* part : {&held, static_cast<const Corpus*>(&corpus)})
    for (const auto& document : part->alone) ++seen[document.tokens[0]];
  EXPECT_EQ(seen, std::vector<int>(50, 1));
}

}  // namespace
}  // namespace loci::test
