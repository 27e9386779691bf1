#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"
#include "runtime/tensor.h"

namespace loci {

/// All parameters of a model one after the other in one block of memory, so that an optimiser step, a norm or a
/// checkpoint is one operation. Three groups, in this order: the matrices of the blocks, the token embedding and
/// an untied unembedding, everything else (gains, biases, position embedding). Gaps between parameters hold zeros and
/// stay zero.
class ParameterBuffer {
 public:
  enum class Group { matrices, embeddings, vectors };

  /// Zeros. The memory is of a multiple of `row_multiple` rows, so that as many ranks can share it out.
  ParameterBuffer(Context& context, const Architecture& config, int64_t row_multiple = 1);

  Parameters<float>& parameters() { return parameters_; }
  const Architecture& config() const { return config_; }

  View all() { return values_->rows_slice(0, group_rows_[3]); }
  ConstView all() const { return std::as_const(*values_).rows_slice(0, group_rows_[3]); }
  /// all() and the rows after it that complete a multiple.
  View padded() { return values_->view(); }
  /// The rows of all() that a group takes.
  View group(Group which);
  /// The memory, kept alive by whoever holds this.
  std::shared_ptr<void> storage() const { return values_; }

  void fill_zero(Context& context);
  /// Copies a parameter from the host or to the host, by canonical name.
  void set(Context& context, const std::string& name, std::span<const float> values);
  std::map<std::string, std::vector<float>> to_host(Context& context) const;

 private:
  Architecture config_;
  std::shared_ptr<Tensor> values_;
  Parameters<float> parameters_;
  std::map<std::string, View> views_;
  std::array<int64_t, 4> group_rows_{};  // first row of each group, and the end
};

/// GPT-2's initialisation (Radford et al. 2019, section 2.3): weights normal with `deviation`, those that write into
/// the residual stream divided by sqrt(2 layers); gains 1, biases 0.
void initialise(Context& context, ParameterBuffer& buffer, double deviation, uint64_t seed);

}  // namespace loci
