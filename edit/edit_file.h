#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edit/common/lineage.h"
#include "edit/edit.h"
#include "edit/edited_model.h"
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
/// `base_edits_sha256` where that model had edits already, provenance; data set /skipped_records; groups /edits/{j} in
/// request order with the request, method, layer, update_norm and outcome as attributes, loss_curve [steps, 5] and what
/// the method recorded; groups /updates/{i} with the changes in the order in which they are added.
///
/// In the rank-one form (no /updates) each edit is the change of its layer's down projection and has it as data sets u
/// and v: W += u v^T for y = x W. docs/file_formats.md
struct EditFile {
  std::filesystem::path path;
  EditMode mode = EditMode::independent;
  std::string weights_sha256;
  std::vector<Edit> edits;
  std::vector<int64_t> batches;  ///< of each edit
  std::vector<Update> updates;
  std::vector<std::string> skipped = {};  ///< one sentence for each request left out
  std::string base_edits_sha256 = {};     ///< of the edits that the model had when these were made; empty: none
};

/// Adds batches to a file (or shard) that holds earlier ones, or none; their edits are numbered from `first_edit`, the
/// batches from `first_batch`.
void write_batches(H5File& file, const Architecture& architecture, std::span<const EditBatch> batches,
                   int64_t first_edit, int64_t first_batch);
/// Takes over all edits and updates of a shard, which follow those that `file` holds; not the state.
void append_batches(H5File& file, const H5File& shard);
/// Copies `count` edits from `first` on, and the updates of their batches, from a finished file into a shard.
void copy_batches(const H5File& file, int64_t first, int64_t count, H5File& shard);
/// EditBatch::state of the last batch of a shard; empty where the method has none.
std::vector<RecordedValues> read_state(const H5File& shard);
/// Writes each as the data set {group}/{name}.
void write_recorded(H5File& file, const std::string& group, std::span<const RecordedValues> recorded);

/// What is told of an edit: all but its vectors.
struct EditReport {
  EditRequest request;
  int64_t layer = 0;
  double update_norm = 0;
  double seconds = 0;  ///< that making it took; 0: the file does not say
  int64_t steps = 0;   ///< of an optimiser; 0: the method has none, and no loss
  LossRow first_loss, last_loss;
  std::optional<EditOutcome> outcome;
};
/// Reads it from the group `/edits/{index}`.
EditReport read_edit_report(const H5File& file, int64_t index);

/// Reads the edits `first` .. `first + count - 1` and the updates of their batches, which hold no others. InputError
/// for what is missing, not finite, of a shape that contradicts itself, or of a kind that is not known here.
std::vector<EditBatch> read_batches(const H5File& file, const Architecture& architecture, int64_t first, int64_t count);

/// Whether a file was handed in by a user, so that it may be damaged in a way that the HDF5 library does not survive.
enum class FileOrigin { handed_in, own_output };

/// Reads a whole edit file for models of this architecture. Throws InputError naming it and the object for a file of
/// another kind, or a damaged one.
EditFile read_edit_file(const std::filesystem::path& path, const Architecture& architecture,
                        FileOrigin origin = FileOrigin::handed_in);

/// Throws InputError unless the edits were made for a model with these weights and edits, and fit its shape.
void check_edits_fit(const EditFile& file, const Architecture& architecture, const ModelState& state);

/// Which edits of a file: the batch of one, or all but the batches of some.
struct EditChoice {
  std::optional<int64_t> only = {};
  std::vector<int64_t> without = {};
};

/// Applies the updates of the chosen edits in their order to the model that they were made for: a checkpoint with the
/// edits of `chain`, to which they are added (checked by their hashes; InputError otherwise). Several independent edits
/// applied together are added up, which none of them was computed for: a warning says so. Of a sequence each edit was
/// made on top of those before it: to leave out one that changes weights gives a warning too.
void apply_edits(Context& context, Model& model, const EditFile& file, EditChain& chain, const EditChoice& choice = {});

}  // namespace loci
