#include "edit/rome/hparams.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/io/settings.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr NamedValues<FactToken, 4> kFactTokens = {{
    {"subject_last", FactToken::subject_last},
    {"subject_first", FactToken::subject_first},
    {"subject_first_after_last", FactToken::subject_first_after_last},
    {"last", FactToken::last},
}};

/// What other options give here, or what the published code does not use either. The second part is EasyEdit's.
constexpr std::array<std::string_view, 16> kWithoutEffect = {
    "v_loss_layer",   "mom2_dataset",    "mom2_n_samples", "mom2_dtype",     "rewrite_module_tmp", "layer_module_tmp",
    "mlp_module_tmp", "attn_module_tmp", "ln_f_module",    "lm_head_module", "model_name",         "stats_dir",
    "device",         "batch_size",      "max_length",     "model_parallel"};

/// They say which method is meant.
constexpr std::array<std::string_view, 4> kMethodKeys = {"alg_name", "original_implementation",
                                                         "enable_random_prefix_keys", "enable_prompt_keys"};

/// Whether a value switches off what its key names.
bool is_off(const Json& value) {
  if (value.is_string()) {
    std::string text = value.get<std::string>();
    std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text.empty() || text == "none" || text == "null" || text == "false" || text == "off" || text == "no";
  }
  return value.is_null() || value == false || (value.is_number() && value.get<double>() == 0) ||
         (value.is_structured() && value.empty());
}

/// An unknown key is passed over where it is switched off. One that looks like a known key is a slip: its value is
/// meant to count.
void check_unknown_key(std::string_view key, const Json& value, const std::vector<std::string>& with_effect,
                       std::string_view where) {
  for (const std::string_view known : with_effect)
    require<InputError>(edit_distance(key, known) > 2, "{}: field \"{}\" is unknown; did you mean \"{}\"?", where, key,
                        known);
  require<InputError>(is_off(value),
                      "{}: field \"{}\" is unknown and not switched off ({}); loci would not do what it asks for, so "
                      "remove it or set it to false",
                      where, key, value.dump().substr(0, 80));
}

/// The keys of a file that change nothing, those known first.
std::vector<std::string> keys_without_effect(const Json& json, const std::vector<std::string>& with_effect,
                                             std::string_view where) {
  const auto holds = [](const auto& keys, std::string_view key) { return std::ranges::find(keys, key) != keys.end(); };
  std::vector<std::string> keys;
  for (const std::string_view key : kWithoutEffect)
    if (json.contains(std::string(key))) keys.emplace_back(key);
  for (const auto& [key, value] : json.items()) {
    if (holds(with_effect, key) || holds(kWithoutEffect, key) || holds(kMethodKeys, key)) continue;
    check_unknown_key(std::string_view(key).substr(0, 80), value, with_effect, where);
    keys.push_back(key);
  }
  return keys;
}

/// The method that the file was made for; nothing where it does not say.
std::optional<std::string> method_meant(const Json& json, std::string_view where) {
  if (json_bool_or(json, "original_implementation", false, where)) return "rome";
  if (json_bool_or(json, "enable_random_prefix_keys", false, where)) return "r-rome";
  if (json_bool_or(json, "enable_prompt_keys", false, where)) return "p-rome";
  if (!json_has(json, "alg_name")) return std::nullopt;
  const std::string name = json_string(json, "alg_name", where);
  if (name == "ROME") return "rome";
  if (name == "R-ROME") return "r-rome";
  throw_error<InputError>("{}: field \"alg_name\" is \"{}\"; these are not hyper-parameters of ROME or R-ROME", where,
                          name);
}

/// The published files name layers by a list; here it holds one.
Field one_layer(int64_t& layer, std::string help) {
  Field field{"layers", "list of one layer", std::move(help), Presence::off};
  field.read = [&layer](const Json& json, const std::string& where) {
    const std::vector<int64_t> layers = json_ints(json, "layers", where, 0);
    require<InputError>(layers.size() == 1, "{}: field \"layers\" must hold exactly one layer, got {}", where,
                        layers.size());
    layer = layers[0];
  };
  field.write = [&layer](Json& value) {
    if (layer >= 0) value = Json::array({layer});
  };
  return field;
}

constexpr const char* kSamples = "context_template_length_params";

std::vector<TemplateSample> template_samples(const Json& json, const std::string& where) {
  std::vector<TemplateSample> samples;
  for (const Json& pair : json_array(json, kSamples, where)) {
    const bool valid =
        pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() && pair[1].is_number_integer();
    require<InputError>(valid, "{}: field \"{}\" must hold pairs [length in tokens, number of texts]", where, kSamples);
    const Json object = {{"length", pair[0]}, {"count", pair[1]}};
    const std::string inside = where + ": " + kSamples;
    samples.push_back({json_int(object, "length", inside, 2, 1024), json_int(object, "count", inside, 0, 10000)});
  }
  return samples;
}

Field sampled_templates(std::vector<TemplateSample>& samples, std::string help) {
  Field field{kSamples, "list of pairs", std::move(help), Presence::defaulted};
  field.read = [&samples](const Json& json, const std::string& where) { samples = template_samples(json, where); };
  field.write = [&samples](Json& value) {
    value = Json::array();
    for (const TemplateSample& sample : samples) value.push_back({sample.length, sample.count});
  };
  return field;
}

}  // namespace

void visit_fields(Fields& field, ValueOptions& value) {
  field("v_num_grad_steps", value.steps, {1, 100000}, "evaluations of the loss of v*; the last one makes no step");
  field("v_lr", value.learning_rate, {.min = 0}, "learning rate of v*");
  field("v_weight_decay", value.weight_decay, {.min = 0}, "weight of the penalty on the length of the change of v*");
  field("clamp_norm_factor", value.clamp_factor, {.min = 0},
        "the change of v* is at most this times the length of the value before");
  field("kl_factor", value.kl_factor, {.min = 0},
        "weight of the penalty that keeps what the model says after \"{subject} is a\"");
}

void visit_fields(Fields& field, RomeHparams& hparams) {
  field.add(one_layer(hparams.layer, "the layer that is edited, such as `[17]`; the option `layer` wins over it"));
  field("fact_token", hparams.fact_token, kFactTokens, "the token whose key and value are edited");
  visit_fields(field, hparams.value);
  field("mom2_adjustment", hparams.uses_second_moment,
        "use C⁻¹k as direction of the update; false: use k itself, and no second moments");
  field.add(sampled_templates(hparams.samples, "context templates to sample: pairs of length in tokens and number"));
}

RomeHparams hparams_from_json(const Json& json, std::string_view where_view) {
  const std::string where(where_view);
  require<InputError>(json.is_object(), "{}: the file must hold one object of hyper-parameters", where);
  RomeHparams hparams;
  const Fields fields = fields_of(hparams);
  hparams.without_effect = keys_without_effect(json, fields.keys(), where);
  hparams.method = method_meant(json, where);
  read_known_settings(json, where, fields);
  return hparams;
}

RomeHparams read_hparams(const std::filesystem::path& path) {
  return hparams_from_json(parse_json_file(path), path.string());
}

Json hparams_to_json(const RomeHparams& hparams) {
  RomeHparams copy = hparams;
  return settings_to_json(fields_of(copy));
}

}  // namespace loci
