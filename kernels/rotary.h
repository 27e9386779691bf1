#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace loci {

/// Which entries of a head make the pairs that are turned, where r of them are.
enum class RotaryPairs {
  interleaved,  ///< 2i and 2i + 1
  halves,       ///< i and i + r / 2
};

enum class Turn {
  forward,
  back,  ///< by minus the angle: the backward pass
};

/// Turns the first r = 2 cosines.cols entries of each head by angles that grow with the row's position; the others stay
/// as they are. Pair i of a head: (a, b) = (a cos - b sin, b cos + a sin).   (Su et al. 2021, eq. 34)
/// x [rows, heads * w] with r <= w. cosines, sines [positions, r / 2] may carry a factor, which `back` multiplies by
/// too: it is the transpose of `forward`. positions [rows] names their row for each row of x; a row whose position is
/// negative stays as it is. Positions must lie in the tables (checked by the caller, who has them on the host). Throws
/// ShapeError before any write.
void rotate(Context& context, RotaryPairs pairs, Turn turn, int64_t heads, const DeviceArray<int32_t>& positions,
            ConstView cosines, ConstView sines, View x);

}  // namespace loci
