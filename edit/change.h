#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "model/architecture.h"

/// What an edit changes in a model.
namespace loci {

/// W += K^T V for y = x W, whichever way a checkpoint stores it: the sum of `rank` products of a key and a value.
/// ROME's update is one of them. (Meng et al. 2022, eq. 2)
struct LowRank {
  WeightId weight;
  int64_t rank = 1;
  std::vector<float> keys;    ///< K [rank, in]
  std::vector<float> values;  ///< V [rank, out]

  std::span<const float> key(int64_t i) const { return row(keys, i); }
  std::span<const float> value(int64_t i) const { return row(values, i); }

 private:
  std::span<const float> row(const std::vector<float>& of, int64_t i) const {
    const size_t width = of.size() / static_cast<size_t>(rank);
    return std::span(of).subspan(static_cast<size_t>(i) * width, width);
  }
};

/// W += delta for a matrix as the checkpoint stores it, or for some of its rows; or for a bias, which has one row.
struct Dense {
  WeightId weight;
  std::vector<int64_t> rows;  ///< ascending; empty: all
  std::vector<float> delta;   ///< [rows, stored columns]
};

/// mlp_out += f(x K^T + b) V: neurons beside the MLP of a layer, which read what its up projection reads.
struct Neurons {
  WeightId weight;  ///< the down projection of the layer, whose output they add to
  Activation activation = Activation::gelu_new;
  std::vector<float> keys;    ///< K [n, d]
  std::vector<float> bias;    ///< b [n]
  std::vector<float> values;  ///< V [n, d]

  int64_t count() const { return std::ssize(bias); }
};

/// One change of one model. What a method needs beyond these becomes a further kind.
using Change = std::variant<LowRank, Dense, Neurons>;

/// The matrix, or bias, that a change is made of, or beside.
inline WeightId weight_of(const Change& change) {
  return std::visit([](const auto& one) { return one.weight; }, change);
}

/// A change as an edit file holds it.
struct Update {
  Change change;
  int64_t batch = 0;  ///< of the requests that it was made for together
};

/// Frobenius norm of what is added to the matrix; of neurons, that of V.
double norm_of(const Change& change);
/// Of several changes of different matrices.
double norm_of(std::span<const Change> changes);

/// The same change as a whole matrix, from sums in fp64.
Dense dense_of(const LowRank& change, const Architecture& architecture);

/// Whether all its numbers are finite.
bool is_finite(const Change& change);

/// Throws InputError "{where}: ..." for a change of a matrix that the model does not have, or of another shape.
void check_fits(const Change& change, const Architecture& architecture, std::string_view where);

}  // namespace loci
