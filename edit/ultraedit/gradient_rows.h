#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "edit/common/prompts.h"
#include "edit/edited_model.h"
#include "edit/ultraedit/normaliser.h"
#include "model/executor/executor.h"

namespace loci {

/// A matrix of a block, by the name of its module.
struct EditedModule {
  std::string name;
  WeightId weight;
  Projection at;
  int64_t in, out;
};

/// Of which rows of a text h and g are taken.
enum class TextRows {
  answer,  ///< those that predict a token of the target
  all,
};

/// A request of a batch, and the rows that are taken of it.
struct BatchMember {
  const PreparedRequest* request;
  size_t index;       ///< among the batch's requests
  size_t pass;        ///< that it belongs to
  float weight;       ///< of each of its target's tokens in the loss of the pass: 1 over the pass's tokens
  int64_t first_row;  ///< its rows stand behind those of the members before it
  int64_t rows;       ///< in text order
  int64_t end() const { return first_row + rows; }
};

/// The requests as they share passes of `pass_size`: longest text first, equal ones in their order.
std::vector<BatchMember> arrange(std::span<const PreparedRequest> requests, int64_t pass_size, TextRows rows);

/// What one forward and one backward pass per text give.
struct GradientRows {
  std::vector<std::vector<float>> keys, gradients;  ///< by module: h [rows, in] and g [rows, out] of all members
  std::vector<double> losses;                       ///< by pass: the mean over its targets' tokens

  /// The rows first .. end - 1 of a module.
  ProjectionRows slice(const EditedModule& of, size_t module, int64_t first, int64_t end) const;
};

/// Runs the members' texts, with the gradients of their passes' losses. The backward pass ends at the lowest module. As
/// many texts run at once as are good for the device, whatever passes they belong to. Throws NumericalError for a loss
/// that is not finite.
GradientRows collect_gradients(Executor& executor, std::span<const EditedModule> modules,
                               std::span<const BatchMember> members);

}  // namespace loci
