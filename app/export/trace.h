#pragma once

#include <filesystem>
#include <string>

#include "runtime/io/hdf5.h"

namespace loci::app {

/// Writes the traces of a file into a folder: `npz`, one file a fact and kind as the published code names and fills
/// them (`knowledge_{id}[_mlp|_attn].npz`, `severed_{id}_{ordinary|no_mlp|no_attn}.npz`); `csv`, tables of all cells
/// (`traces.csv`), of the averages (`averages.csv`) and, where there is one, of the severed graph (`severed.csv`).
/// Returns how many files were written. InputError for another format.
int64_t export_traces(const H5File& file, const std::string& format, const std::filesystem::path& folder);

}  // namespace loci::app
