#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/architecture.h"

/// How the tensors of a checkpoint make the parameters of a model: queries, keys and values lie side by side in memory,
/// but not in every family's files.
namespace loci {

/// Rows of a parameter that lie together in a tensor; of a vector, its elements.
struct RowRun {
  size_t tensor;
  int64_t tensor_row, parameter_row, rows;
};

/// The tensors of a parameter, by canonical name, and where its rows lie in them.
struct Packed {
  std::vector<TensorInfo> tensors;
  std::vector<RowRun> runs;  ///< none where the parameter is its one tensor as it is
  int64_t row_elements = 1;
};

Packed packed_of(const Architecture& architecture, const Parameter& parameter);

/// The parameter from the bytes of its tensors, whose elements are of `element` bytes.
std::vector<std::byte> unpack(const Packed& packed, int64_t element,
                              std::span<const std::span<const std::byte>> tensors);
/// The other way round: each tensor's bytes.
std::vector<std::vector<std::byte>> pack(const Packed& packed, int64_t element, std::span<const std::byte> parameter);

}  // namespace loci
