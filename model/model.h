#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/config.h"
#include "runtime/context.h"
#include "runtime/ranks/device_communicator.h"
#include "runtime/tensor.h"

namespace loci {

/// The parameters of one block, each a view of device memory. Weights are [in, out]: y = x w + b.
template <typename T>
struct BlockParameters {
  MatrixView<T> ln_1_gain, ln_1_bias;    // [1, d]
  MatrixView<T> qkv_weight, qkv_bias;    // [d, 3d], [1, 3d]
  MatrixView<T> out_weight, out_bias;    // [d, d], [1, d]
  MatrixView<T> ln_2_gain, ln_2_bias;    // [1, d]
  MatrixView<T> up_weight, up_bias;      // [d, ff], [1, ff]   (c_fc)
  MatrixView<T> down_weight, down_bias;  // [ff, d], [1, d]    (mlp.c_proj)
};

/// All parameters of a GPT.
template <typename T>
struct Parameters {
  MatrixView<T> token_embedding;     // wte [V, d]
  MatrixView<T> position_embedding;  // wpe [P, d]
  std::vector<BlockParameters<T>> blocks;
  MatrixView<T> ln_f_gain, ln_f_bias;  // [1, d]
  MatrixView<T> unembedding;           // [V, d]; the same memory as token_embedding where tied
};

/// Calls visit(name, view) for each parameter in checkpoint order, by its canonical name (`h.3.mlp.c_proj.weight`); the
/// unembedding only where it is untied.
template <typename T, typename Visit>
void visit_parameters(Parameters<T>& parameters, const GptConfig& config, Visit&& visit);

/// A GPT-2 in device memory. On the CPU fp32 tensors are views of the mapped checkpoint: nothing is copied.
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
  Model(GptConfig config, Parameters<const float> parameters, std::shared_ptr<void> storage);

  const GptConfig& config() const { return config_; }
  const Parameters<const float>& parameters() const { return parameters_; }
  /// The checkpoint this model was loaded from. Throws Error for a model made from parameters in memory.
  const Checkpoint& checkpoint() const;

  /// Replaces the down projection W [ff, d] of one block (copied); the checkpoint on disk stays as it is.
  void set_down_weight(Context& context, int64_t layer, ConstView weight);
  /// W += u v^T on the down projection of one block; the first call on a block copies it. u [ff], v [d] on the host.
  /// (Meng et al. 2022, eq. 2, in the [in, out] layout.)
  void add_rank_one(Context& context, int64_t layer, std::span<const float> u, std::span<const float> v);

 private:
  /// `broadcast`: for weights that rank 0 alone reads; null where this rank reads them.
  static Model load(Context& context, std::shared_ptr<const Checkpoint> checkpoint, DeviceCommunicator* broadcast);
  /// The block's own copy of its down projection.
  Tensor& own_down_weight(Context& context, int64_t layer);

  GptConfig config_;
  Parameters<const float> parameters_;
  std::shared_ptr<void> storage_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::vector<std::shared_ptr<Tensor>> edited_down_;  // per layer; null where the checkpoint's is in use
};

// ---------------------------------------------------------------------------------------------------------------------

template <typename T, typename Visit>
void visit_parameters(Parameters<T>& parameters, const GptConfig& config, Visit&& visit) {
  visit(std::string("wte.weight"), parameters.token_embedding);
  visit(std::string("wpe.weight"), parameters.position_embedding);
  for (size_t l = 0; l < parameters.blocks.size(); ++l) {
    const std::string prefix = "h." + std::to_string(l) + ".";
    BlockParameters<T>& block = parameters.blocks[l];
    visit(prefix + "ln_1.weight", block.ln_1_gain);
    visit(prefix + "ln_1.bias", block.ln_1_bias);
    visit(prefix + "attn.c_attn.weight", block.qkv_weight);
    visit(prefix + "attn.c_attn.bias", block.qkv_bias);
    visit(prefix + "attn.c_proj.weight", block.out_weight);
    visit(prefix + "attn.c_proj.bias", block.out_bias);
    visit(prefix + "ln_2.weight", block.ln_2_gain);
    visit(prefix + "ln_2.bias", block.ln_2_bias);
    visit(prefix + "mlp.c_fc.weight", block.up_weight);
    visit(prefix + "mlp.c_fc.bias", block.up_bias);
    visit(prefix + "mlp.c_proj.weight", block.down_weight);
    visit(prefix + "mlp.c_proj.bias", block.down_bias);
  }
  visit(std::string("ln_f.weight"), parameters.ln_f_gain);
  visit(std::string("ln_f.bias"), parameters.ln_f_bias);
  if (!config.tied) visit(std::string("lm_head.weight"), parameters.unembedding);
}

}  // namespace loci
