#include <algorithm>
#include <type_traits>

#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"

// A block takes a row and holds it in registers, so that it is read once. Statistics are fp64 sums of fp32 values, as
// on the CPU: the traffic of an element leaves time for more of them.
namespace loci::cuda {
namespace {

constexpr int kHeld = 8;  // elements of a row in a thread's registers
constexpr int kMaxThreads = 1024;
constexpr int64_t kLongestHeld = kHeld * kMaxThreads;

enum class Access { wide, single };

__device__ double as_double(float value) { return static_cast<double>(value); }

/// The elements of a row that fall to a thread: quads of neighbours or single ones, in either case so that a warp's
/// accesses lie side by side.
template <Access kAccess>
struct Share {
  int width;

  /// Where element `slot` of kHeld lies in the row.
  __device__ int at(int slot) const {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    return kAccess == Access::wide ? 4 * (slot / 4 * threads + thread) + slot % 4 : slot * threads + thread;
  }
  __device__ bool has(int slot) const { return at(slot) < width; }

  /// 0 where the row has ended.
  __device__ void load(const float* row, float (&values)[kHeld]) const {
    if constexpr (kAccess == Access::wide) {
      for (int slot = 0; slot < kHeld; slot += 4) {
        const float4 quad = has(slot) ? *reinterpret_cast<const float4*>(row + at(slot)) : make_float4(0, 0, 0, 0);
        values[slot] = quad.x;
        values[slot + 1] = quad.y;
        values[slot + 2] = quad.z;
        values[slot + 3] = quad.w;
      }
    } else {
      for (int slot = 0; slot < kHeld; ++slot) values[slot] = has(slot) ? row[at(slot)] : 0.0f;
    }
  }

  __device__ void store(const float (&values)[kHeld], float* row) const {
    if constexpr (kAccess == Access::wide) {
      for (int slot = 0; slot < kHeld; slot += 4)
        if (has(slot))
          *reinterpret_cast<float4*>(row + at(slot)) =
              make_float4(values[slot], values[slot + 1], values[slot + 2], values[slot + 3]);
    } else {
      for (int slot = 0; slot < kHeld; ++slot)
        if (has(slot)) row[at(slot)] = values[slot];
    }
  }

  /// row += values. Quads are all loaded before the first is stored; single elements, the slow way anyway, take turns,
  /// which saves registers.
  __device__ void add(const float (&values)[kHeld], float* row) const {
    if constexpr (kAccess == Access::wide) {
      float sums[kHeld];
      load(row, sums);
      for (int slot = 0; slot < kHeld; ++slot) sums[slot] += values[slot];
      store(sums, row);
    } else {
      for (int slot = 0; slot < kHeld; ++slot)
        if (has(slot)) row[at(slot)] += values[slot];
    }
  }
};

/// A row's statistics, the mean as a sum of two fp32 numbers: differences from it are then good to fp32 without fp64.
struct Statistics {
  float mean, mean_rest, rstd;

  /// mean_square: of the row's differences from `mean_`.
  __device__ Statistics(double mean_, double mean_square, double epsilon)
      : mean(static_cast<float>(mean_)),
        mean_rest(static_cast<float>(mean_ - static_cast<double>(mean))),
        rstd(static_cast<float>(rsqrt(mean_square + epsilon))) {}

  __device__ float normalised(float x) const { return ((x - mean) - mean_rest) * rstd; }

  __device__ void write(const View& statistics) const {
    if (threadIdx.x != 0 || statistics.data == nullptr) return;
    float* out = row_of(statistics, blockIdx.x);
    out[0] = mean;
    out[1] = rstd;
  }
};

/// What is normalised: rows as they are, or after `update` was added to them, which is then written back.
enum class Input { rows, sums };
template <Input kInput>
using InputView = std::conditional_t<kInput == Input::sums, View, ConstView>;

// The mean is the constant 0 for rms, which leaves no code. An empty bias has no columns: zeros are loaded.
template <Norm kNorm, Access kAccess, Input kInput>
__global__ void __launch_bounds__(kMaxThreads) normalise_row(ConstView update, InputView<kInput> x, ConstView gain,
                                                             ConstView bias, double epsilon, View y, View statistics) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  double* more_scratch = shared.take<double>(kWarp);
  const Share<kAccess> share{static_cast<int>(x.cols)};
  float values[kHeld];
  share.load(row_of(x, blockIdx.x), values);
  if constexpr (kInput == Input::sums) {
    float updates[kHeld];
    share.load(row_of(update, blockIdx.x), updates);
    for (int slot = 0; slot < kHeld; ++slot) values[slot] += updates[slot];
    share.store(values, row_of(x, blockIdx.x));
  }
  const double width = static_cast<double>(x.cols);
  double mean = 0, squares = 0;
  if constexpr (kNorm == Norm::layer) {
    double sum = 0;
    for (int slot = 0; slot < kHeld; ++slot) sum += as_double(values[slot]);
    mean = block_sum(sum, scratch) / width;
  }
  for (int slot = 0; slot < kHeld; ++slot) {
    const double centred = share.has(slot) ? as_double(values[slot]) - mean : 0.0;
    squares += centred * centred;
  }
  const Statistics row(mean, block_sum(squares, more_scratch) / width, epsilon);
  float gains[kHeld], biases[kHeld];
  share.load(gain.data, gains);
  Share<kAccess>{static_cast<int>(bias.cols)}.load(bias.data, biases);
  for (int slot = 0; slot < kHeld; ++slot) values[slot] = row.normalised(values[slot]) * gains[slot] + biases[slot];
  share.store(values, row_of(y, blockIdx.x));
  row.write(statistics);
}

// Rows too long for registers are read three times, from the cache as a rule.
template <Norm kNorm>
__global__ void __launch_bounds__(kMaxThreads)
    normalise_long_row(ConstView x_view, ConstView gain, ConstView bias, double epsilon, View y_view, View statistics) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  double* more_scratch = shared.take<double>(kWarp);
  const float* x = row_of(x_view, blockIdx.x);
  float* y = row_of(y_view, blockIdx.x);
  const double width = static_cast<double>(x_view.cols);
  double mean = 0, squares = 0;
  if constexpr (kNorm == Norm::layer) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < x_view.cols; i += blockDim.x) sum += as_double(x[i]);
    mean = block_sum(sum, scratch) / width;
  }
  for (int64_t i = threadIdx.x; i < x_view.cols; i += blockDim.x) {
    const double centred = as_double(x[i]) - mean;
    squares += centred * centred;
  }
  const Statistics row(mean, block_sum(squares, more_scratch) / width, epsilon);
  for (int64_t i = threadIdx.x; i < x_view.cols; i += blockDim.x)
    y[i] = row.normalised(x[i]) * gain.data[i] + (i < bias.cols ? bias.data[i] : 0.0f);
  row.write(statistics);
}

/// dx = rstd (g - mean(g) - x^ mean(g x^)) with g = dy gain and x^ = (x - mean) rstd, for rms without mean(g), in fp64:
/// first sums over the row, then each element.
template <Norm kNorm>
struct RowGradient {
  double mean, rstd;
  double sum = 0, projection = 0;

  __device__ explicit RowGradient(const float* statistics)
      : mean(kNorm == Norm::layer ? as_double(statistics[0]) : 0), rstd(as_double(statistics[1])) {}

  __device__ void add(float x, float dy, float gain) {
    const double g = as_double(dy) * as_double(gain);
    if constexpr (kNorm == Norm::layer) sum += g;
    projection += g * (as_double(x) - mean);
  }
  __device__ void total(int64_t width, double* scratch, double* more_scratch) {
    if constexpr (kNorm == Norm::layer) sum = block_sum(sum, scratch) / static_cast<double>(width);
    projection = block_sum(projection, more_scratch) * (rstd * rstd / static_cast<double>(width));
  }
  __device__ float at(float x, float dy, float gain) const {
    const double g = as_double(dy) * as_double(gain);
    return static_cast<float>(rstd * (g - sum - (as_double(x) - mean) * projection));
  }
};

template <Norm kNorm, Access kAccess, Write kWrite>
__global__ void __launch_bounds__(kMaxThreads)
    normalise_row_backward(ConstView x, ConstView gain, ConstView statistics, ConstView dy, View dx) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  double* more_scratch = shared.take<double>(kWarp);
  const Share<kAccess> share{static_cast<int>(x.cols)};
  float x_values[kHeld], dy_values[kHeld], gains[kHeld];
  share.load(row_of(x, blockIdx.x), x_values);
  share.load(row_of(dy, blockIdx.x), dy_values);
  share.load(gain.data, gains);
  RowGradient<kNorm> row(row_of(statistics, blockIdx.x));
  for (int slot = 0; slot < kHeld; ++slot) row.add(x_values[slot], dy_values[slot], gains[slot]);
  row.total(x.cols, scratch, more_scratch);
  for (int slot = 0; slot < kHeld; ++slot) dy_values[slot] = row.at(x_values[slot], dy_values[slot], gains[slot]);
  float* out = row_of(dx, blockIdx.x);
  if constexpr (kWrite == Write::accumulate)
    share.add(dy_values, out);
  else
    share.store(dy_values, out);
}

template <Norm kNorm, Write kWrite>
__global__ void __launch_bounds__(kMaxThreads)
    normalise_long_row_backward(ConstView x_view, ConstView gain, ConstView statistics, ConstView dy_view,
                                View dx_view) {
  SharedMemory shared;
  double* scratch = shared.take<double>(kWarp);
  double* more_scratch = shared.take<double>(kWarp);
  const float* x = row_of(x_view, blockIdx.x);
  const float* dy = row_of(dy_view, blockIdx.x);
  float* dx = row_of(dx_view, blockIdx.x);
  RowGradient<kNorm> row(row_of(statistics, blockIdx.x));
  for (int64_t i = threadIdx.x; i < x_view.cols; i += blockDim.x) row.add(x[i], dy[i], gain.data[i]);
  row.total(x_view.cols, scratch, more_scratch);
  for (int64_t i = threadIdx.x; i < x_view.cols; i += blockDim.x) {
    const float gradient = row.at(x[i], dy[i], gain.data[i]);
    dx[i] = kWrite == Write::assign ? gradient : dx[i] + gradient;
  }
}

// Gradients of gain and bias: a block of eight warps sums 128 columns over a chunk of rows, a warp every eighth row of
// it, a lane four columns; then the chunks are added. Each sum has a fixed order and is fp64.
constexpr int kColumns = 128;
constexpr int kColumnWarps = 8;

struct ColumnSums {
  double gain[4] = {};
  double bias[4] = {};
};

/// The columns of a lane within a block's kColumns.
template <Access kAccess>
__device__ int column_of(int lane, int j) {
  return kAccess == Access::wide ? 4 * lane + j : kWarp * j + lane;
}

/// The values of `row` in the lane's columns from `first` on; 0 past the end.
template <Access kAccess>
__device__ float4 load_columns(const float* row, int first, int count, int lane) {
  if constexpr (kAccess == Access::wide) {
    const int column = first + 4 * lane;
    return column < count ? *reinterpret_cast<const float4*>(row + column) : make_float4(0, 0, 0, 0);
  } else {
    const auto load = [=](int j) {
      const int column = first + column_of<kAccess>(lane, j);
      return column < count ? row[column] : 0.0f;
    };
    return make_float4(load(0), load(1), load(2), load(3));
  }
}

__device__ void add_row(const float4& x, const float4& dy, const float* statistics, ColumnSums& sums) {
  const double mean = as_double(statistics[0]), rstd = as_double(statistics[1]);
  const float x_of[] = {x.x, x.y, x.z, x.w}, dy_of[] = {dy.x, dy.y, dy.z, dy.w};
  for (int j = 0; j < 4; ++j) {
    const double gradient = as_double(dy_of[j]);
    sums.gain[j] += gradient * ((as_double(x_of[j]) - mean) * rstd);
    sums.bias[j] += gradient;
  }
}

// partial [chunks, 2, columns]: sums for gain, sums for bias.
template <Access kAccess>
__global__ void __launch_bounds__(kColumnWarps* kWarp)
    norm_column_sums(ConstView x, ConstView statistics, ConstView dy, int64_t chunk_rows, double* partial) {
  SharedMemory shared;
  double* sums = shared.take<double>(kColumnWarps * 2 * kColumns);
  const int lane = lane_index(), warp = warp_index();
  const int count = static_cast<int>(x.cols), first = static_cast<int>(blockIdx.y) * kColumns;
  const int64_t begin = blockIdx.x * chunk_rows, end = min(begin + chunk_rows, x.rows);
  ColumnSums mine;
#pragma unroll 4
  for (int64_t r = begin + warp; r < end; r += kColumnWarps)
    add_row(load_columns<kAccess>(row_of(x, r), first, count, lane),
            load_columns<kAccess>(row_of(dy, r), first, count, lane), row_of(statistics, r), mine);
  for (int j = 0; j < 4; ++j) {
    double* column = sums + warp * 2 * kColumns + column_of<kAccess>(lane, j);
    column[0] = mine.gain[j];
    column[kColumns] = mine.bias[j];
  }
  __syncthreads();
  static_assert(kColumnWarps * kWarp == 2 * kColumns);
  const int column = static_cast<int>(threadIdx.x) % kColumns, which = static_cast<int>(threadIdx.x) / kColumns;
  double sum = 0;
  for (int w = 0; w < kColumnWarps; ++w) sum += sums[w * 2 * kColumns + threadIdx.x];
  if (first + column < count) partial[(blockIdx.x * 2 + which) * static_cast<int64_t>(count) + first + column] = sum;
}

// A lane takes a column of [chunks, 2, columns], a warp every eighth chunk.
__global__ void __launch_bounds__(kColumnWarps* kWarp)
    norm_add_chunks(const double* partial, int64_t chunks, int64_t columns, float* dgain, float* dbias) {
  SharedMemory shared;
  double* sums = shared.take<double>(kColumnWarps * kWarp);
  const int lane = lane_index(), warp = warp_index();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float* total = blockIdx.y == 0 ? dgain : dbias;
  if (total == nullptr) return;
  double sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t chunk = warp; chunk < chunks; chunk += kColumnWarps)
      sum += partial[(chunk * 2 + blockIdx.y) * columns + column];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int w = 1; w < kColumnWarps; ++w) sum += sums[w * kWarp + lane];
  total[column] += static_cast<float>(sum);
}

void parameter_gradients(Context& context, ConstView x, ConstView statistics, ConstView dy, View dgain, View dbias) {
  // By the shape alone, so that equal inputs give equal bits on every device.
  const int64_t chunk_rows = std::max<int64_t>(64, (x.rows + 127) / 128);
  const int64_t chunks = (x.rows + chunk_rows - 1) / chunk_rows;
  DeviceArray<double> partial(context, chunks * 2 * x.cols);
  launch(context,
         {.op = "normalise_backward",
          .grid = {blocks_for(x.rows, chunk_rows), blocks_for(x.cols, kColumns)},
          .threads = kColumnWarps * kWarp,
          .shared_bytes = SharedMemory::bytes<double>(kColumnWarps * 2 * kColumns)},
         wide(x) && wide(dy) ? norm_column_sums<Access::wide> : norm_column_sums<Access::single>, x, statistics, dy,
         chunk_rows, partial.data());
  launch(context,
         {.op = "normalise_backward",
          .grid = {blocks_for(x.cols, kWarp), 2},
          .threads = kColumnWarps * kWarp,
          .shared_bytes = SharedMemory::bytes<double>(kColumnWarps * kWarp)},
         norm_add_chunks, partial.data(), chunks, x.cols, dgain.empty() ? nullptr : dgain.data,
         dbias.empty() ? nullptr : dbias.data);
}

/// A block for each row, of as many threads as hold it.
Launch over_rows(const char* op, int64_t rows, int64_t width) {
  const int64_t warps = (width + kHeld * kWarp - 1) / (kHeld * kWarp);
  return {.op = op,
          .grid = static_cast<unsigned>(rows),
          .threads = static_cast<int>(std::clamp<int64_t>(warps * kWarp, kWarp, kMaxThreads)),
          .shared_bytes = 2 * SharedMemory::bytes<double>(kWarp)};
}

template <Norm kNorm, Write kWrite>
void row_gradients(Context& context, ConstView x, ConstView gain, ConstView statistics, ConstView dy, View dx) {
  const bool is_wide = wide(x) && wide(gain) && wide(dy) && wide(dx);
  launch(context, over_rows("normalise_backward", x.rows, x.cols),
         x.cols > kLongestHeld ? normalise_long_row_backward<kNorm, kWrite>
         : is_wide             ? normalise_row_backward<kNorm, Access::wide, kWrite>
                               : normalise_row_backward<kNorm, Access::single, kWrite>,
         x, gain, statistics, dy, dx);
}

template <Norm kNorm, Input kInput>
void forward(Context& context, ConstView update, InputView<kInput> x, ConstView gain, ConstView bias, float epsilon,
             View y, View statistics) {
  if (bias.empty()) bias = {};
  if (statistics.empty()) statistics = {};
  const Launch how = over_rows(kInput == Input::sums ? "add_normalise" : "normalise", x.rows, x.cols);
  if (x.cols > kLongestHeld) {
    if constexpr (kInput == Input::sums) cuda::add(context, update, x);
    return launch(context, how, normalise_long_row<kNorm>, x, gain, bias, static_cast<double>(epsilon), y, statistics);
  }
  const bool is_wide = wide(update) && wide(x) && wide(gain) && wide(bias) && wide(y);
  launch(context, how,
         is_wide ? normalise_row<kNorm, Access::wide, kInput> : normalise_row<kNorm, Access::single, kInput>, update, x,
         gain, bias, static_cast<double>(epsilon), y, statistics);
}

}  // namespace

void normalise(Context& context, Norm norm, ConstView x, ConstView gain, ConstView bias, float epsilon, View y,
               View statistics) {
  (norm == Norm::layer ? forward<Norm::layer, Input::rows>
                       : forward<Norm::rms, Input::rows>)(context, ConstView(), x, gain, bias, epsilon, y, statistics);
}

void add_normalise(Context& context, Norm norm, ConstView update, View x, ConstView gain, ConstView bias, float epsilon,
                   View y, View statistics) {
  (norm == Norm::layer ? forward<Norm::layer, Input::sums>
                       : forward<Norm::rms, Input::sums>)(context, update, x, gain, bias, epsilon, y, statistics);
}

void normalise_backward(Context& context, Norm norm, ConstView x, ConstView gain, ConstView statistics, ConstView dy,
                        View dx, Write write, View dgain, View dbias) {
  // First, since dx may alias dy.
  if (!x.empty() && (!dgain.empty() || !dbias.empty())) parameter_gradients(context, x, statistics, dy, dgain, dbias);
  const bool assigned = write == Write::assign;
  const auto gradients =
      norm == Norm::layer
          ? (assigned ? row_gradients<Norm::layer, Write::assign> : row_gradients<Norm::layer, Write::accumulate>)
          : (assigned ? row_gradients<Norm::rms, Write::assign> : row_gradients<Norm::rms, Write::accumulate>);
  gradients(context, x, gain, statistics, dy, dx);
}

}  // namespace loci::cuda
