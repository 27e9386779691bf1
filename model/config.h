#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/activation.h"
#include "runtime/io/json.h"
#include "runtime/named_value.h"

namespace loci {

/// Hugging Face's names.
inline constexpr NamedValues<Activation, 7> kActivationNames{{{"gelu_new", Activation::gelu_new},
                                                              {"gelu_fast", Activation::gelu_new},
                                                              {"gelu_pytorch_tanh", Activation::gelu_new},
                                                              {"gelu_accurate", Activation::gelu_new},
                                                              {"gelu", Activation::gelu},
                                                              {"gelu_python", Activation::gelu},
                                                              {"relu", Activation::relu}}};
inline std::string_view activation_name(Activation activation) { return name_of(activation, kActivationNames); }

/// Whether attention scores are divided by sqrt(head width) (`scale_attn_weights`).
enum class AttentionScale { by_head_width, none };
/// Whether scores are divided by layer + 1 too (`scale_attn_by_inverse_layer_idx`).
enum class LayerScale { none, by_inverse_index };

/// The shape of a GPT-2 model, as in Hugging Face's config.json. A valid one fulfils check().
struct GptConfig {
  int64_t layers = 0;
  int64_t width = 0;  ///< n_embd
  int64_t heads = 0;
  int64_t positions = 0;  ///< longest sequence
  int64_t vocabulary = 0;
  int64_t mlp_width = 0;  ///< n_inner
  double layer_norm_epsilon = 1e-5;
  Activation activation = Activation::gelu_new;
  AttentionScale attention_scale = AttentionScale::by_head_width;
  LayerScale layer_scale = LayerScale::none;
  /// The unembedding is wte.weight; otherwise it is lm_head.weight.
  bool tied = true;
  /// First id a text is sampled from; -1 if the file does not say.
  int64_t bos_token = -1;
  /// The ids that end a text.
  std::vector<int64_t> eos_tokens;

  int64_t head_width() const { return width / heads; }
  /// What scores q.k of this layer are multiplied by.
  double attention_factor(int64_t layer) const;
  int64_t parameter_count() const;
  /// Throws InputError naming `where` and the first field that is out of range or contradicts another.
  void check(std::string_view where) const;

  bool operator==(const GptConfig&) const = default;
};

/// From the object of a GPT-2 config.json. Throws InputError naming `where` and the field: another architecture,
/// missing or hostile extents, a width that the heads do not divide, an unknown activation, two names of one field that
/// disagree. `reorder_and_upcast_attn` changes nothing in fp32 and is accepted. `n_ctx` says nothing where it differs
/// from `n_positions`, as in transformers; a sentence in `notes` tells of it.
GptConfig gpt_config_from_json(const Json& json, std::string_view where, std::vector<std::string>* notes = nullptr);
GptConfig read_gpt_config(const std::filesystem::path& path, std::vector<std::string>* notes = nullptr);

/// The ids that end a text: those of `eos_token_id` in generation_config.json, or, where that names none, the
/// configuration's. Throws InputError naming file and field for one that is not an id or a list of ids.
std::vector<int64_t> read_end_tokens(const std::filesystem::path& model, const GptConfig& config);

/// As Hugging Face writes it, so that transformers loads it as GPT2LMHeadModel.
Json gpt_config_to_json(const GptConfig& config);

}  // namespace loci
