#pragma once

#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "edit/edit_file.h"
#include "edit/edited_model.h"
#include "edit/rome/rome.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/tiny_model.h"

namespace loci::test {

/// A model of odd shape that reads bytes.
inline Architecture byte_config(int64_t layers = 4, int64_t positions = 64) {
  return tiny_config(layers, 3, 7, 50, 256, positions);
}

inline double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

inline double norm(std::span<const float> a) { return std::sqrt(dot(a, a)); }

inline double cosine(std::span<const float> a, std::span<const float> b) { return dot(a, b) / (norm(a) * norm(b)); }

/// max |a - b| / max |b|, and NaN where there is one.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  double worst = 0, scale = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double error = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(error <= worst)) worst = error;
    scale = std::max(scale, std::abs(static_cast<double>(b[i])));
  }
  return a.size() == b.size() ? worst / scale : std::nan("");
}

/// A positive definite [n * n]: the identity and a random part.
inline std::vector<double> random_definite(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> factor(static_cast<size_t>(n * n)), matrix(factor.size());
  for (double& value : factor) value = normal(random) / std::sqrt(static_cast<double>(n));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < n; ++c) {
      double sum = r == c ? 0.5 : 0;
      for (int64_t k = 0; k < n; ++k) sum += factor[r * n + k] * factor[c * n + k];
      matrix[r * n + c] = sum;
    }
  return matrix;
}

inline std::shared_ptr<const Cholesky> random_factor(Context& context, int64_t n, unsigned seed) {
  return std::make_shared<const Cholesky>(context, random_definite(n, seed), n, "C");
}

/// The down projection's output for one key: W^T k + b.
inline std::vector<float> down(Context& context, const Model& model, int64_t layer, std::span<const float> key) {
  const auto& block = model.parameters().blocks[layer];
  const std::vector<float> weight = stored_to_host(context, block.down_weight.stored()),
                           bias = to_host(context, block.down_bias);
  std::vector<float> value(bias.size());
  for (size_t j = 0; j < bias.size(); ++j) {
    double sum = static_cast<double>(bias[j]);
    for (size_t i = 0; i < key.size(); ++i)
      sum += static_cast<double>(key[i]) * static_cast<double>(weight[i * bias.size() + j]);
    value[j] = static_cast<float>(sum);
  }
  return value;
}

/// Adds the edit to the model's weights.
inline void apply(Context& context, Model& model, const RankOneEdit& edit) {
  EditedModel(to_batch(edit).changes).fold_into(context, model);
}

inline std::vector<EditBatch> batches_of(std::span<const RankOneEdit> edits) {
  std::vector<EditBatch> batches;
  for (const RankOneEdit& edit : edits) batches.push_back(to_batch(edit));
  return batches;
}

inline std::vector<Change> changes_of(std::span<const RankOneEdit> edits) {
  std::vector<Change> changes;
  for (const RankOneEdit& edit : edits) changes.push_back(to_batch(edit).changes[0]);
  return changes;
}

/// A file of these edits, as it would be read.
inline EditFile file_of(const std::string& path, EditMode mode, const std::string& weights,
                        std::span<const RankOneEdit> edits) {
  EditFile file{.path = path, .mode = mode, .weights_sha256 = weights, .edits = {}, .batches = {}, .updates = {}};
  for (EditBatch& batch : batches_of(edits)) {
    file.batches.push_back(std::ssize(file.edits));
    file.updates.push_back({batch.changes[0], std::ssize(file.edits)});
    file.edits.push_back(std::move(batch.edits[0]));
  }
  return file;
}

}  // namespace loci::test
