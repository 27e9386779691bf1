#pragma once

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "model/model.h"

namespace loci::test {

/// A GPT written as plainly as possible, in fp64 on host memory: the oracle for the executor. Parameters by canonical
/// name, as they are stored.
class PlainGpt {
 public:
  using Rows = std::vector<std::vector<double>>;  // [position][width]

  Architecture config;
  std::map<std::string, std::vector<double>> parameters;
  /// Added to resid(layer) of a position: {layer, position} -> [d]; layer -1 is the input of block 0.
  std::map<std::pair<int64_t, int64_t>, std::vector<double>> shifts;
  /// Factor of mlp_out of a layer.
  std::map<int64_t, double> mlp_factors;

  PlainGpt(Context& context, const Model& model) : config(model.config()) {
    Parameters<const float> views = model.parameters();
    visit_parameters(views, config, [&](const Parameter& parameter, const auto& place) {
      const std::vector<float> values = stored_to_host(context, stored_view(place));
      parameters[parameter.name].assign(values.begin(), values.end());
    });
    for (const Parameter& parameter : parameters_of(config)) places_[{parameter.role, parameter.layer}] = parameter;
    if (config.rotary) frequencies_ = rotary_frequencies(*config.rotary);
  }

  /// Logits of every position.
  Rows logits(const std::vector<int32_t>& tokens) const {
    const size_t width = size(config.width);
    const std::vector<double>&embeddings = stored(Role::token_embedding, 0),
          &positions = stored(Role::position_embedding, 0);
    Rows x(tokens.size(), std::vector<double>(width));
    for (size_t t = 0; t < tokens.size(); ++t)
      for (size_t c = 0; c < width; ++c)
        x[t][c] = embeddings[size(tokens[t]) * width + c] + (positions.empty() ? 0 : positions[t * width + c]);
    shift(-1, x);
    for (int64_t l = 0; l < config.layers; ++l) {
      const Rows input = x;
      const Rows h = norm(x, Role::norm_1_gain, Role::norm_1_bias, l);
      add(x, attention(l, linear(h, Role::qkv_weight, Role::qkv_bias, l)), 1);
      const Rows& middle = config.residual == Residual::parallel ? input : x;
      const auto factor = mlp_factors.find(l);
      add(x, mlp(l, has(Role::norm_2_gain) ? norm(middle, Role::norm_2_gain, Role::norm_2_bias, l) : h),
          factor == mlp_factors.end() ? 1 : factor->second);
      shift(l, x);
    }
    x = norm(x, Role::final_norm_gain, Role::final_norm_bias, 0);
    const auto& table = stored(config.tied ? Role::token_embedding : Role::unembedding, 0);
    const std::vector<double>& bias = stored(Role::unembedding_bias, 0);
    Rows made(x.size(), bias.empty() ? std::vector<double>(size(config.vocabulary), 0.0) : bias);
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t v = 0; v < made[t].size(); ++v)
        for (size_t c = 0; c < x[t].size(); ++c) made[t][v] += x[t][c] * table[v * x[t].size() + c];
    return made;
  }

  /// Mean next-token cross-entropy of all sequences' predictions from position `first` on.
  double loss(const std::vector<std::vector<int32_t>>& sequences, size_t first = 0) const {
    double sum = 0;
    int64_t count = 0;
    for (const auto& tokens : sequences) {
      const Rows rows = logits(tokens);
      for (size_t t = first; t + 1 < tokens.size(); ++t, ++count)
        sum += log_sum_exp(rows[t]) - rows[t][size(tokens[t + 1])];
    }
    return sum / static_cast<double>(count);
  }

  static double log_sum_exp(const std::vector<double>& values) {
    double highest = values[0], sum = 0;
    for (const double value : values) highest = std::max(highest, value);
    for (const double value : values) sum += std::exp(value - highest);
    return highest + std::log(sum);
  }

 private:
  static size_t size(int64_t value) { return static_cast<size_t>(value); }
  /// A parameter's values; none where the family lacks it.
  const std::vector<double>& stored(Role role, int64_t layer) const {
    static const std::vector<double> none;
    const auto place = places_.find({role, layer});
    return place == places_.end() ? none : parameters.at(place->second.name);
  }
  bool has(Role role) const { return !stored(role, 0).empty(); }
  void shift(int64_t layer, Rows& x) const {
    for (const auto& [place, values] : shifts) {
      if (place.first != layer || size(place.second) >= x.size()) continue;
      for (size_t c = 0; c < values.size(); ++c) x[size(place.second)][c] += values[c];
    }
  }
  static void add(Rows& x, const Rows& y, double factor) {
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t c = 0; c < x[t].size(); ++c) x[t][c] += factor * y[t][c];
  }
  Rows norm(const Rows& x, Role gain_role, Role bias_role, int64_t layer) const {
    const std::vector<double>&gain = stored(gain_role, layer), &bias = stored(bias_role, layer);
    Rows y = x;
    for (auto& row : y) {
      double mean = 0, variance = 0;
      if (config.norm == Norm::layer)
        for (const double value : row) mean += value / static_cast<double>(row.size());
      for (const double value : row) variance += (value - mean) * (value - mean) / static_cast<double>(row.size());
      for (size_t c = 0; c < row.size(); ++c)
        row[c] = (row[c] - mean) / std::sqrt(variance + config.epsilon) * gain[c] + (bias.empty() ? 0 : bias[c]);
    }
    return y;
  }
  Rows linear(const Rows& x, Role role, Role bias_role, int64_t layer) const {
    const std::vector<double>&weight = stored(role, layer), &bias = stored(bias_role, layer);
    const bool in_out = places_.at({role, layer}).stored == Orientation::in_out;
    const size_t in = x[0].size(), out = weight.size() / in;
    Rows y(x.size(), bias.empty() ? std::vector<double>(out, 0.0) : bias);
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < in; ++i)
        for (size_t o = 0; o < out; ++o) y[t][o] += x[t][i] * weight[in_out ? i * out + o : o * in + i];
    return y;
  }
  Rows mlp(int64_t layer, const Rows& h) const {
    const bool gated = config.mlp == Mlp::gated;
    Rows key = linear(h, gated ? Role::gate_weight : Role::up_weight, gated ? Role::gate_bias : Role::up_bias, layer);
    for (auto& row : key)
      for (double& value : row) value = activate(value);
    if (gated) {
      const Rows up = linear(h, Role::up_weight, Role::up_bias, layer);
      for (size_t t = 0; t < key.size(); ++t)
        for (size_t c = 0; c < key[t].size(); ++c) key[t][c] *= up[t][c];
    }
    return linear(key, Role::down_weight, Role::down_bias, layer);
  }
  /// The head at `first` of a row of position t, normalised and turned.
  void place(std::vector<double>& row, size_t first, size_t t, Role gain_role, int64_t layer) const {
    const size_t width = size(config.head_width);
    if (config.head_norm == HeadNorm::rms) {
      const std::vector<double>& gain = stored(gain_role, layer);
      double squares = 0;
      for (size_t c = 0; c < width; ++c) squares += row[first + c] * row[first + c] / static_cast<double>(width);
      for (size_t c = 0; c < width; ++c) row[first + c] *= gain[c] / std::sqrt(squares + config.epsilon);
    }
    if (!config.rotary) return;
    const std::vector<float>& frequencies = frequencies_;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const bool interleaved = config.rotary->pairs == RotaryPairs::interleaved;
      double& a = row[first + (interleaved ? 2 * i : i)];
      double& b = row[first + (interleaved ? 2 * i + 1 : i + frequencies.size())];
      const double angle = static_cast<float>(t) * frequencies[i], scale = config.rotary->attention_factor;
      const double cosine = scale * std::cos(angle), sine = scale * std::sin(angle), before = a;
      a = before * cosine - b * sine;
      b = b * cosine + before * sine;
    }
  }
  Rows attention(int64_t layer, Rows qkv) const {
    const size_t q = size(config.query_width()), k = size(config.key_width()), width = size(config.head_width);
    const size_t group = size(config.heads / config.key_heads);
    for (size_t t = 0; t < qkv.size(); ++t) {
      for (size_t first = 0; first < q; first += width) place(qkv[t], first, t, Role::q_norm_gain, layer);
      for (size_t first = q; first < q + k; first += width) place(qkv[t], first, t, Role::k_norm_gain, layer);
    }
    Rows y(qkv.size(), std::vector<double>(q, 0.0));
    for (size_t head = 0; head < size(config.heads); ++head)
      for (size_t t = 0; t < qkv.size(); ++t) {
        const size_t query = head * width, key = q + head / group * width, value = key + k;
        const size_t window = size(config.window), begin = window > 0 && t >= window ? t - window + 1 : 0;
        std::vector<double> scores(t + 1 - begin, 0.0);
        for (size_t s = begin; s <= t; ++s)
          for (size_t c = 0; c < width; ++c)
            scores[s - begin] += qkv[t][query + c] * qkv[s][key + c] * config.attention_factor(layer);
        const double total = log_sum_exp(scores);
        for (size_t s = begin; s <= t; ++s)
          for (size_t c = 0; c < width; ++c) y[t][query + c] += std::exp(scores[s - begin] - total) * qkv[s][value + c];
      }
    return linear(y, Role::out_weight, Role::out_bias, layer);
  }
  std::map<std::pair<Role, int64_t>, Parameter> places_;  // role and layer
  std::vector<float> frequencies_;                        // of rotation

  double activate(double x) const {
    if (config.activation == Activation::relu) return x > 0 ? x : 0;
    if (config.activation == Activation::silu) return x / (1 + std::exp(-x));
    if (config.activation == Activation::gelu) return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
};

}  // namespace loci::test
