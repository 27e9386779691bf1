#include <array>

#include "model/families/families.h"
#include "model/families/fields.h"
#include "runtime/error.h"

namespace loci {
namespace {

constexpr Orientation kOutIn = Orientation::out_in;

constexpr std::array<ParameterRule, 13> kParameters = {{
    {Role::token_embedding, "wte.weight"},
    {Role::norm_1_gain, "h.{}.ln_1.weight"},
    {Role::norm_1_bias, "h.{}.ln_1.bias"},
    {Role::qkv_weight, "h.{}.attn.qkv_proj.weight", kOutIn, {}, Packing::apart},
    {Role::out_weight, "h.{}.attn.out_proj.weight", kOutIn},
    {Role::up_weight, "h.{}.mlp.fc_in.weight", kOutIn},
    {Role::up_bias, "h.{}.mlp.fc_in.bias"},
    {Role::down_weight, "h.{}.mlp.fc_out.weight", kOutIn},
    {Role::down_bias, "h.{}.mlp.fc_out.bias"},
    {Role::final_norm_gain, "ln_f.weight"},
    {Role::final_norm_bias, "ln_f.bias"},
    {.role = Role::unembedding, .name = "lm_head.weight", .present = [](const Architecture& a) { return !a.tied; }},
    {Role::unembedding_bias, "lm_head.bias"},
}};

/// Causal masks: "h.0.attn.bias", "h.0.attn.masked_bias".
bool is_mask(std::string_view name) {
  return name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

Architecture read(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  constexpr std::string_view kKnown[] = {"n_embd",
                                         "n_layer",
                                         "n_head",
                                         "n_inner",
                                         "n_positions",
                                         "rotary_dim",
                                         "activation_function",
                                         "layer_norm_epsilon",
                                         "scale_attn_weights",
                                         "n_ctx"};
  check_fields(json, kKnown, where, notes);
  require<InputError>(json_bool_or(json, "scale_attn_weights", true, where),
                      "{}: field \"scale_attn_weights\" is false; GPT-J always divides its scores", where);
  Architecture a;
  a.family = &gptj();
  a.residual = Residual::parallel;
  a.layers = json_int(json, "n_layer", where, 1, kMaxLayers);
  a.width = json_int(json, "n_embd", where, 1, kMaxWidth);
  const int64_t heads = json_int(json, "n_head", where, 1, kMaxWidth);
  require<InputError>(a.width % heads == 0, "{}: field \"n_embd\" is {}, which field \"n_head\" {} does not divide",
                      where, a.width, heads);
  a.set_equal_heads(heads);
  a.positions = json_int(json, "n_positions", where, 1, kMaxPositions);
  a.vocabulary = json_int(json, "vocab_size", where, 1, kMaxVocabulary);
  a.mlp_width = json_int_or(json, "n_inner", 4 * a.width, where, 1, kMaxMlpWidth);
  const int64_t turned = json_int_or(json, "rotary_dim", 64, where, 2, a.head_width);
  require<InputError>(turned % 2 == 0, "{}: field \"rotary_dim\" is {}, it must be even", where, turned);
  a.rotary = Rotary{.width = turned, .pairs = RotaryPairs::interleaved};
  a.epsilon = epsilon_field(json, "layer_norm_epsilon", 1e-5, where);
  a.activation = activation_field(json, "activation_function", "gelu_new", where);
  a.tied = json_bool_or(json, "tie_word_embeddings", false, where);
  token_fields(a, json, where);
  return a;
}

Json write(const Architecture& a) {
  Json json = {{"architectures", {"GPTJForCausalLM"}},
               {"model_type", "gptj"},
               {"n_layer", a.layers},
               {"n_embd", a.width},
               {"n_head", a.heads},
               {"n_positions", a.positions},
               {"vocab_size", a.vocabulary},
               {"n_inner", a.mlp_width},
               {"rotary_dim", a.rotary->width},
               {"layer_norm_epsilon", a.epsilon},
               {"activation_function", activation_name(a.activation)},
               {"tie_word_embeddings", a.tied},
               {"attn_pdrop", 0.0},
               {"embd_pdrop", 0.0},
               {"resid_pdrop", 0.0},
               {"torch_dtype", "float32"},
               {"use_cache", true}};
  write_token_fields(json, a);
  return json;
}

constexpr Family kGptj = {.model_type = "gptj",
                          .title = "GPT-J",
                          .body = "transformer.",
                          .read = read,
                          .write = write,
                          .is_buffer = is_mask,
                          .parameters = kParameters};

}  // namespace

const Family& gptj() { return kGptj; }

}  // namespace loci
