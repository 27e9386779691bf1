#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/context.h"
#include "runtime/error.h"
#include "runtime/stored.h"
#include "runtime/view.h"

/// What the `x.cpp` files share: shape checks.
namespace loci {

template <typename T>
void require_shape(const char* op, const char* name, const MatrixView<T>& view, int64_t rows, int64_t cols) {
  require<ShapeError>(view.rows == rows && view.cols == cols, "{}: {} is [{}, {}], expected [{}, {}]", op, name,
                      view.rows, view.cols, rows, cols);
  require<ShapeError>(view.rows <= 1 || view.stride >= view.cols, "{}: {} has rows of {} at a stride of {}", op, name,
                      view.cols, view.stride);
}

template <typename T>
void require_valid(const char* op, const char* name, const MatrixView<T>& view) {
  require_shape(op, name, view, std::max<int64_t>(view.rows, 0), std::max<int64_t>(view.cols, 0));
}

inline void require_stored(const char* op, const char* name, const StoredView& view) {
  require<ShapeError>(view.rows >= 0 && view.cols >= 0 && (view.rows <= 1 || view.stride >= view.cols),
                      "{}: {} is [{}, {}] with rows at a stride of {}", op, name, view.rows, view.cols, view.stride);
}

inline void require_size(const char* op, const char* name, int64_t size, int64_t expected) {
  require<ShapeError>(size == expected, "{}: {} has {} elements, expected {}", op, name, size, expected);
}

/// Rows a thread should take at least, so that a loop over rows of `cols` elements is worth sharing.
inline int64_t row_grain(int64_t cols, int64_t elements = 8192) {
  return std::max<int64_t>(1, elements / std::max<int64_t>(1, cols));
}

}  // namespace loci
