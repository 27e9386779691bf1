// Second moments: against a naive fp64 sum, over interruptions, and what is refused when they are read.
#include "edit/moments/second_moments.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <functional>

#include "model/text/document_source.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/npz.h"
#include "runtime/ranks/communicator_threads.h"
#include "tests/edit/support.h"
#include "tests/support/canonical_hash.h"
#include "tests/support/compare.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

Documents random_documents(size_t count, int64_t longest, unsigned seed) {
  Documents documents;
  for (size_t i = 0; i < count; ++i)
    documents.push_back(random_tokens(1 + static_cast<int64_t>((i * 7 + 3) % static_cast<size_t>(longest)), 256,
                                      seed + static_cast<unsigned>(i)));
  return documents;
}

NextDocument source_of(const Documents& documents) {
  auto next = std::make_shared<size_t>(0);
  return [&documents, next](std::vector<int32_t>& tokens) {
    if (*next == documents.size()) return false;
    tokens = documents[(*next)++];
    return true;
  };
}

class SecondMoments : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  }
  /// Every document on its own, keys summed one by one in fp64.
  std::vector<double> naive(const Documents& documents, int64_t layer) {
    const auto n = static_cast<size_t>(model_.config().mlp_width);
    std::vector<double> sum(n * n);
    for (const auto& document : documents) {
      Tensor keys(context_, std::ssize(document), model_.config().mlp_width);
      Plan plan;
      plan.sequences.push_back({.tokens = document, .base = nullptr});
      for (size_t p = 0; p < document.size(); ++p)
        plan.taps.push_back({0, static_cast<int64_t>(p), Site::mlp_key, layer, static_cast<int64_t>(p)});
      plan.tap_output = keys.view();
      plan.stop = StopAfter{Site::mlp_key, layer};
      executor_.run(plan);
      const std::vector<float> host = keys.to_host();
      for (size_t p = 0; p < document.size(); ++p)
        for (size_t r = 0; r < n; ++r)
          for (size_t c = 0; c < n; ++c)
            sum[r * n + c] += static_cast<double>(host[p * n + r]) * static_cast<double>(host[p * n + c]);
    }
    return sum;
  }
  Json config() const { return {{"job", "test"}}; }
  void collect(const NextDocument& next, SecondMomentOptions options, const std::filesystem::path& path,
               const std::string& base_edits = {}) {
    UnitStore store(path, config(), OnExisting::resume);
    Provenance provenance = current_provenance();
    provenance.weights_sha256 = "abc";
    provenance.base_edits_sha256 = base_edits;
    SelfCommunicator self;
    collect_second_moments(executor_, next, options, {self, &store}, config(), provenance);
  }
  static Lineage of_model(const std::string& weights) { return {{weights, ""}}; }
  SecondMomentMatrix read(const std::filesystem::path& path, int64_t layer = 2) {
    return read_second_moment(path, layer, model_.config().mlp_width, of_model("abc"));
  }
  std::string refusal(const std::filesystem::path& path, int64_t layer = 2) {
    return error_of<InputError>([&] { read(path, layer); });
  }

  Context context_{device_options()};
  Model model_ = random_model(context_, byte_config(), 3);
  Executor executor_{context_, model_};
  TemporaryDir dir_;
};

// fp32 products of at most 1024 rows, flushed to fp64: the error of one element is below 1024 eps times the root of the
// product of its diagonals (Schwarz).
::testing::AssertionResult near_moments(const std::vector<double>& actual, const std::vector<double>& expected) {
  const auto n = static_cast<size_t>(std::lround(std::sqrt(static_cast<double>(expected.size()))));
  return near_by(std::span<const double>(actual), std::span<const double>(expected), [&](size_t i) {
    return 1024 * kEps * std::sqrt(expected[i / n * n + i / n] * expected[i % n * n + i % n]);
  });
}

TEST_F(SecondMoments, AllLayersInOnePassEqualNaiveSums) {
  const Documents documents = random_documents(60, 64, 1);
  SecondMomentCollector collector(executor_, {3, 0, 2});
  collector.add(documents);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(near_moments(collector.sum(i), naive(documents, collector.layers()[i]))) << collector.layers()[i];
  int64_t tokens = 0;
  for (const auto& document : documents) tokens += std::ssize(document);
  EXPECT_EQ(collector.tokens(), tokens);
}

TEST_F(SecondMoments, LayersAreChecked) {
  expect_message(error_of<InputError>([&] { SecondMomentCollector(executor_, {}); }), {"layers"});
  expect_message(error_of<InputError>([&] { SecondMomentCollector(executor_, {4}); }), {"layer 4", "0 to 3"});
  expect_message(error_of<InputError>([&] { SecondMomentCollector(executor_, {1, 1}); }), {"layer 1", "twice"});
}

TEST_F(SecondMoments, LimitsCutTheText) {
  const Documents documents = random_documents(20, 64, 2);
  collect(source_of(documents), {.layers = {2}, .max_tokens_per_document = 10}, dir_.file("a.h5"));
  collect(source_of(documents), {.layers = {2}, .max_documents = 3}, dir_.file("b.h5"));
  collect(source_of(documents), {.layers = {2}, .max_tokens = 50}, dir_.file("c.h5"));
  Documents cut = documents;
  int64_t tokens = 0;
  for (auto& document : cut) {
    document.resize(std::min<size_t>(10, document.size()));
    tokens += std::ssize(document);
  }
  const SecondMomentMatrix a = read(dir_.file("a.h5"));
  EXPECT_EQ(a.tokens, tokens);
  std::vector<double> mean = naive(cut, 2);
  for (double& value : mean) value /= static_cast<double>(tokens);
  EXPECT_TRUE(near_moments(a.mean, mean));
  EXPECT_EQ(read_int_attribute(H5File::open_read(dir_.file("b.h5")), "/", "documents"), 3);
  EXPECT_EQ(read(dir_.file("c.h5")).tokens, 50);
  expect_message(error_of<InputError>([&] {
                   collect(source_of(documents), {.layers = {2}, .max_tokens_per_document = 65}, dir_.file("d.h5"));
                 }),
                 {"65", "context of 64"});
  expect_message(error_of<InputError>([&] { collect(source_of({}), {.layers = {2}}, dir_.file("d.h5")); }),
                 {"no tokens"});
  EXPECT_FALSE(std::filesystem::exists(dir_.file("d.h5")));
}

/// Stops the job as a kill would, after `documents` documents.
struct Interrupted {};

/// A small model and a text of some units; jobs on it that may be stopped.
class SecondMomentJobs : public SecondMoments {
 protected:
  static constexpr int64_t kUnit = 600;
  static constexpr size_t kNever = std::numeric_limits<size_t>::max();

  void SetUp() override {
    SecondMoments::SetUp();
    for (unsigned i = 0; i < 165; ++i) documents_.push_back(random_tokens(60, 256, i));
  }
  void run(const std::string& path, size_t stop_after, SecondMomentOptions options = {}) {
    options.layers = {0};
    options.unit_tokens = unit_;
    UnitStore store(path, config(), OnExisting::resume);
    const NextDocument whole = source_of(documents_);
    size_t taken = 0;
    const NextDocument next = [&](std::vector<int32_t>& tokens) {
      before_document_(taken);
      if (taken++ == stop_after) throw Interrupted();
      return whole(tokens);
    };
    SelfCommunicator self;
    collect_second_moments(small_executor_, next, options, {self, &store, interruption_}, config(),
                           current_provenance());
  }
  /// The same as several ranks, each with a model of its own.
  void run_as(int ranks, const std::string& path, size_t stop_after, SecondMomentOptions options = {}) {
    options.layers = {0};
    options.unit_tokens = unit_;
    UnitStore store(path, config(), OnExisting::resume);
    run_threads(ranks, {}, [&](Communicator& communicator) {
      Context context(device_options(1));
      const Model model = random_model(context, tiny_config(1, 1, 4, 6, 256, 64), 5);
      Executor executor(context, model);
      const NextDocument whole = source_of(documents_);
      size_t taken = 0;
      const NextDocument next = [&](std::vector<int32_t>& tokens) {
        before_document_(taken);
        if (taken++ == stop_after) throw Interrupted();
        return whole(tokens);
      };
      collect_second_moments(executor, next, options,
                             {communicator, communicator.is_root() ? &store : nullptr, interruption_}, config(),
                             current_provenance());
    });
  }
  /// Two facts of eight tokens, looked up at their sixth.
  std::vector<PreparedRequest> facts() const {
    std::vector<PreparedRequest> made(2);
    for (unsigned i = 0; i < 2; ++i)
      made[i].prompts.push_back({.tokens = random_tokens(8, 256, 1000 + i), .lookup = 5});
    return made;
  }
  /// C^-1 k of each fact, with C the mean over the first `tokens` tokens and k tapped on its own.
  std::vector<double> directions(int64_t tokens, const std::vector<PreparedRequest>& facts) {
    const std::string path = dir_.file("cut" + std::to_string(tokens) + ".h5");
    run(path, kNever, {.max_tokens = tokens});
    std::vector<double> mean = read_dataset<double>(H5File::open_read(path), "/layers/0/sum").values;
    for (double& value : mean) value /= static_cast<double>(tokens);
    std::vector<double> keys;
    for (const PreparedRequest& fact : facts) {
      Tensor key(context_, 1, 6);
      Plan plan;
      plan.sequences.push_back({.tokens = fact.prompts[0].tokens, .base = nullptr});
      plan.taps.push_back({0, fact.prompts[0].lookup, Site::mlp_key, 0, 0});
      plan.tap_output = key.view();
      plan.stop = StopAfter{Site::mlp_key, 0};
      small_executor_.run(plan);
      const std::vector<float> host = key.to_host();
      keys.insert(keys.end(), host.begin(), host.end());
    }
    Cholesky(context_, mean, 6, "mean").solve(keys);
    return keys;
  }

  Model small_ = random_model(context_, tiny_config(1, 1, 4, 6, 256, 64), 5);
  Executor small_executor_{context_, small_};
  Documents documents_;
  int64_t unit_ = kUnit;
  const Interruption* interruption_ = nullptr;
  std::function<void(size_t number)> before_document_ = [](size_t) {};
};

TEST_F(SecondMomentJobs, InterruptedOnesGiveTheSameBits) {
  run(dir_.file("whole.h5"), kNever);
  const std::string path = dir_.file("resumed.h5");
  EXPECT_THROW(run(path, 15), Interrupted);
  EXPECT_TRUE(std::filesystem::exists(path + ".parts/unit_000000.done"));
  EXPECT_THROW(run(path, 27), Interrupted);
  EXPECT_TRUE(std::filesystem::exists(path + ".parts/unit_000001.done"));
  EXPECT_FALSE(std::filesystem::exists(path + ".parts/unit_000000.h5")) << "the newer checkpoint holds the older one";
  run(path, kNever);
  EXPECT_FALSE(std::filesystem::exists(path + ".parts"));
  EXPECT_EQ(canonical_hash(path), canonical_hash(dir_.file("whole.h5")));
}

/// Between two checkpoints units are added to nothing but memory; a job that is asked to stop keeps one first.
TEST_F(SecondMomentJobs, CheckpointsAreKeptNowAndThen) {
  run(dir_.file("whole.h5"), kNever);
  for (const int ranks : {1, 3}) {
    const std::string path = dir_.file(fmt::format("rare{}.h5", ranks));
    const auto run_rarely = [&](size_t stop_after) {
      const SecondMomentOptions rare{.checkpoint_seconds = 1e6};
      ranks == 1 ? run(path, stop_after, rare) : run_as(ranks, path, stop_after, rare);
    };
    {
      const Interruption interruption;
      interruption_ = &interruption;
      before_document_ = [&](size_t number) {
        if (number != 65) return;
        for (int unit = 0; unit < 6; ++unit)
          EXPECT_FALSE(std::filesystem::exists(path + fmt::format(".parts/unit_{:06}.done", unit)));
        kill(getpid(), SIGUSR1);
        for (int i = 0; i < 10000 && interruption.signal() == 0; ++i) usleep(1000);
      };
      expect_message(error_of<InterruptedError>([&] { run_rarely(kNever); }), {"cov", "SIGUSR1"});
      interruption_ = nullptr;
      before_document_ = [](size_t) {};
    }
    EXPECT_TRUE(std::filesystem::exists(path + ".parts/unit_000005.done"));
    run_rarely(kNever);
    EXPECT_EQ(canonical_hash(path), canonical_hash(dir_.file("whole.h5")));
  }
}

/// What was computed before the text became unreadable is kept, however recent the last checkpoint is.
TEST_F(SecondMomentJobs, AnUnreadableTextCostsNoUnit) {
  run(dir_.file("whole.h5"), kNever);
  for (const int ranks : {1, 3}) {
    const std::string path = dir_.file(fmt::format("unreadable{}.h5", ranks));
    const SecondMomentOptions rare{.checkpoint_seconds = 1e6};
    EXPECT_THROW(ranks == 1 ? run(path, 65, rare) : run_as(ranks, path, 65, rare), Interrupted);
    EXPECT_TRUE(std::filesystem::exists(path + ".parts/unit_000005.done"));
    run(path, kNever, rare);
    EXPECT_EQ(canonical_hash(path), canonical_hash(dir_.file("whole.h5")));
  }
}

/// Two to four ranks: units are added in their order, whoever computed them.
TEST_F(SecondMomentJobs, RanksGiveTheBitsOfOne) {
  const std::vector<PreparedRequest> probe = facts();
  run(dir_.file("one.h5"), kNever, {.until = 1e-6, .probe = probe});
  const std::string expected = canonical_hash(dir_.file("one.h5"));
  for (const int ranks : {2, 3, 4}) {
    const std::string path = dir_.file("of" + std::to_string(ranks) + ".h5");
    run_as(ranks, path, kNever, {.until = 1e-6, .probe = probe});
    EXPECT_EQ(canonical_hash(path), expected) << ranks << " ranks";
  }
}

/// A checkpoint of one number of ranks is continued by another.
TEST_F(SecondMomentJobs, RanksContinueTheWorkOfOthers) {
  run(dir_.file("one.h5"), kNever);
  const std::string path = dir_.file("continued.h5");
  EXPECT_THROW(run_as(3, path, 45), Interrupted);
  EXPECT_TRUE(std::filesystem::exists(path + ".parts/unit_000002.done"));
  EXPECT_THROW(run_as(2, path, 75), Interrupted);
  EXPECT_TRUE(std::filesystem::exists(path + ".parts/unit_000006.done"));
  EXPECT_FALSE(std::filesystem::exists(path + ".parts/unit_000002.done"));
  run(path, kNever);
  EXPECT_EQ(canonical_hash(path), canonical_hash(dir_.file("one.h5")));
}

TEST_F(SecondMomentJobs, EndWhereTheDirectionsComeToRest) {
  const std::vector<PreparedRequest> probe = facts();
  run(dir_.file("whole.h5"), kNever, {.until = 1e-6, .probe = probe});
  const H5File whole = H5File::open_read(dir_.file("whole.h5"));
  EXPECT_EQ(read_int_attribute(whole, "/", "converged"), 0);
  EXPECT_EQ(read_int_attribute(whole, "/", "tokens"), 165 * 60);
  const std::vector<int64_t> tokens = read_dataset<int64_t>(whole, "/probe/tokens").values;
  const std::vector<double> changes = read_dataset<double>(whole, "/probe/change").values;
  EXPECT_EQ(tokens, (std::vector<int64_t>{kUnit, 2 * kUnit, 4 * kUnit, 8 * kUnit, 16 * kUnit}));
  ASSERT_EQ(changes.size(), 5u);
  EXPECT_TRUE(std::isinf(changes[0]));

  // The third change, from moments that are cut at the same places.
  const std::vector<double> before = directions(2 * kUnit, probe), after = directions(4 * kUnit, probe);
  double expected = 0;
  for (size_t fact = 0; fact < 2; ++fact) {
    double difference = 0, length = 0;
    for (size_t i = fact * 6; i < fact * 6 + 6; ++i) {
      difference += std::pow(after[i] - before[i], 2);
      length += std::pow(after[i], 2);
    }
    expected = std::max(expected, std::sqrt(difference / length));
  }
  // Keys of other batches differ in their last bits, and C is as good as its condition.
  EXPECT_NEAR(changes[2], expected, 1e-3 * expected);

  // A rule that the smallest change alone meets ends the job there, interrupted or not.
  const auto least = std::min_element(changes.begin(), changes.end()) - changes.begin();
  ASSERT_GE(least, 2);
  const double until = changes[least];
  run(dir_.file("ended.h5"), kNever, {.until = until, .probe = probe});
  const H5File ended = H5File::open_read(dir_.file("ended.h5"));
  EXPECT_EQ(read_int_attribute(ended, "/", "converged"), 1);
  EXPECT_EQ(read_int_attribute(ended, "/", "tokens"), tokens[least]);
  const std::string path = dir_.file("resumed.h5");
  EXPECT_THROW(run(path, 15, {.until = until, .probe = probe}), Interrupted);
  EXPECT_THROW(run(path, 35, {.until = until, .probe = probe}), Interrupted);
  run(path, kNever, {.until = until, .probe = probe});
  EXPECT_EQ(canonical_hash(path), canonical_hash(dir_.file("ended.h5")));
}

TEST_F(SecondMomentJobs, RestIsNotFoundInASingularMatrix) {
  // Four keys of six values: rank four. The second check has nothing to compare with.
  unit_ = 4;
  documents_.resize(16);
  for (auto& document : documents_) document.resize(4);
  const std::vector<PreparedRequest> probe = facts();
  run(dir_.file("a.h5"), kNever, {.until = 1e-6, .probe = probe});
  const std::vector<double> changes =
      read_dataset<double>(H5File::open_read(dir_.file("a.h5")), "/probe/change").values;
  ASSERT_EQ(changes.size(), 5u);
  EXPECT_TRUE(std::isinf(changes[0]) && std::isinf(changes[1]));
  EXPECT_TRUE(std::isfinite(changes[4]));
}

TEST_F(SecondMoments, HealthIsReported) {
  std::vector<double> sum = random_definite(6, 1);
  for (size_t i = 0; i < 6; ++i) sum[2 * 6 + i] = sum[i * 6 + 2] = 0;
  EXPECT_EQ(dead_rows(sum, 6), std::vector<int64_t>{2});
  EXPECT_TRUE(std::isinf(condition_number(context_, sum, 6)));
  // diag(1, 4): exact in the 1-norm.
  EXPECT_NEAR(condition_number(context_, {1, 0, 0, 4}, 2), 4, 1e-12);
}

TEST_F(SecondMoments, EigenvectorsAreKeptWhereTheyAreAskedFor) {
  const Documents documents = random_documents(60, 64, 4);
  const std::filesystem::path with = dir_.file("with.h5"), without = dir_.file("without.h5");
  collect(source_of(documents), {.layers = {2}, .eigenvectors = true}, with);
  collect(source_of(documents), {.layers = {2}}, without);
  const SecondMomentMatrix matrix = read(with);
  EXPECT_EQ(matrix.mean, read(without).mean);
  EXPECT_FALSE(read_second_moment_eigen(without, matrix).has_value());
  const SymmetricEigen eigen = *read_second_moment_eigen(with, matrix);
  const auto n = static_cast<size_t>(matrix.width);
  const double largest = eigen.values.back();
  for (size_t r = 0; r < n; r += 5)
    for (size_t c = 0; c < n; c += 3) {
      double made = 0;
      for (size_t k = 0; k < n; ++k) made += eigen.vectors[r * n + k] * eigen.values[k] * eigen.vectors[c * n + k];
      EXPECT_NEAR(made, matrix.mean[r * n + c], 1e-12 * largest);
    }
  EXPECT_TRUE(std::ranges::is_sorted(eigen.values));
  // Another matrix, and a damaged file.
  SecondMomentMatrix other = matrix;
  other.mean[0] *= 2;
  expect_message(error_of<InputError>([&] { read_second_moment_eigen(with, other); }),
                 {"with.h5", "/layers/2", "not those of the matrix"});
  std::vector<double> vectors = eigen.vectors;
  vectors[7] = std::nan("");
  {
    H5File file = H5File::create(dir_.file("nan.h5"));
    write_dataset<double>(file, "/layers/2/eigenvalues", eigen.values, {matrix.width},
                          {.units = "1", .long_name = "x"});
    write_dataset<double>(file, "/layers/2/eigenvectors", vectors, {matrix.width, matrix.width},
                          {.units = "1", .long_name = "x"});
  }
  expect_message(error_of<InputError>([&] { read_second_moment_eigen(dir_.file("nan.h5"), matrix); }),
                 {"nan.h5", "not finite"});
}

TEST_F(SecondMoments, SingularOnesNameTheRidge) {
  SecondMomentMatrix matrix{2, 3, 10, {1, 0, 0, 0, 0, 0, 0, 0, 2}};
  expect_message(error_of<NumericalError>([&] { factor_second_moment(context_, matrix, 0, "c.h5: layer 2"); }),
                 {"c.h5: layer 2", "positive definite", "1", "ridge"});
  EXPECT_EQ(factor_second_moment(context_, matrix, 0.1, "c")->size(), 3);
  // Two neurons that always agree: a factorisation passes where rounding leaves a little on the diagonal.
  matrix.mean = {2, 1, 1, 1, 1 + 1e-15, 1, 1, 1, 1 + 3e-15};
  expect_message(error_of<NumericalError>([&] { factor_second_moment(context_, matrix, 0, "c.h5: layer 2"); }),
                 {"c.h5: layer 2", "ridge"});
}

TEST_F(SecondMoments, OthersStatisticsAreRefused) {
  const std::string path = dir_.file("c.h5");
  collect(source_of(random_documents(20, 64, 2)), {.layers = {0, 2}}, path);
  EXPECT_EQ(read(path).layer, 2);
  expect_message(refusal(path, 1), {"c.h5", "layers 0, 2", "layer 1"});
  expect_message(error_of<InputError>([&] { read_second_moment(path, 2, 50, of_model("def")); }),
                 {"c.h5", "another model"});
  expect_message(error_of<InputError>([&] { read_second_moment(path, 2, 51, of_model("abc")); }), {"c.h5", "50", "51"});
  expect_message(refusal(dir_.file("missing.h5")), {"missing.h5"});
  write_file_atomically(dir_.file("text.h5"), "text");
  expect_message(refusal(dir_.file("text.h5")), {"text.h5"});
  write_hdf5_atomically(dir_.file("t.h5"), [](H5File& file) { write_attribute(file, "/", "kind", "trace"); });
  expect_message(refusal(dir_.file("t.h5")), {"t.h5", "not a file of second moments"});
}

// An edit of layer L changes no key of layers up to L: its export takes the original's statistics up to there.
TEST_F(SecondMoments, ThoseOfAnAncestorServeUpToTheEditedLayer) {
  std::string path = dir_.file("c.h5");
  collect(source_of(random_documents(20, 64, 2)), {.layers = {0, 1, 2}}, path);
  const auto edited = [](std::set<int64_t> layers) {
    return Lineage{{"new", ""}, {{{"abc", "edits"}, {}}, {{"abc", ""}, std::move(layers)}}};
  };
  const auto origin = [&](int64_t layer, const Lineage& model, OtherModels others = OtherModels::refuse) {
    return read_second_moment(path, layer, 50, model, others).origin;
  };
  EXPECT_EQ(origin(1, of_model("abc")), MomentOrigin::this_model);
  EXPECT_EQ(origin(0, edited({1})), MomentOrigin::ancestor);
  EXPECT_EQ(origin(1, edited({1})), MomentOrigin::ancestor);
  EXPECT_EQ(origin(1, edited({1, 2})), MomentOrigin::ancestor);
  const SecondMomentMatrix matrix = read_second_moment(path, 1, 50, edited({1}));
  EXPECT_EQ(matrix.collected_on, (ModelState{"abc", ""}));
  EXPECT_EQ(matrix.mean, read(path, 1).mean);
  expect_message(error_of<InputError>([&] { origin(2, edited({1})); }),
                 {"c.h5", "edit of layer 1", "keys of layer 2", "cov-of-other-model"});
  EXPECT_EQ(origin(2, edited({1}), OtherModels::accept), MomentOrigin::other_model);
  expect_message(error_of<InputError>([&] { origin(0, of_model("def")); }), {"another model", "cov-of-other-model"});
  EXPECT_EQ(origin(0, of_model("def"), OtherModels::accept), MomentOrigin::other_model);
  // Edits in memory make another model, as far as keys above them go.
  Lineage in_memory = of_model("abc");
  in_memory.state.edits_sha256 = "edits";
  in_memory.ancestors = {{{"abc", ""}, {1}}};
  EXPECT_EQ(origin(1, in_memory), MomentOrigin::ancestor);
  EXPECT_THROW(origin(2, in_memory), InputError);
  // Statistics collected with edits in memory are not the original's, but those of the export of these edits.
  path = dir_.file("edited.h5");
  collect(source_of(random_documents(20, 64, 2)), {.layers = {0, 1, 2}}, path, "edits");
  EXPECT_EQ(origin(2, in_memory), MomentOrigin::this_model);
  EXPECT_EQ(origin(2, edited({1})), MomentOrigin::ancestor);
  EXPECT_THROW(origin(0, of_model("abc")), InputError);
}

void write_npz(const std::string& path, const std::vector<float>& sum, const std::vector<int64_t>& shape,
               int64_t count) {
  NpzWriter writer(path);
  writer.add<float>("mom2.mom2", sum, shape);
  writer.add_scalar<int64_t>("mom2.count", count);
  writer.finish();
}

TEST_F(SecondMoments, ReferenceFiles) {
  EXPECT_EQ(layer_in_file_name("/a/transformer.h.17.mlp.c_proj_float32_mom2_100000.npz"), 17);
  EXPECT_EQ(layer_in_file_name("transformer.h.0.mlp.c_proj_float64_mom2.npz"), 0);
  EXPECT_EQ(layer_in_file_name("model.layers.5.mlp.down_proj_float32_mom2.npz"), 5);
  for (const char* name : {"c.npz", "transformer.h.x.mlp.npz", "transformer.h.3.attn.npz", "h..mlp.npz", "h.3a.mlp.",
                           "h.-3.mlp.", "3.mlp"})
    EXPECT_EQ(layer_in_file_name(name), std::nullopt) << name;

  const auto n = static_cast<size_t>(model_.config().mlp_width);
  const std::vector<double> definite = random_definite(50, 1);
  std::vector<float> sum(definite.begin(), definite.end());
  const std::string path = dir_.file("transformer.h.2.mlp.c_proj_float32_mom2.npz");
  write_npz(path, sum, {50, 50}, 10);
  const SecondMomentMatrix matrix = read(path);
  EXPECT_EQ(matrix.tokens, 10);
  EXPECT_EQ(matrix.mean[7], static_cast<double>(sum[7]) / 10);
  expect_message(refusal(path, 1), {"layer 2", "layer 1"});
  write_npz(dir_.file("c.npz"), sum, {50, 50}, 10);
  expect_message(refusal(dir_.file("c.npz")), {"c.npz", "name", "2.mlp.npz"});
  write_npz(path, sum, {25, 100}, 10);
  expect_message(refusal(path), {"[25, 100]", "50"});
  write_npz(path, sum, {50, 50}, 0);
  expect_message(refusal(path), {"tokens", "0"});
  const auto damaged = [&](size_t at, float value) {
    std::vector<float> other = sum;
    other[at] = value;
    write_npz(path, other, {50, 50}, 10);
    return refusal(path);
  };
  expect_message(damaged(3 * n + 3, -1), {"(3, 3)", "negative"});
  expect_message(damaged(3 * n + 2, std::nanf("")), {"(3, 2)", "not finite"});
  expect_message(damaged(3 * n + 2, 100), {"symmetric", "(3, 2)"});
  {
    NpzWriter writer(path);
    writer.add_scalar<int64_t>("mom2.count", 3);
    writer.finish();
  }
  expect_message(refusal(path), {"mom2.mom2"});
  write_file_atomically(path, "PK");
  expect_message(refusal(path), {"transformer.h.2"});
}

TEST_F(SecondMoments, TextAndTokenFilesGiveTheSameDocuments) {
  const Tokenizer tokenizer = byte_tokenizer();
  write_file_atomically(dir_.file("t.txt"), "one line\n\nanother line\nend");
  const std::vector<int32_t> tokens = tokenizer.encode_ids("one lineanother lineend");
  write_hdf5_atomically(dir_.file("t.h5"), [&](H5File& file) {
    write_dataset<int32_t>(file, "/tokens", tokens, {std::ssize(tokens)});
    write_dataset<int64_t>(file, "/document_offsets", std::vector<int64_t>{0, 8, 8, 20, 23}, {5});
  });
  const auto all = [](const NextDocument& next) {
    Documents documents;
    for (std::vector<int32_t> document; next(document);)
      if (!document.empty()) documents.push_back(document);
    return documents;
  };
  std::vector<std::string> skipped;
  const Documents from_text = all(text_documents(context_, tokenizer, dir_.file("t.txt"), OnInvalid::refuse, skipped));
  EXPECT_EQ(from_text.size(), 3u);
  EXPECT_EQ(from_text, all(token_file_documents(tokenizer, dir_.file("t.h5"))));
}

TEST_F(SecondMoments, LinesThatAreNoDocumentsAreRefusedOrLeftOut) {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string text;
  for (int i = 0; i < 1500; ++i)
    text += i == 700 || i == 1499 ? std::string("{\"tex\n") : fmt::format("{{\"text\": \"{}\"}}\n", i);
  write_file_atomically(dir_.file("bad.jsonl"), text);
  const auto count = [&](OnInvalid on_invalid, std::vector<std::string>& skipped) {
    const NextDocument next = text_documents(context_, tokenizer, dir_.file("bad.jsonl"), on_invalid, skipped);
    int64_t documents = 0;
    for (std::vector<int32_t> document; next(document); ++documents)
      EXPECT_TRUE(documents != 700 || document == tokenizer.encode_ids("701"));  // what follows the bad line
    return documents;
  };
  std::vector<std::string> skipped;
  expect_message(error_of<InputError>([&] { count(OnInvalid::refuse, skipped); }),
                 {"bad.jsonl: line 701", "skip-invalid"});
  EXPECT_EQ(count(OnInvalid::skip, skipped), 1498);
  ASSERT_EQ(skipped.size(), 2u);
  expect_message(skipped[1], {"bad.jsonl: line 1500"});
}

TEST_F(SecondMoments, BadTokenFilesAreRefused) {
  const Tokenizer tokenizer = byte_tokenizer();
  const auto refused = [&](const std::vector<int32_t>& tokens, const std::vector<int64_t>& offsets) {
    write_hdf5_atomically(dir_.file("t.h5"), [&](H5File& file) {
      write_dataset<int32_t>(file, "/tokens", tokens, {std::ssize(tokens)});
      write_dataset<int64_t>(file, "/document_offsets", offsets, {std::ssize(offsets)});
    });
    return error_of<InputError>([&] {
      const NextDocument next = token_file_documents(tokenizer, dir_.file("t.h5"));
      for (std::vector<int32_t> document; next(document);) continue;
    });
  };
  expect_message(refused({1, 2, 3}, {0, 2}), {"t.h5", "/document_offsets"});
  expect_message(refused({1, 2, 3}, {1, 3}), {"t.h5", "/document_offsets"});
  expect_message(refused({1, 2, 3}, {0, 4, 3}), {"t.h5", "/document_offsets"});
  expect_message(refused({1, 2, 300}, {0, 3}), {"t.h5", "300"});
  expect_message(refused({1, -2, 3}, {0, 3}), {"t.h5", "-2"});
}

}  // namespace
}  // namespace loci::test
