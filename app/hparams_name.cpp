#include "app/hparams_name.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <vector>

#include "app/share.h"
#include "edit/methods.h"
#include "runtime/error.h"

namespace loci::app {
namespace {

namespace fs = std::filesystem;

bool is_path(const std::string& given) { return given.find('/') != given.npos || given.ends_with(".json"); }

/// Folders of the published hyper-parameters, the first one first.
std::vector<fs::path> hparams_folders() {
  std::vector<fs::path> folders;
  const char* data = std::getenv("LOCI_DATA");
  if (data != nullptr && *data != '\0') folders.push_back(fs::path(data) / "hparams");
  folders.push_back(share_folder() / "hparams");
  std::error_code absent;
  const fs::path scripts = fs::canonical(share_folder(), absent);
  if (!absent) folders.push_back(scripts.parent_path() / "data" / "hparams");
  return folders;
}

/// A method, and the one whose hyper-parameters it takes where it has none of its own.
std::vector<std::string> sources_of(const std::string& method) {
  const auto entry = std::ranges::find(methods(), method, &MethodEntry::name);
  if (entry == methods().end() || entry->hparams_of.empty()) return {method};
  return {method, std::string(entry->hparams_of)};
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code absent;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, absent))
    if (entry.path().extension() == ".json") names.insert(entry.path().stem().string());
  return names;
}

std::string published_file(const std::string& name, const std::string& method) {
  std::set<std::string> known;
  for (const std::string& source : sources_of(method))
    for (const fs::path& folder : hparams_folders()) {
      const fs::path file = folder / source / (name + ".json");
      if (fs::exists(file)) return file.string();
      known.merge(names_in(folder / source));
    }
  require<InputError>(!known.empty(),
                      "--hparams {}: there are no published hyper-parameters for {}; give a file with a slash or .json "
                      "in its name, or the folder that holds hparams/{} by LOCI_DATA",
                      name, method, method);
  throw_error<InputError>(
      "--hparams {}: is not the name of published hyper-parameters for {}; there are {}. A file has a "
      "slash or .json in its name",
      name, method, fmt::join(known, ", "));
}

}  // namespace

std::string hparams_file(const std::string& given, const std::string& method) {
  return given.empty() || is_path(given) || fs::exists(given) ? given : published_file(given, method);
}

std::string hparams_file_of_several(const std::string& given, const std::string& method) {
  if (given.empty()) return given;
  if (!is_path(given) && !fs::is_directory(given)) return published_file(given, method);
  require<InputError>(
      fs::is_directory(given),
      "--hparams {}: is not a folder; several methods need a folder with a file METHOD.json for each, or "
      "the name of published hyper-parameters",
      given);
  for (const std::string& source : sources_of(method))
    if (const fs::path file = fs::path(given) / (source + ".json"); fs::exists(file)) return file.string();
  throw_error<InputError>("--hparams {}: the folder lacks the file {}.json; add it, or leave {} out of --methods",
                          given, method, method);
}

}  // namespace loci::app
