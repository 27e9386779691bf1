// Models in memory and from disk: views of the mapped file, rank-one edits and their restoration.
#include "model/model.h"
#include "model/families/families.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/ranks/communicator_threads.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/tiny_model.h"

namespace loci::test {
namespace {

class ModelTest : public ::testing::Test {
 protected:
  std::vector<float> down(const Model& model, int64_t layer) {
    return stored_to_host(context_, model.parameters().blocks[layer].down_weight.stored());
  }
  std::filesystem::path saved(const Model& model) {
    Parameters<const float> views = model.parameters();
    std::map<std::string, std::vector<float>> values;
    visit_parameters(views, model.config(), [&](const Parameter& parameter, const auto& place) {
      values[parameter.name] = stored_to_host(context_, stored_view(place));
    });
    std::map<std::string, std::span<const float>> spans;
    for (const auto& [name, list] : values) spans.emplace(name, list);
    write_checkpoint(dir_.path(), model.config(), spans);
    return dir_.path();
  }

  Context context_{device_options(2)};
  Architecture config_ = tiny_config();
  TemporaryDir dir_;
};

TEST_F(ModelTest, LoadedParametersAreTheSavedOnes) {
  const Model model = random_model(context_, config_, 1);
  const Model loaded = Model::load(context_, saved(model));
  EXPECT_EQ(loaded.config(), model.config());
  if (context_.on_cpu()) {
    std::vector<float> scratch;
    const auto mapped = loaded.checkpoint().f32("h.1.mlp.c_proj.weight", scratch);
    EXPECT_TRUE(scratch.empty());
    EXPECT_EQ(loaded.parameters().blocks[1].down_weight.data, mapped.data());
  }
  EXPECT_EQ(loaded.parameters().unembedding.data, loaded.parameters().token_embedding.data);
  EXPECT_EQ(down(loaded, 2), down(model, 2));
}

TEST_F(ModelTest, RankOneEdit) {
  Model model = random_model(context_, config_, 2);
  const std::vector<float> before = down(model, 1), other = down(model, 0);
  std::vector<float> u(static_cast<size_t>(config_.mlp_width)), v(static_cast<size_t>(config_.width));
  for (size_t i = 0; i < u.size(); ++i) u[i] = static_cast<float>(i % 5);
  for (size_t c = 0; c < v.size(); ++c) v[c] = static_cast<float>(c) - 3;
  model.add_low_rank(context_, {Role::down_weight, 1}, 1, u, v);
  model.add_low_rank(context_, {Role::down_weight, 1}, 1, u, v);
  const std::vector<float> after = down(model, 1);
  for (size_t i = 0; i < u.size(); ++i)
    for (size_t c = 0; c < v.size(); ++c)
      EXPECT_NEAR(after[i * v.size() + c], before[i * v.size() + c] + 2 * u[i] * v[c], 2e-5);
  EXPECT_EQ(down(model, 0), other);
}

TEST_F(ModelTest, CopiesAreEditedOnTheirOwn) {
  Model model = random_model(context_, config_, 3);
  const Model original = model;
  const std::vector<float> before = down(model, 0);
  const std::vector<float> u(static_cast<size_t>(config_.mlp_width), 1.0f), v(static_cast<size_t>(config_.width), 1.0f);
  model.add_low_rank(context_, {Role::down_weight, 0}, 1, u, v);
  const std::vector<float> once = down(model, 0);
  Model copy = model;
  copy.add_low_rank(context_, {Role::down_weight, 0}, 1, u, v);
  EXPECT_EQ(down(original, 0), before);
  EXPECT_EQ(down(model, 0), once);
  EXPECT_NE(down(copy, 0), once);
}

TEST_F(ModelTest, DownWeightIsReplacedByACopy) {
  Model model = random_model(context_, config_, 4);
  Tensor weight = Tensor::zeros(context_, config_.mlp_width, config_.width);
  model.set_weight(context_, {Role::down_weight, 2}, std::as_const(weight).view());
  EXPECT_NE(model.parameters().blocks[2].down_weight.data, weight.data());
  for (const float value : down(model, 2)) EXPECT_EQ(value, 0);
}

TEST_F(ModelTest, WrongShapesAndLayersAreRefused) {
  Model model = random_model(context_, config_, 5);
  const std::vector<float> u(static_cast<size_t>(config_.mlp_width)), v(static_cast<size_t>(config_.width));
  EXPECT_THROW(model.add_low_rank(context_, {Role::down_weight, config_.layers}, 1, u, v), ShapeError);
  EXPECT_THROW(model.add_low_rank(context_, {Role::down_weight, -1}, 1, u, v), ShapeError);
  EXPECT_THROW(model.add_low_rank(context_, {Role::down_weight, 0}, 1, v, u), ShapeError);
  EXPECT_THROW(model.set_weight(context_, {Role::down_weight, 0}, ConstView(v.data(), 1, config_.width)), ShapeError);
  EXPECT_THROW(model.checkpoint(), Error);
  Parameters<const float> wrong = model.parameters();
  wrong.blocks[1].up_bias.cols -= 1;
  EXPECT_THROW(Model(config_, wrong, nullptr), ShapeError);
  wrong.blocks.pop_back();
  EXPECT_THROW(Model(config_, wrong, nullptr), ShapeError);
}

/// A folder whose config.json and tensors' names are those of `dir`, and whose weights are all zero.
std::filesystem::path without_weights(const std::filesystem::path& dir, const std::filesystem::path& made) {
  const Checkpoint checkpoint = Checkpoint::open(dir);
  std::map<std::string, std::vector<float>> zeros;
  std::map<std::string, std::span<const float>> spans;
  for (const Parameter& info : parameters_of(checkpoint.config())) {
    std::vector<float> scratch;
    zeros[info.name].resize(checkpoint.f32(info.name, scratch).size());
    spans[info.name] = zeros[info.name];
  }
  write_checkpoint(made, checkpoint.config(), spans);
  return made;
}

TEST_F(ModelTest, RanksLoadTheSameWeights) {
  const Model model = random_model(context_, config_, 6);
  const std::filesystem::path dir = saved(model);
  const std::string hash = Checkpoint::open(dir).weights_sha256();
  for (const int ranks : {1, 2, 3})
    run_threads(ranks, {}, [&](Communicator& communicator) {
      Context context(device_options(1));
      HostStagedDeviceCommunicator device(communicator, context);
      const Model loaded = Model::load(context, dir, device);
      EXPECT_EQ(loaded.checkpoint().weights_sha256(), hash);
      Parameters<const float> ours = loaded.parameters();
      visit_parameters(ours, config_, [&](const Parameter& parameter, const auto& place) {
        std::vector<float> scratch;
        const std::span<const float> stored = loaded.checkpoint().f32(parameter.name, scratch);
        EXPECT_EQ(stored_to_host(context, stored_view(place)), std::vector<float>(stored.begin(), stored.end()))
            << parameter.name;
      });
    });
}

// The other ranks' folders hold zeros: what they have is then rank 0's.
TEST_F(ModelTest, RankZeroAloneReadsTheWeights) {
  const Model model = random_model(context_, config_, 7);
  const std::filesystem::path dir = saved(model), empty = without_weights(dir, dir / "zeros");
  const std::string hash = Checkpoint::open(dir).weights_sha256();
  ASSERT_NE(Checkpoint::open(empty).weights_sha256(), hash);
  const std::vector<float> weights = down(model, 1);
  run_threads(3, {}, [&](Communicator& communicator) {
    Context context(device_options(1));
    HostStagedDeviceCommunicator device(communicator, context);
    const Model loaded = Model::load(context, communicator.is_root() ? dir : empty, device);
    EXPECT_EQ(loaded.checkpoint().weights_sha256(), hash);
    // On the CPU each rank maps the file that it was given.
    const bool mapped = context.on_cpu() && !communicator.is_root();
    EXPECT_EQ(stored_to_host(context, loaded.parameters().blocks[1].down_weight.stored()),
              mapped ? std::vector<float>(weights.size()) : weights);
  });
}

TEST_F(ModelTest, RanksWithAnotherModelAreRefused) {
  const std::filesystem::path dir = saved(random_model(context_, config_, 8));
  Architecture other = config_;
  other.epsilon *= 2;
  TemporaryDir second;
  std::filesystem::copy(dir, second.path(), std::filesystem::copy_options::recursive);
  write_file_atomically(second.path() / "config.json", architecture_to_json(other).dump());
  const auto load_both = [&] {
    run_threads(2, {}, [&](Communicator& communicator) {
      Context context(device_options(1));
      HostStagedDeviceCommunicator device(communicator, context);
      Model::load(context, communicator.is_root() ? dir : second.path(), device);
    });
  };
  expect_message(error_of<InputError>(load_both), {second.path().string(), "on rank 1 is not that of rank 0"});
}

}  // namespace
}  // namespace loci::test
