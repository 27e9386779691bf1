#pragma once

#include <filesystem>

#include "edit/common/lineage.h"
#include "model/model.h"
#include "runtime/context.h"

/// Edited models as Hugging Face checkpoints, and the way back.
namespace loci {

/// What an edited checkpoint holds beside its model: the edited matrices as they were, in fp32, with the hash of the
/// original weights. transformers does not look at it.
inline constexpr const char* kOriginalsFile = "loci_original.safetensors";

enum class OnExistingCheckpoint { refuse, replace };

/// Throws InputError where a folder holds a model already, or is `source`, the folder of the original.
void require_free_folder(const std::filesystem::path& dir, const std::filesystem::path& source,
                         OnExistingCheckpoint on_existing);

/// Writes the model, to which the edits of `chain` were added, as a directory that transformers loads, together with
/// kOriginalsFile and kLineageFile. The model must have been loaded from a checkpoint. Throws InputError for a folder
/// that holds a model already or is the original's own. Neurons beside an MLP become a part of it, and all MLPs as
/// wide; InputError where theirs is another activation function.
void write_edited_checkpoint(Context& context, const Model& model, const EditChain& chain,
                             const std::filesystem::path& dir, OnExistingCheckpoint on_existing);

/// Writes the model that `edited_dir`, a folder of write_edited_checkpoint, was made from to `dir`: the same weights
/// bit for bit, which the hash of the original is compared with. Throws InputError where the folder does not hold them.
void write_reverted_checkpoint(const std::filesystem::path& edited_dir, const std::filesystem::path& dir,
                               OnExistingCheckpoint on_existing);

}  // namespace loci
