#pragma once

#include <cstdint>
#include <type_traits>

namespace loci {

/// A non-owning row-major matrix: element (r, c) is data[r * stride + c]. Constness is in the element type. The memory
/// belongs to a device: only ops (kernels/) and Context copies may touch it.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  MatrixView() = default;
  MatrixView(T* data_, int64_t rows_, int64_t cols_) : MatrixView(data_, rows_, cols_, cols_) {}
  MatrixView(T* data_, int64_t rows_, int64_t cols_, int64_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

  /// A view of mutable elements is also a view of constant ones.
  operator MatrixView<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }

  T* row(int64_t r) const { return data + r * stride; }
  bool empty() const { return rows == 0 || cols == 0; }
  bool contiguous() const { return stride == cols || rows <= 1; }
  MatrixView rows_slice(int64_t first, int64_t count) const { return {row(first), count, cols, stride}; }
  MatrixView cols_slice(int64_t first, int64_t count) const { return {data + first, rows, count, stride}; }
};

using View = MatrixView<float>;
using ConstView = MatrixView<const float>;

}  // namespace loci
