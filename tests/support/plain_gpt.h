#pragma once

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "model/model.h"

namespace loci::test {

/// GPT-2 written as plainly as possible, in fp64 on host memory: the oracle for the executor. Parameters by canonical
/// name.
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
  }

  /// Logits of every position.
  Rows logits(const std::vector<int32_t>& tokens) const {
    Rows x(tokens.size(), std::vector<double>(size(config.width)));
    for (size_t t = 0; t < tokens.size(); ++t)
      for (size_t c = 0; c < x[t].size(); ++c) x[t][c] = at("wte.weight", size(tokens[t]), c) + at("wpe.weight", t, c);
    shift(-1, x);
    for (int64_t l = 0; l < config.layers; ++l) {
      const std::string h = "h." + std::to_string(l) + ".";
      add(x, attention(l, linear(norm(x, h + "ln_1"), h + "attn.c_attn")), 1);
      Rows up = linear(norm(x, h + "ln_2"), h + "mlp.c_fc");
      for (auto& row : up)
        for (double& value : row) value = activate(value);
      const auto factor = mlp_factors.find(l);
      add(x, linear(up, h + "mlp.c_proj"), factor == mlp_factors.end() ? 1 : factor->second);
      shift(l, x);
    }
    x = norm(x, "ln_f");
    const auto& table = parameters.at(config.tied ? "wte.weight" : "lm_head.weight");
    Rows made(x.size(), std::vector<double>(size(config.vocabulary), 0.0));
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
  double at(const std::string& name, size_t row, size_t col) const {
    return parameters.at(name)[row * size(config.width) + col];
  }
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
  Rows norm(const Rows& x, const std::string& name) const {
    const auto &gain = parameters.at(name + ".weight"), &bias = parameters.at(name + ".bias");
    Rows y = x;
    for (auto& row : y) {
      double mean = 0, variance = 0;
      for (const double value : row) mean += value / static_cast<double>(row.size());
      for (const double value : row) variance += (value - mean) * (value - mean) / static_cast<double>(row.size());
      for (size_t c = 0; c < row.size(); ++c)
        row[c] = (row[c] - mean) / std::sqrt(variance + config.epsilon) * gain[c] + bias[c];
    }
    return y;
  }
  Rows linear(const Rows& x, const std::string& name) const {
    const auto &weight = parameters.at(name + ".weight"), &bias = parameters.at(name + ".bias");
    Rows y(x.size(), bias);
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < x[t].size(); ++i)
        for (size_t o = 0; o < bias.size(); ++o) y[t][o] += x[t][i] * weight[i * bias.size() + o];
    return y;
  }
  Rows attention(int64_t layer, const Rows& qkv) const {
    const size_t d = size(config.width), width = size(config.head_width);
    Rows y(qkv.size(), std::vector<double>(d, 0.0));
    for (size_t head = 0; head < size(config.heads); ++head)
      for (size_t t = 0; t < qkv.size(); ++t) {
        std::vector<double> scores(t + 1, 0.0);
        for (size_t s = 0; s <= t; ++s)
          for (size_t c = head * width; c < (head + 1) * width; ++c)
            scores[s] += qkv[t][c] * qkv[s][d + c] * config.attention_factor(layer);
        const double total = log_sum_exp(scores);
        for (size_t s = 0; s <= t; ++s)
          for (size_t c = head * width; c < (head + 1) * width; ++c)
            y[t][c] += std::exp(scores[s] - total) * qkv[s][2 * d + c];
      }
    return linear(y, "h." + std::to_string(layer) + ".attn.c_proj");
  }
  double activate(double x) const {
    if (config.activation == Activation::relu) return x > 0 ? x : 0;
    if (config.activation == Activation::gelu) return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
};

}  // namespace loci::test
