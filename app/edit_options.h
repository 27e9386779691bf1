#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/common.h"
#include "edit/common/lineage.h"
#include "edit/edit_file.h"
#include "edit/methods.h"
#include "records/edit_requests.h"

/// What the commands that make edits, or run with edits made before, share.
namespace loci::app {

/// The options of EditOptions but --method: what only those who make edits may give.
inline constexpr const char* kEditOptions[] = {"cov",   "hparams", "context-templates",
                                               "layer", "ridge",   "cov-of-other-model"};

/// Adds --method (one of `methods`) and kEditOptions. The configuration holds PreparedEdits::config instead of
/// them, and of --seed.
void add_edit_options(Command& command, EditOptions& options, const std::vector<std::string>& methods = method_names());

/// Adds --zsre-target: which answer zsRE's records are edited towards.
void add_zsre_target(Command& command, std::string& name);
/// Of "answers" or "alt".
ZsreTarget zsre_target_from_name(const std::string& name);

/// A method ready to edit, and what it was made from, by content: job configurations are to hold it instead of the
/// names of files.
struct PreparedEdits {
  std::unique_ptr<Method> method;
  Json config;
};

/// Has the method read what it needs. `lineage` is that of the executor's model. Throws what make_method() throws.
PreparedEdits prepare_edits(const CommonOptions& common, EditOptions options, Executor& executor,
                            const Tokenizer& tokenizer, const Lineage& lineage);
/// A request as the method runs it; nothing where it is left out. `name` of its file leads messages.
std::optional<PreparedRequest> prepare_or_skip(const Method& method, const EditRequest& request,
                                               const std::string& name, OnInvalid on_invalid,
                                               std::vector<std::string>& skipped);
/// Warns where edits that build on each other are made by a method that is known to spoil a model so.
void warn_of_sequence(const Method& method);

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
