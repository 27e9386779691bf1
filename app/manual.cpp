#include <fmt/format.h>

#include <sstream>

#include "app/help.h"
#include "runtime/jobs/provenance.h"

namespace loci::app {
namespace {

/// Text that roff takes as it is.
std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      if (result.empty() && (c == '.' || c == '\'')) result += "\\&";
      result += c;
    }
  }
  return result;
}

std::string head(const std::string& name, const std::string& summary) {
  return fmt::format(".TH \"{}\" 1 \"\" \"loci {}\" \"loci\"\n.SH NAME\n{} \\- {}\n", escaped(name), loci_version(),
                     escaped(name), escaped(summary));
}

std::string tagged(const std::string& tag, const std::string& text) {
  return fmt::format(".TP\n{}\n{}\n", tag, escaped(text));
}

std::string tag_of(const Option& option) {
  const std::string name = option.value_name();
  std::string tag = option.letter != 0 ? fmt::format("\\fB\\-{}\\fR, ", option.letter) : "";
  tag += fmt::format("\\fB{}\\fR", escaped(option.flag()));
  return option.positional || name.empty() ? tag : fmt::format("{} \\fI{}\\fR", tag, escaped(name));
}

std::string example(const std::string& text) {
  return text.empty() ? "" : fmt::format(".SH EXAMPLE\n.nf\n{}\n.fi\n", escaped(text));
}

}  // namespace

std::string command_manual(const Command& command) {
  std::string text = head("loci-" + command.name(), command.summary());
  text += ".SH SYNOPSIS\n";
  std::istringstream usage(usage_line(command));
  for (std::string line; std::getline(usage >> std::ws, line);) text += escaped(line) + "\n.br\n";
  text += ".SH OPTIONS\n";
  for (const Group group : kGroups) {
    const std::vector<const Option*> options = options_of(command, group);
    if (!options.empty()) text += fmt::format(".SS {}\n", group_name(group));
    for (const Option* option : options) text += tagged(tag_of(*option), full_help(*option));
  }
  text += example(command.example);
  return text + ".SH SEE ALSO\n.BR loci (1)\n";
}

std::string program_manual(const Commands& commands) {
  std::string text = head("loci", "locates factual associations in GPT models, edits them, and evaluates the edits");
  text += ".SH SYNOPSIS\nloci COMMAND [arguments]\n.br\nloci help [COMMAND]\n.SH COMMANDS\n";
  std::string pages;
  for (const Command& command : commands.all()) {
    if (command.hidden) continue;
    text += tagged(fmt::format("\\fB{}\\fR", escaped(command.name())), command.summary());
    pages += fmt::format("{}.BR loci\\-{} (1)", pages.empty() ? "" : ",\n", escaped(command.name()));
  }
  text += ".SH EXIT STATUS\n";
  for (const ExitCode& code : kExitCodes)
    text += tagged(fmt::format("\\fB{}\\fR", code.code), std::string(code.meaning));
  return text + ".SH SEE ALSO\n" + pages + "\n";
}

}  // namespace loci::app
