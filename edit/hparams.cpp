#include "edit/hparams.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <numeric>
#include <string>

#include "runtime/error.h"

namespace loci {
namespace {

constexpr std::array<std::pair<FactToken, std::string_view>, 4> kFactTokens = {{
    {FactToken::subject_first, "subject_first"},
    {FactToken::subject_last, "subject_last"},
    {FactToken::subject_first_after_last, "subject_first_after_last"},
    {FactToken::last, "last"},
}};

constexpr std::array<std::string_view, 9> kWithEffect = {
    "layers",    "fact_token",      "v_num_grad_steps",
    "v_lr",      "v_weight_decay",  "clamp_norm_factor",
    "kl_factor", "mom2_adjustment", "context_template_length_params"};

/// What other flags give here, or what the published code does not use either. The second part is EasyEdit's.
constexpr std::array<std::string_view, 16> kWithoutEffect = {
    "v_loss_layer",   "mom2_dataset",    "mom2_n_samples", "mom2_dtype",     "rewrite_module_tmp", "layer_module_tmp",
    "mlp_module_tmp", "attn_module_tmp", "ln_f_module",    "lm_head_module", "model_name",         "stats_dir",
    "device",         "batch_size",      "max_length",     "model_parallel"};

/// They say which method is meant.
constexpr std::array<std::string_view, 4> kMethodKeys = {"alg_name", "original_implementation",
                                                         "enable_random_prefix_keys", "enable_prompt_keys"};

bool is_known(std::string_view key) {
  const auto holds = [&](const auto& keys) { return std::ranges::find(keys, key) != keys.end(); };
  return holds(kWithEffect) || holds(kWithoutEffect) || holds(kMethodKeys);
}

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

/// Letters to change, add or leave out to make one word of the other.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

/// An unknown key is passed over where it is switched off. One that looks like a known key is a slip: its value is
/// meant to count.
void check_unknown_key(std::string_view key, const Json& value, std::string_view where) {
  for (const std::string_view known : kWithEffect)
    require<InputError>(distance(key, known) > 2, "{}: field \"{}\" is unknown; did you mean \"{}\"?", where, key,
                        known);
  require<InputError>(is_off(value),
                      "{}: field \"{}\" is unknown and not switched off ({}); loci would not do what it asks for, so "
                      "remove it or set it to false",
                      where, key, value.dump().substr(0, 80));
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

int64_t only_layer(const Json& json, std::string_view where) {
  const std::vector<int64_t> layers = json_ints(json, "layers", where, 0);
  require<InputError>(layers.size() == 1, "{}: field \"layers\" must hold exactly one layer, got {}", where,
                      layers.size());
  return layers[0];
}

std::vector<TemplateSample> template_samples(const Json& json, std::string_view where) {
  constexpr std::string_view kKey = "context_template_length_params";
  std::vector<TemplateSample> samples;
  for (const Json& pair : json_array(json, kKey, where)) {
    const bool valid =
        pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() && pair[1].is_number_integer();
    require<InputError>(valid, "{}: field \"{}\" must hold pairs [length in tokens, number of texts]", where, kKey);
    const Json object = {{"length", pair[0]}, {"count", pair[1]}};
    const std::string inside = std::string(where) + ": " + std::string(kKey);
    samples.push_back({json_int(object, "length", inside, 2, 1024), json_int(object, "count", inside, 0, 10000)});
  }
  return samples;
}

}  // namespace

FactToken fact_token_from_name(std::string_view name, std::string_view where) {
  for (const auto& [token, text] : kFactTokens)
    if (text == name) return token;
  throw_error<InputError>(
      "{}: field \"fact_token\" is \"{}\"; use subject_last, subject_first, subject_first_after_last or last", where,
      name);
}

std::string_view fact_token_name(FactToken token) {
  for (const auto& [known, text] : kFactTokens)
    if (known == token) return text;
  return "";
}

RomeHparams hparams_from_json(const Json& json, std::string_view where) {
  require<InputError>(json.is_object(), "{}: the file must hold one object of hyper-parameters", where);
  RomeHparams made;
  for (const auto& [key, value] : json.items()) {
    if (!is_known(key)) check_unknown_key(std::string_view(key).substr(0, 80), value, where);
  }
  made.method = method_meant(json, where);
  if (json_has(json, "layers")) made.layer = only_layer(json, where);
  made.fact_token =
      fact_token_from_name(json_string_or(json, "fact_token", fact_token_name(made.fact_token), where), where);
  ValueOptions& value = made.value;
  value.steps = json_int_or(json, "v_num_grad_steps", value.steps, where, 1, 100000);
  value.learning_rate = json_number_or(json, "v_lr", value.learning_rate, where, 0);
  value.weight_decay = json_number_or(json, "v_weight_decay", value.weight_decay, where, 0);
  value.clamp_factor = json_number_or(json, "clamp_norm_factor", value.clamp_factor, where, 0);
  value.kl_factor = json_number_or(json, "kl_factor", value.kl_factor, where, 0);
  made.uses_second_moment = json_bool_or(json, "mom2_adjustment", made.uses_second_moment, where);
  if (json_has(json, "context_template_length_params")) made.samples = template_samples(json, where);
  for (const std::string_view key : kWithoutEffect)
    if (json.contains(std::string(key))) made.without_effect.emplace_back(key);
  for (const auto& [key, setting] : json.items())
    if (!is_known(key)) made.without_effect.push_back(key);
  return made;
}

RomeHparams read_hparams(const std::filesystem::path& path) {
  return hparams_from_json(parse_json_file(path), path.string());
}

Json hparams_to_json(const RomeHparams& hparams) {
  Json samples = Json::array();
  for (const TemplateSample& sample : hparams.samples) samples.push_back({sample.length, sample.count});
  return {{"layers", {hparams.layer}},
          {"fact_token", fact_token_name(hparams.fact_token)},
          {"v_num_grad_steps", hparams.value.steps},
          {"v_lr", hparams.value.learning_rate},
          {"v_weight_decay", hparams.value.weight_decay},
          {"clamp_norm_factor", hparams.value.clamp_factor},
          {"kl_factor", hparams.value.kl_factor},
          {"mom2_adjustment", hparams.uses_second_moment},
          {"context_template_length_params", std::move(samples)}};
}

}  // namespace loci
