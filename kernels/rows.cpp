#include "kernels/rows.h"

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"

namespace loci {

void embed_rows(Context& context, const StoredView& table, const DeviceArray<int32_t>& ids, View y) {
  require_stored("embed_rows", "table", table);
  require_shape("embed_rows", "y", y, ids.size(), table.cols);
  (context.on_cpu() ? cpu::embed_rows : cuda::embed_rows)(context, table, ids, y);
}

void embed_rows_backward(Context& context, const DeviceArray<int32_t>& ids, ConstView dy, View table_gradient) {
  require_valid("embed_rows_backward", "table_gradient", table_gradient);
  require_shape("embed_rows_backward", "dy", dy, ids.size(), table_gradient.cols);
  (context.on_cpu() ? cpu::embed_rows_backward : cuda::embed_rows_backward)(context, ids, dy, table_gradient);
}

void gather_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y) {
  require_valid("gather_rows", "x", x);
  require_shape("gather_rows", "y", y, rows.size(), x.cols);
  (context.on_cpu() ? cpu::gather_rows : cuda::gather_rows)(context, x, rows, y);
}

void scatter_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y, Write write) {
  require_valid("scatter_rows", "y", y);
  require_shape("scatter_rows", "x", x, rows.size(), y.cols);
  (context.on_cpu() ? cpu::scatter_rows : cuda::scatter_rows)(context, x, rows, y, write);
}

void patch_rows(Context& context, const DeviceArray<RowSource>& patches, View y) {
  require_valid("patch_rows", "y", y);
  (context.on_cpu() ? cpu::patch_rows : cuda::patch_rows)(context, patches, y);
}

void tap_rows(Context& context, ConstView x, const DeviceArray<RowDestination>& taps) {
  require_valid("tap_rows", "x", x);
  (context.on_cpu() ? cpu::tap_rows : cuda::tap_rows)(context, x, taps);
}

void collect_rows(Context& context, const DeviceArray<const float*>& sources, View y) {
  require_shape("collect_rows", "y", y, sources.size(), y.cols);
  (context.on_cpu() ? cpu::collect_rows : cuda::collect_rows)(context, sources, y);
}

void add(Context& context, ConstView x, View y) {
  require_valid("add", "y", y);
  require_shape("add", "x", x, y.rows, y.cols);
  (context.on_cpu() ? cpu::add : cuda::add)(context, x, y);
}

void sum(Context& context, ConstView a, ConstView b, View y) {
  require_valid("sum", "y", y);
  require_shape("sum", "a", a, y.rows, y.cols);
  require_shape("sum", "b", b, y.rows, y.cols);
  (context.on_cpu() ? cpu::sum : cuda::sum)(context, a, b, y);
}

void product(Context& context, ConstView a, ConstView b, View y) {
  require_valid("product", "y", y);
  require_shape("product", "a", a, y.rows, y.cols);
  require_shape("product", "b", b, y.rows, y.cols);
  (context.on_cpu() ? cpu::product : cuda::product)(context, a, b, y);
}

void scale(Context& context, float factor, View y) {
  require_valid("scale", "y", y);
  (context.on_cpu() ? cpu::scale : cuda::scale)(context, factor, y);
}

void clamp(Context& context, float limit, View y) {
  require_valid("clamp", "y", y);
  (context.on_cpu() ? cpu::clamp : cuda::clamp)(context, limit, y);
}

void scale_rows(Context& context, const DeviceArray<float>& factors, View y) {
  require_shape("scale_rows", "y", y, factors.size(), y.cols);
  (context.on_cpu() ? cpu::scale_rows : cuda::scale_rows)(context, factors, y);
}

void add_column_sums(Context& context, ConstView x, View y) {
  require_valid("add_column_sums", "x", x);
  require_shape("add_column_sums", "y", y, 1, x.cols);
  (context.on_cpu() ? cpu::add_column_sums : cuda::add_column_sums)(context, x, y);
}

void row_dots(Context& context, ConstView a, ConstView b, View out) {
  require_valid("row_dots", "a", a);
  require_shape("row_dots", "b", b, a.rows, a.cols);
  require_shape("row_dots", "out", out, a.rows, 1);
  (context.on_cpu() ? cpu::row_dots : cuda::row_dots)(context, a, b, out);
}

void add_low_rank(Context& context, ConstView keys, const DeviceArray<LowRankRows>& terms, View y) {
  require_valid("add_low_rank", "keys", keys);
  require_shape("add_low_rank", "y", y, keys.rows, y.cols);
  (context.on_cpu() ? cpu::add_low_rank : cuda::add_low_rank)(context, keys, terms, y);
}

}  // namespace loci
