#include "app/option.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "runtime/io/json.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

std::string upper(std::string text) {
  for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return text;
}

/// "a number from 1 to 100"
std::string wanted(const Option& option, std::string_view kind) {
  std::string text = fmt::format("must be a {}", kind);
  if (option.above_min) return text + fmt::format(" above {}", option.min);
  if (std::isfinite(option.min) && std::isfinite(option.max))
    return text + fmt::format(" from {:.0f} to {:.0f}", option.min, option.max);
  if (std::isfinite(option.min)) return text + fmt::format(" of at least {}", option.min);
  return text;
}

void require_in_range(const Option& option, double value, std::string_view kind, const std::string& where) {
  const bool above = option.above_min ? value > option.min : value >= option.min;
  require<UsageError>(above && value <= option.max, "{}: {}", where, wanted(option, kind));
}

template <typename Number>
Number parse_number(const Option& option, const std::string& text, const std::string& where) {
  constexpr bool kWhole = std::is_integral_v<Number>;
  constexpr std::string_view kind = kWhole ? "whole number" : "number";
  const char* end = text.data() + text.size();
  Number value{};
  const std::from_chars_result result = std::from_chars(text.data(), end, value);
  const bool is_number = result.ptr == end && !text.empty() && result.ec != std::errc::invalid_argument;
  const bool is_negative = text.starts_with('-') && std::is_unsigned_v<Number>;
  require<UsageError>(is_number || is_negative, "{}: {}", where, wanted(option, kind));
  require<UsageError>(result.ec != std::errc::result_out_of_range,
                      "{}: the number is too large; at most {} is possible", where, std::numeric_limits<Number>::max());
  if constexpr (!kWhole) require<UsageError>(std::isfinite(value), "{}: {}", where, wanted(option, kind));
  require_in_range(option, is_negative ? -1.0 : static_cast<double>(value), kind, where);
  return value;
}

bool parse_flag(const std::string& text, const std::string& where) {
  require<UsageError>(text == "true" || text == "false", "{}: is a flag, which takes no value", where);
  return text == "true";
}

void require_choice(const Option& option, const std::string& text, const std::string& where) {
  if (option.choices.empty() || std::ranges::count(option.choices, text) > 0) return;
  throw_error<UsageError>("{}: must be {}{}", where, fmt::join(option.choices, ", "),
                          did_you_mean(text, option.choices));
}

void append(const Option& option, std::vector<std::string>& list, const std::string& text, const std::string& where) {
  std::string_view rest = text;
  while (true) {
    const size_t comma = option.commas ? rest.find(',') : rest.npos;
    const std::string item(rest.substr(0, comma));
    require<UsageError>(!option.not_empty || !item.empty(), "{}: the name is empty", where);
    require_choice(option, item, where);
    list.push_back(item);
    if (comma == rest.npos) return;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace

Group Option::heading() const {
  if (group) return *group;
  if (role == Role::input) return Group::input;
  if (role == Role::output) return Group::output;
  return role == Role::no_effect ? Group::general : Group::method;
}

std::string Option::flag() const { return positional ? upper(name) : "--" + name; }

std::string Option::value_name() const {
  if (is_flag() || !type.empty()) return type;
  return fmt::format("{}", fmt::join(choices, commas ? "," : "|"));
}

void Option::set(const std::string& text, const std::string& where) {
  const auto assign = [&](auto* target) {
    using Target = std::remove_pointer_t<decltype(target)>;
    if constexpr (std::is_same_v<Target, bool>) {
      *target = parse_flag(text, where);
    } else if constexpr (std::is_same_v<Target, std::string>) {
      require<UsageError>(!not_empty || !text.empty(), "{}: the name is empty", where);
      require_choice(*this, text, where);
      *target = text;
    } else if constexpr (std::is_same_v<Target, std::vector<std::string>>) {
      if (!given) target->clear();
      append(*this, *target, text, where);
    } else {
      *target = parse_number<Target>(*this, text, where);
    }
  };
  std::visit(assign, value);
  given = true;
}

std::vector<std::string> Option::texts() const {
  if (is_list()) return *std::get<std::vector<std::string>*>(value);
  return {*std::get<std::string*>(value)};
}

std::optional<Json> Option::json() const {
  if (!given && !default_text.empty()) return std::nullopt;
  return std::visit(
      [&](const auto* target) -> std::optional<Json> {
        if constexpr (requires { target->empty(); })
          if (!given && target->empty()) return std::nullopt;
        return Json(*target);
      },
      value);
}

}  // namespace loci::app
