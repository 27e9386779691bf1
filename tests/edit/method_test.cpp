// A method is one class and one line: jobs, files, exports and scores take what it gives.
#include <gtest/gtest.h>

#include <algorithm>

#include "edit/edit_units.h"
#include "edit/edited_checkpoint.h"
#include "edit/methods.h"
#include "runtime/jobs/provenance.h"
#include "tests/edit/support.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

/// Changes what no published method would: rows of one matrix, another with rank 2, for all requests of a batch
/// together.
class ToyMethod : public Method {
 public:
  explicit ToyMethod(Resources& resources)
      : architecture_(resources.architecture()), tokenizer_(resources.tokenizer()) {}

  PreparedRequest prepare(const EditRequest& request, std::string_view where) const override {
    return prepare_bare_request(request, tokenizer_, architecture_, where);
  }

  std::vector<EditBatch> edit(Executor&, std::span<const PreparedRequest> requests, int64_t batch_size) const override {
    std::vector<EditBatch> batches;
    for (size_t first = 0; first < requests.size(); first += static_cast<size_t>(batch_size)) {
      EditBatch batch;
      const size_t count = std::min(requests.size() - first, static_cast<size_t>(batch_size));
      for (const PreparedRequest& request : requests.subspan(first, count))
        batch.edits.push_back(
            {.request = request.request,
             .method = "toy",
             .layer = 1,
             .recorded = {{"length", "of the prompt", {static_cast<float>(request.prompts[0].tokens.size())}}},
             .loss_curve = {}});
      const float size = 0.01f * static_cast<float>(first + 1);
      batch.changes.emplace_back(LowRank{{Role::down_weight, 1},
                                         2,
                                         std::vector<float>(static_cast<size_t>(2 * architecture_.mlp_width), size),
                                         std::vector<float>(static_cast<size_t>(2 * architecture_.width), 0.5f)});
      batch.changes.emplace_back(Dense{
          {Role::up_weight, 2}, {0, 3}, std::vector<float>(static_cast<size_t>(2 * architecture_.mlp_width), size)});
      batches.push_back(std::move(batch));
    }
    return batches;
  }

  Json settings() const override { return {{"toy", true}}; }

 private:
  const Architecture& architecture_;
  const Tokenizer& tokenizer_;
};

/// The line.
void add_toy() {
  static const bool added = [] {
    methods().push_back(
        {"toy", "a method of tests", [](std::string_view, Resources& resources) -> std::unique_ptr<Method> {
           return std::make_unique<ToyMethod>(resources);
         }});
    return true;
  }();
  EXPECT_TRUE(added);
}

const std::vector<EditRequest> kMethodRequests = {
    {0, "{}, the", "Rome", "x", ""}, {1, "In {}", "Paris", "y", ""}, {2, "{} is", "Oslo", "z", ""}};

class MethodTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
    add_toy();
  }
  /// A folder with the model's weights.
  std::filesystem::path saved() {
    auto owned = random_parameters(context_, model_.config(), 3);
    std::map<std::string, std::vector<float>> values;
    std::map<std::string, std::span<const float>> tensors;
    visit_parameters(owned->views, model_.config(), [&](const Parameter& parameter, View& view) {
      values[parameter.name] = to_host(context_, view);
      tensors[parameter.name] = values[parameter.name];
    });
    write_checkpoint(dir_.path() / "model", model_.config(), tensors);
    return dir_.path() / "model";
  }
  std::vector<EditBatch> batches_of_two() {
    Executor executor(context_, model_);
    EditOptions options;
    options.method = "toy";
    Resources resources(options, executor, tokenizer_, {});
    const std::unique_ptr<Method> method = make_method("toy", resources);
    std::vector<PreparedRequest> prepared;
    for (const EditRequest& request : kMethodRequests) prepared.push_back(method->prepare(request, "r"));
    return method->edit(executor, prepared, 2);
  }
  std::filesystem::path written(std::span<const EditBatch> batches, const std::string& weights) {
    const std::filesystem::path path = dir_.file("e.h5");
    write_hdf5_atomically(path, [&](H5File& file) {
      Provenance provenance = current_provenance();
      provenance.weights_sha256 = weights;
      write_provenance(file, Json::object(), provenance);
      write_attribute(file, "/", "kind", "edits");
      write_attribute(file, "/", "mode", "independent");
      write_batches(file, model_.config(), batches, 0, 0);
    });
    return path;
  }
  std::vector<float> weight(const Model& model, WeightId id) {
    Parameters<const float> parameters = model.parameters();
    return stored_to_host(context_, weight_of(parameters, id).stored());
  }

  Context context_{device_options()};
  Model model_ = random_model(context_, byte_config(), 3);
  Tokenizer tokenizer_ = byte_tokenizer();
  TemporaryDir dir_;
};

TEST_F(MethodTest, ALineMakesItKnown) {
  EXPECT_TRUE(std::ranges::count(method_names(), "toy") == 1);
  EXPECT_NE(methods_for_people().find("toy (a method of tests)"), std::string::npos);
  Executor executor(context_, model_);
  Resources resources({}, executor, tokenizer_, {});
  expect_message(error_of<InputError>([&] { make_method("other", resources); }), {"other", "rome", "r-rome", "toy"});
  EXPECT_EQ(make_method("toy", resources)->settings(), Json({{"toy", true}}));
}

TEST_F(MethodTest, UpdatesComeBackFromTheirFile) {
  const std::vector<EditBatch> batches = batches_of_two();
  const std::filesystem::path path = written(batches, "abc");
  const EditFile file = read_edit_file(path, model_.config());
  ASSERT_EQ(file.edits.size(), 3u);
  EXPECT_EQ(file.batches, (std::vector<int64_t>{0, 0, 1}));
  ASSERT_EQ(file.updates.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const Change& made = batches[i / 2].changes[i % 2];
    EXPECT_EQ(file.updates[i].batch, static_cast<int64_t>(i / 2));
    EXPECT_EQ(weight_of(file.updates[i].change), weight_of(made));
    EXPECT_EQ(norm_of(file.updates[i].change), norm_of(made));
  }
  const auto& low_rank = std::get<LowRank>(file.updates[2].change);
  EXPECT_EQ(low_rank.keys, std::get<LowRank>(batches[1].changes[0]).keys);
  EXPECT_EQ(low_rank.values, std::get<LowRank>(batches[1].changes[0]).values);
  const auto& rows = std::get<Dense>(file.updates[3].change);
  EXPECT_EQ(rows.rows, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(rows.delta, std::get<Dense>(batches[1].changes[1]).delta);
  const H5File stored = H5File::open_read(path);
  EXPECT_EQ(read_string_attribute(stored, "/updates/0", "parameter"), "transformer.h.1.mlp.c_proj.weight");
  EXPECT_EQ(dataset_info(stored, "/updates/0/left").shape, (std::vector<int64_t>{50, 2}));
  EXPECT_EQ(dataset_info(stored, "/updates/0/right").shape, (std::vector<int64_t>{21, 2}));
  EXPECT_EQ(read_edit_report(stored, 1).steps, 0);
  EXPECT_EQ(read_edit_report(stored, 1).update_norm, norm_of(batches[0].changes));
  // Units: what a shard holds of a batch comes back as that batch, and shards follow each other.
  const std::filesystem::path joined = dir_.file("joined.h5");
  write_hdf5_atomically(joined, [&](H5File& output) {
    for (size_t b = 0; b < batches.size(); ++b) {
      const std::filesystem::path shard = dir_.file("shard.h5");
      write_hdf5_atomically(shard, [&](H5File& part) {
        write_batches(part, model_.config(), std::span(batches).subspan(b, 1), b == 0 ? 0 : 2, static_cast<int64_t>(b));
      });
      const H5File part = H5File::open_read(shard);
      const std::vector<EditBatch> again = read_batches(part, model_.config(), b == 0 ? 0 : 2, b == 0 ? 2 : 1);
      ASSERT_EQ(again.size(), 1u);
      EXPECT_EQ(again[0].edits.size(), batches[b].edits.size());
      EXPECT_EQ(again[0].changes.size(), 2u);
      append_batches(output, part);
    }
  });
  const H5File whole = H5File::open_read(joined);
  EXPECT_EQ(group_members(whole, "/updates").size(), 4u);
  EXPECT_EQ(read_int_attribute(whole, "/updates/3", "batch"), 1);
}

TEST_F(MethodTest, NormsOfAnyRankAreThoseOfTheMatrix) {
  const int64_t in = model_.config().mlp_width, out = model_.config().width;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const int64_t rank : {1, 2, 3, 4, 40}) {
    LowRank change{{Role::down_weight, 1},
                   rank,
                   std::vector<float>(static_cast<size_t>(rank * in)),
                   std::vector<float>(static_cast<size_t>(rank * out))};
    for (auto* values : {&change.keys, &change.values})
      for (float& value : *values) value = normal(random);
    double sum = 0;
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < out; ++j) {
        double element = 0;
        for (int64_t r = 0; r < rank; ++r)
          element += static_cast<double>(change.key(r)[i]) * static_cast<double>(change.value(r)[j]);
        sum += element * element;
      }
    EXPECT_NEAR(norm_of(Change(change)) / std::sqrt(sum), 1, 1e-12) << rank;
  }
}

TEST_F(MethodTest, BatchesAreRefusedWhereAMethodTakesNone) {
  EditOptions options;
  options.layer = 1;
  Executor executor(context_, model_);
  const Tokenizer tokenizer = byte_tokenizer();
  Resources resources(options, executor, tokenizer, Lineage{});
  const std::unique_ptr<Method> kn = make_method("kn", resources), ft = make_method("ft", resources);
  EXPECT_EQ(batch_size_of(*kn, "kn", std::nullopt), 1);
  EXPECT_EQ(batch_size_of(*ft, "ft", 5), 5);
  for (const int64_t size : {0, 2})
    expect_message(error_of<InputError>([&] { batch_size_of(*kn, "kn", size); }),
                   {"batch " + std::to_string(size), "kn writes one request at a time; leave batch out"});
}

TEST_F(MethodTest, UpdatesAreAppliedAllOrOfOneBatchAndExported) {
  const std::filesystem::path source = saved();
  const std::vector<EditBatch> batches = batches_of_two();
  Model all = Model::load(context_, source), one = all;
  const EditFile file = read_edit_file(written(batches, all.checkpoint().weights_sha256()), all.config());
  EditChain chain, of_one;
  apply_edits(context_, all, file, chain);
  apply_edits(context_, one, file, of_one, {.only = 2});
  Model expected = Model::load(context_, source);
  EditedModel(batches[1].changes).fold_into(context_, expected);
  const std::vector<WeightId> changed = {{Role::down_weight, 1}, {Role::up_weight, 2}};
  for (const WeightId id : changed) EXPECT_EQ(weight(one, id), weight(expected, id));
  EditedModel(batches[0].changes).fold_into(context_, expected);
  for (const WeightId id : changed) {
    const std::vector<float> found = weight(all, id), wanted = weight(expected, id);
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-6);
  }
  EXPECT_NE(chain.sha256(), of_one.sha256());
  EXPECT_EQ(chain.weights(), (std::set<WeightId>(changed.begin(), changed.end())));
  // The keys of layer 1 and below are as they were.
  EXPECT_EQ(*chain.on(all).edited_since({all.checkpoint().weights_sha256(), ""}).begin(), 1);
  write_edited_checkpoint(context_, all, chain, dir_.path() / "edited", OnExistingCheckpoint::refuse);
  const Model loaded = Model::load(context_, dir_.path() / "edited");
  for (const WeightId id : changed) EXPECT_EQ(weight(loaded, id), weight(all, id));
  write_reverted_checkpoint(dir_.path() / "edited", dir_.path() / "back", OnExistingCheckpoint::refuse);
  EXPECT_EQ(Checkpoint::open(dir_.path() / "back").weights_sha256(), all.checkpoint().weights_sha256());
}

/// Neurons beside MLPs, in three batches; the second changes weights too.
std::vector<EditBatch> batches_with_neurons(const Architecture& config) {
  std::vector<EditBatch> batches;
  const auto some = [&](int64_t count, float size) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(size * static_cast<float>(i % 7 - 3));
    return values;
  };
  for (int64_t b = 0; b < 3; ++b) {
    EditBatch& batch = batches.emplace_back();
    batch.edits.push_back({.request = kMethodRequests[static_cast<size_t>(b)],
                           .method = "toy",
                           .layer = 3,
                           .recorded = {},
                           .loss_curve = {}});
    if (b == 0) continue;  // a request that needed nothing
    const int64_t count = b + 1;
    batch.changes.emplace_back(Neurons{{Role::down_weight, b == 1 ? 3 : 0},
                                       config.activation,
                                       some(count * config.width, 0.1f),
                                       some(count, 0.2f),
                                       some(count * config.width, 0.3f)});
    if (b == 1)
      batch.changes.emplace_back(
          LowRank{{Role::down_weight, 1}, 1, some(config.mlp_width, 0.1f), some(config.width, 0.1f)});
  }
  return batches;
}

/// Logits of a text at all positions.
std::vector<float> logits_of(Context& context, const Model& model) {
  Plan plan;
  plan.sequences.emplace_back().tokens = random_tokens(9, model.config().vocabulary, 5);
  for (int64_t p = 0; p < 9; ++p) plan.wanted.push_back({0, p});
  return Executor(context, model).run(plan).logits.to_host();
}

void expect_near(std::span<const float> found, std::span<const float> wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 2e-5 * (1 + std::abs(wanted[i])));
}

TEST_F(MethodTest, NeuronsComeBackFromTheirFileAndBecomeAPartOfExportedMlps) {
  const std::filesystem::path source = saved();
  Model all = Model::load(context_, source), some = all, wanted = all;
  const std::vector<EditBatch> batches = batches_with_neurons(all.config());
  const std::string weights = all.checkpoint().weights_sha256();
  const EditFile file = read_edit_file(written(batches, weights), all.config());
  EXPECT_EQ(file.batches, (std::vector<int64_t>{0, 1, 2}));
  ASSERT_EQ(file.updates.size(), 3u);
  const auto &found = std::get<Neurons>(file.updates[0].change), &made = std::get<Neurons>(batches[1].changes[0]);
  EXPECT_EQ(found.weight, made.weight);
  EXPECT_EQ(found.keys, made.keys);
  EXPECT_EQ(found.bias, made.bias);
  EXPECT_EQ(found.values, made.values);
  EXPECT_EQ(norm_of(file.updates[0].change), norm_of(batches[1].changes[0]));

  EditChain chain;
  apply_edits(context_, all, file, chain);
  EXPECT_EQ(chain.on(all).edited_since({weights, ""}), (std::set<int64_t>{0, 1, 3}));
  const std::vector<float> before = logits_of(context_, some), after = logits_of(context_, all);
  EXPECT_GT(relative_error(after, before), 1e-3);
  write_edited_checkpoint(context_, all, chain, dir_.path() / "edited", OnExistingCheckpoint::refuse);
  const Model loaded = Model::load(context_, dir_.path() / "edited");
  EXPECT_EQ(loaded.config().mlp_width, all.config().mlp_width + 3);
  expect_near(logits_of(context_, loaded), after);
  write_reverted_checkpoint(dir_.path() / "edited", dir_.path() / "back", OnExistingCheckpoint::refuse);
  EXPECT_EQ(Checkpoint::open(dir_.path() / "back").weights_sha256(), weights);

  // Edits are deleted one by one: what is left is as if they had never been made.
  EditChain without;
  apply_edits(context_, some, file, without, {.without = {1}});
  EditedModel(batches[2].changes).fold_into(context_, wanted);
  EXPECT_EQ(logits_of(context_, some), logits_of(context_, wanted));
  EditChain nothing;
  expect_message(error_of<InputError>([&] { apply_edits(context_, some, file, nothing, {.without = {3}}); }),
                 {"no edit 3", "0 to 2"});
}

TEST_F(MethodTest, NeuronsWithAnotherActivationFunctionAreNotExported) {
  Model model = Model::load(context_, saved());
  std::vector<EditBatch> batches = batches_with_neurons(model.config());
  std::get<Neurons>(batches[2].changes[0]).activation = Activation::relu;
  const EditFile file = read_edit_file(written(batches, model.checkpoint().weights_sha256()), model.config());
  EditChain chain;
  apply_edits(context_, model, file, chain);
  expect_message(error_of<InputError>([&] {
                   write_edited_checkpoint(context_, model, chain, dir_.path() / "x", OnExistingCheckpoint::refuse);
                 }),
                 {"export", "relu", "gelu_new"});
}

TEST_F(MethodTest, UpdatesThatCannotBeAppliedAreRefusedByName) {
  const std::vector<EditBatch> batches = batches_of_two();
  const auto refusal = [&](const std::function<void(H5File&)>& change) {
    const std::filesystem::path path = written(batches, "abc");
    const std::filesystem::path changed = dir_.file("changed.h5");
    write_hdf5_atomically(changed, [&](H5File& file) {
      const H5File source = H5File::open_read(path);
      write_attribute(file, "/", "kind", "edits");
      write_attribute(file, "/", "mode", "independent");
      write_attribute(file, "/", "weights_sha256", "abc");
      copy_object(source, "/edits", file, "/edits");
      create_group(file, "/updates/0");
      write_attribute(file, "/updates/0", "batch", int64_t{0});
      change(file);
    });
    return error_of<InputError>([&] { read_edit_file(changed, model_.config()); });
  };
  const auto kind = [&](const char* name) {
    return [=](H5File& file) { write_attribute(file, "/updates/0", "kind", name); };
  };
  expect_message(refusal(kind("codebook")), {"changed.h5", "/updates/0", "codebook", "does not know"});
  const auto parameter = [&](const char* name) {
    return [=](H5File& file) { write_attribute(file, "/updates/0", "parameter", name); };
  };
  expect_message(refusal(parameter("transformer.h.9.mlp.c_proj.weight")),
                 {"h.9.mlp", "not a matrix or bias of this model"});
  expect_message(refusal(parameter("transformer.h.1.ln_1.weight")), {"ln_1.weight", "not a matrix"});
  expect_message(
      refusal([&](H5File& file) {
        parameter("transformer.h.1.mlp.c_proj.weight")(file);
        write_dataset<float>(file, "/updates/0/delta", std::vector<float>(6), {2, 3}, {.units = "1", .long_name = "d"});
      }),
      {"/updates/0/delta", "[2, 3]"});
  expect_message(refusal([&](H5File& file) {
                   parameter("transformer.h.1.mlp.c_proj.weight")(file);
                   write_dataset<int64_t>(file, "/updates/0/rows", std::vector<int64_t>{50}, {1},
                                          {.units = "1", .long_name = "r"});
                   write_dataset<float>(file, "/updates/0/delta", std::vector<float>(21), {1, 21},
                                        {.units = "1", .long_name = "d"});
                 }),
                 {"/updates/0", "row 50"});
  expect_message(refusal([&](H5File& file) {
                   kind("neurons")(file);
                   write_attribute(file, "/updates/0", "activation", "tanh");
                 }),
                 {"/updates/0", "activation", "tanh"});
}

}  // namespace
}  // namespace loci::test
