#include "model/families/fields.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "model/families/families.h"
#include "runtime/error.h"

namespace loci {
namespace {

/// They change the numbers, unless they say that nothing is changed.
constexpr std::string_view kRefused[] = {"attn_logit_softcapping", "final_logit_softcapping", "quantization_config",
                                         "query_pre_attn_scalar",  "no_rope_layers",          "num_local_experts",
                                         "embedding_multiplier",   "residual_multiplier",     "attention_multiplier",
                                         "logits_scaling"};

/// Of training, caches, types, and of the other uses of a checkpoint.
constexpr std::string_view kHarmless[] = {"_attn_implementation_autoset",
                                          "_name_or_path",
                                          "architectures",
                                          "attention_dropout",
                                          "attention_probs_dropout_prob",
                                          "attn_pdrop",
                                          "auto_map",
                                          "bos_token_id",
                                          "classifier_dropout",
                                          "dtype",
                                          "embd_pdrop",
                                          "eos_token_id",
                                          "gradient_checkpointing",
                                          "hidden_dropout",
                                          "hidden_dropout_prob",
                                          "id2label",
                                          "initializer_range",
                                          "label2id",
                                          "layer_types",
                                          "model_type",
                                          "pad_token_id",
                                          "pretraining_tp",
                                          "resid_pdrop",
                                          "rotary",
                                          "summary_activation",
                                          "summary_first_dropout",
                                          "summary_proj_to_labels",
                                          "summary_type",
                                          "summary_use_proj",
                                          "task_specific_params",
                                          "tie_word_embeddings",
                                          "tokenizer_class",
                                          "torch_dtype",
                                          "torchscript",
                                          "transformers_version",
                                          "use_cache",
                                          "vocab_size"};

bool is_one_of(std::string_view key, std::span<const std::string_view> list) {
  return std::ranges::find(list, key) != list.end();
}

/// A string that may go by two names, of an object of rotary fields.
std::string rotary_type(const Json& rope, std::string_view where) {
  const std::string type = json_string_or(rope, "rope_type", json_string_or(rope, "type", "default", where), where);
  const std::string alias = json_string_or(rope, "type", type, where);
  require<InputError>(alias == type, "{}: field \"rope_type\" is \"{}\" but field \"type\", its other name, is \"{}\"",
                      where, type.substr(0, 40), alias.substr(0, 40));
  return type;
}

double positive(const Json& json, std::string_view name, double fallback, std::string_view where) {
  const double value = json_number_or(json, name, fallback, where);
  require<InputError>(value > 0 && value <= 1e12, "{}: field \"{}\" is {}, it must be above 0", where, name, value);
  return value;
}

void require_known(const Json& rope, std::vector<std::string> more, std::string_view where) {
  for (const char* common : {"rope_type", "type", "rope_theta", "partial_rotary_factor"}) more.emplace_back(common);
  refuse_unknown_keys(rope, more, where);
}

void read_llama3(Rotary& rotary, const Json& rope, std::string_view where) {
  require_known(rope, {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, where);
  rotary.factor = positive(rope, "factor", json_number(rope, "factor", where), where);
  rotary.low_frequency = positive(rope, "low_freq_factor", json_number(rope, "low_freq_factor", where), where);
  rotary.high_frequency = positive(rope, "high_freq_factor", json_number(rope, "high_freq_factor", where), where);
  require<InputError>(rotary.high_frequency > rotary.low_frequency,
                      "{}: field \"high_freq_factor\" is {}, it must be above field \"low_freq_factor\", which is {}",
                      where, rotary.high_frequency, rotary.low_frequency);
  rotary.original_positions = json_int(rope, "original_max_position_embeddings", where, 1, kMaxPositions);
}

void read_yarn(Rotary& rotary, const Json& rope, int64_t positions, std::string_view where,
               std::vector<std::string>* notes) {
  require_known(rope, {"factor", "beta_fast", "beta_slow", "attention_factor", "original_max_position_embeddings"},
                where);
  rotary.factor = positive(rope, "factor", json_number(rope, "factor", where), where);
  rotary.beta_fast = positive(rope, "beta_fast", 32, where);
  rotary.beta_slow = positive(rope, "beta_slow", 1, where);
  const double usual = rotary.factor <= 1 ? 1 : 0.1 * std::log(rotary.factor) + 1;
  rotary.attention_factor = positive(rope, "attention_factor", usual, where);
  rotary.original_positions = json_int_or(rope, "original_max_position_embeddings", positions, where, 1, kMaxPositions);
  const double implied = static_cast<double>(positions) / static_cast<double>(rotary.original_positions);
  if (json_has(rope, "original_max_position_embeddings") && implied != rotary.factor && notes)
    notes->push_back(fmt::format("{}: field \"factor\", which counts, is {}, but the contexts' quotient is {}", where,
                                 rotary.factor, implied));
}

}  // namespace

void check_fields(const Json& json, std::span<const std::string_view> known, std::string_view where,
                  std::vector<std::string>* notes) {
  for (const auto& [key, value] : json.items()) {
    const bool off = value.is_null() || value == Json(false);
    require<InputError>(off || !is_one_of(key, kRefused),
                        "{}: field \"{}\" changes what the model computes; loci does "
                        "not read such models",
                        where, key);
    if (notes && !off && !is_one_of(key, known) && !is_one_of(key, kHarmless))
      notes->push_back(fmt::format("{}: field \"{}\" is not known and is ignored", where, key.substr(0, 120)));
  }
  if (!json_has(json, "layer_types")) return;
  for (const std::string& type : json_strings(json, "layer_types", where))
    require<InputError>(type == "full_attention",
                        "{}: field \"layer_types\" names \"{}\"; loci reads models whose layers are all "
                        "\"full_attention\"",
                        where, type.substr(0, 40));
}

Activation activation_field(const Json& json, std::string_view name, std::string_view fallback,
                            std::string_view where) {
  const std::string value = json_string_or(json, name, fallback, where);
  const std::optional<Activation> activation = value_named(value, kActivationNames);
  require<InputError>(activation.has_value(), "{}: field \"{}\" is \"{}\"; loci knows gelu_new, gelu, relu and silu",
                      where, name, value.substr(0, 40));
  return *activation;
}

double epsilon_field(const Json& json, std::string_view name, double fallback, std::string_view where) {
  const double epsilon = json_number_or(json, name, fallback, where);
  require<InputError>(epsilon > 0 && epsilon <= 1, "{}: field \"{}\" is {}, it must lie above 0 and not above 1", where,
                      name, epsilon);
  return epsilon;
}

void token_fields(Architecture& a, const Json& json, std::string_view where) {
  a.bos_token = json_int_or(json, "bos_token_id", -1, where);
  a.eos_tokens = token_ids(json, "eos_token_id", where);
  const auto check = [&](std::string_view name, int64_t token) {
    require<InputError>(token >= -1 && token < a.vocabulary, "{}: field \"{}\" is {}, but field \"vocab_size\" is {}",
                        where, name, token, a.vocabulary);
  };
  check("bos_token_id", a.bos_token);
  for (const int64_t token : a.eos_tokens) check("eos_token_id", token);
}

void write_token_fields(Json& json, const Architecture& a) {
  // Null, as absent ids would become the family's own.
  json["bos_token_id"] = a.bos_token >= 0 ? Json(a.bos_token) : Json(nullptr);
  json["eos_token_id"] = nullptr;
  if (a.eos_tokens.size() == 1) json["eos_token_id"] = a.eos_tokens[0];
  if (a.eos_tokens.size() > 1) json["eos_token_id"] = a.eos_tokens;
}

Rotary rotary_fields(const Architecture& a, const Json& json, std::string_view base_name, std::string_view share_name,
                     double default_share, std::string_view where, std::vector<std::string>* notes) {
  const bool nested = json_has(json, "rope_parameters");
  const Json rope = nested                           ? json_object(json, "rope_parameters", where)
                    : json_has(json, "rope_scaling") ? json_object(json, "rope_scaling", where)
                                                     : Json::object();
  const std::string place = fmt::format("{}: field \"{}\"", where, nested ? "rope_parameters" : "rope_scaling");
  Rotary rotary;
  rotary.base = positive(json, base_name, positive(json, "rope_theta", 10000, where), where);
  rotary.base = positive(rope, "rope_theta", rotary.base, place);
  double share = json_number_or(json, "partial_rotary_factor", default_share, where, 0, 1);
  if (!share_name.empty()) share = json_number_or(json, share_name, share, where, 0, 1);
  share = json_number_or(rope, "partial_rotary_factor", share, place, 0, 1);
  rotary.width = static_cast<int64_t>(static_cast<double>(a.head_width) * share);
  require<InputError>(rotary.width > 0 && rotary.width % 2 == 0,
                      "{}: {} of the {} entries of a head would be turned by position, but they are turned in pairs",
                      where, rotary.width, a.head_width);

  const std::string type = rotary_type(rope, place);
  if (type == "dynamic") {
    // Up to the length that counts here it changes nothing.
    require_known(rope, {"factor", "original_max_position_embeddings"}, place);
    if (notes)
      notes->push_back(fmt::format("{} is dynamic, so sequences of up to {} tokens are run", place, a.positions));
    return rotary;
  }
  const std::optional<RotaryScaling> scaling = value_named(type, kRotaryScalings);
  require<InputError>(scaling.has_value(),
                      "{} has the type \"{}\"; loci knows default, linear, dynamic, llama3 and yarn", place,
                      type.substr(0, 40));
  rotary.scaling = *scaling;
  if (rotary.scaling == RotaryScaling::linear) {
    require_known(rope, {"factor"}, place);
    rotary.factor = positive(rope, "factor", json_number(rope, "factor", place), place);
  }
  if (rotary.scaling == RotaryScaling::llama3) read_llama3(rotary, rope, place);
  if (rotary.scaling == RotaryScaling::yarn) read_yarn(rotary, rope, a.positions, place, notes);
  return rotary;
}

Json rotary_scaling_json(const Rotary& rotary) {
  if (rotary.scaling == RotaryScaling::none) return nullptr;
  Json json = {{"rope_type", name_of(rotary.scaling, kRotaryScalings)}, {"factor", rotary.factor}};
  if (rotary.scaling == RotaryScaling::linear) return json;
  json["original_max_position_embeddings"] = rotary.original_positions;
  if (rotary.scaling == RotaryScaling::llama3) {
    json["low_freq_factor"] = rotary.low_frequency;
    json["high_freq_factor"] = rotary.high_frequency;
  } else {
    json["beta_fast"] = rotary.beta_fast;
    json["beta_slow"] = rotary.beta_slow;
    json["attention_factor"] = rotary.attention_factor;
  }
  return json;
}

}  // namespace loci
