#pragma once

#include <filesystem>
#include <string>

namespace loci {

/// Where a file is named, `-` stands for standard input.
inline constexpr const char* kStandardInput = "-";

/// The file to open for an input: the path itself, or for `-` a copy of standard input in the folder for temporary
/// files, which is made at the first call, can be read any number of times, and is gone when the process ends. Throws
/// SystemError where the copy cannot be written.
std::filesystem::path input_file(const std::filesystem::path& path);

/// What messages call an input: its path, or "standard input".
std::string input_name(const std::filesystem::path& path);

}  // namespace loci
