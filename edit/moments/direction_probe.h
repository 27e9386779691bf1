#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "edit/common/prompts.h"
#include "model/executor/executor.h"
#include "runtime/io/hdf5.h"

namespace loci {

/// How much the directions C^-1 k of a set of facts still move while second moments are collected: what `loci cov
/// --until` waits for. They are what an edit takes from C (Meng et al. 2022, eq. 2).
class DirectionProbe {
 public:
  /// Runs each request's bare prompt up to its fact token, once, and keeps the keys there at every layer.
  DirectionProbe(Executor& executor, std::vector<int64_t> layers, std::span<const PreparedRequest> requests);

  /// Solves C x = k for every layer and fact, with C the mean over `tokens` tokens; `sum(i)` gives the sum of the i-th
  /// layer and is called once for each, in their order. The largest relative change |x - x'| / |x| since the last call;
  /// infinite at the first one, and where C is singular.
  double update(int64_t tokens, const std::function<std::vector<double>(size_t layer)>& sum);

  /// The checks so far: the tokens that C held, and the change that was found.
  struct Check {
    int64_t tokens;
    double change;
  };
  const std::vector<Check>& checks() const { return checks_; }

  /// The checks, /probe/tokens and /probe/change, for a result file.
  void write_checks(H5File& file) const;
  /// The whole state, for a checkpoint.
  void write(H5File& shard) const;
  void read(const H5File& shard);

 private:
  /// Appends the keys of one wave's requests.
  void add_keys(Executor& executor, std::span<const PreparedRequest> requests);

  Context& context_;
  std::vector<int64_t> layers_;
  int64_t width_;
  std::vector<std::vector<double>> keys_;        // per layer, [facts, ff]
  std::vector<std::vector<double>> directions_;  // per layer, [facts, ff]; empty before the first check
  std::vector<Check> checks_;
};

}  // namespace loci
