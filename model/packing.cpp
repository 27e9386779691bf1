#include "model/packing.h"

#include <cstring>

#include "runtime/error.h"

namespace loci {
namespace {

/// The name of the tensor that holds one of q, k and v of a parameter with "qkv" in its name.
std::string part_name(std::string name, char part) { return name.replace(name.find("qkv"), 3, 1, part); }

std::vector<int64_t> with_rows(std::vector<int64_t> shape, int64_t rows) {
  shape[0] = rows;
  return shape;
}

}  // namespace

Packed packed_of(const Architecture& architecture, const Parameter& parameter) {
  if (parameter.packing == Packing::whole) return {{parameter}, {}, 1};
  require<ShapeError>(parameter.shape.size() == 1 || parameter.stored == Orientation::out_in,
                      "{} is stored as [in, out], so its queries, keys and values are no rows of their own",
                      parameter.name);
  const int64_t q = architecture.query_width(), k = architecture.key_width();
  const int64_t row_elements = parameter.shape.size() == 2 ? parameter.cols() : 1;
  if (parameter.packing == Packing::apart) {
    const auto part = [&](char name, int64_t rows) {
      return TensorInfo{part_name(parameter.name, name), parameter.dtype, with_rows(parameter.shape, rows)};
    };
    return {{part('q', q), part('k', k), part('v', k)}, {{0, 0, 0, q}, {1, 0, q, k}, {2, 0, q + k, k}}, row_elements};
  }
  Packed packed{{parameter}, {}, row_elements};
  const int64_t width = architecture.head_width;
  for (int64_t head = 0; head < architecture.heads; ++head)
    for (int64_t part = 0; part < 3; ++part)
      packed.runs.push_back({0, (3 * head + part) * width, part * q + head * width, width});
  return packed;
}

std::vector<std::byte> unpack(const Packed& packed, int64_t element,
                              std::span<const std::span<const std::byte>> tensors) {
  const auto row = static_cast<size_t>(packed.row_elements * element);
  size_t size = 0;
  for (const std::span<const std::byte> tensor : tensors) size += tensor.size();
  std::vector<std::byte> parameter(size);
  for (const RowRun& run : packed.runs)
    std::memcpy(parameter.data() + run.parameter_row * row, tensors[run.tensor].data() + run.tensor_row * row,
                run.rows * row);
  return parameter;
}

std::vector<std::vector<std::byte>> pack(const Packed& packed, int64_t element, std::span<const std::byte> parameter) {
  if (packed.runs.empty()) return {std::vector<std::byte>(parameter.begin(), parameter.end())};
  const auto row = static_cast<size_t>(packed.row_elements * element);
  std::vector<std::vector<std::byte>> tensors;
  for (const TensorInfo& tensor : packed.tensors) tensors.emplace_back(static_cast<size_t>(tensor.shape[0]) * row);
  for (const RowRun& run : packed.runs)
    std::memcpy(tensors[run.tensor].data() + run.tensor_row * row, parameter.data() + run.parameter_row * row,
                run.rows * row);
  return tensors;
}

}  // namespace loci
