#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/io/hdf5.h"

namespace loci::app {

/// Writes a comparison of methods as csv, markdown or latex: a table of the rows, and one per method of what a sequence
/// keeps of earlier edits. Returns the number of files. Throws InputError for another format.
int64_t export_comparison(const H5File& file, const std::string& format, const std::filesystem::path& folder);

}  // namespace loci::app
