#pragma once

#include <cstdint>
#include <span>

#include "kernels/gemm.h"
#include "runtime/tensor.h"

/// Ops that move, add or scale whole rows. Index arrays and pointer arrays are in device memory.
namespace loci {

/// y[i] = table[ids[i]] for table [V, d], y [n, d]; tables in fp16 and bf16 are converted exactly. Ids must lie in the
/// table (checked by the caller, who has them on the host).
void embed_rows(Context& context, const StoredView& table, const DeviceArray<int32_t>& ids, View y);

/// table_gradient[ids[i]] += dy[i], in ascending order of i, so that the sum does not depend on the number of threads.
void embed_rows_backward(Context& context, const DeviceArray<int32_t>& ids, ConstView dy, View table_gradient);

/// y[i] = x[rows[i]].
void gather_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y);

/// y[rows[i]] = or += x[i]; rows are distinct.
void scatter_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y, Write write);

/// y[rows[i]] = or += *sources[i], one row of y.cols floats each. Several entries may name one row: they apply in
/// order.
struct RowSource {
  int64_t row;
  const float* source;
  Write write;
};
void patch_rows(Context& context, const DeviceArray<RowSource>& patches, View y);

/// *destinations[i] = x[rows[i]].
struct RowDestination {
  int64_t row;
  float* destination;
};
void tap_rows(Context& context, ConstView x, const DeviceArray<RowDestination>& taps);

/// y[i] = *sources[i], for y [n, d].
void collect_rows(Context& context, const DeviceArray<const float*>& sources, View y);

/// y += x.
void add(Context& context, ConstView x, View y);
/// y = a + b; y may alias either.
void sum(Context& context, ConstView a, ConstView b, View y);
/// y = a * b elementwise; y may alias either.
void product(Context& context, ConstView a, ConstView b, View y);
/// y *= factor.
void scale(Context& context, float factor, View y);
/// y = min(max(y, -limit), limit), for a limit of 0 and more. NaN stays.
void clamp(Context& context, float limit, View y);
/// y[r] *= factors[r].
void scale_rows(Context& context, const DeviceArray<float>& factors, View y);
/// y[0] += sum over rows of x (bias gradients); y [1, d]. The order of the sum is fixed.
void add_column_sums(Context& context, ConstView x, View y);
/// out[r] = a[r] . b[r]; out [rows, 1]; fp64 accumulation.
void row_dots(Context& context, ConstView a, ConstView b, View out);

/// y[r] += (keys[r] . u_e) v_e for the rows r of edit e: y [n, d], keys [n, ff]. terms[e] covers rows first_row ..
/// first_row + rows - 1; terms may overlap and apply in order, each with the same keys.
/// (Meng et al. 2022, eq. 2: (W + v u^T) k = W k + (u . k) v.)
struct LowRankRows {
  int64_t first_row;
  int64_t rows;
  const float* u;  ///< [ff]
  const float* v;  ///< [d]
};
void add_low_rank(Context& context, ConstView keys, const DeviceArray<LowRankRows>& terms, View y);

}  // namespace loci
