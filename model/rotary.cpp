#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace loci {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

float llama3_frequency(const Rotary& rotary, float plain) {
  const auto turns =
      static_cast<float>(static_cast<double>(rotary.original_positions) * static_cast<double>(plain) / kTwoPi);
  const auto low = static_cast<float>(rotary.low_frequency), high = static_cast<float>(rotary.high_frequency);
  const float slow = plain / static_cast<float>(rotary.factor);
  if (turns < low) return slow;
  if (turns > high) return plain;
  const float share = (turns - low) / (high - low);
  return (1 - share) * slow + share * plain;
}

/// The index of the frequency that makes so many turns in the original context.
double index_of_turns(const Rotary& rotary, double turns) {
  return static_cast<double>(rotary.width) *
         std::log(static_cast<double>(rotary.original_positions) / (turns * kTwoPi)) / (2 * std::log(rotary.base));
}

float yarn_frequency(const Rotary& rotary, float plain, size_t index) {
  const double low = std::max(std::floor(index_of_turns(rotary, rotary.beta_fast)), 0.0);
  double high = std::min(std::ceil(index_of_turns(rotary, rotary.beta_slow)), static_cast<double>(rotary.width - 1));
  if (high == low) high += 0.001;
  const auto ramp = static_cast<float>(std::clamp((static_cast<double>(index) - low) / (high - low), 0.0, 1.0));
  return plain / static_cast<float>(rotary.factor) * ramp + plain * (1 - ramp);
}

}  // namespace

std::vector<float> rotary_frequencies(const Rotary& rotary) {
  std::vector<float> frequencies(static_cast<size_t>(rotary.width / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary.width);
    const float plain = 1.0f / static_cast<float>(std::pow(rotary.base, static_cast<double>(exponent)));
    const bool divided = rotary.scaling == RotaryScaling::linear;
    frequencies[i] = rotary.scaling == RotaryScaling::llama3 ? llama3_frequency(rotary, plain)
                     : rotary.scaling == RotaryScaling::yarn ? yarn_frequency(rotary, plain, i)
                     : divided                               ? plain / static_cast<float>(rotary.factor)
                                                             : plain;
  }
  return frequencies;
}

RotaryTables::RotaryTables(Context& context, const Rotary& rotary, int64_t positions) {
  const std::vector<float> frequencies = rotary_frequencies(rotary);
  const auto scale = static_cast<float>(rotary.attention_factor);
  std::vector<float> cos_values, sin_values;
  for (int64_t position = 0; position < positions; ++position)
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      cos_values.push_back(scale * static_cast<float>(std::cos(static_cast<double>(angle))));
      sin_values.push_back(scale * static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  cosines = Tensor::from_host(context, cos_values, positions, std::ssize(frequencies));
  sines = Tensor::from_host(context, sin_values, positions, std::ssize(frequencies));
}

}  // namespace loci
