#pragma once

#include <string>
#include <string_view>

#include "app/command.h"

/// Texts made from the description of the commands.
namespace loci::app {

struct ExitCode {
  int code;
  std::string_view meaning;
};
/// All exit codes of the program.
inline constexpr ExitCode kExitCodes[] = {
    {0, "done; also where an earlier run had done all"},
    {2, "an option, a file or a record is wrong, or a result belongs to another configuration"},
    {3, "the arithmetic cannot go on: a singular matrix, a loss that is not finite"},
    {4, "a defect of loci: shapes do not fit each other"},
    {5, "the system refused: disk full, no memory, a file that another job holds"},
    {6, "another rank of the job hangs or was lost"},
    {7, "nothing could be traced: the model predicts none of the facts"},
    {70, "an unexpected error"},
    {75, "interrupted; the same command continues"},
};

/// What `loci --help` and `loci COMMAND --help` print.
std::string program_help(const Commands& commands);
std::string command_help(const Command& command);

/// Manual pages, loci(1) and loci-COMMAND(1), in roff.
std::string program_manual(const Commands& commands);
std::string command_manual(const Command& command);

/// A script for a shell: bash, zsh or fish.
std::string completion_script(const Commands& commands, const std::string& shell);

/// The options of a group as help lists them: not the hidden ones, positional arguments first.
std::vector<const Option*> options_of(const Command& command, Group group);
/// "Input", ...
std::string_view group_name(Group group);
inline constexpr Group kGroups[] = {Group::input, Group::output, Group::method, Group::machine, Group::general};
/// "loci trace MODEL --facts FILE.json --output FILE.h5 [options]"
std::string usage_line(const Command& command);
/// A line of help: `left`, then `right` in a column of its own, wrapped.
std::string help_entry(const std::string& left, const std::string& right);
/// What an option does, then its default, its variable and whether it is required, in brackets.
std::string full_help(const Option& option);

}  // namespace loci::app
