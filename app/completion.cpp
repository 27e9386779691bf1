#include <fmt/format.h>

#include <algorithm>

#include "app/help.h"

namespace loci::app {
namespace {

std::vector<const Option*> shown_options(const Command& command) {
  std::vector<const Option*> options;
  for (const Group group : kGroups)
    for (const Option* option : options_of(command, group)) options.push_back(option);
  return options;
}

/// In single quotes of a shell.
std::string in_quotes(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string command_names(const Commands& commands) {
  std::string names;
  for (const Command& command : commands.all())
    if (!command.hidden) names += command.name() + " ";
  return names + "help version";
}

const Option* positional_of(const Command& command) {
  const auto found = std::ranges::find_if(command.options(), &Option::positional);
  return found == command.options().end() ? nullptr : &*found;
}

// --- bash ------------------------------------------------------------------------------------------------------------

/// What completes the value of an option in bash.
std::string bash_values(const Option& option) {
  if (!option.choices.empty())
    return fmt::format("_loci_words {}", in_quotes(fmt::format("{}", fmt::join(option.choices, " "))));
  switch (option.names) {
    case Names::folder:
      return "_loci_files -d";
    case Names::file:
    case Names::hdf5_file:
      return "_loci_files -f";
    case Names::nothing:
      return ":";
  }
  return ":";
}

std::string bash_command(const Command& command) {
  std::string flags, cases;
  for (const Option* option : shown_options(command)) {
    if (option->positional) continue;
    flags += option->flag() + " ";
    if (!option->is_flag()) cases += fmt::format("        {}) {} ; return ;;\n", option->flag(), bash_values(*option));
  }
  const Option* positional = positional_of(command);
  return fmt::format(
      "    {})\n"
      "      case $previous in\n{}"
      "      esac\n"
      "      if [[ $current == -* ]]; then _loci_words '{}--help'; else {}; fi ;;\n",
      command.name(), cases, flags, positional != nullptr ? bash_values(*positional) : ":");
}

std::string bash_script(const Commands& commands) {
  std::string cases;
  for (const Command& command : commands.all())
    if (!command.hidden) cases += bash_command(command);
  return fmt::format(
      "# Completion of loci for bash. Made by: loci completion bash\n"
      "_loci_words() {{ mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$current\"); }}\n"
      "_loci_files() {{\n"
      "  mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$current\")\n"
      "  compopt -o filenames 2>/dev/null\n"
      "}}\n"
      "_loci() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}\n"
      "  COMPREPLY=()\n"
      "  # \"--option=value\" comes in three words.\n"
      "  if [[ $current == = ]]; then current=; elif [[ $previous == = ]]; then "
      "previous=${{COMP_WORDS[COMP_CWORD-2]}}; fi\n"
      "  if ((COMP_CWORD == 1)); then _loci_words '{0} --help --version'; return; fi\n"
      "  case ${{COMP_WORDS[1]}} in\n"
      "    help) _loci_words '{0}' ;;\n"
      "{1}"
      "  esac\n"
      "}}\n"
      "complete -F _loci loci\n",
      command_names(commands), cases);
}

// --- zsh -------------------------------------------------------------------------------------------------------------

/// Of a text inside a specification of _arguments.
std::string zsh_text(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_values(const Option& option) {
  const std::string name = zsh_text(option.value_name());
  if (!option.choices.empty()) return fmt::format(":{}:({})", name, fmt::join(option.choices, " "));
  switch (option.names) {
    case Names::folder:
      return fmt::format(":{}:_files -/", name);
    case Names::file:
    case Names::hdf5_file:
      return fmt::format(":{}:_files", name);
    case Names::nothing:
      return fmt::format(":{}: ", name);
  }
  return "";
}

std::string zsh_command(const Command& command) {
  std::string text = fmt::format("    {})\n      _arguments", command.name());
  for (const Option* option : shown_options(command)) {
    std::string specification;
    if (option->positional) {
      specification = "1" + zsh_values(*option);
    } else {
      specification = fmt::format("{}{}[{}]{}", option->is_list() ? "*" : "", option->flag(), zsh_text(option->help),
                                  option->is_flag() ? "" : zsh_values(*option));
    }
    text += " \\\n        " + in_quotes(specification);
  }
  return text + " \\\n        '(-h --help)'{-h,--help}'[print the options]' ;;\n";
}

std::string zsh_script(const Commands& commands) {
  std::string names, cases;
  for (const Command& command : commands.all()) {
    if (command.hidden) continue;
    names += fmt::format("    {}\n", in_quotes(command.name() + ":" + command.summary()));
    cases += zsh_command(command);
  }
  return fmt::format(
      "#compdef loci\n"
      "# Completion of loci for zsh. Made by: loci completion zsh\n"
      "local -a commands=(\n{}    'help:print the options of a command'\n    'version:print the version'\n  )\n"
      "if (( CURRENT == 2 )); then\n  _describe command commands\n  return\nfi\n"
      "local command=$words[2]\n"
      "shift words\n(( CURRENT-- ))\n"
      "case $command in\n    help) _describe command commands ;;\n{}esac\n",
      names, cases);
}

// --- fish ------------------------------------------------------------------------------------------------------------

std::string fish_option(const Command& command, const Option& option) {
  std::string line =
      fmt::format("complete -c loci -n '__fish_seen_subcommand_from {}' -l {}", command.name(), option.name);
  if (option.letter != 0) line += fmt::format(" -s {}", option.letter);
  if (!option.is_flag()) {
    if (!option.choices.empty()) {
      line += fmt::format(" -x -a {}", in_quotes(fmt::format("{}", fmt::join(option.choices, " "))));
    } else if (option.names == Names::folder) {
      line += " -x -a '(__fish_complete_directories)'";
    } else {
      line += option.names == Names::nothing ? " -x" : " -r -F";
    }
  }
  return line + fmt::format(" -d {}\n", in_quotes(option.help));
}

std::string fish_script(const Commands& commands) {
  std::string text = "# Completion of loci for fish. Made by: loci completion fish\n";
  for (const Command& command : commands.all()) {
    if (command.hidden) continue;
    text += fmt::format("complete -c loci -n __fish_use_subcommand -f -a {} -d {}\n", command.name(),
                        in_quotes(command.summary()));
    for (const Option* option : shown_options(command))
      if (!option->positional) text += fish_option(command, *option);
  }
  return text +
         "complete -c loci -n __fish_use_subcommand -f -a help -d 'print the options of a command'\n"
         "complete -c loci -n __fish_use_subcommand -f -a version -d 'print the version'\n";
}

}  // namespace

std::string completion_script(const Commands& commands, const std::string& shell) {
  if (shell == "bash") return bash_script(commands);
  return shell == "zsh" ? zsh_script(commands) : fish_script(commands);
}

}  // namespace loci::app
