#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "app/common.h"
#include "app/nothing_to_do.h"
#include "app/ranks.h"
#include "runtime/communicator_mpi.h"
#include "runtime/error.h"
#include "runtime/interruption.h"
#include "runtime/launched_ranks.h"
#include "runtime/provenance.h"
#include "runtime/utf8.h"

namespace {

constexpr int kUnexpected = 70;

/// Help and mistakes in flags are the same on all ranks: rank 0 speaks.
int explain(const CLI::App& app, const CLI::ParseError& error, bool speaks) {
  std::ostringstream out, err;
  const int code = app.exit(error, out, err) == 0 ? 0 : 2;
  if (speaks) fmt::print("{}", out.str());
  if (speaks) fmt::print(stderr, "{}", err.str());
  return code;
}

/// CLI11 would only say that a command is missing.
void require_known_command(const CLI::App& app, const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0].starts_with('-')) return;
  const auto is_named = [&](const CLI::App* command) { return command->get_name() == arguments[0]; };
  loci::require<loci::InputError>(!app.get_subcommands(is_named).empty(),
                                  "there is no command \"{}\"; loci --help lists them", arguments[0]);
}

int run(std::vector<std::string> arguments, loci::Communicator* launched, loci::app::Launcher& launcher) {
  CLI::App app{"loci: locates factual associations in GPT models, edits them, and measures what the edit did", "loci"};
  app.set_version_flag("--version", "loci " + loci::loci_version() + " (" + loci::loci_git_commit() + ")");
  app.require_subcommand(1);
  loci::app::add_info(app);
  loci::app::add_predict(app);
  loci::app::add_generate(app);
  loci::app::add_tokenize(app);
  loci::app::add_cov(app, launcher);
  loci::app::add_trace(app, launcher);
  loci::app::add_edit(app, launcher);
  loci::app::add_eval(app, launcher);
  loci::app::add_train(app, launcher);
  loci::app::add_export(app);
  launcher.refuse_others(app);
  require_known_command(app, arguments);
  try {
    arguments = loci::app::with_configuration(std::move(arguments));
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return explain(app, error, !launched || launched->is_root());
  }
  return 0;
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
    return run(arguments, &ranks, launcher);
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
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow further is an error like a full disk
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::optional<loci::app::Launcher> launcher(std::in_place, nullptr);
  try {
    require_text(arguments);
    const loci::LaunchedRanks launched = loci::detect_launch();
    if (!launched.uses_mpi()) return flushed(run(arguments, nullptr, *launcher));
    loci::MpiSession session(launched);
    launcher.emplace(&session.communicator());
    return flushed(run_launched(arguments, session.communicator(), *launcher));
  } catch (...) {
    return report_error();
  }
}
