#include "model/architecture.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace loci {
namespace {

void check_range(int64_t value, std::string_view name, int64_t max, std::string_view where) {
  require<InputError>(value >= 1 && value <= max, "{}: {} is {}, it must lie between 1 and {}", where, name, value,
                      max);
}

/// Rows and columns of y = x W, or of a table.
std::pair<int64_t, int64_t> extents_of(Role role, const Architecture& a) {
  switch (role) {
    case Role::token_embedding:
    case Role::unembedding:
      return {a.vocabulary, a.width};
    case Role::position_embedding:
      return {a.positions, a.width};
    case Role::qkv_weight:
      return {a.width, a.qkv_width()};
    case Role::qkv_bias:
      return {1, a.qkv_width()};
    case Role::q_norm_gain:
    case Role::k_norm_gain:
      return {1, a.head_width};
    case Role::out_weight:
      return {a.query_width(), a.width};
    case Role::gate_weight:
    case Role::up_weight:
      return {a.width, a.mlp_width};
    case Role::gate_bias:
    case Role::up_bias:
      return {1, a.mlp_width};
    case Role::down_weight:
      return {a.mlp_width, a.width};
    case Role::unembedding_bias:
      return {1, a.vocabulary};
    default:
      return {1, a.width};
  }
}

std::string name_at(const ParameterRule& rule, int64_t layer) { return fmt::format(fmt::runtime(rule.name), layer); }

Parameter make_parameter(const ParameterRule& rule, const Architecture& architecture, int64_t layer) {
  const auto [rows, cols] = extents_of(rule.role, architecture);
  std::vector<int64_t> shape = {rows, cols};
  const RoleKind kind = kind_of(rule.role);
  if (kind == RoleKind::matrix && rule.stored == Orientation::out_in) std::swap(shape[0], shape[1]);
  if (kind == RoleKind::gain || kind == RoleKind::bias) shape = {cols};
  return {{name_at(rule, layer), DType::f32, std::move(shape)}, rule.role, layer, rule.stored, rule.packing};
}

bool is_present(const ParameterRule& rule, const Architecture& architecture) {
  return !rule.present || rule.present(architecture);
}

const ParameterRule& rule_of(const Architecture& architecture, Role role) {
  const std::span<const ParameterRule> rules = architecture.family->parameters;
  const auto rule = std::ranges::find(rules, role, &ParameterRule::role);
  require<ShapeError>(rule != rules.end() && is_present(*rule, architecture), "{} has no parameter for role {}",
                      architecture.family->title, static_cast<int>(role));
  return *rule;
}

}  // namespace

RoleKind kind_of(Role role) {
  switch (role) {
    case Role::token_embedding:
    case Role::position_embedding:
    case Role::unembedding:
      return RoleKind::table;
    case Role::qkv_weight:
    case Role::out_weight:
    case Role::gate_weight:
    case Role::up_weight:
    case Role::down_weight:
      return RoleKind::matrix;
    case Role::q_norm_gain:
    case Role::k_norm_gain:
    case Role::norm_1_gain:
    case Role::norm_2_gain:
    case Role::final_norm_gain:
      return RoleKind::gain;
    default:
      return RoleKind::bias;
  }
}

void Architecture::set_equal_heads(int64_t count) {
  heads = key_heads = count;
  head_width = count > 0 ? width / count : 0;
}

double Architecture::attention_factor(int64_t layer) const {
  double factor = 1.0;
  if (attention_scale == AttentionScale::by_head_width) factor /= std::sqrt(static_cast<double>(head_width));
  if (layer_scale == LayerScale::by_inverse_index) factor /= static_cast<double>(layer + 1);
  return factor;
}

int64_t Architecture::parameter_count() const {
  int64_t count = 0;
  for (const ParameterRule& rule : family->parameters) {
    if (!is_present(rule, *this)) continue;
    const auto [rows, cols] = extents_of(rule.role, *this);
    count += rows * cols * (in_block(rule.role) ? layers : 1);
  }
  return count;
}

void Architecture::check(std::string_view where) const {
  require<ShapeError>(family != nullptr, "{}: belongs to no family", where);
  check_range(layers, "the number of layers", kMaxLayers, where);
  check_range(width, "the width", kMaxWidth, where);
  check_range(heads, "the number of heads", kMaxWidth, where);
  check_range(key_heads, "the number of key heads", heads, where);
  check_range(head_width, "the width of a head", kMaxWidth, where);
  check_range(positions, "the number of positions", kMaxPositions, where);
  check_range(vocabulary, "the vocabulary", kMaxVocabulary, where);
  check_range(mlp_width, "the width of the MLP", kMaxMlpWidth, where);
  check_range(query_width(), "the width of all heads", kMaxWidth, where);
  require<InputError>(heads % key_heads == 0, "{}: {} key heads do not divide {} heads", where, key_heads, heads);
  require<InputError>(!rotary || (rotary->width > 0 && rotary->width % 2 == 0 && rotary->width <= head_width),
                      "{}: {} entries of each head are turned, it must be an even number up to the head's width {}",
                      where, rotary ? rotary->width : 0, head_width);
  require<InputError>(epsilon > 0 && epsilon <= 1, "{}: epsilon is {}, it must lie above 0 and not above 1", where,
                      epsilon);
  const auto check_token = [&](int64_t token) {
    require<InputError>(token >= -1 && token < vocabulary, "{}: the token {} lies outside the vocabulary of {}", where,
                        token, vocabulary);
  };
  check_token(bos_token);
  std::ranges::for_each(eos_tokens, check_token);
}

std::vector<Parameter> parameters_of(const Architecture& architecture) {
  const std::span<const ParameterRule> rules = architecture.family->parameters;
  const auto first = std::ranges::find_if(rules, in_block, &ParameterRule::role);
  const auto last = std::find_if_not(first, rules.end(), [](const ParameterRule& rule) { return in_block(rule.role); });
  std::vector<Parameter> list;
  const auto add = [&](auto begin, auto end, int64_t layer) {
    for (; begin != end; ++begin)
      if (is_present(*begin, architecture)) list.push_back(make_parameter(*begin, architecture, layer));
  };
  add(rules.begin(), first, 0);
  for (int64_t layer = 0; layer < architecture.layers; ++layer) add(first, last, layer);
  add(last, rules.end(), 0);
  return list;
}

Parameter parameter_at(const Architecture& architecture, WeightId weight) {
  return make_parameter(rule_of(architecture, weight.role), architecture, weight.layer);
}

std::string parameter_name(const Architecture& architecture, Role role, int64_t layer) {
  return name_at(rule_of(architecture, role), layer);
}

std::string published_name(const Architecture& architecture, Role role, int64_t layer) {
  return published_name(architecture, role, parameter_name(architecture, role, layer));
}

std::string published_name(const Architecture& architecture, Role role, std::string_view canonical) {
  const bool of_head = role == Role::unembedding || role == Role::unembedding_bias;
  return of_head ? std::string(canonical) : fmt::format("{}{}", architecture.family->body, canonical);
}

std::string published_module(const Architecture& architecture, Role role, int64_t layer) {
  const std::string name = published_name(architecture, role, layer);
  return name.substr(0, name.rfind('.'));
}

std::optional<WeightId> weight_named(const Architecture& architecture, std::string_view name) {
  if (name.starts_with(architecture.family->body)) name.remove_prefix(architecture.family->body.size());
  for (const Parameter& parameter : parameters_of(architecture))
    if (parameter.name == name && in_block(parameter.role) && kind_of(parameter.role) != RoleKind::gain)
      return WeightId{parameter.role, parameter.layer};
  return std::nullopt;
}

}  // namespace loci
