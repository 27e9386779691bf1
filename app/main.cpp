#include <spdlog/spdlog.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "app/common.h"
#include "app/help.h"
#include "app/nothing_to_do.h"
#include "app/ranks.h"
#include "runtime/clock.h"
#include "runtime/error.h"
#include "runtime/jobs/interruption.h"
#include "runtime/jobs/progress.h"
#include "runtime/jobs/provenance.h"
#include "runtime/ranks/communicator_mpi.h"
#include "runtime/ranks/launched_ranks.h"
#include "runtime/utf8.h"
#include "runtime/wording.h"

namespace {

constexpr int kUnexpected = 70;

/// The texts that are made from the description of the commands; hidden ones are for packages.
void add_descriptions(loci::app::Commands& commands) {
  using namespace loci::app;
  const auto name = std::make_shared<std::string>();
  Command& completion = commands.add("completion", "completion for a shell");
  completion.hidden = true;
  completion.add({.name = "shell",
                  .value = name.get(),
                  .help = "bash, zsh or fish",
                  .required = true,
                  .positional = true,
                  .choices = {"bash", "zsh", "fish"}});
  completion.run = [&commands, name] { fmt::print("{}", completion_script(commands, *name)); };
  Command& manual = commands.add("manual", "a manual page in roff: of loci, or of a command");
  manual.hidden = true;
  manual.add({.name = "command", .value = name.get(), .help = "the command", .positional = true});
  const auto list = std::make_shared<bool>(false);
  manual.add({.name = "list", .value = list.get(), .help = "print the names of the commands that have a page"});
  manual.run = [&commands, name, list] {
    if (!*list)
      return fmt::print("{}", name->empty() ? program_manual(commands) : command_manual(commands.find(*name)));
    for (const Command& command : commands.all())
      if (!command.hidden) fmt::print("{}\n", command.name());
  };
}

void add_log_options(loci::app::Commands& commands, loci::LogOptions& log) {
  using loci::app::Role;
  for (loci::app::Command& command : commands.all()) {
    command.add({.name = "quiet",
                 .value = &log.quiet,
                 .help = "say errors and warnings only",
                 .role = Role::no_effect,
                 .letter = 'q',
                 .excludes = {"verbose"}});
    command.add({.name = "verbose",
                 .value = &log.verbose,
                 .help = "say more: the configuration and how long parts take",
                 .role = Role::no_effect,
                 .letter = 'v'});
    command.add({.name = "log-file",
                 .value = &log.file,
                 .type = "FILE",
                 .help = "append everything that is said to this file, with time and rank",
                 .role = Role::no_effect,
                 .names = loci::app::Names::file,
                 .not_empty = true});
  }
}

void add_commands(loci::app::Commands& commands, loci::app::Launcher& launcher) {
  loci::app::add_info(commands);
  loci::app::add_predict(commands);
  loci::app::add_generate(commands);
  loci::app::add_tokenize(commands);
  loci::app::add_cov(commands, launcher);
  loci::app::add_trace(commands, launcher);
  loci::app::add_edit(commands, launcher);
  loci::app::add_eval(commands, launcher);
  loci::app::add_train(commands, launcher);
  loci::app::add_export(commands);
  add_descriptions(commands);
}

/// Answers what is not a command, such as --version; whether it was that.
bool answer_question(loci::app::Commands& commands, const std::vector<std::string>& arguments, bool speaks) {
  const std::string& first = arguments.front();
  std::string answer;
  if (first == "--help" || first == "-h" || first == "help")
    answer = arguments.size() > 1 ? command_help(commands.find(arguments[1])) : program_help(commands);
  else if (first == "--version" || first == "-V" || first == "version")
    answer = "loci " + loci::loci_version() + " (" + loci::loci_git_commit() + ")\n";
  if (speaks) fmt::print("{}", answer);
  return !answer.empty();
}

void run(const std::vector<std::string>& arguments, loci::Communicator* launched, loci::app::Launcher& launcher) {
  loci::app::Commands commands;
  loci::LogOptions log;
  add_commands(commands, launcher);
  add_log_options(commands, log);
  loci::require<loci::app::UsageError>(!arguments.empty(), "no command is given; loci --help lists them");
  const bool speaks = !launched || launched->is_root();
  if (answer_question(commands, arguments, speaks)) return;
  loci::require<loci::app::UsageError>(!arguments[0].starts_with('-'),
                                       "the command comes first, before {}: loci COMMAND [arguments]", arguments[0]);
  loci::app::Command& command = commands.find(arguments[0]);
  if (command.read({arguments.begin() + 1, arguments.end()}) == loci::app::Command::Asked::for_help) {
    const std::string more = command.more_help ? command.more_help({arguments.begin() + 1, arguments.end()}) : "";
    if (speaks) fmt::print("{}{}", command_help(command), more);
    return;
  }
  launcher.require_shareable(command);
  launcher.configure_log(log);
  const auto begin = loci::Clock::now();
  command.run();
  spdlog::debug("{}: done in {}", command.name(), loci::duration_text(loci::seconds_since(begin)));
}

/// The exit code of the error that is being handled, which is logged.
int report_error() {
  try {
    throw;
  } catch (const loci::PeerFailedError& error) {
    return error.exit_code();
  } catch (const loci::Error& error) {
    spdlog::error("{}", error.what());
    return error.exit_code();
  } catch (const std::system_error& error) {  // of printing, the file system or threads
    if (std::ferror(stdout) != 0)
      spdlog::error("standard output cannot be written: {}", error.code().message());
    else
      spdlog::error("{}", error.what());
    return loci::SystemError("").exit_code();
  } catch (const std::bad_alloc&) {
    spdlog::error("out of memory: set a smaller --memory or use a machine with more");
    return 5;
  } catch (const std::exception& error) {
    spdlog::error("unexpected: {}", error.what());
    return kUnexpected;
  }
}

/// Most likely rank 0 finds the same fault: once is enough to say it.
void let_root_speak(const loci::Communicator& ranks) {
  if (!ranks.is_root()) std::this_thread::sleep_for(std::chrono::seconds(2));
}

/// All ranks throw this error: rank 0 says it.
int end_together(const loci::Communicator& ranks, const loci::Error& error) {
  if (ranks.is_root()) spdlog::error("{}", error.what());
  return error.exit_code();
}

/// One of several processes that a launcher started. All leave with the same code: where they agree, each by itself,
/// else the first to fail ends them.
int run_launched(const std::vector<std::string>& arguments, loci::Communicator& ranks, loci::app::Launcher& launcher) {
  int code = kUnexpected;
  try {
    run(arguments, &ranks, launcher);
    return 0;
  } catch (const loci::app::UsageError& error) {
    if (ranks.is_root()) spdlog::error("{}", error.what());
    return error.exit_code();
  } catch (const loci::InterruptedError& error) {
    return end_together(ranks, error);
  } catch (const loci::NothingToDoError& error) {
    return end_together(ranks, error);
  } catch (const loci::InputError&) {
    let_root_speak(ranks);
    code = report_error();
  } catch (const loci::NumericalError&) {
    let_root_speak(ranks);
    code = report_error();
  } catch (...) {
    code = report_error();
  }
  ranks.abort(code);
  return code;  // for compilers that do not know of a virtual function that it never returns
}

}  // namespace

/// Arguments end in JSON and HDF5, which hold text.
void require_text(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments)
    loci::require<loci::InputError>(loci::utf8::replace_ill_formed(argument) == argument,
                                    "the argument \"{}\" is not UTF-8 text; rename the file, or write it in UTF-8",
                                    loci::utf8::replace_ill_formed(argument));
}

/// `code`, unless what was printed has not arrived.
int flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  spdlog::error("standard output cannot be written; is its disk full?");
  return code == 0 ? loci::SystemError("").exit_code() : code;
}

int main(int argc, char** argv) {
  loci::set_option_style(loci::OptionStyle::dashes);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow further is an error like a full disk
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::optional<loci::app::Launcher> launcher(std::in_place, nullptr);
  try {
    require_text(arguments);
    const loci::LaunchedRanks launched = loci::detect_launch();
    if (!launched.uses_mpi()) {
      run(arguments, nullptr, *launcher);
      return flushed(0);
    }
    loci::MpiSession session(launched);
    launcher.emplace(&session.communicator());
    return flushed(run_launched(arguments, session.communicator(), *launcher));
  } catch (...) {
    return report_error();
  }
}
