#include "kernels/symmetric_update.h"

#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu.h"
#include "kernels/simd.h"

// x^T x by tiles of the lower triangle. Each tile is one single-threaded product into scratch that stays in the
// thread's cache, then added to the sum: the sum is read and written once, whatever its precision.
namespace loci::cpu {
namespace {

// Rows of the sum that one tile covers: 384 x 384 floats are 576 KiB of scratch.
constexpr int64_t kTile = 384;
// Below this a tile on the diagonal is not worth cutting further; half of its arithmetic is thrown away.
constexpr int64_t kDiagonalTile = 96;

struct Tile {
  int64_t row, rows;
  int64_t col, cols;
};

// The diagonal tile [first, first + count) as smaller tiles that cover less of the upper triangle.
void cut_diagonal(int64_t first, int64_t count, std::vector<Tile>& tiles) {
  if (count <= kDiagonalTile) {
    tiles.push_back({first, count, first, count});
    return;
  }
  const int64_t half = (count / 2 + 15) / 16 * 16;
  cut_diagonal(first, half, tiles);
  tiles.push_back({first + half, count - half, first, half});
  cut_diagonal(first + half, count - half, tiles);
}

std::vector<Tile> lower_tiles(int64_t n, int64_t tile) {
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < n; row += tile) {
    const int64_t rows = std::min(tile, n - row);
    for (int64_t col = 0; col < row; col += tile) tiles.push_back({row, rows, col, tile});
    cut_diagonal(row, rows, tiles);
  }
  return tiles;
}

template <typename T>
LOCI_INLINE void add_row(const float* from, int64_t count, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += static_cast<T>(from[i]);
}
LOCI_SIMD void add_row_fp32(const float* from, int64_t count, float* to) { add_row(from, count, to); }
LOCI_SIMD void add_row_fp64(const float* from, int64_t count, double* to) { add_row(from, count, to); }

template <typename AddRow>
void update(Context& context, ConstView x, const AddRow& add) {
  const int64_t n = x.cols;
  if (n == 0 || x.rows == 0) return;
  const std::vector<Tile> tiles = lower_tiles(n, kTile);
  context.threads().parallel_tasks(std::ssize(tiles), [&](TaskQueue& tasks) {
    std::vector<float> scratch(static_cast<size_t>(std::min(n, kTile) * std::min(n, kTile)));
    while (const auto i = tasks.take()) {
      const Tile& tile = tiles[*i];
      Product product;
      product.transpose_a = Transpose::yes;
      product.m = tile.rows;
      product.n = tile.cols;
      product.k = x.rows;
      product.a = x.data + tile.row;
      product.b = x.data + tile.col;
      product.lda = product.ldb = std::max(x.stride, n);
      product.c = scratch.data();
      product.ldc = tile.cols;
      multiply(product);
      for (int64_t r = 0; r < tile.rows; ++r)
        add(scratch.data() + r * tile.cols, tile.row + r, tile.col, std::min(tile.cols, tile.row + r + 1 - tile.col));
    }
  });
}

}  // namespace

void symmetric_update(Context& context, ConstView x, View sum) {
  update(context, x, [&](const float* from, int64_t row, int64_t col, int64_t count) {
    add_row_fp32(from, count, sum.row(row) + col);
  });
}

void add_second_moment(Context& context, ConstView x, double* total) {
  update(context, x, [&](const float* from, int64_t row, int64_t col, int64_t count) {
    add_row_fp64(from, count, total + row * x.cols + col);
  });
}

void add_fp64(Context& context, const double* terms, double* totals, int64_t count) {
  constexpr int64_t kGrain = 1 << 15;
  context.threads().parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) totals[i] += terms[i];
  });
}

}  // namespace loci::cpu
