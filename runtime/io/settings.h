#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/json_fwd.h"
#include "runtime/named_value.h"

/// A settings struct (a training configuration, the hyper-parameters of a method) says once which fields it has:
///
///     void visit_fields(Fields& field, ValueOptions& options) {
///       field("v_num_grad_steps", options.steps, {1, 100000}, "evaluations of the loss; the last one makes no step");
///       field("v_lr", options.learning_rate, {.min = 0}, "learning rate of Adam");
///     }
///
/// Reading the struct from JSON, writing it, the refusal of unknown keys and the table in the documentation follow from
/// there. `visit_fields` is found by the struct's namespace.
namespace loci {

/// Numbers from min to max, both included.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

/// A limit that only catches slips: it is as good as none.
inline constexpr int64_t kNoLimit = int64_t{1} << 40;

enum class Presence {
  required,   ///< the key must be given
  defaulted,  ///< where it is not given, the member keeps its value, which is written
  off,        ///< likewise, but the value stands for "none" (0, empty) and is not written
};

/// One line of the table of settings. Fields of an inner struct have names with dots: "sequences.max_tokens".
struct SettingRow {
  std::string key;
  std::string values;         ///< what may be given: "integer from 1"
  std::string default_value;  ///< "`0.5`" as in JSON, "required", "none"; "below": those of the inner fields
  std::string help;
};

/// A field of a settings struct that is bound to its member.
struct Field {
  std::string key;
  std::string values;
  std::string help;
  Presence presence;
  /// Takes the value of the key, which is there and not null. Throws InputError "{where}: field "{key}" ...".
  std::function<void(const Json& object, const std::string& where)> read = {};
  std::function<void(Json& value)> write = {};
  std::function<std::vector<SettingRow>()> inner = {};  ///< of a struct's own fields
};

class Fields;

template <typename T>
concept SettingsStruct = requires(Fields& fields, T& settings) {
  visit_fields(fields, settings);
};

template <SettingsStruct T>
Fields fields_of(T& settings);

/// The fields of a settings struct, in the order in which it names them. They must not outlive the struct.
class Fields {
 public:
  // A number, which must lie in the range; a bool; a text; a path, or several (in JSON one text or a list).
  void operator()(std::string key, int64_t& value, Range range, std::string help,
                  Presence presence = Presence::defaulted);
  void operator()(std::string key, uint64_t& value, std::string help, Presence presence = Presence::defaulted);
  void operator()(std::string key, double& value, Range range, std::string help,
                  Presence presence = Presence::defaulted);
  void operator()(std::string key, bool& value, std::string help, Presence presence = Presence::defaulted);
  void operator()(std::string key, std::string& value, std::string help, Presence presence = Presence::defaulted);
  void operator()(std::string key, std::filesystem::path& value, std::string help,
                  Presence presence = Presence::defaulted);
  void operator()(std::string key, std::vector<std::filesystem::path>& value, std::string help,
                  Presence presence = Presence::defaulted);

  /// A value with a name. `names` must live as long as the program.
  template <typename Enum, size_t n>
  void operator()(std::string key, Enum& value, const NamedValues<Enum, n>& names, std::string help,
                  Presence presence = Presence::defaulted) {
    std::vector<std::string> written;
    for (const auto& named : names)
      if (name_of(named.value, names) == named.name) written.emplace_back(named.name);
    const auto set = [&value, &names](std::string_view name) {
      const std::optional<Enum> found = value_named(name, names);
      value = found.value_or(value);
      return found.has_value();
    };
    add_choice(
        std::move(key), std::move(written), set, [&value, &names] { return name_of(value, names); }, std::move(help),
        presence);
  }

  /// An inner struct; one that may be absent; several of them (in JSON one object or a list).
  template <SettingsStruct T>
  void operator()(std::string key, T& value, std::string help, Presence presence = Presence::defaulted) {
    const auto same = [&value] { return std::vector{fields_of(value)}; };
    add_structs(std::move(key), Shape::object, std::move(help), presence,
                {[same](size_t) { return same(); }, same, rows_of<T>});
  }
  template <SettingsStruct T>
  void operator()(std::string key, std::optional<T>& value, std::string help) {
    const auto make = [&value](size_t) { return std::vector{fields_of(value.emplace())}; };
    const auto present = [&value] { return value ? std::vector{fields_of(*value)} : std::vector<Fields>(); };
    add_structs(std::move(key), Shape::object, std::move(help), Presence::off, {make, present, rows_of<T>});
  }
  template <SettingsStruct T>
  void operator()(std::string key, std::vector<T>& value, std::string help, Presence presence = Presence::defaulted) {
    const auto present = [&value] {
      std::vector<Fields> all;
      for (T& item : value) all.push_back(fields_of(item));
      return all;
    };
    const auto make = [&value, present](size_t count) {
      value.assign(count, T{});
      return present();
    };
    add_structs(std::move(key), Shape::list, std::move(help), presence, {make, present, rows_of<T>});
  }

  /// A field of a type of its own.
  void add(Field field) { all_.push_back(std::move(field)); }

  const std::vector<Field>& all() const { return all_; }
  std::vector<std::string> keys() const;

 private:
  enum class Shape { object, list };
  /// Structs within a struct.
  struct Inner {
    std::function<std::vector<Fields>(size_t count)> make;  ///< as many as JSON has, to be read
    std::function<std::vector<Fields>()> present;
    std::function<std::vector<SettingRow>()> rows;
  };

  void add_choice(std::string key, std::vector<std::string> names, std::function<bool(std::string_view)> set,
                  std::function<std::string_view()> get, std::string help, Presence presence);
  void add_structs(std::string key, Shape shape, std::string help, Presence presence, Inner inner);
  template <SettingsStruct T>
  static std::vector<SettingRow> rows_of();

  std::vector<Field> all_;
};

template <SettingsStruct T>
Fields fields_of(T& settings) {
  Fields fields;
  visit_fields(fields, settings);
  return fields;
}

/// Sets the fields that `object` has. Throws InputError "{where}: ..." for an unknown key, a missing one, a wrong type,
/// a value out of range.
void read_settings(const Json& object, const std::string& where, const Fields& fields);
/// The same, but passes over unknown keys.
void read_known_settings(const Json& object, const std::string& where, const Fields& fields);

/// Every field but those that are off, as read_settings() takes them.
Json settings_to_json(const Fields& fields);

/// What the documentation says of the fields, with the struct's values as the defaults. Inner fields follow the struct
/// that they belong to.
std::vector<SettingRow> setting_rows(const Fields& fields);
/// The same as a table in Markdown.
std::string settings_table(const Fields& fields);

template <SettingsStruct T>
std::vector<SettingRow> Fields::rows_of() {
  T unset{};
  return setting_rows(fields_of(unset));
}

}  // namespace loci
