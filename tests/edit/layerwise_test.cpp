// MEMIT, EMMET and AlphaEdit against plain fp64 computations of their formulas from the keys and values that they
// record.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "edit/alphaedit/alphaedit.h"
#include "edit/edit_units.h"
#include "edit/methods.h"
#include "kernels/symmetric_eigen.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/npz.h"
#include "tests/edit/support.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

using Matrix = std::vector<std::vector<double>>;

const std::vector<EditRequest> kRequests = {{0, "{}, the", "Rome", "xy", ""},
                                            {1, "In {}", "Paris", "y", ""},
                                            {2, "{} is", "Oslo", "zq", ""},
                                            {3, "All of {}", "Bern", "v", ""},
                                            {4, "{}", "Lima", "w", ""}};
const std::vector<int64_t> kLayers = {1, 2};

/// Solves A x = b by Gauss-Jordan elimination with pivoting.
Matrix solve(Matrix a, Matrix b) {
  const size_t n = a.size();
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    for (size_t r = c; r < n; ++r)
      if (std::abs(a[r][c]) > std::abs(a[pivot][c])) pivot = r;
    std::swap(a[c], a[pivot]);
    std::swap(b[c], b[pivot]);
    for (size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const double factor = a[r][c] / a[c][c];
      for (size_t i = c; i < n; ++i) a[r][i] -= factor * a[c][i];
      for (size_t i = 0; i < b[r].size(); ++i) b[r][i] -= factor * b[c][i];
    }
  }
  for (size_t r = 0; r < n; ++r)
    for (double& value : b[r]) value /= a[r][r];
  return b;
}

Matrix multiply(const Matrix& a, const Matrix& b) {
  Matrix c(a.size(), std::vector<double>(b[0].size(), 0.0));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < b.size(); ++k)
      for (size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}

Matrix transpose(const Matrix& a) {
  Matrix t(a[0].size(), std::vector<double>(a.size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) t[j][i] = a[i][j];
  return t;
}

Matrix add_scaled(Matrix a, const Matrix& b, double factor) {
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) a[i][j] += factor * b[i][j];
  return a;
}

Matrix identity(size_t n) {
  Matrix a(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) a[i][i] = 1;
  return a;
}

class Layerwise : public testing::Test {
 protected:
  void SetUp() override {
    if (!products_are_fp32()) GTEST_SKIP() << kFp32Only;
    for (const int64_t layer : kLayers) {
      const auto ff = model_.config().mlp_width;
      // The published layout holds fp32.
      std::vector<float> sum;
      for (const double value : random_definite(ff, static_cast<unsigned>(layer)))
        sum.push_back(static_cast<float>(value));
      NpzWriter writer(path(layer));
      writer.add<float>("mom2.mom2", sum, {ff, ff});
      writer.add_scalar<int64_t>("mom2.count", 1);
      writer.finish();
      Matrix& c = moments_[layer];
      for (int64_t r = 0; r < ff; ++r) c.emplace_back(sum.begin() + r * ff, sum.begin() + (r + 1) * ff);
    }
    write_file_atomically(dir_.file("templates.json"), R"(["{}", "Yes. {}", "No no. {}"])");
  }

  std::string path(int64_t layer) const { return dir_.file("h." + std::to_string(layer) + ".mlp.npz"); }

  /// A method with its hyper-parameters, on the model as it is.
  struct Made {
    std::unique_ptr<Resources> resources;
    std::unique_ptr<Method> method;
    std::vector<PreparedRequest> requests;
  };
  Made make(Executor& executor, const std::string& name, const Json& more, std::vector<int64_t> cov = kLayers) {
    Json hparams = {{"layers", kLayers},      {"v_num_grad_steps", 6},   {"v_lr", 0.2},      {"v_weight_decay", 0.1},
                    {"clamp_norm_factor", 2}, {"mom2_update_weight", 3}, {"v_loss_layer", 3}};
    hparams.update(more);
    write_file_atomically(dir_.file("hparams.json"), hparams.dump());
    EditOptions options;
    options.method = name;
    options.hparams = dir_.file("hparams.json");
    options.context_templates = dir_.file("templates.json");
    for (const int64_t layer : cov) options.cov.push_back(path(layer));
    Made made{std::make_unique<Resources>(options, executor, tokenizer_, Lineage{}), nullptr, {}};
    made.method = make_method(name, *made.resources);
    for (const EditRequest& request : kRequests) made.requests.push_back(made.method->prepare(request, "r"));
    return made;
  }

  Matrix keys_of(const EditBatch& batch, size_t layer) const {
    Matrix keys;
    const auto ff = static_cast<size_t>(model_.config().mlp_width);
    for (const Edit& edit : batch.edits) {
      const auto row = edit.values("keys").subspan(layer * ff, ff);
      keys.emplace_back(row.begin(), row.end());
    }
    return keys;
  }

  /// The directions that the formula gives, [requests, ff], against those of the batch.
  void expect_directions(const EditBatch& batch, size_t layer, const Matrix& expected, double tolerance = 2e-5) const {
    const auto& change = std::get<LowRank>(batch.changes.at(layer));
    ASSERT_EQ(change.rank, std::ssize(expected));
    double error = 0, size = 0;
    for (int64_t r = 0; r < change.rank; ++r)
      for (size_t i = 0; i < expected[r].size(); ++i) {
        error = std::max(error, std::abs(static_cast<double>(change.key(r)[i]) - expected[r][i]));
        size = std::max(size, std::abs(expected[r][i]));
      }
    EXPECT_LE(error, tolerance * size) << "layer " << layer;
  }

  Context context_{device_options()};
  Model model_ = random_model(context_, byte_config(), 3);
  Tokenizer tokenizer_ = byte_tokenizer();
  TemporaryDir dir_;
  std::map<int64_t, Matrix> moments_;
};

TEST_F(Layerwise, MemitSolvesItsNormalEquations) {
  Executor executor(context_, model_);
  const Made made = make(executor, "memit", Json::object());
  const std::vector<EditBatch> batches = made.method->edit(executor, made.requests, 3);
  ASSERT_EQ(batches.size(), 2u);
  EXPECT_EQ(batches[1].edits.size(), 2u);
  for (const EditBatch& batch : batches)
    for (size_t l = 0; l < kLayers.size(); ++l) {
      const Matrix keys = keys_of(batch, l);
      const Matrix system = add_scaled(multiply(transpose(keys), keys), moments_[kLayers[l]], 3);
      expect_directions(batch, l, transpose(solve(system, transpose(keys))));
    }
}

TEST_F(Layerwise, MoreRequestsThanNeuronsTakeTheOtherSystem) {
  Executor executor(context_, model_);
  Made made = make(executor, "memit", {{"v_num_grad_steps", 1}});
  const auto ff = static_cast<size_t>(model_.config().mlp_width);
  std::vector<PreparedRequest> many;
  for (size_t i = 0; i <= ff; ++i) {
    EditRequest request = kRequests[i % kRequests.size()];
    request.subject += std::string(1 + i / kRequests.size(), static_cast<char>('a' + i % 7));
    many.push_back(made.method->prepare(request, "r"));
  }
  const std::vector<EditBatch> batches = made.method->edit(executor, many, 0);
  ASSERT_EQ(batches.size(), 1u);
  const Matrix keys = keys_of(batches[0], 0);
  const Matrix system = add_scaled(multiply(transpose(keys), keys), moments_[kLayers[0]], 3);
  expect_directions(batches[0], 0, transpose(solve(system, transpose(keys))), 2e-4);
}

/// Each layer inserts its share of what is still missing, and in the end the wanted states are nearly there.
TEST_F(Layerwise, ResidualsAreSharedByTheLayersLeft) {
  Executor executor(context_, model_);
  const Made made = make(executor, "emmet", {{"emmet_lambda", 0}, {"mom2_update_weight", 1}});
  const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
  EXPECT_EQ(made.method->default_batch_size(), 0);
  const auto d = static_cast<size_t>(model_.config().width);
  const auto& first = std::get<LowRank>(batch.changes[0]);
  for (size_t r = 0; r < batch.edits.size(); ++r)
    for (size_t i = 0; i < d; ++i) {
      const Edit& edit = batch.edits[r];
      EXPECT_NEAR(first.value(static_cast<int64_t>(r))[i],
                  (edit.values("value_star")[i] - edit.values("value_before")[i]) / 2, 1e-5);
    }
  for (const Edit& edit : batch.edits) EXPECT_LT(edit.loss_curve.back().total, edit.loss_curve.front().total);
  // The keys of the second layer are those of the model whose first layer is written. One step makes no change, so the
  // second run only reads.
  Model changed = model_;
  fold(context_, changed, batch.changes[0]);
  Executor after(context_, changed);
  const Made again = make(after, "emmet", {{"v_num_grad_steps", 1}});
  const EditBatch next = again.method->edit(after, again.requests, 0)[0];
  EXPECT_EQ(norm_of(next.changes), 0);
  EXPECT_EQ(keys_of(batch, 0), keys_of(next, 0));
  EXPECT_EQ(keys_of(batch, 1), keys_of(next, 1));
  const Made plain = make(executor, "emmet", {{"v_num_grad_steps", 1}});
  EXPECT_NE(keys_of(batch, 1), keys_of(plain.method->edit(executor, plain.requests, 0)[0], 1));
}

TEST_F(Layerwise, EmmetMeetsItsConstraints) {
  Executor executor(context_, model_);
  const Made made = make(executor, "emmet", {{"emmet_lambda", 0.5}, {"update_norm_lambda", 0.25}});
  for (const EditBatch& batch : made.method->edit(executor, made.requests, 4))
    for (size_t l = 0; l < kLayers.size(); ++l) {
      const Matrix keys = keys_of(batch, l);
      Matrix weighted = identity(moments_[kLayers[l]].size());
      for (auto& row : weighted)
        for (double& value : row) value *= 0.25;
      weighted = add_scaled(weighted, moments_[kLayers[l]], 3);
      const Matrix solved = solve(weighted, transpose(keys));  // [ff, n]
      const double ridge = batch.edits.size() > 1 ? 0.5 : 0;
      const Matrix system = add_scaled(multiply(keys, solved), identity(keys.size()), ridge);
      expect_directions(batch, l, solve(system, transpose(solved)));
    }
}

/// (P (K K^T + K_p K_p^T) + L2 I)^-1 P K with the keys of the batches before.
TEST_F(Layerwise, AlphaEditStaysInTheNullSpaceAndKeepsEarlierKeys) {
  Executor executor(context_, model_);
  const double threshold = 1.2, l2 = 0.7;
  Made made = make(executor, "alphaedit", {{"nullspace_threshold", threshold}, {"L2", l2}});
  std::vector<Matrix> past(kLayers.size());
  for (const size_t first : {0u, 3u}) {
    const auto requests = std::span(made.requests).subspan(first, first == 0 ? 3 : 2);
    const EditBatch batch = made.method->edit(executor, requests, 0)[0];
    for (size_t l = 0; l < kLayers.size(); ++l) {
      const Matrix& c = moments_[kLayers[l]];
      const size_t ff = c.size();
      std::vector<double> flat;
      for (const auto& row : c) flat.insert(flat.end(), row.begin(), row.end());
      const SymmetricEigen eigen = symmetric_eigen(context_, flat, static_cast<int64_t>(ff), "C");
      Matrix projector(ff, std::vector<double>(ff, 0.0));
      for (size_t k = 0; k < ff && eigen.values[k] < threshold; ++k)
        for (size_t i = 0; i < ff; ++i)
          for (size_t j = 0; j < ff; ++j) projector[i][j] += eigen.vectors[i * ff + k] * eigen.vectors[j * ff + k];
      const Matrix keys = keys_of(batch, l);
      Matrix all = past[l];
      all.insert(all.end(), keys.begin(), keys.end());
      Matrix system = multiply(projector, multiply(transpose(all), all));
      system = add_scaled(system, identity(ff), l2);
      expect_directions(batch, l, transpose(solve(system, multiply(projector, transpose(keys)))), 1e-4);
      past[l] = all;
    }
    made.method->take_up(batch);
  }
}

TEST_F(Layerwise, WhatDoesNotFitIsRefusedByName) {
  Executor executor(context_, model_);
  const auto refused = [&](const std::string& name, const Json& more, std::vector<int64_t> cov = kLayers) {
    return error_of<InputError>([&] { make(executor, name, more, cov); });
  };
  expect_message(refused("memit", {{"layers", {1, 9}}}), {"layer 9", "0 to 3"});
  expect_message(refused("memit", {{"layers", {2, 1}}}), {"layers", "rising order", "2, 1"});
  expect_message(refused("memit", {{"layers", Json::array()}}), {"no layers"});
  expect_message(refused("memit", {{"v_loss_layer", 2}}), {"v_loss_layer", "2", "last layer, 3"});
  expect_message(refused("memit", {{"mom2_update_weight", 0}}), {"mom2_update_weight", "second moments"});
  expect_message(refused("memit", {{"alg_name", "ROME"}}), {"alg_name", "ROME", "MEMIT"});
  expect_message(refused("memit", {{"emmet_lambda", 3}}), {"emmet_lambda", "unknown"});
  expect_message(refused("memit", Json::object(), {}), {"second moments are needed"});
  expect_message(refused("alphaedit", {{"nullspace_threshold", 1e-9}}), {"nullspace_threshold", "raise it"});
  expect_message(refused("memit", Json::object(), {1}), {"h.1.mlp.npz", "layer 1", "layer 2"});
  expect_message(refused("memit", {{"layers", {1, 2, 3}}}), {"none of the files", "layer 3"});
  write_file_atomically(dir_.file("templates.json"), R"(["Yes. {}", "{}"])");
  expect_message(refused("memit", Json::object()), {"templates.json", "first context template"});
}

}  // namespace
}  // namespace loci::test
