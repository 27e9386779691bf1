#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "model/families/families.h"
#include "model/model.h"

namespace loci::test {

/// A configuration of odd shape: width and head width are no multiples of 16, MLP width is not 4 d.
inline Architecture tiny_config(int64_t layers = 3, int64_t heads = 3, int64_t head_width = 7, int64_t mlp_width = 50,
                                int64_t vocabulary = 61, int64_t positions = 24) {
  Architecture config;
  config.family = &gpt2();
  config.layers = layers;
  config.width = heads * head_width;
  config.set_equal_heads(heads);
  config.mlp_width = mlp_width;
  config.vocabulary = vocabulary;
  config.positions = positions;
  return config;
}

/// Parameters in device memory and the tensors that hold them.
struct OwnedParameters {
  std::vector<Tensor> tensors;
  Parameters<float> views;
};

/// Memory for all parameters of a configuration, each made by make(parameter, rows, cols).
template <typename Make>
std::shared_ptr<OwnedParameters> make_parameters(const Architecture& config, Make&& make) {
  auto owned = std::make_shared<OwnedParameters>();
  owned->views.blocks.resize(static_cast<size_t>(config.layers));
  visit_parameters(owned->views, config, [&](const Parameter& parameter, View& view) {
    owned->tensors.push_back(make(parameter, parameter.rows(), parameter.cols()));
    view = owned->tensors.back().view();
  });
  if (config.tied) owned->views.unembedding = owned->views.token_embedding;
  return owned;
}

/// Random parameters, large enough that every part of the model matters.
inline std::shared_ptr<OwnedParameters> random_parameters(Context& context, const Architecture& config, unsigned seed) {
  std::mt19937 random(seed);
  return make_parameters(config, [&](const Parameter& parameter, int64_t rows, int64_t cols) {
    const RoleKind kind = kind_of(parameter.role);
    const bool gain = kind == RoleKind::gain;
    const float spread = gain || kind == RoleKind::bias ? 0.1f : 1.5f / std::sqrt(static_cast<float>(config.width));
    std::normal_distribution<float> normal(gain ? 1.0f : 0.0f, spread);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& value : values) value = normal(random);
    return Tensor::from_host(context, values, rows, cols);
  });
}

inline std::shared_ptr<OwnedParameters> zero_parameters(Context& context, const Architecture& config) {
  return make_parameters(
      config, [&](const Parameter&, int64_t rows, int64_t cols) { return Tensor::zeros(context, rows, cols); });
}

inline Model random_model(Context& context, const Architecture& config, unsigned seed) {
  auto owned = random_parameters(context, config, seed);
  return Model(config, as_constant(owned->views, config), owned);
}

inline std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<unsigned>(vocabulary));
  return tokens;
}

}  // namespace loci::test
