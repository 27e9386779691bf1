#pragma once

#include "runtime/stored.h"

namespace loci {

/// How the matrix of y = x W is stored: [in, out], as GPT-2's Conv1D, or [out, in], as Linear.
enum class Orientation { in_out, out_in };

/// The weight W of y = x W in device memory as a checkpoint stores it; non-owning.
struct WeightView {
  const void* data = nullptr;
  StoredType type = StoredType::fp32;
  Orientation orientation = Orientation::in_out;
  int64_t in = 0;
  int64_t out = 0;
  int64_t stride = 0;  ///< elements from one stored row to the next

  static WeightView in_out(const StoredView& w) {
    return {w.data, w.type, Orientation::in_out, w.rows, w.cols, w.stride};
  }
  static WeightView out_in(const StoredView& w) {
    return {w.data, w.type, Orientation::out_in, w.cols, w.rows, w.stride};
  }

  StoredView stored() const {
    return orientation == Orientation::in_out ? StoredView(data, type, in, out, stride)
                                              : StoredView(data, type, out, in, stride);
  }
  /// The stored matrix of a weight in fp32.
  ConstView fp32() const { return stored().fp32(); }
  /// The part that makes the outputs first .. first + count - 1.
  WeightView outputs(int64_t first, int64_t count) const {
    return orientation == Orientation::in_out ? in_out(stored().cols_slice(first, count))
                                              : out_in(stored().rows_slice(first, count));
  }
  /// The part that reads the inputs first .. first + count - 1.
  WeightView inputs(int64_t first, int64_t count) const {
    return orientation == Orientation::in_out ? in_out(stored().rows_slice(first, count))
                                              : out_in(stored().cols_slice(first, count));
  }
};

}  // namespace loci
