#include <array>

#include "model/families/families.h"
#include "model/families/fields.h"
#include "runtime/error.h"

namespace loci {
namespace {

bool is_untied(const Architecture& architecture) { return !architecture.tied; }

constexpr std::array<ParameterRule, 17> kParameters = {{
    {Role::token_embedding, "wte.weight"},
    {Role::position_embedding, "wpe.weight"},
    {Role::norm_1_gain, "h.{}.ln_1.weight"},
    {Role::norm_1_bias, "h.{}.ln_1.bias"},
    {Role::qkv_weight, "h.{}.attn.c_attn.weight"},
    {Role::qkv_bias, "h.{}.attn.c_attn.bias"},
    {Role::out_weight, "h.{}.attn.c_proj.weight"},
    {Role::out_bias, "h.{}.attn.c_proj.bias"},
    {Role::norm_2_gain, "h.{}.ln_2.weight"},
    {Role::norm_2_bias, "h.{}.ln_2.bias"},
    {Role::up_weight, "h.{}.mlp.c_fc.weight"},
    {Role::up_bias, "h.{}.mlp.c_fc.bias"},
    {Role::down_weight, "h.{}.mlp.c_proj.weight"},
    {Role::down_bias, "h.{}.mlp.c_proj.bias"},
    {Role::final_norm_gain, "ln_f.weight"},
    {Role::final_norm_bias, "ln_f.bias"},
    {.role = Role::unembedding, .name = "lm_head.weight", .present = is_untied},
}};

/// Causal masks: "h.0.attn.bias", "h.0.attn.masked_bias".
bool is_mask(std::string_view name) {
  return name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

/// A field that may go by two names: both may be given if they agree. -1 if neither is.
int64_t field(const Json& json, std::string_view name, std::string_view alias, std::string_view where, int64_t max) {
  const int64_t first = json_int_or(json, name, -1, where, 1, max);
  const int64_t second = alias.empty() ? -1 : json_int_or(json, alias, -1, where, 1, max);
  require<InputError>(first < 0 || second < 0 || first == second,
                      "{}: field \"{}\" is {} but field \"{}\", its other name, is {}", where, name, first, alias,
                      second);
  return first >= 0 ? first : second;
}

int64_t required_field(const Json& json, std::string_view name, std::string_view alias, std::string_view where,
                       int64_t max) {
  const int64_t value = field(json, name, alias, where, max);
  require<InputError>(value >= 0, "{}: field \"{}\" is missing", where, name);
  return value;
}

void read_extents(Architecture& a, const Json& json, std::string_view where, std::vector<std::string>* notes) {
  a.layers = required_field(json, "n_layer", "num_hidden_layers", where, kMaxLayers);
  a.width = required_field(json, "n_embd", "hidden_size", where, kMaxWidth);
  const int64_t heads = required_field(json, "n_head", "num_attention_heads", where, kMaxWidth);
  require<InputError>(a.width % heads == 0, "{}: field \"n_embd\" is {}, which field \"n_head\" {} does not divide",
                      where, a.width, heads);
  a.set_equal_heads(heads);
  a.positions = required_field(json, "n_positions", "max_position_embeddings", where, kMaxPositions);
  // As in transformers, where the two differ.
  const int64_t context = field(json, "n_ctx", "", where, kMaxPositions);
  if (context >= 0 && context != a.positions && notes != nullptr)
    notes->push_back(fmt::format("{}: field \"n_ctx\" is {}, but field \"n_positions\", which counts, is {}", where,
                                 context, a.positions));
  a.vocabulary = required_field(json, "vocab_size", "", where, kMaxVocabulary);
  a.mlp_width = json_int_or(json, "n_inner", 4 * a.width, where, 1, kMaxMlpWidth);
}

void read_tokens(Architecture& a, const Json& json, std::string_view where) {
  a.bos_token = json_int_or(json, "bos_token_id", -1, where);
  a.eos_tokens = token_ids(json, "eos_token_id", where);
  // GPT-2's own ids stand in configurations of models with a smaller vocabulary, where they mean nothing.
  constexpr int64_t kEnd = 50256;
  if (a.bos_token == kEnd && a.vocabulary <= kEnd) a.bos_token = -1;
  if (a.vocabulary <= kEnd) std::erase(a.eos_tokens, kEnd);
  const auto check = [&](std::string_view name, int64_t token) {
    require<InputError>(token >= -1 && token < a.vocabulary, "{}: field \"{}\" is {}, but field \"vocab_size\" is {}",
                        where, name, token, a.vocabulary);
  };
  check("bos_token_id", a.bos_token);
  for (const int64_t token : a.eos_tokens) check("eos_token_id", token);
}

Architecture read(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  require<InputError>(!json_bool_or(json, "add_cross_attention", false, where),
                      "{}: field \"add_cross_attention\" is true; loci reads decoders without cross-attention", where);
  Architecture a;
  a.family = &gpt2();
  read_extents(a, json, where, notes);
  a.epsilon = epsilon_field(json, "layer_norm_epsilon", 1e-5, where);
  a.activation = activation_field(json, "activation_function", "gelu_new", where);
  a.attention_scale =
      json_bool_or(json, "scale_attn_weights", true, where) ? AttentionScale::by_head_width : AttentionScale::none;
  a.layer_scale = json_bool_or(json, "scale_attn_by_inverse_layer_idx", false, where) ? LayerScale::by_inverse_index
                                                                                      : LayerScale::none;
  // Only the order of roundings in half precision depends on it; the type is checked all the same.
  json_bool_or(json, "reorder_and_upcast_attn", false, where);
  a.tied = json_bool_or(json, "tie_word_embeddings", true, where);
  read_tokens(a, json, where);
  return a;
}

Json write(const Architecture& a) {
  Json json = {
      {"architectures", {"GPT2LMHeadModel"}},
      {"model_type", "gpt2"},
      {"n_layer", a.layers},
      {"n_embd", a.width},
      {"n_head", a.heads},
      {"n_positions", a.positions},
      {"vocab_size", a.vocabulary},
      {"n_inner", a.mlp_width},
      {"layer_norm_epsilon", a.epsilon},
      {"activation_function", activation_name(a.activation)},
      {"scale_attn_weights", a.attention_scale == AttentionScale::by_head_width},
      {"scale_attn_by_inverse_layer_idx", a.layer_scale == LayerScale::by_inverse_index},
      {"reorder_and_upcast_attn", false},
      {"tie_word_embeddings", a.tied},
      {"attn_pdrop", 0.0},
      {"embd_pdrop", 0.0},
      {"resid_pdrop", 0.0},
      {"initializer_range", 0.02},
      {"torch_dtype", "float32"},
      {"use_cache", true},
  };
  write_token_fields(json, a);
  return json;
}

constexpr Family kGpt2 = {.model_type = "gpt2",
                          .title = "GPT-2",
                          .body = "transformer.",
                          .read = read,
                          .write = write,
                          .is_buffer = is_mask,
                          .parameters = kParameters,
                          .other_tensors = OtherTensors::ignored};

}  // namespace

const Family& gpt2() { return kGpt2; }

}  // namespace loci
