#include <array>

#include "model/families/families.h"
#include "model/families/fields.h"
#include "runtime/error.h"

// Llama and the families that are built like it: they differ in a few fields of config.json.
namespace loci {
namespace {

constexpr Orientation kOutIn = Orientation::out_in;

bool has_qkv_bias(const Architecture& a) { return a.qkv_bias; }
bool has_out_bias(const Architecture& a) { return a.out_bias; }
bool has_mlp_bias(const Architecture& a) { return a.mlp_bias; }
bool has_head_norms(const Architecture& a) { return a.head_norm == HeadNorm::rms; }

constexpr std::array<ParameterRule, 17> kParameters = {{
    {Role::token_embedding, "embed_tokens.weight"},
    {Role::norm_1_gain, "layers.{}.input_layernorm.weight"},
    {Role::qkv_weight, "layers.{}.self_attn.qkv_proj.weight", kOutIn, {}, Packing::apart},
    {Role::qkv_bias, "layers.{}.self_attn.qkv_proj.bias", {}, has_qkv_bias, Packing::apart},
    {.role = Role::q_norm_gain, .name = "layers.{}.self_attn.q_norm.weight", .present = has_head_norms},
    {.role = Role::k_norm_gain, .name = "layers.{}.self_attn.k_norm.weight", .present = has_head_norms},
    {Role::out_weight, "layers.{}.self_attn.o_proj.weight", kOutIn},
    {.role = Role::out_bias, .name = "layers.{}.self_attn.o_proj.bias", .present = has_out_bias},
    {Role::norm_2_gain, "layers.{}.post_attention_layernorm.weight"},
    {Role::gate_weight, "layers.{}.mlp.gate_proj.weight", kOutIn},
    {.role = Role::gate_bias, .name = "layers.{}.mlp.gate_proj.bias", .present = has_mlp_bias},
    {Role::up_weight, "layers.{}.mlp.up_proj.weight", kOutIn},
    {.role = Role::up_bias, .name = "layers.{}.mlp.up_proj.bias", .present = has_mlp_bias},
    {Role::down_weight, "layers.{}.mlp.down_proj.weight", kOutIn},
    {.role = Role::down_bias, .name = "layers.{}.mlp.down_proj.bias", .present = has_mlp_bias},
    {Role::final_norm_gain, "norm.weight"},
    {.role = Role::unembedding, .name = "lm_head.weight", .present = [](const Architecture& a) { return !a.tied; }},
}};

bool is_buffer(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

/// What all of these families have; `default_head_width` 0: the width divided among the heads.
Architecture read_common(const Family& family, const Json& json, int64_t default_head_width, std::string_view where,
                         std::vector<std::string>* notes) {
  constexpr std::string_view kKnown[] = {"hidden_size",
                                         "num_hidden_layers",
                                         "num_attention_heads",
                                         "num_key_value_heads",
                                         "head_dim",
                                         "intermediate_size",
                                         "max_position_embeddings",
                                         "rope_theta",
                                         "rope_scaling",
                                         "rope_parameters",
                                         "hidden_act",
                                         "rms_norm_eps",
                                         "attention_bias",
                                         "mlp_bias",
                                         "sliding_window",
                                         "use_sliding_window",
                                         "max_window_layers"};
  check_fields(json, kKnown, where, notes);
  Architecture a;
  a.family = &family;
  a.norm = Norm::rms;
  a.mlp = Mlp::gated;
  a.layers = json_int(json, "num_hidden_layers", where, 1, kMaxLayers);
  a.width = json_int(json, "hidden_size", where, 1, kMaxWidth);
  a.heads = json_int(json, "num_attention_heads", where, 1, kMaxWidth);
  a.key_heads = json_int_or(json, "num_key_value_heads", a.heads, where, 1, a.heads);
  require<InputError>(a.heads % a.key_heads == 0,
                      "{}: field \"num_key_value_heads\" is {}, which does not divide field \"num_attention_heads\" {}",
                      where, a.key_heads, a.heads);
  a.head_width = json_int_or(json, "head_dim", default_head_width, where, 1, kMaxWidth);
  if (a.head_width == 0) {
    require<InputError>(a.width % a.heads == 0,
                        "{}: field \"hidden_size\" is {}, which field \"num_attention_heads\" {} does not divide, and "
                        "field \"head_dim\" is missing",
                        where, a.width, a.heads);
    a.head_width = a.width / a.heads;
  }
  a.positions = json_int(json, "max_position_embeddings", where, 1, kMaxPositions);
  a.vocabulary = json_int(json, "vocab_size", where, 1, kMaxVocabulary);
  a.mlp_width = json_int(json, "intermediate_size", where, 1, kMaxMlpWidth);
  a.rotary = rotary_fields(a, json, "rope_theta", "", 1, where, notes);
  require<InputError>(a.rotary->width == a.head_width,
                      "{}: field \"partial_rotary_factor\" is not 1; {} turns whole heads", where, family.title);
  a.epsilon = epsilon_field(json, "rms_norm_eps", 1e-6, where);
  a.activation = activation_field(json, "hidden_act", "silu", where);
  a.qkv_bias = a.out_bias = a.mlp_bias = false;
  a.tied = json_bool_or(json, "tie_word_embeddings", false, where);
  token_fields(a, json, where);
  return a;
}

void refuse_window(const Json& json, std::string_view where) {
  require<InputError>(!json_bool_or(json, "use_sliding_window", false, where),
                      "{}: field \"use_sliding_window\" is true; loci reads such models without a window only", where);
}

Architecture read_llama(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  Architecture a = read_common(llama(), json, 0, where, notes);
  a.qkv_bias = a.out_bias = json_bool_or(json, "attention_bias", false, where);
  a.mlp_bias = json_bool_or(json, "mlp_bias", false, where);
  return a;
}

Architecture read_mistral(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  Architecture a = read_common(mistral(), json, 0, where, notes);
  const bool none = json.contains("sliding_window") && !json_has(json, "sliding_window");
  const int64_t window = none ? a.positions : json_int_or(json, "sliding_window", 4096, where, 1, kMaxPositions);
  if (window < a.positions) a.window = window;
  return a;
}

Architecture read_qwen2(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  refuse_window(json, where);
  Architecture a = read_common(qwen2(), json, 0, where, notes);
  a.qkv_bias = true;
  return a;
}

Architecture read_qwen3(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  refuse_window(json, where);
  Architecture a = read_common(qwen3(), json, 128, where, notes);
  a.head_norm = HeadNorm::rms;
  a.qkv_bias = a.out_bias = json_bool_or(json, "attention_bias", false, where);
  return a;
}

Json write_common(const Architecture& a, std::string_view transformers_class) {
  Json json = {{"architectures", {transformers_class}},
               {"model_type", a.family->model_type},
               {"num_hidden_layers", a.layers},
               {"hidden_size", a.width},
               {"num_attention_heads", a.heads},
               {"num_key_value_heads", a.key_heads},
               {"head_dim", a.head_width},
               {"max_position_embeddings", a.positions},
               {"vocab_size", a.vocabulary},
               {"intermediate_size", a.mlp_width},
               {"rope_theta", a.rotary->base},
               {"rope_scaling", rotary_scaling_json(*a.rotary)},
               {"hidden_act", activation_name(a.activation)},
               {"rms_norm_eps", a.epsilon},
               {"tie_word_embeddings", a.tied},
               {"attention_dropout", 0.0},
               {"torch_dtype", "float32"},
               {"use_cache", true}};
  write_token_fields(json, a);
  return json;
}

Json write_llama(const Architecture& a) {
  Json json = write_common(a, "LlamaForCausalLM");
  json["attention_bias"] = a.qkv_bias;
  json["mlp_bias"] = a.mlp_bias;
  return json;
}

Json write_mistral(const Architecture& a) {
  Json json = write_common(a, "MistralForCausalLM");
  json["sliding_window"] = a.window > 0 ? Json(a.window) : Json(nullptr);
  return json;
}

Json write_qwen2(const Architecture& a) {
  Json json = write_common(a, "Qwen2ForCausalLM");
  json["use_sliding_window"] = false;
  return json;
}

Json write_qwen3(const Architecture& a) {
  Json json = write_common(a, "Qwen3ForCausalLM");
  json["attention_bias"] = a.qkv_bias;
  json["use_sliding_window"] = false;
  return json;
}

constexpr Family like_llama(std::string_view model_type, std::string_view title, decltype(Family::read) read,
                            decltype(Family::write) write) {
  return {.model_type = model_type,
          .title = title,
          .body = "model.",
          .read = read,
          .write = write,
          .is_buffer = is_buffer,
          .parameters = kParameters};
}

constexpr Family kLlama = like_llama("llama", "Llama", read_llama, write_llama);
constexpr Family kMistral = like_llama("mistral", "Mistral", read_mistral, write_mistral);
constexpr Family kQwen2 = like_llama("qwen2", "Qwen2", read_qwen2, write_qwen2);
constexpr Family kQwen3 = like_llama("qwen3", "Qwen3", read_qwen3, write_qwen3);

}  // namespace

const Family& llama() { return kLlama; }
const Family& mistral() { return kMistral; }
const Family& qwen2() { return kQwen2; }
const Family& qwen3() { return kQwen3; }

}  // namespace loci
