#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/context.h"
#include "runtime/unit_store.h"

/// What every subcommand shares: common flags, the JSON configuration file, the resolved configuration, the outcome.
namespace loci::app {

enum class Compat { none, rome };
enum class Precision { fp32, tf32, bf16 };

/// Flags that every subcommand takes.
struct CommonOptions {
  std::string model;  ///< Hugging Face directory
  std::string device = "cpu";
  std::string precision = "fp32";
  std::string compat = "none";  ///< `rome`: the published code's quirks
  uint64_t seed = 0;
  int threads = 0;
  double memory_gib = 0;
  bool json = false;
  std::string config;

  bool rome() const { return compat == "rome"; }
  /// Throws InputError where the device or the precision is not to be had.
  Context make_context() const;
};

/// Adds MODEL and the common flags to a subcommand.
void add_common_options(CLI::App& command, CommonOptions& options);

/// The command line (without the program's name) with the flags of its `--config FILE.json` put in, where they are not
/// given. Throws InputError for a file that is no object of values.
std::vector<std::string> with_configuration(std::vector<std::string> arguments);

/// Adds `--output FILE` (required) and `--overwrite`.
struct OutputOptions {
  std::string path;
  bool overwrite = false;

  OnExisting on_existing() const { return overwrite ? OnExisting::overwrite : OnExisting::resume; }
};
void add_output_options(CLI::App& command, OutputOptions& options);

/// Every option of a subcommand with its value, given or default: what is printed and stored in result files. Options
/// that cannot change a result (--threads, --memory, --json, --output, --overwrite, --config) are left out.
nlohmann::json resolved_configuration(const CLI::App& command);

/// One function per subcommand: makes it, with its flags, and its callback that runs it.
void add_info(CLI::App& app);
void add_predict(CLI::App& app);
void add_generate(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_cov(CLI::App& app);
void add_trace(CLI::App& app);
void add_edit(CLI::App& app);
void add_eval(CLI::App& app);
void add_train(CLI::App& app);
void add_export(CLI::App& app);

/// Prints one JSON object to standard output. Progress and logs go to standard error.
void print_json(const nlohmann::json& object);

}  // namespace loci::app
