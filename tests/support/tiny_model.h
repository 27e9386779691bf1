#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "model/model.h"

namespace loci::test {

/// A configuration of odd shape: width and head width are no multiples of 16, MLP width is not 4 d.
inline GptConfig tiny_config(int64_t layers = 3, int64_t heads = 3, int64_t head_width = 7, int64_t mlp_width = 50,
                             int64_t vocabulary = 61, int64_t positions = 24) {
  GptConfig config;
  config.layers = layers;
  config.heads = heads;
  config.width = heads * head_width;
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

/// Memory for all parameters of a configuration, each made by make(name, rows, cols).
template <typename Make>
std::shared_ptr<OwnedParameters> make_parameters(const GptConfig& config, Make&& make) {
  auto owned = std::make_shared<OwnedParameters>();
  owned->views.blocks.resize(static_cast<size_t>(config.layers));
  const int64_t d = config.width, ff = config.mlp_width;
  const auto shape = [&](const std::string& name) -> std::pair<int64_t, int64_t> {
    if (name == "wte.weight" || name == "lm_head.weight") return {config.vocabulary, d};
    if (name == "wpe.weight") return {config.positions, d};
    if (name.ends_with("c_attn.weight")) return {d, 3 * d};
    if (name.ends_with("c_attn.bias")) return {1, 3 * d};
    if (name.ends_with("attn.c_proj.weight")) return {d, d};
    if (name.ends_with("c_fc.weight")) return {d, ff};
    if (name.ends_with("c_fc.bias")) return {1, ff};
    if (name.ends_with("mlp.c_proj.weight")) return {ff, d};
    return {1, d};
  };
  visit_parameters(owned->views, config, [&](const std::string& name, View& view) {
    const auto [rows, cols] = shape(name);
    owned->tensors.push_back(make(name, rows, cols));
    view = owned->tensors.back().view();
  });
  if (config.tied) owned->views.unembedding = owned->views.token_embedding;
  return owned;
}

/// Random parameters, large enough that every part of the model matters.
inline std::shared_ptr<OwnedParameters> random_parameters(Context& context, const GptConfig& config, unsigned seed) {
  std::mt19937 random(seed);
  return make_parameters(config, [&](const std::string& name, int64_t rows, int64_t cols) {
    const bool gain = name.find("ln_") != std::string::npos && name.ends_with("weight");
    const float spread = gain ? 0.1f : name.ends_with("bias") ? 0.1f : 1.5f / std::sqrt(static_cast<float>(config.width));
    std::normal_distribution<float> normal(gain ? 1.0f : 0.0f, spread);
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& value : values) value = normal(random);
    return Tensor::from_host(context, values, rows, cols);
  });
}

inline std::shared_ptr<OwnedParameters> zero_parameters(Context& context, const GptConfig& config) {
  return make_parameters(config, [&](const std::string&, int64_t rows, int64_t cols) {
    return Tensor::zeros(context, rows, cols);
  });
}

/// The same memory, seen as constant.
inline Parameters<const float> as_const_parameters(Parameters<float>& from, const GptConfig& config) {
  std::vector<ConstView> views;
  visit_parameters(from, config, [&](const std::string&, View& view) { views.push_back(view); });
  Parameters<const float> made;
  made.blocks.resize(from.blocks.size());
  size_t next = 0;
  visit_parameters(made, config, [&](const std::string&, ConstView& view) { view = views[next++]; });
  made.unembedding = config.tied ? made.token_embedding : made.unembedding;
  return made;
}

inline Model random_model(Context& context, const GptConfig& config, unsigned seed) {
  auto owned = random_parameters(context, config, seed);
  return Model(config, as_const_parameters(owned->views, config), owned);
}

inline std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<unsigned>(vocabulary));
  return tokens;
}

}  // namespace loci::test
