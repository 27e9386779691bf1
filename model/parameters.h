#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/weight.h"
#include "model/architecture.h"
#include "runtime/error.h"
#include "runtime/stored.h"

/// The parameters of a model in device memory.
namespace loci {

/// Constant parameters are read as they are stored, in any type and orientation; those that change (training,
/// gradients) are fp32, in the orientation that their family stores.
template <typename T>
using MatrixOf = std::conditional_t<std::is_const_v<T>, WeightView, View>;
template <typename T>
using TableOf = std::conditional_t<std::is_const_v<T>, StoredView, View>;

/// Neurons beside the MLP of a block, which read what its up projection reads: mlp_out += f(x K^T + b) V. No family has
/// them; edits add them.
struct NeuronParameters {
  ConstView keys = {};    ///< K [n, d]
  ConstView bias = {};    ///< b [1, n]
  ConstView values = {};  ///< V [n, d]
  Activation activation = Activation::gelu_new;
};

/// The parameters of one block. What a family lacks is empty.
template <typename T>
struct BlockParameters {
  MatrixView<T> norm_1_gain, norm_1_bias;  // [1, d]
  MatrixOf<T> qkv_weight;                  // d -> queries, keys, values
  MatrixView<T> qkv_bias;
  MatrixView<T> q_norm_gain, k_norm_gain;  // [1, head width]
  MatrixOf<T> out_weight;                  // heads -> d
  MatrixView<T> out_bias;
  MatrixView<T> norm_2_gain, norm_2_bias;  // [1, d]
  MatrixOf<T> gate_weight;                 // d -> ff
  MatrixView<T> gate_bias;
  MatrixOf<T> up_weight;  // d -> ff
  MatrixView<T> up_bias;
  MatrixOf<T> down_weight;  // ff -> d
  MatrixView<T> down_bias;
  std::vector<NeuronParameters> neurons;  // one group for each activation function that occurs

  /// What normalises the MLP's input.
  const MatrixView<T>& mlp_norm_gain() const { return norm_2_gain.empty() ? norm_1_gain : norm_2_gain; }
  const MatrixView<T>& mlp_norm_bias() const { return norm_2_gain.empty() ? norm_1_bias : norm_2_bias; }
  /// The projection before the activation function.
  bool gated() const { return gate_weight.data != nullptr; }
  const MatrixOf<T>& pre_weight() const { return gated() ? gate_weight : up_weight; }
  const MatrixView<T>& pre_bias() const { return gated() ? gate_bias : up_bias; }
};

/// All parameters of a model.
template <typename T>
struct Parameters {
  TableOf<T> token_embedding;     // [V, d]
  TableOf<T> position_embedding;  // [P, d]
  std::vector<BlockParameters<T>> blocks;
  MatrixView<T> final_norm_gain, final_norm_bias;  // [1, d]
  TableOf<T> unembedding;                          // [V, d]; the token embedding's memory where tied
  MatrixView<T> unembedding_bias;                  // [1, V]
};

/// Calls visit(place) for the place of a parameter.
template <typename P, typename Visit>
decltype(auto) with_parameter(P& p, Role role, int64_t layer, Visit&& visit) {
  switch (role) {
    case Role::token_embedding:
      return visit(p.token_embedding);
    case Role::position_embedding:
      return visit(p.position_embedding);
    case Role::norm_1_gain:
      return visit(p.blocks.at(static_cast<size_t>(layer)).norm_1_gain);
    case Role::norm_1_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).norm_1_bias);
    case Role::qkv_weight:
      return visit(p.blocks.at(static_cast<size_t>(layer)).qkv_weight);
    case Role::qkv_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).qkv_bias);
    case Role::q_norm_gain:
      return visit(p.blocks.at(static_cast<size_t>(layer)).q_norm_gain);
    case Role::k_norm_gain:
      return visit(p.blocks.at(static_cast<size_t>(layer)).k_norm_gain);
    case Role::out_weight:
      return visit(p.blocks.at(static_cast<size_t>(layer)).out_weight);
    case Role::out_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).out_bias);
    case Role::norm_2_gain:
      return visit(p.blocks.at(static_cast<size_t>(layer)).norm_2_gain);
    case Role::norm_2_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).norm_2_bias);
    case Role::gate_weight:
      return visit(p.blocks.at(static_cast<size_t>(layer)).gate_weight);
    case Role::gate_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).gate_bias);
    case Role::up_weight:
      return visit(p.blocks.at(static_cast<size_t>(layer)).up_weight);
    case Role::up_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).up_bias);
    case Role::down_weight:
      return visit(p.blocks.at(static_cast<size_t>(layer)).down_weight);
    case Role::down_bias:
      return visit(p.blocks.at(static_cast<size_t>(layer)).down_bias);
    case Role::final_norm_gain:
      return visit(p.final_norm_gain);
    case Role::final_norm_bias:
      return visit(p.final_norm_bias);
    case Role::unembedding:
      return visit(p.unembedding);
    case Role::unembedding_bias:
      return visit(p.unembedding_bias);
  }
  throw_error<ShapeError>("no parameter has role {}", static_cast<int>(role));
}

/// The matrix of a model.
template <typename P>
auto& weight_of(P& parameters, WeightId id) {
  auto& block = parameters.blocks.at(static_cast<size_t>(id.layer));
  switch (id.role) {
    case Role::qkv_weight:
      return block.qkv_weight;
    case Role::out_weight:
      return block.out_weight;
    case Role::gate_weight:
      return block.gate_weight;
    case Role::up_weight:
      return block.up_weight;
    case Role::down_weight:
      return block.down_weight;
    default:
      throw_error<ShapeError>("role {} is not that of a matrix", static_cast<int>(id.role));
  }
}

/// Calls visit(parameter, place) for every parameter of the architecture, in the order of parameters_of().
template <typename P, typename Visit>
void visit_parameters(P& parameters, const Architecture& architecture, Visit&& visit) {
  for (const Parameter& parameter : parameters_of(architecture))
    with_parameter(parameters, parameter.role, parameter.layer, [&](auto& place) { visit(parameter, place); });
}

// A place as it is stored, and the place of something stored.
inline StoredView stored_view(const WeightView& weight) { return weight.stored(); }
inline StoredView stored_view(const StoredView& table) { return table; }
inline void place_at(WeightView& place, const StoredView& stored, Orientation orientation) {
  place = orientation == Orientation::in_out ? WeightView::in_out(stored) : WeightView::out_in(stored);
}
inline void place_at(StoredView& place, const StoredView& stored, Orientation) { place = stored; }
inline void place_at(ConstView& place, const StoredView& stored, Orientation) { place = stored.fp32(); }

/// The same memory, seen as constant.
Parameters<const float> as_constant(Parameters<float>& parameters, const Architecture& architecture);

}  // namespace loci
