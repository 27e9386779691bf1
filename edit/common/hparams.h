#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edit/common/prompts.h"
#include "edit/common/value_optimizer.h"
#include "runtime/json_fwd.h"
#include "runtime/named_value.h"

/// What the hyper-parameter files of all methods have in common.
namespace loci {

inline constexpr NamedValues<FactToken, 4> kFactTokenNames = {{
    {"subject_last", FactToken::subject_last},
    {"subject_first", FactToken::subject_first},
    {"subject_first_after_last", FactToken::subject_first_after_last},
    {"last", FactToken::last},
}};

class Fields;  // runtime/io/settings.h
struct SettingRow;

/// What help says of a method's hyper-parameters; those `required` have no default.
std::vector<SettingRow> hparam_rows(const Fields& fields,
                                    std::initializer_list<std::string_view> required = {"layers"});

/// The keys of a file that change nothing here, those known first: what other options give, what the published code
/// does not use either, EasyEdit's own, `also_without`, and unknown keys that are switched off (false, null, 0, "none",
/// empty). Throws InputError "{where}: ..." for an unknown key with a value, or one that looks like a known key.
std::vector<std::string> keys_without_effect(const Json& json, const std::vector<std::string>& with_effect,
                                             std::span<const std::string_view> also_without, std::string_view where);

/// The object of a file of hyper-parameters, an empty one where `path` is empty. Those of its keys that have no effect
/// are told, after `check` has looked at the object. Throws InputError for a file that holds no object, and as `check`
/// and keys_without_effect() do.
Json read_hparams_json(const std::string& path, const std::vector<std::string>& with_effect,
                       std::span<const std::string_view> also_without,
                       const std::function<void(const Json&)>& check = {});

/// Throws InputError where the file asks for another module to be edited ("rewrite_module_tmp") than the MLP's down
/// projection: loci would edit that one all the same.
void require_down_projection(const Json& json, const Architecture& architecture, std::string_view where);
/// The same for a module by its name, with {} for the layer.
void require_down_projection(std::string_view key, std::string_view module, const Architecture& architecture,
                             std::string_view where);

}  // namespace loci
