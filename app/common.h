#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/command.h"
#include "model/model.h"
#include "model/text/tokenizer.h"
#include "runtime/context.h"
#include "runtime/jobs/provenance.h"
#include "runtime/jobs/unit_runner.h"

/// What every subcommand shares: common flags, the JSON configuration file, the resolved configuration, the outcome.
namespace loci::app {

/// Flags that every subcommand with a MODEL takes.
struct CommonOptions {
  std::string model;               ///< Hugging Face directory
  std::string device = "auto";     ///< `auto`: the first GPU where there is one, else the CPU
  std::string precision = "auto";  ///< `auto`: tf32 on a GPU, fp32 on the CPU
  std::string compat = "none";     ///< `rome`: the published code's quirks
  uint64_t seed = 0;
  int threads = 0;
  double memory_gib = 0;
  bool json = false;
  std::string config;

  bool rome() const { return compat == "rome"; }
  /// What `auto` stands for here. Throws InputError for a device or a precision that does not exist.
  Device resolved_device() const;
  Precision resolved_precision() const;
  ContextOptions context_options() const;
  /// Throws InputError where the device or the precision is not to be had.
  Context make_context() const;
  /// --threads, but no more than this process may use, of which a warning tells; 0 stays 0.
  int usable_threads() const;
};

/// Which of the common options change what a command does. The others are accepted, because scripts give them to every
/// command, but help does not show them.
struct CommonUse {
  bool device = true;  ///< --device, --precision and --memory
  bool threads = true;
  bool compat = false;
  std::optional<Role> seed = {};  ///< what --seed is to the result, where it is used
};

/// Adds MODEL and the common options to a command.
void add_common_options(Command& command, CommonOptions& options, const CommonUse& use);
/// Adds only those of the common options that say where a job runs: --device, --precision, --threads, --memory.
void add_machine_options(Command& command, CommonOptions& options, const CommonUse& use = {});
/// Adds --json.
void add_json_option(Command& command, bool& json);

/// Adds `--output FILE` (required) and `--overwrite`.
void add_output_options(Command& command, JobOutput& output);
void add_overwrite_option(Command& command, bool& overwrite);

/// A line of a summary; nothing where no earlier run has done any.
void print_done_before(int64_t before, int64_t all, const std::string& items);

/// The options of a command that are settings, with their values, given or default: what identifies a result and is
/// stored with it. Options with neither value nor default are left out. The device is "cpu" or "cuda", without an
/// index.
Json resolved_configuration(const Command& command, const CommonOptions& options);

/// Ready to compute with: a model whose weights are finite, and its tokenizer, which knows the model's embedding.
struct ReadyModel {
  Model model;
  Tokenizer tokenizer;
};
/// Throws InputError naming file and tensor, or field.
ReadyModel load_model(Context& context, const CommonOptions& options);

/// The files and folders that a command reads, by the option that names them: Provenance::inputs. A list where
/// an option names several.
Json named_inputs(const Command& command);

/// The job of a command: its output, the settings that decide about the result, its inputs.
JobDescription describe_job(const Command& command, const CommonOptions& options, const JobOutput& output);

/// Looks through the HDF5 files that a job reads and the output that an earlier run may have left, before several ranks
/// use the library. Throws InputError for a damaged one, and for an output that is one of the inputs.
void check_named_files(const Command& command, const JobOutput& output);

class Launcher;  // app/ranks.h

/// One function per command: describes it, its options and what it runs; with a launcher, as several ranks.
void add_info(Commands& commands);
void add_predict(Commands& commands);
void add_generate(Commands& commands);
void add_tokenize(Commands& commands);
void add_cov(Commands& commands, Launcher& launcher);
void add_trace(Commands& commands, Launcher& launcher);
void add_edit(Commands& commands, Launcher& launcher);
void add_eval(Commands& commands, Launcher& launcher);
void add_train(Commands& commands, Launcher& launcher);
void add_export(Commands& commands);

/// What long documents lost because they keep `limit` tokens, for people.
std::string cut_sentence(int64_t cut_documents, int64_t documents, int64_t cut_tokens, int64_t kept_tokens,
                         int64_t limit);

/// Prints one JSON object to standard output. Progress and logs go to standard error.
void print_json(const Json& object);

}  // namespace loci::app
