#include "model/config.h"

#include <cmath>
#include <limits>

#include "runtime/error.h"

namespace loci {

namespace {

// Limits far beyond any GPT that exists, but small enough that no product of two overflows or exhausts a machine
// unseen.
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxWidth = 1 << 18;
constexpr int64_t kMaxPositions = 1 << 24;
constexpr int64_t kMaxVocabulary = 1 << 26;
constexpr int64_t kMaxMlpWidth = 1 << 21;

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

Activation parse_activation(const Json& json, std::string_view where) {
  const std::string name = json_string_or(json, "activation_function", "gelu_new", where);
  const std::optional<Activation> activation = value_named(name, kActivationNames);
  require<InputError>(activation.has_value(),
                      "{}: field \"activation_function\" is \"{}\"; loci knows gelu_new, gelu and relu", where,
                      name.substr(0, 40));
  return *activation;
}

/// One id, a list of ids, or nothing.
std::vector<int64_t> token_ids(const Json& json, std::string_view name, std::string_view where) {
  if (!json_has(json, name)) return {};
  constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
  if (json_field(json, name, where).is_array()) return json_ints(json, name, where, 0, kMaxId);
  // Some files say "none" by -1.
  const int64_t id = json_int(json, name, where, -1, kMaxId);
  return id < 0 ? std::vector<int64_t>() : std::vector<int64_t>{id};
}

void check_range(int64_t value, std::string_view name, int64_t max, std::string_view where) {
  require<InputError>(value >= 1 && value <= max, "{}: field \"{}\" is {}, it must lie between 1 and {}", where, name,
                      value, max);
}

}  // namespace

double GptConfig::attention_factor(int64_t layer) const {
  double factor = 1.0;
  if (attention_scale == AttentionScale::by_head_width) factor /= std::sqrt(static_cast<double>(head_width()));
  if (layer_scale == LayerScale::by_inverse_index) factor /= static_cast<double>(layer + 1);
  return factor;
}

int64_t GptConfig::parameter_count() const {
  const int64_t attention = 4 * width * width + 4 * width;
  const int64_t mlp = 2 * width * mlp_width + mlp_width + width;
  const int64_t norms = 4 * width;
  return (tied ? 1 : 2) * vocabulary * width + positions * width + layers * (attention + mlp + norms) + 2 * width;
}

void GptConfig::check(std::string_view where) const {
  check_range(layers, "n_layer", kMaxLayers, where);
  check_range(width, "n_embd", kMaxWidth, where);
  check_range(heads, "n_head", kMaxWidth, where);
  check_range(positions, "n_positions", kMaxPositions, where);
  check_range(vocabulary, "vocab_size", kMaxVocabulary, where);
  check_range(mlp_width, "n_inner", kMaxMlpWidth, where);
  require<InputError>(width % heads == 0, "{}: field \"n_embd\" is {}, which field \"n_head\" {} does not divide",
                      where, width, heads);
  require<InputError>(layer_norm_epsilon > 0 && layer_norm_epsilon <= 1,
                      "{}: field \"layer_norm_epsilon\" is {}, it must lie above 0 and not above 1", where,
                      layer_norm_epsilon);
  const auto check_token = [&](std::string_view name, int64_t token) {
    require<InputError>(token >= -1 && token < vocabulary, "{}: field \"{}\" is {}, but field \"vocab_size\" is {}",
                        where, name, token, vocabulary);
  };
  check_token("bos_token_id", bos_token);
  for (const int64_t token : eos_tokens) check_token("eos_token_id", token);
}

GptConfig gpt_config_from_json(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  require<InputError>(json.is_object(), "{}: must be a JSON object with the fields of a GPT-2 configuration", where);
  const std::string type = json_string_or(json, "model_type", "gpt2", where);
  require<InputError>(type == "gpt2", "{}: field \"model_type\" is \"{}\"; loci reads gpt2", where, type.substr(0, 40));
  require<InputError>(!json_bool_or(json, "add_cross_attention", false, where),
                      "{}: field \"add_cross_attention\" is true; loci reads decoders without cross-attention", where);

  GptConfig config;
  config.layers = required_field(json, "n_layer", "num_hidden_layers", where, kMaxLayers);
  config.width = required_field(json, "n_embd", "hidden_size", where, kMaxWidth);
  config.heads = required_field(json, "n_head", "num_attention_heads", where, kMaxWidth);
  config.positions = required_field(json, "n_positions", "max_position_embeddings", where, kMaxPositions);
  const int64_t context = field(json, "n_ctx", "", where, kMaxPositions);
  if (context >= 0 && context != config.positions && notes != nullptr)
    notes->push_back(fmt::format("{}: field \"n_ctx\" is {}, but field \"n_positions\", which counts, is {}", where,
                                 context, config.positions));
  config.vocabulary = required_field(json, "vocab_size", "", where, kMaxVocabulary);
  config.mlp_width = json_int_or(json, "n_inner", 4 * config.width, where, 1, kMaxMlpWidth);
  config.layer_norm_epsilon = json_number_or(json, "layer_norm_epsilon", 1e-5, where);
  config.activation = parse_activation(json, where);
  config.attention_scale =
      json_bool_or(json, "scale_attn_weights", true, where) ? AttentionScale::by_head_width : AttentionScale::none;
  config.layer_scale = json_bool_or(json, "scale_attn_by_inverse_layer_idx", false, where)
                           ? LayerScale::by_inverse_index
                           : LayerScale::none;
  // Only the order of roundings in half precision depends on it; the type is checked all the same.
  json_bool_or(json, "reorder_and_upcast_attn", false, where);
  config.tied = json_bool_or(json, "tie_word_embeddings", true, where);
  config.bos_token = json_int_or(json, "bos_token_id", -1, where);
  config.eos_tokens = token_ids(json, "eos_token_id", where);
  // GPT-2's own ids stand in configurations of models with a smaller vocabulary, where they mean nothing.
  constexpr int64_t kGpt2End = 50256;
  if (config.bos_token == kGpt2End && config.vocabulary <= kGpt2End) config.bos_token = -1;
  if (config.vocabulary <= kGpt2End) std::erase(config.eos_tokens, kGpt2End);
  config.check(where);
  return config;
}

GptConfig read_gpt_config(const std::filesystem::path& path, std::vector<std::string>* notes) {
  return gpt_config_from_json(parse_json_file(path), path.string(), notes);
}

std::vector<int64_t> read_end_tokens(const std::filesystem::path& model, const GptConfig& config) {
  const std::filesystem::path path = model / "generation_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return config.eos_tokens;
  const std::vector<int64_t> ids = token_ids(parse_json_file(path), "eos_token_id", path.string());
  return ids.empty() ? config.eos_tokens : ids;
}

Json gpt_config_to_json(const GptConfig& config) {
  Json json = {
      {"architectures", {"GPT2LMHeadModel"}},
      {"model_type", "gpt2"},
      {"n_layer", config.layers},
      {"n_embd", config.width},
      {"n_head", config.heads},
      {"n_positions", config.positions},
      {"vocab_size", config.vocabulary},
      {"n_inner", config.mlp_width},
      {"layer_norm_epsilon", config.layer_norm_epsilon},
      {"activation_function", activation_name(config.activation)},
      {"scale_attn_weights", config.attention_scale == AttentionScale::by_head_width},
      {"scale_attn_by_inverse_layer_idx", config.layer_scale == LayerScale::by_inverse_index},
      {"reorder_and_upcast_attn", false},
      {"tie_word_embeddings", config.tied},
      {"attn_pdrop", 0.0},
      {"embd_pdrop", 0.0},
      {"resid_pdrop", 0.0},
      {"initializer_range", 0.02},
      {"torch_dtype", "float32"},
      {"use_cache", true},
  };
  // Null, as absent ids would become GPT-2's 50256.
  json["bos_token_id"] = config.bos_token >= 0 ? Json(config.bos_token) : Json(nullptr);
  json["eos_token_id"] = nullptr;
  if (config.eos_tokens.size() == 1) json["eos_token_id"] = config.eos_tokens[0];
  if (config.eos_tokens.size() > 1) json["eos_token_id"] = config.eos_tokens;
  return json;
}

}  // namespace loci
