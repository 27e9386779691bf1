#pragma once

#include <array>

#include "model/families/families.h"

/// A family that exists in tests alone: another norm, matrices stored as [out, in], few biases, grouped key heads. What
/// makes it is this table.
namespace loci::test {

inline constexpr std::array<ParameterRule, 12> kToyParameters = {{
    {Role::token_embedding, "tokens"},
    {Role::position_embedding, "positions"},
    {Role::norm_1_gain, "blocks.{}.before_attention"},
    {Role::qkv_weight, "blocks.{}.attention.in", Orientation::out_in},
    {Role::qkv_bias, "blocks.{}.attention.in_bias"},
    {Role::out_weight, "blocks.{}.attention.out", Orientation::out_in},
    {Role::norm_2_gain, "blocks.{}.before_mlp"},
    {Role::up_weight, "blocks.{}.mlp.up", Orientation::out_in},
    {Role::down_weight, "blocks.{}.mlp.down", Orientation::out_in},
    {Role::down_bias, "blocks.{}.mlp.down_bias"},
    {Role::final_norm_gain, "last_norm"},
    {.role = Role::unembedding, .name = "head", .present = [](const Architecture& a) { return !a.tied; }},
}};

const Family& toy_family();

inline Architecture read_toy(const Json& json, std::string_view where, std::vector<std::string>*) {
  Architecture a;
  a.family = &toy_family();
  a.norm = Norm::rms;
  a.layers = json_int(json, "layers", where);
  a.width = json_int(json, "width", where);
  a.heads = json_int(json, "heads", where);
  a.key_heads = json_int(json, "key_heads", where);
  a.head_width = json_int(json, "head_width", where);
  a.mlp_width = json_int(json, "mlp_width", where);
  a.vocabulary = json_int(json, "vocabulary", where);
  a.positions = json_int(json, "positions", where);
  a.tied = json_bool_or(json, "tied", true, where);
  return a;
}

inline Json write_toy(const Architecture& a) {
  return {{"model_type", "toy"},      {"layers", a.layers},
          {"width", a.width},         {"heads", a.heads},
          {"key_heads", a.key_heads}, {"head_width", a.head_width},
          {"mlp_width", a.mlp_width}, {"vocabulary", a.vocabulary},
          {"positions", a.positions}, {"tied", a.tied}};
}

inline const Family& toy_family() {
  static constexpr Family kToy = {.model_type = "toy",
                                  .title = "Toy",
                                  .body = "body.",
                                  .read = read_toy,
                                  .write = write_toy,
                                  .is_buffer = [](std::string_view) { return false; },
                                  .parameters = kToyParameters};
  [[maybe_unused]] static const bool known = [] { return add_family(kToy), true; }();
  return kToy;
}

/// Of odd shape: the heads together are narrower than the residual stream, and pairs of them share keys.
inline Architecture toy_config(int64_t layers = 3) {
  Architecture a;
  a.family = &toy_family();
  a.norm = Norm::rms;
  a.layers = layers;
  a.width = 23;
  a.heads = 4;
  a.key_heads = 2;
  a.head_width = 5;
  a.mlp_width = 37;
  a.vocabulary = 61;
  a.positions = 24;
  return a;
}

}  // namespace loci::test
