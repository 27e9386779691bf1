#pragma once

#include <filesystem>

namespace loci::app {

/// Beside the folder of the program: an installation has its scripts and data there, and a build a link to the scripts
/// of its sources.
std::filesystem::path share_folder();

}  // namespace loci::app
