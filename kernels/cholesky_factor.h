#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace loci {

/// The factor L of C = L L^T in a backend's memory: what Cholesky is made of.
class CholeskyFactor {
 public:
  virtual ~CholeskyFactor() = default;
  /// Each row b of `rows` [count * n] (host, not empty) becomes C^-1 b.
  virtual void solve(std::span<double> rows) const = 0;
  /// Each row b becomes L^-1 b.
  virtual void forward_solve(std::span<double> rows) const = 0;
};

/// The factor, or the first row at which the factorisation fails.
struct CholeskyAttempt {
  std::unique_ptr<const CholeskyFactor> factor;
  int64_t failed_row = -1;
};

}  // namespace loci
