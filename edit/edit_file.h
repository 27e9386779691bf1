#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edit/common/lineage.h"
#include "edit/rome/rome.h"
#include "model/model.h"
#include "runtime/io/hdf5.h"

namespace loci {

/// How the edits of a file belong together.
enum class EditMode {
  independent,  ///< each was made from the original model
  sequential,   ///< each was made from the model with all earlier ones applied
};

/// The group of the edit with this index: "/edits/3".
std::string edit_group(int64_t index);

/// "independent", "sequential".
std::string_view edit_mode_name(EditMode mode);

/// A file of edits: root attributes `kind` = "edits", `mode`, `weights_sha256` of the model they belong to,
/// `base_edits_sha256` where that model had edits already, provenance; data set /skipped_records; groups /edits/{i} in
/// request order with datasets u, v, k_mean, k_bare, value_before, value_star, loss_curve [steps, 5] and the request,
/// method, layer, update_norm and outcome as attributes.
struct EditFile {
  std::filesystem::path path;
  EditMode mode = EditMode::independent;
  std::string weights_sha256;
  std::vector<Edit> edits;
  std::vector<std::string> skipped = {};  ///< one sentence for each request left out
  std::string base_edits_sha256 = {};     ///< of the edits that the model had when these were made; empty: none
};

/// Writes one edit as the group `/edits/{index}`.
void write_edit(H5File& file, int64_t index, const Edit& edit);
/// What is told of an edit: all but its vectors.
struct EditReport {
  EditRequest request;
  int64_t layer = 0;
  double update_norm = 0;
  int64_t steps = 0;
  LossRow first_loss, last_loss;
  std::optional<EditOutcome> outcome;
};
/// Reads it from the group `/edits/{index}`.
EditReport read_edit_report(const H5File& file, int64_t index);

/// Reads the group `/edits/{index}`; InputError for what is missing, not finite, or of a shape that contradicts itself.
Edit read_edit(const H5File& file, int64_t index);

/// Whether a file was handed in by a user, so that it may be damaged in a way that the HDF5 library does not survive.
enum class FileOrigin { handed_in, own_output };

/// Reads a whole edit file. Throws InputError naming it and the object for a file of another kind, or a damaged one.
EditFile read_edit_file(const std::filesystem::path& path, FileOrigin origin = FileOrigin::handed_in);

/// Throws InputError unless the edits were made for a model with these weights and edits, and fit its shape.
void check_edits_fit(const EditFile& file, const GptConfig& config, const ModelState& state);

/// W += u v^T for one edit.
void apply_edit(Context& context, Model& model, const Edit& edit);

/// Applies edit `index`, or all of them in order, to the model that they were made for: a checkpoint with the edits of
/// `chain`, to which they are added (checked by their hashes; InputError otherwise). Several independent edits applied
/// together are added up, which none of them was computed for: a warning says so.
void apply_edits(Context& context, Model& model, const EditFile& file, EditChain& chain,
                 std::optional<int64_t> index = std::nullopt);

}  // namespace loci
