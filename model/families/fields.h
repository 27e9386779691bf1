#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"

/// Fields of config.json that several families have. Not for other folders. All throw InputError naming `where` and the
/// field.
namespace loci {

/// Refuses fields that change what a model computes and that no family here honours, each by name; `notes`, where they
/// are wanted, get a sentence for each field that is neither in `known` nor one that concerns training, caches or types
/// alone.
void check_fields(const Json& json, std::span<const std::string_view> known, std::string_view where,
                  std::vector<std::string>* notes);

Activation activation_field(const Json& json, std::string_view name, std::string_view fallback, std::string_view where);
double epsilon_field(const Json& json, std::string_view name, double fallback, std::string_view where);
/// `bos_token_id` and `eos_token_id`, within the vocabulary.
void token_fields(Architecture& architecture, const Json& json, std::string_view where);
void write_token_fields(Json& json, const Architecture& architecture);

/// Rotation by halves with the base and scaling of `rope_parameters`, or of `base_name` and `rope_scaling`, and a share
/// of each head turned: `share_name`, or `partial_rotary_factor`. Needs the architecture's head width and positions.
Rotary rotary_fields(const Architecture& architecture, const Json& json, std::string_view base_name,
                     std::string_view share_name, double default_share, std::string_view where,
                     std::vector<std::string>* notes);
/// The object for `rope_scaling`; null where nothing is scaled.
Json rotary_scaling_json(const Rotary& rotary);

}  // namespace loci
