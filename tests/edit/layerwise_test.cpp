// MEMIT, EMMET, AlphaEdit and PMET against plain fp64 computations of their formulas from the keys and values that they
// record.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "edit/alphaedit/alphaedit.h"
#include "edit/edit_units.h"
#include "edit/memit/restraint.h"
#include "edit/methods.h"
#include "kernels/symmetric_eigen.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/npz.h"
#include "tests/edit/matrix.h"
#include "tests/edit/support.h"
#include "tests/support/device.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

const std::vector<EditRequest> kLayerwiseRequests = {{0, "{}, the", "Rome", "xy", ""},
                                                     {1, "In {}", "Paris", "y", ""},
                                                     {2, "{} is", "Oslo", "zq", ""},
                                                     {3, "All of {}", "Bern", "v", ""},
                                                     {4, "{}", "Lima", "w", ""}};
const std::vector<int64_t> kLayers = {1, 2};

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
    for (const EditRequest& request : kLayerwiseRequests) made.requests.push_back(made.method->prepare(request, "r"));
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
    EditRequest request = kLayerwiseRequests[i % kLayerwiseRequests.size()];
    request.subject += std::string(1 + i / kLayerwiseRequests.size(), static_cast<char>('a' + i % 7));
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

/// memit-seq: the keys of the batches before count like the second moments.
TEST_F(Layerwise, MemitSeqKeepsEarlierKeys) {
  Executor executor(context_, model_);
  const Made made = make(executor, "memit-seq", Json::object());
  std::vector<Matrix> past(kLayers.size());
  for (const size_t first : {0u, 3u}) {
    const auto requests = std::span(made.requests).subspan(first, first == 0 ? 3 : 2);
    const EditBatch batch = made.method->edit(executor, requests, 0)[0];
    for (size_t l = 0; l < kLayers.size(); ++l) {
      const Matrix keys = keys_of(batch, l);
      past[l].insert(past[l].end(), keys.begin(), keys.end());
      const Matrix system = add_scaled(multiply(transpose(past[l]), past[l]), moments_[kLayers[l]], 3);
      expect_directions(batch, l, transpose(solve(system, transpose(keys))));
    }
    made.method->take_up(batch);
  }
}

/// U diag(s) V^T with random orthogonal U [rows, rows] and V [cols, cols].
std::vector<double> matrix_of(Context& context, const std::vector<double>& s, int64_t rows, int64_t cols) {
  std::mt19937 random(7);
  const auto orthogonal = [&](int64_t n) {
    std::vector<double> symmetric(static_cast<size_t>(n * n));
    for (double& value : symmetric) value = std::normal_distribution<double>()(random);
    return symmetric_eigen(context, symmetric, n, "A").vectors;
  };
  const std::vector<double> u = orthogonal(rows), v = orthogonal(cols);
  std::vector<double> made(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t k = 0; k < std::ssize(s); ++k) made[r * cols + c] += u[r * rows + k] * s[k] * v[c * cols + k];
  return made;
}

TEST_F(Layerwise, SingularValuesAboveTheLimitBecomeLogarithms) {
  const double limit = 3;
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{4, 6}, {6, 4}, {5, 5}}) {
    std::vector<double> change = matrix_of(context_, {9, 4, 2, 0.5}, rows, cols);
    EXPECT_NEAR(largest_singular_value(context_, change, rows, cols), 9, 1e-12);
    EXPECT_TRUE(restrain_singular_values(context_, change, rows, cols, limit));
    const std::vector<double> expected =
        matrix_of(context_, {std::log(9) - std::log(3) + 3, std::log(4) - std::log(3) + 3, 2, 0.5}, rows, cols);
    for (size_t i = 0; i < change.size(); ++i) EXPECT_NEAR(change[i], expected[i], 1e-12);
    const std::vector<double> before = change;
    EXPECT_FALSE(restrain_singular_values(context_, change, rows, cols, 9));
    EXPECT_EQ(change, before);
  }
}

/// memit-prune: the sum of the changes of a sequence is restrained by what the matrix was before.
TEST_F(Layerwise, MemitPruneRestrainsTheTotalChange) {
  Executor executor(context_, model_);
  const Json strong = {{"v_lr", 5}, {"clamp_norm_factor", 400}, {"mom2_update_weight", 1e-3}};
  const Made plain = make(executor, "memit", strong), prune = make(executor, "memit-prune", strong);
  const auto dense = [&](const Change& change) {
    const std::vector<float> delta = std::holds_alternative<Dense>(change)
                                         ? std::get<Dense>(change).delta
                                         : dense_of(std::get<LowRank>(change), model_.config()).delta;
    return std::vector<double>(delta.begin(), delta.end());
  };
  std::vector<std::vector<double>> totals(kLayers.size());
  int restrained = 0;
  for (const size_t first : {0u, 3u}) {
    const auto cut = [&](const Made& made) { return std::span(made.requests).subspan(first, first == 0 ? 3 : 2); };
    const EditBatch free = plain.method->edit(executor, cut(plain), 0)[0],
                    made = prune.method->edit(executor, cut(prune), 0)[0];
    for (size_t l = 0; l < kLayers.size(); ++l) {
      const StoredView stored = weight_of(model_.parameters(), std::get<LowRank>(free.changes[l]).weight).stored();
      const std::vector<float> weights = stored_to_host(context_, stored);
      const std::vector<double> original(weights.begin(), weights.end()), update = dense(free.changes[l]);
      totals[l].resize(update.size());
      std::vector<double> expected = totals[l];
      for (size_t i = 0; i < update.size(); ++i) expected[i] += update[i];
      const double limit = largest_singular_value(context_, original, stored.rows, stored.cols);
      restrained += restrain_singular_values(context_, expected, stored.rows, stored.cols, limit);
      const std::vector<double> change = dense(made.changes[l]);
      for (size_t i = 0; i < change.size(); ++i) {
        EXPECT_NEAR(totals[l][i] + change[i], expected[i], 1e-5 * limit);
        totals[l][i] += change[i];
      }
    }
    prune.method->take_up(made);
  }
  EXPECT_GT(restrained, 0) << "no change is strong enough to be restrained";
  // Another sequence begins without the changes of this one.
  prune.method->start_sequence();
  const EditBatch again = prune.method->edit(executor, std::span(prune.requests).first(3), 0)[0];
  const Made fresh = make(executor, "memit-prune", strong);
  const EditBatch first = fresh.method->edit(executor, std::span(fresh.requests).first(3), 0)[0];
  for (size_t l = 0; l < kLayers.size(); ++l) EXPECT_EQ(dense(again.changes[l]), dense(first.changes[l]));
}

/// memit-rect: memit's update, but the elements that change least relative to the weight are 0.
TEST_F(Layerwise, MemitRectKeepsTheLargestRelativeChanges) {
  Executor executor(context_, model_);
  const Made plain = make(executor, "memit", Json::object()),
             rect = make(executor, "memit-rect", {{"kept_share", 0.25}});
  const EditBatch whole = plain.method->edit(executor, plain.requests, 0)[0],
                  kept = rect.method->edit(executor, rect.requests, 0)[0];
  for (size_t l = 0; l < kLayers.size(); ++l) {
    const auto& low_rank = std::get<LowRank>(whole.changes[l]);
    const auto& dense = std::get<Dense>(kept.changes[l]);
    EXPECT_TRUE(dense.rows.empty());
    const auto d = static_cast<size_t>(model_.config().width);
    const std::vector<float> weights =
        stored_to_host(context_, weight_of(model_.parameters(), low_rank.weight).stored());
    ASSERT_EQ(dense.delta.size(), weights.size());
    std::vector<double> full(weights.size());
    double least_kept = 1e300, most_left = 0, size = 0;
    int64_t count = 0;
    for (int64_t t = 0; t < low_rank.rank; ++t)
      for (size_t i = 0; i < full.size(); ++i)
        full[i] += static_cast<double>(low_rank.key(t)[i / d]) * static_cast<double>(low_rank.value(t)[i % d]);
    for (const double value : full) size = std::max(size, std::abs(value));
    for (size_t i = 0; i < full.size(); ++i) {
      const double relative = std::abs(full[i] / static_cast<double>(weights[i]));
      if (dense.delta[i] == 0) {
        most_left = std::max(most_left, relative);
        continue;
      }
      ++count;
      least_kept = std::min(least_kept, relative);
      EXPECT_NEAR(dense.delta[i], full[i], 1e-6 * size);
    }
    EXPECT_EQ(count, static_cast<int64_t>(0.25 * static_cast<double>(full.size())));
    EXPECT_GT(least_kept, most_left * (1 - 1e-4));
  }
}

/// What PMET minimises, from whole sequences and in fp64.
class Pmet : public Layerwise {
 protected:
  /// Probabilities behind the wanted positions of a prompt with `delta` [2 * d], of mlp_out and attn_out, added at its
  /// fact token.
  Matrix probabilities(Executor& executor, const EditPrompt& prompt, const std::vector<int64_t>& positions,
                       const std::vector<float>& delta) const {
    const int64_t d = model_.config().width, layer = kLayers.back();
    const Tensor rows = Tensor::from_host(executor.context(), delta, 2, d);
    Plan plan;
    plan.sequences.push_back({.tokens = prompt.tokens, .base = nullptr});
    plan.patches = {{0, prompt.lookup, Site::attn_out, layer, PatchMode::add, rows.row(1)},
                    {0, prompt.lookup, Site::mlp_out, layer, PatchMode::add, rows.row(0)}};
    for (const int64_t position : positions) plan.wanted.push_back({0, position});
    const loci::Run run = executor.run(plan);
    const std::vector<float> logits = run.logits.to_host();
    Matrix found;
    for (size_t w = 0; w < positions.size(); ++w) {
      const auto row =
          std::span(logits).subspan(w * static_cast<size_t>(run.logits.cols()), static_cast<size_t>(run.logits.cols()));
      double sum = 0;
      for (const float x : row) sum += std::exp(static_cast<double>(x));
      std::vector<double>& p = found.emplace_back();
      for (const float x : row) p.push_back(std::exp(static_cast<double>(x)) / sum);
    }
    return found;
  }

  LossRow loss(Executor& executor, const PreparedRequest& request, const std::vector<float>& delta,
               const std::vector<double>& norms, const ValueOptions& options) const {
    LossRow row;
    for (const EditPrompt& prompt : request.prompts) {
      const double weight = static_cast<double>(prompt.weight) / static_cast<double>(request.total_weight);
      std::vector<int64_t> positions;
      for (size_t t = 0; t < request.target.size(); ++t)
        positions.push_back(prompt.first_target + static_cast<int64_t>(t));
      double nll = 0;
      const Matrix p = probabilities(executor, prompt, positions, delta);
      for (size_t t = 0; t < p.size(); ++t)
        nll -= std::log(p[t][static_cast<size_t>(request.target[t])]) / static_cast<double>(p.size());
      row.target += weight * nll;
      row.probability += weight * std::exp(-nll);
    }
    const std::vector<int64_t> at = {request.essence.lookup};
    const Matrix now = probabilities(executor, request.essence, at, delta),
                 before = probabilities(executor, request.essence, at, std::vector<float>(delta.size()));
    for (size_t v = 0; v < now[0].size(); ++v) row.essence += now[0][v] * std::log(now[0][v] / before[0][v]);
    row.essence *= options.kl_factor;
    const size_t d = delta.size() / 2;
    for (size_t s = 0; s < 2; ++s) {
      double square = 0;
      for (size_t i = 0; i < d; ++i) square += std::pow(static_cast<double>(delta[s * d + i]), 2);
      row.decay += options.weight_decay * std::sqrt(square) / (norms[s] * norms[s]);
    }
    row.total = row.target + row.essence + row.decay;
    return row;
  }

  /// The values at a site of the edited block in the bare prompt, and their length.
  std::vector<float> before(Executor& executor, const PreparedRequest& request, Site site) const {
    const EditPrompt& prompt = request.prompts[0];
    Tensor row(executor.context(), 1, model_.config().width);
    Plan plan;
    plan.sequences.push_back({.tokens = prompt.tokens, .base = nullptr});
    plan.taps = {{0, prompt.lookup, site, kLayers.back(), 0}};
    plan.tap_output = row.view();
    plan.stop = StopAfter{Site::resid, kLayers.back()};
    executor.run(plan);
    return row.to_host();
  }
  static double length(const std::vector<float>& x) {
    double sum = 0;
    for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
    return std::sqrt(sum);
  }
};

/// Two steps: the second evaluation stands behind one step of Adam, whose elements are lr times the sign of minus the
/// gradient.
TEST_F(Pmet, LossAndGradientAreThoseOfBothVectors) {
  Executor executor(context_, model_);
  const Made made =
      make(executor, "pmet", {{"v_num_grad_steps", 2}, {"v_lr", 0.02}, {"clamp_norm_factor", 9}, {"kl_factor", 0.7}});
  const ValueOptions options{.weight_decay = 0.1, .kl_factor = 0.7};
  const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
  const size_t d = static_cast<size_t>(model_.config().width);
  for (const size_t r : {0u, 2u}) {
    const PreparedRequest& request = made.requests[r];
    const Edit& edit = batch.edits[r];
    const std::vector<float> mlp = before(executor, request, Site::mlp_out),
                             attention = before(executor, request, Site::attn_out);
    std::vector<float> delta(2 * d);
    for (size_t i = 0; i < d; ++i) {
      EXPECT_NEAR(edit.values("value_before")[i], mlp[i], 1e-5);
      delta[i] = edit.values("value_star")[i] - mlp[i];
      delta[d + i] = edit.values("value_star_attention")[i] - attention[i];
    }
    const std::vector<double> norms = {length(mlp), length(attention)};
    const LossRow expected = loss(executor, request, delta, norms, options);
    ASSERT_EQ(edit.loss_curve.size(), 2u);
    const LossRow& found = edit.loss_curve[1];
    EXPECT_NEAR(found.target, expected.target, 2e-4 * expected.target);
    EXPECT_NEAR(found.essence, expected.essence, 2e-4 * expected.essence + 1e-6);
    EXPECT_NEAR(found.decay, expected.decay, 1e-4 * expected.decay);
    EXPECT_NEAR(found.total, expected.total, 2e-4 * expected.total);
    EXPECT_NEAR(found.probability, expected.probability, 1e-3 * expected.probability);
    for (size_t i = 0; i < 2 * d; i += 5) {
      std::vector<float> up(2 * d), down(2 * d);
      up[i] = 0.05f;
      down[i] = -0.05f;
      // The decay has no gradient where the step starts, at 0.
      const ValueOptions free{.weight_decay = 0, .kl_factor = 0.7};
      const double slope =
          (loss(executor, request, up, norms, free).total - loss(executor, request, down, norms, free).total) / 0.1;
      EXPECT_NEAR(std::abs(delta[i]), 0.02, 1e-4) << i;
      if (std::abs(slope) > 2e-3) {
        EXPECT_EQ(std::signbit(delta[i]), slope > 0) << i << " slope " << slope;
      }
    }
  }
}

/// Where the target is said, its loss counts a tenth in the next evaluation.
TEST_F(Pmet, TheTargetCountsATenthOnceItIsSaid) {
  write_file_atomically(dir_.file("templates.json"), R"(["{}"])");
  Executor executor(context_, model_);
  Made made =
      make(executor, "pmet", {{"v_num_grad_steps", 14}, {"v_lr", 0.2}, {"clamp_norm_factor", 50}, {"kl_factor", 20}});
  // Targets that take few steps: what the model finds second most likely.
  for (PreparedRequest& request : made.requests) {
    EditPrompt& prompt = request.prompts[0];
    Plan plan;
    plan.sequences.emplace_back().tokens = {prompt.tokens.begin(), prompt.tokens.begin() + prompt.first_target + 1};
    plan.wanted = {{0, prompt.first_target}};
    prompt.tokens = plan.sequences[0].tokens;
    std::vector<float> logits = executor.run(plan).logits.to_host();
    *std::ranges::max_element(logits) = -1e9f;
    request.target = {static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin())};
  }
  const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
  int64_t eased = 0, whole = 0;
  for (size_t r = 0; r < made.requests.size(); ++r) {
    const std::vector<LossRow>& curve = batch.edits[r].loss_curve;
    for (size_t step = 1; step < curve.size(); ++step) {
      const double factor = curve[step].target / -std::log(curve[step].probability);
      const bool is_tenth = std::abs(factor - 0.1) < 1e-3;
      EXPECT_TRUE(is_tenth || std::abs(factor - 1) < 1e-3) << factor;
      if (curve[step - 1].probability > 0.5) {
        EXPECT_TRUE(is_tenth);
      }
      ++(is_tenth ? eased : whole);
    }
  }
  EXPECT_GT(eased, 0);
  EXPECT_GT(whole, 0);
}

TEST_F(Pmet, InsertsTheRootOfItsPartWithMemitsDirections) {
  Executor executor(context_, model_);
  const Made made = make(executor, "pmet", Json::object());
  const EditBatch batch = made.method->edit(executor, made.requests, 0)[0];
  for (size_t l = 0; l < kLayers.size(); ++l) {
    const Matrix keys = keys_of(batch, l);
    const Matrix system = add_scaled(multiply(transpose(keys), keys), moments_[kLayers[l]], 3);
    expect_directions(batch, l, transpose(solve(system, transpose(keys))));
  }
  const auto& first = std::get<LowRank>(batch.changes[0]);
  for (size_t r = 0; r < batch.edits.size(); ++r)
    for (size_t i = 0; i < static_cast<size_t>(model_.config().width); ++i)
      EXPECT_NEAR(first.value(static_cast<int64_t>(r))[i],
                  (batch.edits[r].values("value_star")[i] - batch.edits[r].values("value_before")[i]) / std::sqrt(2),
                  1e-5);
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
  expect_message(refused("memit", {{"kept_share", 0.3}}), {"kept_share", "unknown"});
  expect_message(refused("pmet", {{"rewrite_module_tmps", {"transformer.h.{}.attn.c_proj"}}}),
                 {"rewrite_module_tmps", "attn.c_proj", "down projection"});
  for (const char* method : {"memit", "ft"})
    expect_message(refused(method, {{"rewrite_module_tmp", "transformer.h.{}.attn.c_attn"}}),
                   {"rewrite_module_tmp", "attn.c_attn", "down projection"});
  write_file_atomically(dir_.file("rome.json"), R"({"layers": [1], "rewrite_module_tmp": "transformer.h.{}.attn"})");
  EditOptions options;
  options.hparams = dir_.file("rome.json");
  Resources resources(options, executor, tokenizer_, Lineage{});
  expect_message(error_of<InputError>([&] { make_method("rome", resources); }), {"rome.json", "rewrite_module_tmp"});
  expect_message(refused("memit", Json::object(), {}), {"second moments are needed"});
  expect_message(refused("alphaedit", {{"nullspace_threshold", 1e-9}}), {"nullspace_threshold", "raise it"});
  expect_message(refused("memit", Json::object(), {1}), {"h.1.mlp.npz", "layer 1", "layer 2"});
  expect_message(refused("memit", {{"layers", {1, 2, 3}}}), {"none of the files", "layer 3"});
  write_file_atomically(dir_.file("templates.json"), R"(["Yes. {}", "{}"])");
  expect_message(refused("memit", Json::object()), {"templates.json", "first context template"});
}

}  // namespace
}  // namespace loci::test
