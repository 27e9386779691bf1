// A family is a table: checkpoints, models and their numbers follow from it, in every stored type.
#include <gtest/gtest.h>

#include <map>
#include <ostream>

#include "model/checkpoint.h"
#include "model/executor/executor.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/plain_gpt.h"
#include "tests/support/tiny_model.h"
#include "tests/support/toy_family.h"

namespace loci::test {
namespace {

class FamilyTest : public testing::Test {
 protected:
  /// A folder with random parameters of the architecture.
  std::filesystem::path saved(const Architecture& architecture, DType type) {
    const Model model = random_model(context_, architecture, 3);
    Parameters<const float> places = model.parameters();
    std::map<std::string, std::vector<float>> values;
    visit_parameters(places, architecture, [&](const Parameter& parameter, const auto& place) {
      values[parameter.name] = stored_to_host(context_, stored_view(place));
    });
    std::map<std::string, std::span<const float>> spans;
    for (const auto& [name, list] : values) spans.emplace(name, list);
    const std::filesystem::path dir = dir_.path() / std::string(dtype_name(type));
    write_checkpoint(dir, architecture, spans, {}, type);
    return dir;
  }
  std::vector<float> logits(const Model& model) {
    Plan plan;
    plan.sequences.emplace_back().tokens = random_tokens(17, model.config().vocabulary, 5);
    for (int64_t t = 0; t < 17; ++t) plan.wanted.push_back({0, t});
    return Executor(context_, model).run(plan).logits.to_host();
  }

  Context context_{device_options(2)};
  TemporaryDir dir_;
};

TEST_F(FamilyTest, ParametersFollowTheTable) {
  const Architecture toy = toy_config(2);
  std::map<std::string, std::vector<int64_t>> shapes;
  int64_t count = 0;
  for (const Parameter& parameter : parameters_of(toy)) {
    shapes[parameter.name] = parameter.shape;
    count += parameter.rows() * parameter.cols();
  }
  EXPECT_EQ(shapes.size(), 3u + 2 * 8u);
  EXPECT_EQ(count, toy.parameter_count());
  EXPECT_EQ(shapes.at("blocks.1.attention.in"), (std::vector<int64_t>{40, 23}));  // 4 + 2 + 2 heads of 5
  EXPECT_EQ(shapes.at("blocks.0.attention.out"), (std::vector<int64_t>{23, 20}));
  EXPECT_EQ(shapes.at("blocks.0.mlp.down"), (std::vector<int64_t>{23, 37}));
  EXPECT_EQ(shapes.at("last_norm"), std::vector<int64_t>{23});
  EXPECT_FALSE(shapes.contains("head"));
  EXPECT_EQ(published_name(toy, Role::down_weight, 1), "body.blocks.1.mlp.down");
  EXPECT_EQ(weight_named(toy, "body.blocks.1.mlp.up"), (WeightId{Role::up_weight, 1}));
  EXPECT_EQ(weight_named(toy, "blocks.1.mlp.up"), (WeightId{Role::up_weight, 1}));
  for (const char* other : {"blocks.2.mlp.up", "tokens", "blocks.0.before_mlp", "", "body."})
    EXPECT_EQ(weight_named(toy, other), std::nullopt) << other;
  EXPECT_THROW(parameter_name(toy, Role::up_bias, 0), ShapeError);
}

TEST_F(FamilyTest, CheckpointsAreReadByTheirModelType) {
  Architecture toy = toy_config();
  toy.tied = false;
  const std::filesystem::path dir = saved(toy, DType::f32);
  const Model loaded = Model::load(context_, dir);
  EXPECT_EQ(loaded.config(), toy);
  EXPECT_EQ(loaded.checkpoint().stored_names().at("head"), "head");
  EXPECT_EQ(loaded.checkpoint().stored_names().at("tokens"), "body.tokens");
  EXPECT_EQ(logits(loaded), logits(random_model(context_, toy, 3)));
  Json config = write_toy(toy);
  config["model_type"] = "other";
  expect_message(error_of<InputError>([&] { architecture_from_json(config, "c"); }), {"c: ", "other", "gpt2", "toy"});
  EXPECT_THROW(add_family(toy_family()), Error);
}

/// Matrices and tables stay as they are stored, and count as fp32 weights of their values.
TEST_F(FamilyTest, StoredTypesKeepTheirMemoryAndTheirValues) {
  const Architecture config = tiny_config();
  for (const Architecture& architecture : {toy_config(), config})
    for (const DType type : {DType::f16, DType::bf16}) {
      SCOPED_TRACE(std::string(architecture.family->title) + " " + std::string(dtype_name(type)));
      const std::filesystem::path dir = saved(architecture, type);
      const Model loaded = Model::load(context_, dir);
      Parameters<const float> places = loaded.parameters();
      visit_parameters(places, architecture, [&](const Parameter& parameter, const auto& place) {
        const StoredView view = stored_view(place);
        const RoleKind kind = kind_of(parameter.role);
        const bool kept = kind == RoleKind::matrix || kind == RoleKind::table;
        EXPECT_EQ(view.type, !kept                ? StoredType::fp32
                             : type == DType::f16 ? StoredType::fp16
                                                  : StoredType::bf16)
            << parameter.name;
        std::vector<float> scratch;
        const std::span<const float> stored = loaded.checkpoint().f32(parameter.name, scratch);
        EXPECT_EQ(stored_to_host(context_, view), std::vector<float>(stored.begin(), stored.end())) << parameter.name;
        const bool mapped = view.data == loaded.checkpoint().stored(parameter.name).bytes.data();
        EXPECT_EQ(mapped, context_.on_cpu() && kept) << parameter.name;
      });
      const PlainGpt plain(context_, loaded);
      const auto expected = plain.logits(random_tokens(17, architecture.vocabulary, 5));
      const std::vector<float> found = logits(loaded);
      double largest = 0, error = 0;
      for (size_t i = 0; i < found.size(); ++i) {
        const double value = expected[i / expected[0].size()][i % expected[0].size()];
        largest = std::max(largest, std::abs(value));
        error = std::max(error, std::abs(static_cast<double>(found[i]) - value));
      }
      EXPECT_LE(error, 4 * product_eps(device_options().precision) * largest *
                           std::sqrt(static_cast<double>(architecture.width * (architecture.layers + 1))));
    }
}

/// A change of a matrix makes a copy in fp32, which the checkpoint and models copied before do not see.
TEST_F(FamilyTest, ChangesOfStoredTypesAreMadeInFp32) {
  if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
  const Architecture toy = toy_config();
  Model model = Model::load(context_, saved(toy, DType::bf16));
  const Model before = model;
  const WeightId down{Role::down_weight, 1};
  const auto values_of = [&](const Model& of) {
    return stored_to_host(context_, of.parameters().blocks[1].down_weight.stored());
  };
  const std::vector<float> old = values_of(model);
  std::vector<float> keys(2 * 37), values(2 * 23);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<float>(i % 7) - 3;
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.125f * static_cast<float>(i % 5);
  model.add_low_rank(context_, down, 2, keys, values);
  EXPECT_EQ(values_of(before), old);
  const std::vector<float> changed = values_of(model);
  for (size_t out = 0; out < 23; ++out)
    for (size_t in = 0; in < 37; ++in) {
      const float expected = old[out * 37 + in] + keys[in] * values[out] + keys[37 + in] * values[23 + out];
      EXPECT_NEAR(changed[out * 37 + in], expected, 1e-6) << out << ", " << in;
    }
  EXPECT_EQ(model.parameters().blocks[1].down_weight.type, StoredType::fp32);
}

}  // namespace
}  // namespace loci::test
