#pragma once

#include <cstdint>
#include <string>

#include "app/common.h"
#include "edit/edit_file.h"
#include "edit/rome.h"

/// What the commands that make edits, or run with edits made before, share.
namespace loci::app {

/// How edits are made.
struct EditOptions {
  std::string method = "rome";
  std::string cov;
  std::string hparams;
  std::string context_templates;
  int64_t layer = -1;  ///< overrides `layers` of the hyper-parameters
  double ridge = 0;
};

/// Adds --method, --cov, --hparams, --context-templates, --layer and --ridge.
void add_edit_options(CLI::App& command, EditOptions& options);

/// Settings ready for compute_edits, and what they were made from, by content: job configurations are to hold it
/// instead of the names of files.
struct PreparedEdits {
  RomeSettings settings;
  nlohmann::json config;
};

/// Reads the files, samples context templates where none are given, and factors C once. Throws InputError for files
/// that do not fit the model or each other, NumericalError for a singular C.
PreparedEdits prepare_edits(const CommonOptions& common, const EditOptions& options, Executor& executor,
                            const Tokenizer& tokenizer);

/// Removes the options that `config` of PreparedEdits stands for from a resolved configuration, and adds that.
void merge_edit_config(nlohmann::json& resolved, const nlohmann::json& prepared);

/// An edit file to run with.
struct EditsOption {
  std::string path;    ///< empty: none
  int64_t index = -1;  ///< -1: all edits of the file

  explicit operator bool() const { return !path.empty(); }
};

/// Adds `--edits FILE.h5` and `--edit N`.
void add_edits_option(CLI::App& command, EditsOption& option);

/// Applies the edits, if any, to a model loaded from its checkpoint. InputError for edits of another model.
void apply_edits_option(Context& context, Model& model, const EditsOption& option);

}  // namespace loci::app
