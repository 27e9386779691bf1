#include "runtime/io/settings.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "runtime/io/json.h"

namespace loci {
namespace {

/// A number of the range that JSON's functions take.
template <typename Number>
Number limit(double value) {
  constexpr Number kLeast = std::numeric_limits<Number>::lowest(), kMost = std::numeric_limits<Number>::max();
  if (value >= static_cast<double>(kMost)) return kMost;
  return value <= static_cast<double>(kLeast) ? kLeast : static_cast<Number>(value);
}

/// "integer from 1 to 100"
std::string range_text(std::string_view kind, Range range) {
  std::string text(kind);
  if (std::isfinite(range.min)) text += fmt::format(" from {}", range.min);
  if (range.max < static_cast<double>(kNoLimit)) text += fmt::format(" to {}", range.max);
  return text;
}

/// "fp32, fp16 or bf16"
std::string one_of(const std::vector<std::string>& names) {
  const auto last = names.end() - 1;
  return fmt::format("{}{}{}", fmt::join(names.begin(), last, ", "), names.size() > 1 ? " or " : "", *last);
}

bool is_none(const Json& value) {
  return value.is_null() || value == 0 || value == "" || (value.is_array() && value.empty());
}

std::string default_of(const Field& field, const std::vector<SettingRow>& inner) {
  if (field.presence == Presence::required) return "required";
  Json value;
  field.write(value);
  if (field.presence == Presence::off && is_none(value)) return "none";
  if (!value.is_object()) return fmt::format("`{}`", value.dump());
  const bool needs_more =
      std::ranges::any_of(inner, [](const SettingRow& row) { return row.default_value == "required"; });
  return needs_more ? "none" : "below";
}

/// A field whose value `read` takes from JSON.
template <typename T, typename Read>
Field plain(std::string key, std::string values, std::string help, Presence presence, T& value, Read read) {
  Field field{std::move(key), std::move(values), std::move(help), presence};
  field.read = [&value, read, name = field.key](const Json& object, const std::string& where) {
    value = read(object, name, where);
  };
  if constexpr (std::is_constructible_v<Json, T>) field.write = [&value](Json& written) { written = value; };
  return field;
}

/// Markdown takes a bar for the end of a cell.
std::string cell(std::string_view text) {
  std::string made;
  for (const char c : text) made += c == '|' ? std::string("\\|") : std::string(1, c);
  return made;
}

}  // namespace

void Fields::operator()(std::string key, int64_t& value, Range range, std::string help, Presence presence) {
  add(plain(std::move(key), range_text("integer", range), std::move(help), presence, value,
            [range](const Json& object, const std::string& name, const std::string& where) {
              return json_int(object, name, where, limit<int64_t>(range.min), limit<int64_t>(range.max));
            }));
}

void Fields::operator()(std::string key, uint64_t& value, std::string help, Presence presence) {
  add(plain(std::move(key), range_text("integer", {.min = 0}), std::move(help), presence, value,
            [](const Json& object, const std::string& name, const std::string& where) {
              return static_cast<uint64_t>(json_int(object, name, where, 0));
            }));
}

void Fields::operator()(std::string key, double& value, Range range, std::string help, Presence presence) {
  add(plain(std::move(key), range_text("number", range), std::move(help), presence, value,
            [range](const Json& object, const std::string& name, const std::string& where) {
              return json_number(object, name, where, limit<double>(range.min), limit<double>(range.max));
            }));
}

void Fields::operator()(std::string key, bool& value, std::string help, Presence presence) {
  add(plain(std::move(key), "true or false", std::move(help), presence, value, json_bool));
}

void Fields::operator()(std::string key, std::string& value, std::string help, Presence presence) {
  add(plain(std::move(key), "text", std::move(help), presence, value, json_string));
}

void Fields::operator()(std::string key, std::filesystem::path& value, std::string help, Presence presence) {
  Field field = plain(std::move(key), "path", std::move(help), presence, value, json_string);
  field.write = [&value](Json& written) { written = value.string(); };
  add(std::move(field));
}

void Fields::operator()(std::string key, std::vector<std::filesystem::path>& value, std::string help,
                        Presence presence) {
  const auto read = [](const Json& object, const std::string& name, const std::string& where) {
    if (json_field(object, name, where).is_string())
      return std::vector<std::filesystem::path>{json_string(object, name, where)};
    const std::vector<std::string> texts = json_strings(object, name, where);
    return std::vector<std::filesystem::path>(texts.begin(), texts.end());
  };
  Field field = plain(std::move(key), "path or list of paths", std::move(help), presence, value, read);
  field.write = [&value](Json& written) {
    written = Json::array();
    for (const auto& path : value) written.push_back(path.string());
  };
  add(std::move(field));
}

void Fields::add_choice(std::string key, std::vector<std::string> names, std::function<bool(std::string_view)> set,
                        std::function<std::string_view()> get, std::string help, Presence presence) {
  Field field{std::move(key), one_of(names), std::move(help), presence};
  field.read = [set = std::move(set), name = field.key, names = field.values](const Json& object,
                                                                              const std::string& where) {
    const std::string given = json_string(object, name, where);
    require<InputError>(set(given), "{}: field \"{}\" is \"{}\"; use {}", where, name, given.substr(0, 80), names);
  };
  field.write = [get = std::move(get)](Json& written) { written = get(); };
  add(std::move(field));
}

void Fields::add_structs(std::string key, Shape shape, std::string help, Presence presence, Inner inner) {
  const bool one = shape == Shape::object;
  Field field{std::move(key), one ? "object" : "object or list of objects", std::move(help), presence};
  field.read = [one, make = std::move(inner.make), name = field.key](const Json& object, const std::string& where) {
    const std::string inside = fmt::format("{}: field \"{}\"", where, name);
    if (one || json_field(object, name, where).is_object())
      return read_settings(json_object(object, name, where), inside, make(1)[0]);
    const Json& list = json_array(object, name, where);
    const std::vector<Fields> items = make(list.size());
    for (size_t i = 0; i < items.size(); ++i) read_settings(list[i], inside, items[i]);
  };
  field.write = [one, present = std::move(inner.present)](Json& written) {
    if (!one) written = Json::array();
    for (const Fields& item : present()) {
      if (one)
        written = settings_to_json(item);
      else
        written.push_back(settings_to_json(item));
    }
  };
  field.inner = std::move(inner.rows);
  add(std::move(field));
}

std::vector<std::string> Fields::keys() const {
  std::vector<std::string> keys;
  for (const Field& field : all_) keys.push_back(field.key);
  return keys;
}

void read_known_settings(const Json& object, const std::string& where, const Fields& fields) {
  for (const Field& field : fields.all()) {
    if (json_has(object, field.key)) {
      field.read(object, where);
    } else if (field.presence == Presence::required) {
      throw_error<InputError>("{}: field \"{}\" is missing: {}", where, field.key, field.help);
    }
  }
}

void read_settings(const Json& object, const std::string& where, const Fields& fields) {
  refuse_unknown_keys(object, fields.keys(), where);
  read_known_settings(object, where, fields);
}

Json settings_to_json(const Fields& fields) {
  Json object = Json::object();
  for (const Field& field : fields.all()) {
    Json value;
    field.write(value);
    if (field.presence != Presence::off || !is_none(value)) object[field.key] = std::move(value);
  }
  return object;
}

std::vector<SettingRow> setting_rows(const Fields& fields) {
  std::vector<SettingRow> rows;
  for (const Field& field : fields.all()) {
    const std::vector<SettingRow> inner = field.inner ? field.inner() : std::vector<SettingRow>();
    rows.push_back({field.key, field.values, default_of(field, inner), field.help});
    for (const SettingRow& row : inner) {
      rows.push_back(row);
      rows.back().key = field.key + "." + row.key;
    }
  }
  return rows;
}

std::string settings_table(const Fields& fields) {
  std::string table = "| key | value | default | meaning |\n|---|---|---|---|\n";
  for (const SettingRow& row : setting_rows(fields))
    table += fmt::format("| `{}` | {} | {} | {} |\n", row.key, row.values, row.default_value, cell(row.help));
  return table;
}

}  // namespace loci
