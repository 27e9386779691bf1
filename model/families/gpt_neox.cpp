#include <array>
#include <cmath>

#include "model/families/families.h"
#include "model/families/fields.h"
#include "runtime/error.h"

namespace loci {
namespace {

constexpr Orientation kOutIn = Orientation::out_in;

bool has_qkv_bias(const Architecture& a) { return a.qkv_bias; }
bool has_out_bias(const Architecture& a) { return a.out_bias; }

constexpr std::array<ParameterRule, 16> kParameters = {{
    {Role::token_embedding, "embed_in.weight"},
    {Role::norm_1_gain, "layers.{}.input_layernorm.weight"},
    {Role::norm_1_bias, "layers.{}.input_layernorm.bias"},
    {Role::qkv_weight, "layers.{}.attention.query_key_value.weight", kOutIn, {}, Packing::by_head},
    {Role::qkv_bias, "layers.{}.attention.query_key_value.bias", {}, has_qkv_bias, Packing::by_head},
    {Role::out_weight, "layers.{}.attention.dense.weight", kOutIn},
    {.role = Role::out_bias, .name = "layers.{}.attention.dense.bias", .present = has_out_bias},
    {Role::norm_2_gain, "layers.{}.post_attention_layernorm.weight"},
    {Role::norm_2_bias, "layers.{}.post_attention_layernorm.bias"},
    {Role::up_weight, "layers.{}.mlp.dense_h_to_4h.weight", kOutIn},
    {Role::up_bias, "layers.{}.mlp.dense_h_to_4h.bias"},
    {Role::down_weight, "layers.{}.mlp.dense_4h_to_h.weight", kOutIn},
    {Role::down_bias, "layers.{}.mlp.dense_4h_to_h.bias"},
    {Role::final_norm_gain, "final_layer_norm.weight"},
    {Role::final_norm_bias, "final_layer_norm.bias"},
    {.role = Role::unembedding, .name = "embed_out.weight", .present = [](const Architecture& a) { return !a.tied; }},
}};

/// Causal masks and frequencies: "layers.0.attention.bias", "layers.0.attention.rotary_emb.inv_freq".
bool is_buffer(std::string_view name) {
  return name.ends_with(".attention.bias") || name.ends_with(".attention.masked_bias") ||
         name.ends_with("rotary_emb.inv_freq");
}

Architecture read(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  constexpr std::string_view kKnown[] = {"hidden_size",
                                         "num_hidden_layers",
                                         "num_attention_heads",
                                         "intermediate_size",
                                         "max_position_embeddings",
                                         "rotary_pct",
                                         "rotary_emb_base",
                                         "rope_theta",
                                         "rope_scaling",
                                         "rope_parameters",
                                         "partial_rotary_factor",
                                         "hidden_act",
                                         "layer_norm_eps",
                                         "use_parallel_residual",
                                         "attention_bias"};
  check_fields(json, kKnown, where, notes);
  Architecture a;
  a.family = &gpt_neox();
  a.layers = json_int(json, "num_hidden_layers", where, 1, kMaxLayers);
  a.width = json_int(json, "hidden_size", where, 1, kMaxWidth);
  const int64_t heads = json_int(json, "num_attention_heads", where, 1, kMaxWidth);
  require<InputError>(a.width % heads == 0,
                      "{}: field \"hidden_size\" is {}, which field \"num_attention_heads\" {} does not divide", where,
                      a.width, heads);
  a.set_equal_heads(heads);
  a.positions = json_int(json, "max_position_embeddings", where, 1, kMaxPositions);
  a.vocabulary = json_int(json, "vocab_size", where, 1, kMaxVocabulary);
  a.mlp_width = json_int(json, "intermediate_size", where, 1, kMaxMlpWidth);
  a.rotary = rotary_fields(a, json, "rotary_emb_base", "rotary_pct", 0.25, where, notes);
  a.epsilon = epsilon_field(json, "layer_norm_eps", 1e-5, where);
  a.activation = activation_field(json, "hidden_act", "gelu", where);
  a.residual = json_bool_or(json, "use_parallel_residual", true, where) ? Residual::parallel : Residual::sequential;
  a.qkv_bias = a.out_bias = json_bool_or(json, "attention_bias", true, where);
  a.tied = json_bool_or(json, "tie_word_embeddings", false, where);
  token_fields(a, json, where);
  return a;
}

/// A share of a head of which the reader makes the same number of entries, which it rounds down.
double share_of_head(int64_t turned, int64_t head_width) {
  const double share = static_cast<double>(turned) / static_cast<double>(head_width);
  const auto read = static_cast<int64_t>(share * static_cast<double>(head_width));
  return read == turned ? share : std::nextafter(share, 2.0);
}

Json write(const Architecture& a) {
  Json json = {{"architectures", {"GPTNeoXForCausalLM"}},
               {"model_type", "gpt_neox"},
               {"num_hidden_layers", a.layers},
               {"hidden_size", a.width},
               {"num_attention_heads", a.heads},
               {"max_position_embeddings", a.positions},
               {"vocab_size", a.vocabulary},
               {"intermediate_size", a.mlp_width},
               {"rotary_pct", share_of_head(a.rotary->width, a.head_width)},
               {"rotary_emb_base", a.rotary->base},
               {"rope_scaling", rotary_scaling_json(*a.rotary)},
               {"hidden_act", activation_name(a.activation)},
               {"layer_norm_eps", a.epsilon},
               {"use_parallel_residual", a.residual == Residual::parallel},
               {"attention_bias", a.qkv_bias},
               {"tie_word_embeddings", a.tied},
               {"attention_dropout", 0.0},
               {"hidden_dropout", 0.0},
               {"torch_dtype", "float32"},
               {"use_cache", true}};
  write_token_fields(json, a);
  return json;
}

constexpr Family kGptNeox = {.model_type = "gpt_neox",
                             .title = "GPT-NeoX",
                             .body = "gpt_neox.",
                             .read = read,
                             .write = write,
                             .is_buffer = is_buffer,
                             .parameters = kParameters};

}  // namespace

const Family& gpt_neox() { return kGptNeox; }

}  // namespace loci
