#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "edit/resources.h"

namespace loci {

/// (M + diagonal I)^-1 S for S [n, ff] and M = K S^T [n, n]: D of methods whose constraint is a system of the requests.
/// Throws NumericalError "{name}: ..." where it is singular.
std::vector<double> solve_for_requests(Context& context, std::span<const double> keys, std::span<const double> solved,
                                       int64_t n, double diagonal, const std::string& name);

/// The systems of MEMIT (Meng et al. 2023, eq. 14), one for each layer: (lambda C + K K^T)^-1 K.
class MomentSystems {
 public:
  /// `method` leads messages. Throws InputError for a lambda of 0, and what Resources::second_moment() does.
  MomentSystems(std::string method, std::vector<int64_t> layers, double lambda, Resources& resources);

  /// The solution for the last `n` rows of `keys` K [rows, ff]: [n, ff]. Solved as a system of the keys where they are
  /// fewer than neurons, by C's factor; else as one of ff x ff.
  std::vector<double> solve(Context& context, size_t index, std::vector<double> keys, int64_t n) const;

 private:
  std::vector<double> whole_system(Context& context, size_t index, std::span<const double> keys) const;

  std::string method_;
  std::vector<int64_t> layers_;
  double lambda_;
  Resources& resources_;
  int64_t width_;
  std::vector<std::shared_ptr<const Cholesky>> factors_;  // of C, by layer
};

}  // namespace loci
