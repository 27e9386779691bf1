#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/architecture.h"
#include "model/checkpoint.h"
#include "model/parameters.h"
#include "runtime/context.h"
#include "runtime/ranks/device_communicator.h"
#include "runtime/tensor.h"

namespace loci {

/// Of a weight or table in device memory, as it is stored, in fp32.
std::vector<float> stored_to_host(Context& context, const StoredView& stored);

/// The type that a parameter stored as `stored` has in memory: matrices and tables keep fp16 and bf16, all else is
/// fp32.
StoredType type_in_memory(const Parameter& parameter, DType stored);

/// A model in device memory, its matrices and tables of the types in which they are stored (fp64 in fp32). On the CPU
/// they are views of the mapped checkpoint: nothing is copied.
class Model {
 public:
  /// Opens a Hugging Face directory: config.json, weights and tokenizer. Throws InputError.
  static Model load(Context& context, const std::filesystem::path& dir);
  /// The model that several ranks use; collective. Each rank opens `dir` and checks it. Where all ranks are on GPUs,
  /// rank 0 alone reads the weights and broadcasts them. On the CPU nothing is copied: each rank maps the file, and
  /// those of one machine share its pages. Rank 0 alone hashes the weights; the others adopt its hash, so `dir` must
  /// hold the same on all machines. Throws InputError where a rank finds another config.json than rank 0.
  static Model load(Context& context, const std::filesystem::path& dir, DeviceCommunicator& ranks);
  /// Takes parameters that are already in memory (tests, training). `storage` keeps them alive.
  Model(Architecture config, Parameters<const float> parameters, std::shared_ptr<void> storage);

  const Architecture& config() const { return config_; }
  const Parameters<const float>& parameters() const { return parameters_; }
  /// The checkpoint this model was loaded from. Throws Error for a model made from parameters in memory.
  const Checkpoint& checkpoint() const;

  /// This model's own copy of a block's parameter, fp32 in the orientation in which it is stored; the first call makes
  /// it. The checkpoint on disk stays as it is.
  View own_weight(Context& context, WeightId id);
  /// Replaces a matrix (copied); `weight` as it is stored.
  void set_weight(Context& context, WeightId id, ConstView weight);
  /// W += K^T V for y = x W, whichever way W is stored: K [rank, in] and V [rank, out] on the host.
  /// (Meng et al. 2022, eq. 2, for rank 1.)
  void add_low_rank(Context& context, WeightId id, int64_t rank, std::span<const float> keys,
                    std::span<const float> values);
  /// Adds n neurons beside the MLP of a block (NeuronParameters): K [n, d], b [n] and V [n, d] on the host.
  void add_neurons(Context& context, int64_t layer, Activation activation, std::span<const float> keys,
                   std::span<const float> bias, std::span<const float> values);

 private:
  /// `broadcast`: for weights that rank 0 alone reads; null where this rank reads them.
  static Model load(Context& context, std::shared_ptr<const Checkpoint> checkpoint, DeviceCommunicator* broadcast);

  Architecture config_;
  Parameters<const float> parameters_;
  std::shared_ptr<void> storage_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::map<WeightId, std::shared_ptr<Tensor>> own_;  // matrices that are not the checkpoint's any more
  struct OwnNeurons {
    Tensor keys, bias, values;
  };
  std::map<std::pair<int64_t, Activation>, std::shared_ptr<const OwnNeurons>> neurons_;  // by layer
};

}  // namespace loci
