#pragma once

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "app/option.h"

namespace loci::app {

/// A subcommand: its options, and what it does.
class Command {
 public:
  Command(std::string name, std::string summary) : name_(std::move(name)), summary_(std::move(summary)) {}

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  /// "loci trace".
  std::string called() const { return program.empty() ? name_ : program + " " + name_; }

  std::string program = "loci";  ///< empty for a program without subcommands
  // What help says beside the options.
  std::string usage = "";    ///< what follows "loci trace"; empty: made from the required options
  std::string example = "";  ///< a whole command
  std::string page = "";     ///< its page of the documentation: "docs/tracing.md"
  bool hidden = false;
  /// What help says at its end of the other arguments that were given, such as the method they name. May be empty.
  std::function<std::string(const std::vector<std::string>& arguments)> more_help = {};

  /// What the command does, once the options have their values.
  std::function<void()> run;

  Option& add(Option option);
  const std::vector<Option>& options() const { return options_; }
  /// Null where there is none. A pointer is good until the next add().
  const Option* find(const std::string& name) const;
  /// There must be one of that name.
  Option& option(const std::string& name);
  /// Whether a value came from the command line, the configuration file or the environment.
  bool given(const std::string& name) const;

  enum class Asked { to_run, for_help };
  /// Reads the arguments after the command's name, the configuration file that they name and the environment, in this
  /// order of preference. Throws UsageError: for unknown options first, then for values, then for what is missing or
  /// does not go together. Throws InputError for a configuration file that is not an object of values.
  Asked read(const std::vector<std::string>& arguments);

 private:
  struct Given {
    Option* option;
    std::string text, where;  // `where` begins the sentence about a wrong value
  };

  /// The option that "--name", "--name=value" or "-n" names; null where there is none.
  Option* named(const std::string& argument);
  std::vector<Given> split(const std::vector<std::string>& arguments);
  void place_positional(const std::vector<std::string>& texts, std::vector<Given>& all);
  [[noreturn]] void refuse_unknown(const std::string& argument) const;
  void read_configuration();
  void set_from_json(Option& option, const Json& value, const std::string& where);
  void read_environment();
  void check_relations() const;
  std::vector<std::string> shown_names() const;

  std::string name_;
  std::string summary_;
  std::vector<Option> options_;
};

/// The commands of the program in the order in which help lists them.
class Commands {
 public:
  Command& add(const std::string& name, const std::string& summary) { return all_.emplace_back(name, summary); }
  std::list<Command>& all() { return all_; }
  const std::list<Command>& all() const { return all_; }
  /// Throws UsageError where there is none of that name.
  Command& find(const std::string& name);

 private:
  std::list<Command> all_;
};

}  // namespace loci::app
