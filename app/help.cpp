#include "app/help.h"

#include <fmt/format.h>

#include <algorithm>

namespace loci::app {
namespace {

constexpr size_t kWidth = 100;
constexpr size_t kColumn = 30;

/// Short texts in brackets, such as "[default: auto]", are one word.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t closed = text[begin] == '[' ? text.find(']', begin) : text.npos;
    size_t end = closed != text.npos && closed - begin < 40 ? closed : begin;
    end = std::min(text.find(' ', end), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

std::string left_column(const Option& option) {
  const std::string letter = option.letter != 0 ? fmt::format("-{}, ", option.letter) : "";
  const std::string name = option.value_name();
  return letter + option.flag() + (option.positional || name.empty() ? "" : " " + name);
}

}  // namespace

std::string help_entry(const std::string& left, const std::string& right) {
  std::string text = "  " + left;
  std::string line = text.size() + 2 <= kColumn ? text + std::string(kColumn - text.size(), ' ') : text;
  text.clear();
  if (line.size() > kColumn) {
    text = line + "\n";
    line = std::string(kColumn, ' ');
  }
  for (const std::string& word : words_of(right)) {
    const bool begins = line.size() <= kColumn;
    if (!begins && line.size() + 1 + word.size() > kWidth) {
      text += line + "\n";
      line = std::string(kColumn, ' ') + word;
    } else {
      line += (begins ? "" : " ") + word;
    }
  }
  return text + line + "\n";
}

std::string_view group_name(Group group) {
  switch (group) {
    case Group::input:
      return "Input";
    case Group::output:
      return "Output";
    case Group::method:
      return "Method";
    case Group::machine:
      return "Machine";
    case Group::general:
      return "General";
  }
  return "";
}

std::vector<const Option*> options_of(const Command& command, Group group) {
  std::vector<const Option*> options;
  for (const bool positional : {true, false})
    for (const Option& option : command.options())
      if (!option.hidden && option.positional == positional && option.heading() == group) options.push_back(&option);
  return options;
}

std::string usage_line(const Command& command) {
  std::string line = command.called();
  if (!command.usage.empty()) return line + " " + command.usage;
  for (const bool positional : {true, false})
    for (const Option& option : command.options())
      if (option.required && option.positional == positional) line += " " + left_column(option);
  return line + " [options]";
}

std::string full_help(const Option& option) {
  std::string text = option.help;
  if (option.required) text += " (required)";
  if (!option.shown_default.empty()) text += fmt::format(" [default: {}]", option.shown_default);
  if (!option.environment.empty()) text += fmt::format(" [environment: {}]", option.environment);
  return text;
}

std::string command_help(const Command& command) {
  std::string text = fmt::format("{}: {}\n\nUsage: {}\n", command.called(), command.summary(), usage_line(command));
  for (const Group group : kGroups) {
    const std::vector<const Option*> options = options_of(command, group);
    if (!options.empty()) text += fmt::format("\n{}:\n", group_name(group));
    for (const Option* option : options) text += help_entry(left_column(*option), full_help(*option));
    if (group == Group::general) text += help_entry("-h, --help", "print this text");
  }
  if (!command.example.empty()) text += fmt::format("\nExample:\n  {}\n", command.example);
  if (!command.page.empty()) text += fmt::format("\nMore: {}, docs/command_line.md\n", command.page);
  return text;
}

std::string program_help(const Commands& commands) {
  std::string text =
      "loci: locates factual associations in GPT models, edits them, and measures what the edit did\n\n"
      "Usage: loci COMMAND [arguments]\n       loci help COMMAND\n\nCommands:\n";
  for (const Command& command : commands.all())
    if (!command.hidden) text += help_entry(command.name(), command.summary());
  text += help_entry("help [COMMAND]", "print this text, or that of a command");
  text += help_entry("version", "print the version (also -V, --version)");
  text += "\nExit codes:\n";
  for (const ExitCode& code : kExitCodes) text += help_entry(std::to_string(code.code), std::string(code.meaning));
  return text +
         "\nMore: docs/command_line.md (configuration files, environment variables, log lines, completion),\n"
         "README.md (first steps)\n";
}

}  // namespace loci::app
