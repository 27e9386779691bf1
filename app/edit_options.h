#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/common.h"
#include "edit/given_edits.h"
#include "edit/methods.h"
#include "records/edit_requests.h"

/// What the commands that make edits, or run with edits made before, share.
namespace loci::app {

/// The options of EditOptions but --method: what only those who make edits may give.
inline constexpr const char* kEditOptions[] = {"cov",   "hparams", "context-templates", "memory-texts",
                                               "layer", "ridge",   "cov-of-other-model"};

/// Adds --method (one of `methods`) and kEditOptions. The configuration holds PreparedEdits::config instead of
/// them, and of --seed.
void add_edit_options(Command& command, EditOptions& options, const std::vector<std::string>& methods = method_names());

/// Adds --batch; -1: the method's own.
void add_batch_option(Command& command, int64_t& batch);
std::optional<int64_t> batch_size(int64_t batch);

/// Adds --zsre-target: which answer zsRE's records are edited towards.
void add_zsre_target(Command& command, std::string& name);
/// Of "answers" or "alt".
ZsreTarget zsre_target_from_name(const std::string& name);

/// The options as the library takes them.
EditOptions edit_options(const CommonOptions& common, EditOptions options);

/// Adds `--edits FILE.h5[,...]` and `--edit N[,...]`.
void add_given_edits(Command& command, GivenEdits& given);

}  // namespace loci::app
