#include "edit/hparams.h"

#include <array>
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

constexpr std::array<std::string_view, 10> kWithoutEffect = {
    "v_loss_layer",     "mom2_dataset",   "mom2_n_samples",  "mom2_dtype",  "rewrite_module_tmp",
    "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module"};

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
  refuse_unknown_keys(json,
                      {"layers", "fact_token", "v_num_grad_steps", "v_lr", "v_weight_decay", "clamp_norm_factor",
                       "kl_factor", "mom2_adjustment", "context_template_length_params", "v_loss_layer", "mom2_dataset",
                       "mom2_n_samples", "mom2_dtype", "rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp",
                       "attn_module_tmp", "ln_f_module", "lm_head_module"},
                      where);
  RomeHparams made;
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
