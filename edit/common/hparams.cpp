#include "edit/common/hparams.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/io/settings.h"
#include "runtime/wording.h"

namespace loci {
namespace {

/// What other options give here, or what the published code does not use either. The second part is EasyEdit's.
constexpr std::array<std::string_view, 15> kPassedOver = {
    "mom2_dataset",   "mom2_n_samples",  "mom2_dtype",  "rewrite_module_tmp", "layer_module_tmp",
    "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module",     "model_name",
    "stats_dir",      "device",          "batch_size",  "max_length",         "model_parallel"};

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

}  // namespace

std::vector<SettingRow> hparam_rows(const Fields& fields, std::initializer_list<std::string_view> required) {
  std::vector<SettingRow> rows = setting_rows(fields);
  for (SettingRow& row : rows)
    if (std::ranges::find(required, row.key) != required.end())
      row.default_value = row.key == "layers" ? fmt::format("required, or {}", option("layer")) : "required";
  return rows;
}

/// The keys of a file that change nothing, those known first.
std::vector<std::string> keys_without_effect(const Json& json, const std::vector<std::string>& with_effect,
                                             std::span<const std::string_view> also_without, std::string_view where) {
  const auto holds = [](const auto& keys, std::string_view key) { return std::ranges::find(keys, key) != keys.end(); };
  std::vector<std::string> keys;
  for (const auto& list : {also_without, std::span<const std::string_view>(kPassedOver)})
    for (const std::string_view key : list)
      if (json.contains(std::string(key)) && !holds(with_effect, key)) keys.emplace_back(key);
  for (const auto& [key, value] : json.items()) {
    if (holds(with_effect, key) || holds(kPassedOver, key) || holds(also_without, key) || holds(kMethodKeys, key))
      continue;
    check_unknown_key(std::string_view(key).substr(0, 80), value, with_effect, where);
    keys.push_back(key);
  }
  return keys;
}

void require_down_projection(std::string_view key, std::string_view module, const Architecture& architecture,
                             std::string_view where) {
  std::string name(module);
  if (const size_t mark = name.find("{}"); mark != std::string::npos) name.replace(mark, 2, "0");
  const std::optional<WeightId> named = weight_named(architecture, name + ".weight");
  require<InputError>(named.has_value() && named->role == Role::down_weight,
                      "{}: field \"{}\" is \"{}\", but loci edits the MLP's down projection, {}", where, key, module,
                      published_module(architecture, Role::down_weight, 0));
}

void require_down_projection(const Json& json, const Architecture& architecture, std::string_view where) {
  constexpr std::string_view kKey = "rewrite_module_tmp";
  if (!json_has(json, kKey)) return;
  require_down_projection(kKey, json_string(json, kKey, where), architecture, where);
}

Json read_hparams_json(const std::string& path, const std::vector<std::string>& with_effect,
                       std::span<const std::string_view> also_without, const std::function<void(const Json&)>& check) {
  if (path.empty()) return Json::object();
  Json json = parse_json_file(path);
  require<InputError>(json.is_object(), "{}: the file must hold one object of hyper-parameters", path);
  if (check) check(json);
  const std::vector<std::string> without = keys_without_effect(json, with_effect, also_without, path);
  if (!without.empty()) spdlog::info("{}: without effect here: {}", path, fmt::join(without, ", "));
  return json;
}

void visit_fields(Fields& field, ValueOptions& value) {
  field("v_num_grad_steps", value.steps, {1, 100000}, "evaluations of the loss of v*; the last one makes no step");
  field("v_lr", value.learning_rate, {.min = 0}, "learning rate of v*");
  field("v_weight_decay", value.weight_decay, {.min = 0}, "weight of the penalty on the length of the change of v*");
  field("clamp_norm_factor", value.clamp_factor, {.min = 0},
        "the change of v* is at most this times the length of the value before");
  field("kl_factor", value.kl_factor, {.min = 0},
        "weight of the penalty that keeps what the model says after \"{subject} is a\"");
}

}  // namespace loci
