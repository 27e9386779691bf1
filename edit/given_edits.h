#pragma once

#include <string>
#include <vector>

#include "edit/edit_file.h"

namespace loci {

/// Edits made before: everywhere, the option `edits` stands for the model with these edits.
struct GivenEdits {
  std::vector<std::string> paths;         ///< each file made on top of those before it
  std::vector<std::string> numbers;       ///< per file, the number of the only edit to take, or "all"; empty: all
  std::vector<std::string> without = {};  ///< numbers of edits of the only file that are left out

  explicit operator bool() const { return !paths.empty(); }
  /// The same, and then all edits of another file.
  GivenEdits then(const std::string& path) const;
};

/// Applies the edits, if any, to a model loaded from its checkpoint: apply_edits(). `last` is where the last file comes
/// from; the others are handed in.
EditChain apply_given_edits(Context& context, Model& model, const GivenEdits& given,
                            FileOrigin last = FileOrigin::handed_in);
/// Adds `base_edits_sha256` to the configuration of a job that runs on a model with edits.
void note_base_edits(Json& config, const EditChain& edits);

}  // namespace loci
