#pragma once

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/timing.h"
#include "kernels/gemm.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace loci::bench {

/// The extents at which ops are measured: those of a GPT-2, or tiny ones that only show that everything runs.
struct Shapes {
  int64_t width = 768;
  int64_t heads = 12;
  int64_t vocabulary = 50257;
  std::vector<int64_t> rows = {132, 1024};
  int64_t ceiling_product = 1536;
  int64_t ceiling_copy = int64_t{1} << 28;

  int64_t inner() const { return 4 * width; }
};

/// What every benchmark needs: a context, random device memory, the ceilings, and how a benchmark is made.
class Suite {
 public:
  Suite(const ContextOptions& options, Shapes shapes, Effort effort);
  /// What was registered holds memory of the context.
  ~Suite();
  Suite(const Suite&) = delete;
  Suite& operator=(const Suite&) = delete;

  Context& context() { return context_; }
  const Shapes& shapes() const { return shapes_; }
  double flop_ceiling() const { return flop_ceiling_; }
  double byte_ceiling() const { return byte_ceiling_; }
  bool failed() const { return failed_; }

  /// Normal values times `scale`.
  Tensor random(int64_t rows, int64_t cols, float scale = 1);
  std::shared_ptr<Tensor> shared_random(int64_t rows, int64_t cols, float scale = 1) {
    return std::make_shared<Tensor>(random(rows, cols, scale));
  }

  /// One instance of a benchmark: its data are in the functions.
  struct Work {
    std::function<void()> run;
    std::function<double()> error;  ///< after the first run(); relative to what is allowed, so 1 is the limit
  };
  enum class Unit { flop, byte };

  /// Registers a benchmark that does `amount` operations or moves `amount` bytes. On a GPU several instances are run in
  /// turn, so that none finds its operands in a cache. Reported: the median over the samples, and how far the 10 and 90
  /// % quantiles lie apart in relation to it (`spread`).
  void add(const std::string& name, Unit unit, double amount, std::function<Work()> make);

 private:
  std::vector<Work> instances(const std::function<Work()>& make);

  Context context_;
  Shapes shapes_;
  Effort effort_;
  Tensor pool_;
  int64_t pool_offset_ = 0;
  double flop_ceiling_ = 0;
  double byte_ceiling_ = 0;
  bool failed_ = false;
};

/// What one element of a product may be off by, as a part of the sum of its terms' magnitudes: k + 2 roundings of fp32,
/// and those of the inputs where the precision rounds them.
double product_tolerance(Precision precision, int64_t k);

/// The largest error of sampled elements of c = op(a) op(b) + bias, in units of what is allowed.
double product_error(Context& context, Transpose ta, ConstView a, Transpose tb, ConstView b, ConstView c,
                     ConstView bias = {});

/// The benchmarks of the ops (kernels_bench.cpp).
void add_products(Suite& suite);
void add_attention(Suite& suite);
void add_row_ops(Suite& suite);
void add_second_moments(Suite& suite);

}  // namespace loci::bench
