#include "app/command.h"

#include <fmt/format.h>
#include <getopt.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "runtime/io/json.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

/// A value as it would stand on the command line.
std::string text_of(const Json& value) {
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// The name in "--name" or "--name=value".
std::string name_in(const std::string& argument) {
  const size_t begin = argument.find_first_not_of('-');
  return begin == argument.npos ? "" : argument.substr(begin, argument.find('=') - begin);
}

/// Options as getopt_long takes them.
struct LibraryOptions {
  static constexpr int kPositional = 1;  // what getopt_long calls an argument that is not an option
  static constexpr int kLong = 256;      // no letter

  explicit LibraryOptions(const std::vector<Option>& options) {
    for (const Option& option : options) {
      if (option.positional) continue;
      for (const std::string& name : {std::cref(option.name), std::cref(option.alias)})
        if (!name.empty())
          names.push_back({name.c_str(), option.is_flag() ? optional_argument : required_argument, nullptr, kLong});
      if (option.letter != 0) letters += fmt::format("{}{}", option.letter, option.is_flag() ? "" : ":");
    }
    names.push_back({});
  }

  std::string letters = "-:";  // positional arguments in their place; ':' for a missing value
  std::vector<::option> names;
};

}  // namespace

Option& Command::add(Option option) {
  require<ShapeError>(find(option.name) == nullptr && find(option.alias) == nullptr, "{} has the option {} already",
                      name_, option.name);
  const bool is_unsigned =
      std::holds_alternative<uint32_t*>(option.value) || std::holds_alternative<uint64_t*>(option.value);
  if (is_unsigned) option.min = std::max(option.min, 0.0);
  if (option.role == Role::input || option.role == Role::output) option.not_empty = true;
  if (!option.default_text.empty()) {
    option.shown_default = option.default_text;
  } else if (const auto value = option.json(); value && !option.is_flag() && !option.required) {
    option.shown_default =
        value->is_array() ? fmt::format("{}", fmt::join(value->get<std::vector<std::string>>(), ",")) : text_of(*value);
  }
  return options_.emplace_back(std::move(option));
}

const Option* Command::find(const std::string& name) const {
  const auto is_meant = [&](const Option& option) { return option.name == name || option.alias == name; };
  const auto found = std::ranges::find_if(options_, is_meant);
  return found == options_.end() || name.empty() ? nullptr : &*found;
}

Option& Command::option(const std::string& name) {
  const Option* found = find(name);
  require<ShapeError>(found != nullptr, "{} has no option {}", name_, name);
  return options_[found - options_.data()];
}

bool Command::given(const std::string& name) const {
  const Option* option = find(name);
  return option != nullptr && option->given;
}

std::vector<std::string> Command::shown_names() const {
  std::vector<std::string> names;
  for (const Option& option : options_)
    if (!option.hidden && !option.positional) names.push_back(option.name);
  return names;
}

void Command::refuse_unknown(const std::string& argument) const {
  throw_error<UsageError>("there is no option {}{}; {} --help lists the options",
                          argument.substr(0, argument.find('=')), did_you_mean(name_in(argument), shown_names(), "--"),
                          called());
}

Option* Command::named(const std::string& argument) {
  const std::string name = argument.substr(0, argument.find('='));
  const auto is_meant = [&](const Option& option) {
    return name == "--" + option.name || (!option.alias.empty() && name == "--" + option.alias) ||
           (option.letter != 0 && name == fmt::format("-{}", option.letter));
  };
  const auto found = std::ranges::find_if(options_, is_meant);
  return found == options_.end() ? nullptr : &*found;
}

std::vector<Command::Given> Command::split(const std::vector<std::string>& arguments) {
  std::vector<char*> words = {const_cast<char*>(name_.c_str())};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  const auto count = static_cast<int>(words.size());
  words.push_back(nullptr);
  const LibraryOptions known(options_);
  std::vector<Given> all;
  std::vector<std::string> positional;
  std::string unknown, missing;
  optind = 0;  // getopt_long begins with the first word
  for (int at = 1, code = 0;; at = std::max(optind, 1)) {
    code = getopt_long(count, words.data(), known.letters.c_str(), known.names.data(), nullptr);
    if (code == -1) break;
    const std::string word = words[at];
    if (code == LibraryOptions::kPositional) {
      positional.emplace_back(optarg);
      continue;
    }
    Option* option = named(word);  // null for an abbreviation, too, which the C library would take
    const bool apart = option != nullptr && !option->is_flag() && word.find('=') == word.npos;
    // "--output --overwrite": the second is hardly a file.
    const bool lacks_value = apart && (code == ':' || named(optarg) != nullptr);
    if (option == nullptr) {
      if (unknown.empty()) unknown = word;
    } else if (lacks_value) {
      if (missing.empty()) missing = fmt::format("{} {}: the value is missing", word, option->value_name());
      optind = at + 1;
    } else {
      all.push_back({option, optarg == nullptr ? "true" : optarg, apart ? fmt::format("{} {}", word, optarg) : word});
    }
  }
  positional.insert(positional.end(), words.begin() + optind, words.begin() + count);
  if (!unknown.empty()) refuse_unknown(unknown);
  require<UsageError>(missing.empty(), "{}; {} --help tells more", missing, called());
  place_positional(positional, all);
  return all;
}

void Command::place_positional(const std::vector<std::string>& texts, std::vector<Given>& all) {
  size_t next = 0;
  for (Option& option : options_)
    if (option.positional && next < texts.size()) {
      all.push_back({&option, texts[next], option.flag() + " " + texts[next]});
      ++next;
    }
  require<UsageError>(next == texts.size(), "\"{}\": there is one argument too many; {} --help lists the options",
                      next == texts.size() ? "" : texts[next], called());
}

Command::Asked Command::read(const std::vector<std::string>& arguments) {
  const auto end = std::ranges::find(arguments, "--");
  const auto asks = [](const std::string& argument) { return argument == "--help" || argument == "-h"; };
  if (std::any_of(arguments.begin(), end, asks)) return Asked::for_help;
  for (Option& option : options_) option.given = false;
  for (const Given& given : split(arguments)) {
    require<UsageError>(!given.option->given || given.option->is_list(), "{} is given twice", given.option->flag());
    given.option->set(given.text, given.where);
  }
  read_configuration();
  read_environment();
  check_relations();
  return Asked::to_run;
}

void Command::read_configuration() {
  const auto file = std::ranges::find_if(options_, &Option::is_configuration);
  if (file == options_.end() || !file->given) return;
  const std::string path = *std::get<std::string*>(file->value);
  const Json object = parse_json_file(path);
  require<InputError>(object.is_object(), "{}: the file must hold one JSON object of options and values", path);
  for (const auto& [key, value] : object.items()) {
    const std::string where = fmt::format("{}: field \"{}\"", path, key);
    require<InputError>(find(key) != nullptr, "{}: {} has no such option{}", where, called(),
                        did_you_mean(key, shown_names()));
    require<InputError>(key != file->name, "{}: a configuration cannot name another one", where);
    if (Option& option = this->option(key); !option.given) set_from_json(option, value, where);
  }
}

void Command::set_from_json(Option& option, const Json& value, const std::string& where) {
  require<InputError>(value.is_boolean() == option.is_flag(), "{}: must be {}", where,
                      option.is_flag() ? "true or false" : "a text, a number or a list of them");
  require<InputError>(!value.is_array() || option.is_list(), "{}: must be one value, not a list", where);
  for (const Json& item : value.is_array() ? value : Json::array({value})) {
    require<InputError>(item.is_primitive() && !item.is_null(), "{}: must hold texts or numbers", where);
    option.set(text_of(item), fmt::format("{}, {}", where, text_of(item)));
  }
}

void Command::read_environment() {
  for (Option& option : options_) {
    if (option.environment.empty() || option.given) continue;
    const char* text = std::getenv(option.environment.c_str());
    if (text == nullptr || *text == '\0') continue;
    option.set(text, fmt::format("{}={} in the environment", option.environment, text));
  }
}

void Command::check_relations() const {
  for (const Option& option : options_) {
    const std::string shown = option.positional ? option.flag() : option.flag() + " " + option.value_name();
    require<UsageError>(option.given || !option.required, "{} is missing: {}; {} --help tells more", shown, option.help,
                        called());
    if (!option.given) continue;
    require<UsageError>(option.needs.empty() || given(option.needs), "{} needs --{}", option.flag(), option.needs);
    for (const std::string& other : option.excludes)
      require<UsageError>(!given(other), "{} and --{} exclude each other: give one", option.flag(), other);
  }
}

Command& Commands::find(const std::string& name) {
  std::vector<std::string> names;
  for (Command& command : all_) {
    if (command.name() == name) return command;
    if (!command.hidden) names.push_back(command.name());
  }
  throw_error<UsageError>("there is no command \"{}\"{}; loci --help lists the commands", name,
                          did_you_mean(name, names, "loci "));
}

}  // namespace loci::app
