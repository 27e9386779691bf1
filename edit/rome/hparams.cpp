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

/// What every method passes over, and which layer the loss is read at: the reference's ROME has it as a constant.
constexpr std::array<std::string_view, 1> kRomeWithoutEffect = {"v_loss_layer"};

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

void visit_fields(Fields& field, RomeHparams& hparams) {
  field.add(one_layer(hparams.layer, "the layer that is edited, such as `[17]`; the option `layer` wins over it"));
  field("fact_token", hparams.fact_token, kFactTokenNames, "the token whose key and value are edited");
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
  hparams.without_effect = keys_without_effect(json, fields.keys(), kRomeWithoutEffect, where);
  hparams.method = method_meant(json, where);
  hparams.module = json_string_or(json, "rewrite_module_tmp", "", where);
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
