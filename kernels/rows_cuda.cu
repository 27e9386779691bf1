#include <cstdint>

#include "kernels/cuda.h"
#include "kernels/cuda_rows.h"
#include "kernels/cuda_stored.h"
#include "runtime/tensor.h"

namespace loci::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// --- Rows that are copied or added, each to its own place
// -------------------------------------------------------------- The pointers are known on the device alone, so each
// warp sees for itself whether a row is aligned.

/// Columns of a row that a warp moves.
constexpr int64_t kSlabColumns = kWarp * kSlabVectors * 4;

struct Multiply {
  __device__ float operator()(float a, float b) const { return a * b; }
};

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

template <Write kWrite, typename V>
__device__ void write_vectors(const V* from, V* to, int64_t first, int64_t count) {
  V values[kSlabVectors];
  load_slab(from, first, count, values);
  if constexpr (kWrite == Write::accumulate) {
    V before[kSlabVectors];
    load_slab(to, first, count, before);
#pragma unroll
    for (int u = 0; u < kSlabVectors; ++u) values[u] = apply(Add(), before[u], values[u]);
  }
  store_slab(to, first, count, values);
}

/// to = or += from for the columns first .. first + kSlabColumns - 1 that a row of `cols` has; by one warp.
template <Write kWrite>
__device__ void write_slab(const float* from, float* to, int64_t first, int64_t cols) {
  if (!aligned(from, to)) {
    for (int64_t c = first; c < first + kSlabColumns; c += kWarp * kSlabVectors)
      write_vectors<kWrite>(from, to, c + lane_index(), cols);
    return;
  }
  write_vectors<kWrite>(reinterpret_cast<const float4*>(from), reinterpret_cast<float4*>(to), first / 4 + lane_index(),
                        cols / 4);
  const int64_t c = cols / 4 * 4 + lane_index();  // what is left of the row falls to the last slab
  if (first + kSlabColumns >= cols && c < cols) to[c] = (kWrite == Write::accumulate ? to[c] : 0) + from[c];
}

template <typename Index>
struct Gather {
  static constexpr Write kWrite = Write::assign;
  ConstView x;
  const Index* rows;
  View y;
  __device__ const float* from(int64_t i) const { return row_of<float>(x, rows[i]); }
  __device__ float* to(int64_t i) const { return row_of<float>(y, i); }
};

template <Write kHow>
struct Scatter {
  static constexpr Write kWrite = kHow;
  ConstView x;
  const int64_t* rows;
  View y;
  __device__ const float* from(int64_t i) const { return row_of<float>(x, i); }
  __device__ float* to(int64_t i) const { return row_of<float>(y, rows[i]); }
};

struct Tap {
  static constexpr Write kWrite = Write::assign;
  ConstView x;
  const RowDestination* taps;
  __device__ const float* from(int64_t i) const { return row_of<float>(x, taps[i].row); }
  __device__ float* to(int64_t i) const { return taps[i].destination; }
};

struct Collect {
  static constexpr Write kWrite = Write::assign;
  const float* const* sources;
  View y;
  __device__ const float* from(int64_t i) const { return sources[i]; }
  __device__ float* to(int64_t i) const { return row_of<float>(y, i); }
};

template <typename Rows>
__global__ void __launch_bounds__(kThreads, kResident)
    move_kernel(Rows rows, int64_t count, int64_t cols, int64_t slabs_a_row) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp_index();
  const int64_t i = index / slabs_a_row;
  if (i < count) write_slab<Rows::kWrite>(rows.from(i), rows.to(i), (index - i * slabs_a_row) * kSlabColumns, cols);
}

template <typename Rows>
void move_rows(Context& context, const char* op, const Rows& rows, int64_t count, int64_t cols) {
  const int64_t slabs_a_row = (cols + kSlabColumns - 1) / kSlabColumns;
  launch(context, {.op = op, .grid = blocks_for(count * slabs_a_row, kWarps), .threads = kThreads}, move_kernel<Rows>,
         rows, count, cols, slabs_a_row);
}

/// y[i] = x[ids[i]] in fp32; a thread has one element.
template <typename Element>
__global__ void embed_stored_rows(MatrixView<const Element> x, const int32_t* ids, View y) {
  const int64_t i = blockIdx.x, c = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (c < y.cols) y.data[i * y.stride + c] = in_fp32(x.data[ids[i] * x.stride + c]);
}

// --- Rows of which several go to one place, in order
// -------------------------------------------------------------------- One block does all entries of a row of y: the
// block of the first of them. A first kernel finds, for each row, how many entries it has and which is the first; the
// block then searches the entries behind its own for the others.

/// Entries i: row(i) of y = or += source(i).
struct TokenGradients {
  const int32_t* ids;
  ConstView dy;
  __device__ int64_t row(int64_t i) const { return ids[i]; }
  __device__ bool covers(int64_t i, int64_t r) const { return row(i) == r; }
  template <typename V>
  __device__ const V* source(int64_t i) const {
    return row_of<V>(dy, i);
  }
  __device__ Write write(int64_t) const { return Write::accumulate; }
};

struct Patches {
  const RowSource* patches;
  __device__ int64_t row(int64_t i) const { return patches[i].row; }
  __device__ bool covers(int64_t i, int64_t r) const { return row(i) == r; }
  template <typename V>
  __device__ const V* source(int64_t i) const {
    return reinterpret_cast<const V*>(patches[i].source);
  }
  __device__ Write write(int64_t i) const { return patches[i].write; }
};

/// Per row of y, zero before the index is made.
struct RowIndex {
  int* counts;  ///< its entries
  int* first;   ///< entries less the index of the first of them
};

template <typename Entries>
__global__ void __launch_bounds__(kThreads, kResident) index_entries(Entries entries, int count, RowIndex index) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const int64_t row = entries.row(i);
  atomicAdd(index.counts + row, 1);
  atomicMax(index.first + row, count - i);
}

constexpr int kSearched = 4;                       // entries that a thread looks at in a step
constexpr int kSearchStep = kSearched * kThreads;  // one word of matches for each lane of a warp
constexpr int kListed = 2 * kSearchStep;           // entries that are listed before they are written
static_assert(kSearchStep == kWarp * kWarp);

/// Writes to `list` those of the entries begin .. begin + kSearchStep - 1 that cover a row, in ascending order. Returns
/// their number. `words` is for kWarp masks; the list can be read after the next barrier.
template <typename Entries>
__device__ int list_entries(const Entries& entries, int64_t row, int begin, int count, unsigned* words, int* list) {
  bool matches[kSearched];
#pragma unroll
  for (int u = 0; u < kSearched; ++u) {
    const int i = begin + u * kThreads + static_cast<int>(threadIdx.x);
    matches[u] = i < count && entries.covers(i, row);
  }
#pragma unroll
  for (int u = 0; u < kSearched; ++u) {
    const unsigned word = __ballot_sync(kAllLanes, matches[u]);
    if (lane_index() == 0) words[u * kWarps + warp_index()] = word;
  }
  __syncthreads();
  const int own = __popc(words[lane_index()]);
  int up_to = own;  // the matches in the words 0 .. lane
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int below = __shfl_up_sync(kAllLanes, up_to, static_cast<unsigned>(distance));
    if (lane_index() >= distance) up_to += below;
  }
#pragma unroll
  for (int u = 0; u < kSearched; ++u) {
    const int word = u * kWarps + warp_index();
    const int before = __shfl_sync(kAllLanes, up_to - own, word);
    const unsigned lower = words[word] & ((1u << lane_index()) - 1);
    if (matches[u]) list[before + __popc(lower)] = begin + u * kThreads + static_cast<int>(threadIdx.x);
  }
  return __shfl_sync(kAllLanes, up_to, kWarp - 1);
}

/// The listed entries, in order, onto a row of y; a thread has columns of its own.
template <typename V, typename Entries>
__device__ void write_listed(const Entries& entries, const int* list, int listed, V* y, int64_t vectors) {
  constexpr int kAtOnce = 8;
  for (int64_t c = threadIdx.x; c < vectors; c += kThreads) {
    V value = y[c];
    for (int begin = 0; begin < listed; begin += kAtOnce) {
      V sources[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u)
        sources[u] = begin + u < listed ? entries.template source<V>(list[begin + u])[c] : V{};
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u)
        if (begin + u < listed)
          value = entries.write(list[begin + u]) == Write::accumulate ? apply(Add(), value, sources[u]) : sources[u];
    }
    y[c] = value;
  }
}

template <typename V, typename Entries>
__global__ void __launch_bounds__(kThreads, kResident)
    write_in_order(Entries entries, int count, RowIndex index, View y) {
  SharedMemory shared;
  int* list = shared.take<int>(kListed);
  unsigned* words = shared.take<unsigned>(2 * kWarp);
  const int first = static_cast<int>(blockIdx.x);
  const int64_t row = entries.row(first), vectors = y.cols / kWidth<V>;
  if (index.first[row] != count - first) return;
  if (threadIdx.x == 0) list[0] = first;
  int listed = 1, left = index.counts[row] - 1;
  for (int begin = first + 1; left > 0; begin += kSearchStep) {
    if (listed > kListed - kSearchStep) {
      __syncthreads();
      write_listed(entries, list, listed, row_of<V>(y, row), vectors);
      __syncthreads();
      listed = 0;
    }
    // Words are written again two steps later, when all threads have passed the barrier of the step between.
    const int found =
        list_entries(entries, row, begin, count, words + (begin - first) / kSearchStep % 2 * kWarp, list + listed);
    listed += found;
    left -= found;
  }
  __syncthreads();
  write_listed(entries, list, listed, row_of<V>(y, row), vectors);
}

template <typename V, typename Entries>
void write_all_in_order(Context& context, const char* op, const Entries& entries, int64_t size, View y) {
  if (size == 0 || y.empty()) return;
  require<InputError>(size < INT32_MAX, "{}: {} entries; at most 2^31 - 2 can be written at once", op, size);
  const int count = static_cast<int>(size);
  DeviceArray<int> numbers(context, 2 * y.rows);
  context.fill_zero(numbers.data(), sizeof(int) * static_cast<size_t>(numbers.size()));
  const RowIndex index{numbers.data(), numbers.data() + y.rows};
  launch(context, {.op = op, .grid = blocks_for(size, kThreads), .threads = kThreads}, index_entries<Entries>, entries,
         count, index);
  launch(context,
         {.op = op,
          .grid = static_cast<unsigned>(count),
          .threads = kThreads,
          .shared_bytes = SharedMemory::bytes<int>(kListed) + SharedMemory::bytes<unsigned>(2 * kWarp)},
         write_in_order<V, Entries>, entries, count, index, y);
}

// --- Arithmetic
// ---------------------------------------------------------------------------------------------------------

struct Scale {
  float factor;
  __device__ float operator()(float value) const { return value * factor; }
};

struct Clamp {
  float limit;
  __device__ float operator()(float value) const {
    const float low = value < -limit ? -limit : value;
    return low > limit ? limit : low;
  }
};

template <typename V>
__global__ void __launch_bounds__(kSlabThreads, kResident)
    scale_rows_kernel(const float* factors, Slabs slabs, View y) {
  const Slab slab = own_slab<kSlabVectors>(slabs);
  if (slab.row >= slabs.rows) return;
  const Scale scale{factors[slab.row]};
  V values[kSlabVectors];
  load_slab(row_of<V>(y, slab.row), slab.first, slabs.vectors, values);
#pragma unroll
  for (int u = 0; u < kSlabVectors; ++u) values[u] = apply(scale, values[u]);
  store_slab(row_of<V>(y, slab.row), slab.first, slabs.vectors, values);
}

__global__ void __launch_bounds__(kThreads, kResident) row_dots_kernel(ConstView a, ConstView b, View out) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  const int64_t r = blockIdx.x;
  const double dot = block_dot(row_of<float>(a, r), row_of<float>(b, r), a.cols, scratch);
  if (threadIdx.x == 0) *row_of<float>(out, r) = static_cast<float>(dot);
}

struct AddScaled {
  float factor;
  __device__ float operator()(float y, float v) const { return fmaf(factor, v, y); }
};

/// y[c] += factor v[c] by the threads of a block.
template <typename V>
__device__ void add_scaled(float factor, const V* v, V* y, int64_t count) {
  for (int64_t c = threadIdx.x; c < count; c += kThreads) y[c] = apply(AddScaled{factor}, y[c], v[c]);
}

struct Terms {
  const LowRankRows* terms;
  __device__ bool covers(int64_t i, int64_t row) const {
    return row >= terms[i].first_row && row < terms[i].first_row + terms[i].rows;
  }
};

/// A block does all terms of its row, in order; whichever term it is, a column of y belongs to one thread.
__global__ void __launch_bounds__(kThreads, kResident)
    add_low_rank_kernel(ConstView keys, const LowRankRows* terms, int count, View y) {
  SharedMemory shared;
  double* scratch = shared.take<double>(2 * kWarp);
  int* list = shared.take<int>(kSearchStep);
  unsigned* words = shared.take<unsigned>(kWarp);
  const int64_t r = blockIdx.x;
  const float* key = row_of<float>(keys, r);
  float* row = row_of<float>(y, r);
  for (int begin = 0; begin < count; begin += kSearchStep) {
    const int listed = list_entries(Terms{terms}, r, begin, count, words, list);
    __syncthreads();
    for (int k = 0; k < listed; ++k) {
      const LowRankRows term = terms[list[k]];
      // Two places by turns: one is free again when all threads have passed the barrier of the sum between.
      const auto dot = static_cast<float>(block_dot(key, term.u, keys.cols, scratch + k % 2 * kWarp));
      if (aligned(row, term.v) && y.cols % 4 == 0)
        add_scaled(dot, reinterpret_cast<const float4*>(term.v), reinterpret_cast<float4*>(row), y.cols / 4);
      else
        add_scaled(dot, term.v, row, y.cols);
    }
  }
}

// --- Sums of columns
// ---------------------------------------------------------------------------------------------------- A block sums a
// chunk of rows for the columns of one warp's width; with several chunks their sums are columns to sum again.

constexpr int64_t kLeastChunk = 64;  // rows: eight for each warp
constexpr int64_t kMostChunks = 128;

template <typename V>
constexpr int kParts = 1;
template <>
constexpr int kParts<float4> = 4;

__device__ inline void add_parts(double value, double (&sums)[1]) { sums[0] += value; }
__device__ inline void add_parts(float value, double (&sums)[1]) { sums[0] += static_cast<double>(value); }
__device__ inline void add_parts(float4 value, double (&sums)[4]) {
  sums[0] += static_cast<double>(value.x);
  sums[1] += static_cast<double>(value.y);
  sums[2] += static_cast<double>(value.z);
  sums[3] += static_cast<double>(value.w);
}

/// What is summed: rows of vectors V.
template <typename V>
struct Columns {
  const V* data;
  int64_t rows, vectors, stride;
};

struct AddToOutput {
  float* y;
  __device__ void operator()(int64_t column, double sum) const { y[column] += static_cast<float>(sum); }
};

struct KeepChunk {
  double* chunks;
  int64_t cols;
  __device__ void operator()(int64_t column, double sum) const { chunks[blockIdx.y * cols + column] = sum; }
};

template <typename V, typename Store>
__global__ void __launch_bounds__(kThreads, kResident) sum_columns(Columns<V> x, int64_t chunk, Store store) {
  constexpr int kInFlight = 4;
  SharedMemory shared;
  double* warps = shared.take<double>(kThreads * kParts<V>);
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * kWarp + lane_index();
  const int64_t end = min((blockIdx.y + 1) * chunk, x.rows);
  double sums[kParts<V>] = {};
  for (int64_t base = blockIdx.y * chunk + warp_index(); base < end; base += kInFlight * kWarps) {
    V values[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t r = base + u * kWarps;
      values[u] = r < end && vector < x.vectors ? x.data[r * x.stride + vector] : V{};
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) add_parts(values[u], sums);
  }
#pragma unroll
  for (int part = 0; part < kParts<V>; ++part) warps[part * kThreads + threadIdx.x] = sums[part];
  __syncthreads();
  // Thread (lane, warp) sums part `warp` of its lane's vector over the warps.
  const int part = warp_index();
  if (part >= kParts<V> || vector >= x.vectors) return;
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += warps[part * kThreads + w * kWarp + lane_index()];
  store(vector * kParts<V> + part, sum);
}

template <typename V, typename Store>
void launch_sum_columns(Context& context, const Columns<V>& x, int64_t chunks, const Store& store) {
  const int64_t chunk = (x.rows + chunks - 1) / chunks;
  launch(context,
         {.op = "add_column_sums",
          .grid = dim3(blocks_for(x.vectors, kWarp), static_cast<unsigned>(chunks)),
          .threads = kThreads,
          .shared_bytes = SharedMemory::bytes<double>(kThreads * kParts<V>)},
         sum_columns<V, Store>, x, chunk, store);
}

template <typename V>
void sum_columns_into(Context& context, ConstView x, float* y) {
  const Columns<V> columns{reinterpret_cast<const V*>(x.data), x.rows, x.cols / kWidth<V>, x.stride / kWidth<V>};
  const int64_t chunks = std::min((x.rows + kLeastChunk - 1) / kLeastChunk, kMostChunks);
  if (chunks == 1) return launch_sum_columns(context, columns, 1, AddToOutput{y});
  DeviceArray<double> sums(context, chunks * x.cols);
  launch_sum_columns(context, columns, chunks, KeepChunk{sums.data(), x.cols});
  launch_sum_columns(context, Columns<double>{sums.data(), chunks, x.cols, x.cols}, 1, AddToOutput{y});
}

}  // namespace

void embed_rows(Context& context, const StoredView& table, const DeviceArray<int32_t>& ids, View y) {
  if (table.type == StoredType::fp32)
    return move_rows(context, "embed_rows", Gather<int32_t>{table.fp32(), ids.data(), y}, y.rows, y.cols);
  visit_matrix(table, [&]<typename Element>(MatrixView<const Element> elements) {
    launch(context,
           {.op = "embed_rows",
            .grid = {static_cast<unsigned>(y.rows), blocks_for(y.cols, kThreads)},
            .threads = kThreads},
           embed_stored_rows<Element>, elements, ids.data(), y);
  });
}

void embed_rows_backward(Context& context, const DeviceArray<int32_t>& ids, ConstView dy, View table_gradient) {
  const TokenGradients entries{ids.data(), dy};
  if (wide(dy) && wide(table_gradient))
    write_all_in_order<float4>(context, "embed_rows_backward", entries, ids.size(), table_gradient);
  else
    write_all_in_order<float>(context, "embed_rows_backward", entries, ids.size(), table_gradient);
}

void gather_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y) {
  move_rows(context, "gather_rows", Gather<int64_t>{x, rows.data(), y}, y.rows, y.cols);
}

void scatter_rows(Context& context, ConstView x, const DeviceArray<int64_t>& rows, View y, Write write) {
  if (write == Write::assign)
    move_rows(context, "scatter_rows", Scatter<Write::assign>{x, rows.data(), y}, x.rows, x.cols);
  else
    move_rows(context, "scatter_rows", Scatter<Write::accumulate>{x, rows.data(), y}, x.rows, x.cols);
}

void patch_rows(Context& context, const DeviceArray<RowSource>& patches, View y) {
  write_all_in_order<float>(context, "patch_rows", Patches{patches.data()}, patches.size(), y);
}

void tap_rows(Context& context, ConstView x, const DeviceArray<RowDestination>& taps) {
  move_rows(context, "tap_rows", Tap{x, taps.data()}, taps.size(), x.cols);
}

void collect_rows(Context& context, const DeviceArray<const float*>& sources, View y) {
  move_rows(context, "collect_rows", Collect{sources.data(), y}, y.rows, y.cols);
}

void add(Context& context, ConstView x, View y) { map_elements(context, "add", Add(), y, x, y); }

void sum(Context& context, ConstView a, ConstView b, View y) { map_elements(context, "sum", Add(), a, b, y); }

void product(Context& context, ConstView a, ConstView b, View y) {
  map_elements(context, "product", Multiply(), a, b, y);
}

void scale(Context& context, float factor, View y) { map_elements(context, "scale", Scale{factor}, y, y); }

void clamp(Context& context, float limit, View y) { map_elements(context, "clamp", Clamp{limit}, y, y); }

void scale_rows(Context& context, const DeviceArray<float>& factors, View y) {
  const auto run = [&]<typename V>(View rows) {
    const Slabs slabs = slabs_of<V, kSlabVectors>(rows.rows, rows.cols);
    launch(context, {.op = "scale_rows", .grid = slabs.blocks(), .threads = kSlabThreads}, scale_rows_kernel<V>,
           factors.data(), slabs, rows);
  };
  if (y.empty()) return;
  if (wide(y))
    run.operator()<float4>(y);
  else
    run.operator()<float>(y);
}

void add_column_sums(Context& context, ConstView x, View y) {
  if (x.empty()) return;
  if (wide(x))
    sum_columns_into<float4>(context, x, y.data);
  else
    sum_columns_into<float>(context, x, y.data);
}

void row_dots(Context& context, ConstView a, ConstView b, View out) {
  launch(context,
         {.op = "row_dots",
          .grid = static_cast<unsigned>(a.rows),
          .threads = kThreads,
          .shared_bytes = SharedMemory::bytes<double>(kWarp)},
         row_dots_kernel, a, b, out);
}

void add_low_rank(Context& context, ConstView keys, const DeviceArray<LowRankRows>& terms, View y) {
  if (terms.empty()) return;
  launch(context,
         {.op = "add_low_rank",
          .grid = static_cast<unsigned>(y.rows),
          .threads = kThreads,
          .shared_bytes = SharedMemory::bytes<double>(2 * kWarp) + SharedMemory::bytes<int>(kSearchStep) +
                          SharedMemory::bytes<unsigned>(kWarp)},
         add_low_rank_kernel, keys, terms.data(), static_cast<int>(terms.size()), y);
}

}  // namespace loci::cuda
