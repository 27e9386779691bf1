#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "tests/support/paths.h"
#include "tests/support/small_inputs.h"

/// The built command as a child process, and small inputs for it.
namespace loci::test {

struct Outcome {
  int exit_code = -1;  ///< -1: ended by a signal
  std::string out;
  std::string err;
};

/// Starts the command with its streams in files of `folder`, and `input` on its standard input; returns the process id.
inline pid_t start_loci(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                        const std::string& input = "") {
  std::vector<char*> argv;
  std::string binary = LOCI_BINARY;
  argv.push_back(binary.data());
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string out = (folder / "stdout.txt").string(), err = (folder / "stderr.txt").string();
  write_file_atomically(folder / "stdin.txt", input);
  const std::string in = (folder / "stdin.txt").string();
  const pid_t child = fork();
  if (child != 0) return child;
  const int in_file = open(in.c_str(), O_RDONLY);
  if (in_file < 0 || dup2(in_file, 0) < 0) _exit(126);
  const int out_file = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int err_file = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (out_file < 0 || err_file < 0 || dup2(out_file, 1) < 0 || dup2(err_file, 2) < 0) _exit(126);
  execv(argv[0], argv.data());
  _exit(127);
}

inline Outcome wait_for(pid_t child, const std::filesystem::path& folder) {
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder / "stdout.txt"),
          read_text_file(folder / "stderr.txt")};
}

/// Runs the command to its end.
inline Outcome run_loci(const std::vector<std::string>& arguments, const std::string& input = "") {
  const TemporaryDir folder;
  return wait_for(start_loci(arguments, folder.path(), input), folder.path());
}

/// What a command wrote with --json, an empty object where it failed.
inline Json json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  return outcome.exit_code == 0 ? parse_json(outcome.out, "standard output") : Json::object();
}

/// What a summary says about the result, without what this run spent on it.
inline Json result_of(Json summary) {
  EXPECT_EQ(summary.erase("matrix_flop"), 1u);
  EXPECT_EQ(summary.erase("seconds"), 1u);
  summary.erase("done_before");
  return summary;
}

/// A folder with a model, second moments, hyper-parameters, templates and records, made once a process.
class CommandTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TemporaryDir;
    write_random_model(dir_->path() / "model", 5);
    write("text.txt", std::string(40, 'x') + " some letters of a text\nThe quick brown fox jumps over 13 lazy dogs?\n" +
                          "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\n");
    write("hparams.json", R"({"layers": [1], "v_num_grad_steps": 4, "v_lr": 0.5, "v_weight_decay": 0.01,
                              "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": true})");
    write("templates.json", R"(["{}", "And so. {}"])");
    write("records.json", counterfact_records(3).dump());
    const Outcome cov =
        run_loci({"cov", path("model"), "--text", path("text.txt"), "--layers", "1", "--output", path("cov.h5")});
    ASSERT_EQ(cov.exit_code, 0) << cov.err;
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }

  static std::string path(const std::string& name) { return dir_->file(name); }
  static void write(const std::string& name, const std::string& text) { write_file_atomically(path(name), text); }
  static bool exists(const std::string& name) { return std::filesystem::exists(path(name)); }

  /// `loci eval` over a records file; `more` flags come last.
  static std::vector<std::string> eval_command(const std::string& output, const std::string& records = "records.json",
                                               const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {"eval",
                                        path("model"),
                                        "--dataset",
                                        "counterfact",
                                        "--records",
                                        path(records),
                                        "--cov",
                                        path("cov.h5"),
                                        "--hparams",
                                        path("hparams.json"),
                                        "--context-templates",
                                        path("templates.json"),
                                        "--output",
                                        path(output),
                                        "--threads",
                                        "1"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  static inline TemporaryDir* dir_ = nullptr;
};

}  // namespace loci::test
