#include "app/figure.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "app/share.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

namespace fs = std::filesystem;

enum class Messages { shown, hidden };

/// In the child: becomes the command, which ends when its parent does. It is not to write where the result goes.
[[noreturn]] void become(std::vector<std::string>& command, pid_t parent, Messages messages) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  sigset_t none;
  sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  ::dup2(nowhere, STDOUT_FILENO);
  if (messages == Messages::hidden) ::dup2(nowhere, STDERR_FILENO);
  std::vector<char*> words;
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  ::_exit(127);
}

/// The exit code of a command; 127 where there is no such program, -1 where a signal ended it.
int run_command(std::vector<std::string> command, Messages messages) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) become(command, parent, messages);
  require<SystemError>(child > 0, "no child process for {}", command[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Looks for the modules without loading them, which takes a second.
constexpr const char* kHasModules =
    "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ('h5py', 'matplotlib', 'numpy'))))";

/// The first Python that has what the scripts need; empty where none has.
std::string find_python() {
  const char* chosen = std::getenv("LOCI_PYTHON");
  std::vector<std::string> candidates = {"python3", "/usr/bin/python3"};
  if (chosen != nullptr && *chosen != '\0') candidates = {chosen};
  for (const std::string& python : candidates)
    if (run_command({python, "-c", kHasModules}, Messages::hidden) == 0) return python;
  return "";
}

}  // namespace

void check_figure_name(const std::string& figure) {
  const fs::path path(figure);
  constexpr std::array kEndings = {".png", ".svg", ".pdf"};
  bool known = false;
  for (const char* ending : kEndings) known = known || path.extension() == ending;
  require<InputError>(known, "--figure {}: the name must end in .png, .svg or .pdf", figure);
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  require<InputError>(fs::is_directory(folder), "--figure {}: the folder {} does not exist; make it first", figure,
                      folder.string());
  require<InputError>(!fs::is_directory(path), "--figure {}: is a folder", figure);
}

void draw_figure(const std::string& script, const std::string& result, const std::string& figure) {
  const fs::path program = share_folder() / script;
  require<SystemError>(fs::exists(program),
                       "--figure {}: there is no {}; {} is whole, draw it with {} from loci's sources", figure,
                       program.string(), result, script);
  const std::string later =
      fmt::format("{} is whole: draw it with {} {} --figure {}", result, program.string(), result, figure);
  const std::string python = find_python();
  require<SystemError>(!python.empty(),
                       "--figure {}: there is no Python with h5py and matplotlib (on Debian: python3-h5py and "
                       "python3-matplotlib; LOCI_PYTHON names another Python). {}",
                       figure, later);
  const int code = run_command({python, program.string(), result, "--figure", figure}, Messages::shown);
  require<SystemError>(code == 0, "--figure {}: {} ended with exit code {}. {}", figure, script, code, later);
}

}  // namespace loci::app
