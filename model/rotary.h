#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/rotary.h"
#include "runtime/named_value.h"

/// Positions as angles by which queries and keys are turned (Su et al. 2021).
namespace loci {

/// How frequencies are changed for contexts longer than those that a model was first trained on.
enum class RotaryScaling {
  none,
  linear,  ///< all divided by `factor` (Chen et al. 2023)
  llama3,  ///< the slow ones divided by `factor`, the fast ones kept (Grattafiori et al. 2024)
  yarn,    ///< likewise with a ramp over their index, and longer queries and keys (Peng et al. 2023)
};
/// transformers' `rope_type`.
inline constexpr NamedValues<RotaryScaling, 4> kRotaryScalings{{{"default", RotaryScaling::none},
                                                                {"linear", RotaryScaling::linear},
                                                                {"llama3", RotaryScaling::llama3},
                                                                {"yarn", RotaryScaling::yarn}}};

struct Rotary {
  int64_t width = 0;  ///< r, even: the first entries of each head that are turned
  RotaryPairs pairs = RotaryPairs::halves;
  double base = 10000;  ///< of the frequencies base^(-2i/r), i < r/2
  RotaryScaling scaling = RotaryScaling::none;
  double factor = 1;
  int64_t original_positions = 0;        ///< llama3, yarn: the context of the first training
  double low_frequency = 1;              ///< llama3: turns in that context up to which a frequency is divided
  double high_frequency = 4;             ///< llama3: turns from which it is kept
  double beta_fast = 32, beta_slow = 1;  ///< yarn: the same from the other side
  double attention_factor = 1;           ///< yarn: of the sines and cosines

  bool operator==(const Rotary&) const = default;
};

/// The angle of each pair from one position to the next, in fp32 arithmetic as the published models compute it.
std::vector<float> rotary_frequencies(const Rotary& rotary);

/// cos and sin of the angles of positions 0 .. positions - 1, [positions, r/2] each, times the attention factor. The
/// product of a frequency and a position is rounded to fp32 before its cosine is taken, as the published models do:
/// exact angles would differ by up to position * 6e-8.
struct RotaryTables {
  RotaryTables() = default;
  RotaryTables(Context& context, const Rotary& rotary, int64_t positions);

  Tensor cosines, sines;
};

}  // namespace loci
