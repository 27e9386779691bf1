#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/common.h"
#include "edit/common/lineage.h"
#include "edit/edit_file.h"
#include "edit/rome/rome.h"
#include "records/edit_requests.h"

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
  bool cov_of_other_model = false;
};

/// The options of EditOptions but --method: what only those who make edits may give.
inline constexpr const char* kEditOptions[] = {"cov",   "hparams", "context-templates",
                                               "layer", "ridge",   "cov-of-other-model"};

/// Adds --method (one of `methods`) and kEditOptions. The configuration holds PreparedEdits::config instead of
/// them, and of --seed.
void add_edit_options(Command& command, EditOptions& options,
                      const std::vector<std::string>& methods = {"rome", "r-rome", "p-rome"});

/// Adds --zsre-target: which answer zsRE's records are edited towards.
void add_zsre_target(Command& command, std::string& name);
/// Of "answers" or "alt".
ZsreTarget zsre_target_from_name(const std::string& name);

/// Warns where edits that build on each other are made by a method that is known to spoil a model so.
void warn_of_sequential_edits(const EditOptions& options);

/// Settings ready for compute_edits, and what they were made from, by content: job configurations are to hold it
/// instead of the names of files.
struct PreparedEdits {
  RomeSettings settings;
  Json config;
};

/// Reads the files, samples context templates where none are given, and factors C once. `lineage` is that of the
/// executor's model. Throws InputError for files that do not fit the model or each other, NumericalError for a singular
/// C.
PreparedEdits prepare_edits(const CommonOptions& common, const EditOptions& options, Executor& executor,
                            const Tokenizer& tokenizer, const Lineage& lineage);

/// Edits made before: everywhere, --edits stands for the model with these edits.
struct GivenEdits {
  std::vector<std::string> paths;    ///< each file made on top of those before it
  std::vector<std::string> numbers;  ///< per file, the number of the only edit to take, or "all"; empty: all

  explicit operator bool() const { return !paths.empty(); }
  /// The same, and then all edits of another file.
  GivenEdits then(const std::string& path) const;
};

/// Adds `--edits FILE.h5[,...]` and `--edit N[,...]`.
void add_given_edits(Command& command, GivenEdits& given);

/// Applies the edits, if any, to a model loaded from its checkpoint: apply_edits(). `last` is where the last file comes
/// from; the others are handed in.
EditChain apply_given_edits(Context& context, Model& model, const GivenEdits& given,
                            FileOrigin last = FileOrigin::handed_in);
/// Adds `base_edits_sha256` to the configuration of a job that runs on a model with edits.
void note_base_edits(Json& config, const EditChain& edits);

}  // namespace loci::app
