#pragma once

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

/// Small dense matrices in fp64, as plainly as possible: what methods are compared with.
namespace loci::test {

using Matrix = std::vector<std::vector<double>>;

/// Solves A x = b by Gauss-Jordan elimination with pivoting.
inline Matrix solve(Matrix a, Matrix b) {
  const size_t n = a.size();
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    for (size_t r = c; r < n; ++r)
      if (std::abs(a[r][c]) > std::abs(a[pivot][c])) pivot = r;
    std::swap(a[c], a[pivot]);
    std::swap(b[c], b[pivot]);
    for (size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const double factor = a[r][c] / a[c][c];
      for (size_t i = c; i < n; ++i) a[r][i] -= factor * a[c][i];
      for (size_t i = 0; i < b[r].size(); ++i) b[r][i] -= factor * b[c][i];
    }
  }
  for (size_t r = 0; r < n; ++r)
    for (double& value : b[r]) value /= a[r][r];
  return b;
}

inline Matrix multiply(const Matrix& a, const Matrix& b) {
  Matrix c(a.size(), std::vector<double>(b[0].size(), 0.0));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < b.size(); ++k)
      for (size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}

inline Matrix transpose(const Matrix& a) {
  Matrix t(a[0].size(), std::vector<double>(a.size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) t[j][i] = a[i][j];
  return t;
}

inline Matrix add_scaled(Matrix a, const Matrix& b, double factor) {
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) a[i][j] += factor * b[i][j];
  return a;
}

inline Matrix identity(size_t n) {
  Matrix a(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) a[i][i] = 1;
  return a;
}

}  // namespace loci::test
