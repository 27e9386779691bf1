#pragma once

#include <filesystem>
#include <string>

#include "runtime/io/hdf5.h"

namespace loci::app {

/// Writes second moments as the published code keeps them: `{edited module}_float32_mom2.npz` for each
/// layer. Returns how many files were written. InputError for another format than npz.
int64_t export_second_moments(const H5File& file, const std::string& format, const std::filesystem::path& folder);

}  // namespace loci::app
