#pragma once

#include <filesystem>
#include <string>

namespace loci::app {

/// What figures call the model of a directory: the folder's name, where that says something; else `_name_or_path` of
/// its config.json; else the folder with the one that it is in. "gpt2-xl" for a snapshot in Hugging Face's cache.
std::string model_name(const std::filesystem::path& directory);

}  // namespace loci::app
