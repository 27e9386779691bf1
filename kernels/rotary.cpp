#include "kernels/rotary.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void rotate(Context& context, RotaryPairs pairs, Turn turn, int64_t heads, const DeviceArray<int32_t>& positions,
            ConstView cosines, ConstView sines, View x) {
  require_valid("rotate", "x", x);
  require_valid("rotate", "cosines", cosines);
  require_shape("rotate", "sines", sines, cosines.rows, cosines.cols);
  require<ShapeError>(heads > 0 && x.cols % heads == 0 && 2 * cosines.cols <= x.cols / heads,
                      "rotate: {} pairs in each of {} heads, of {} columns in all", cosines.cols, heads, x.cols);
  require_size("rotate", "positions", positions.size(), x.rows);
  (context.on_cpu() ? cpu::rotate : cuda::rotate)(context, pairs, turn, heads, positions, cosines, sines, x);
}

}  // namespace loci
