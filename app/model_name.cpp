#include "app/model_name.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "runtime/io/json.h"

namespace loci::app {
namespace {

namespace fs = std::filesystem;

/// Folders are called so whatever they hold; a snapshot's folder has the name of a commit.
bool says_nothing(std::string_view folder) {
  constexpr std::array<std::string_view, 9> kCommon = {"",   "model",  "models", "checkpoint", "final",
                                                       "hf", "latest", "out",    "output"};
  const bool is_hash = folder.size() == 40 && folder.find_first_not_of("0123456789abcdef") == folder.npos;
  return is_hash || std::ranges::find(kCommon, folder) != kCommon.end();
}

/// The repository of a snapshot in Hugging Face's cache, a folder such as models--EleutherAI--gpt-j-6b.
std::string cached_name(const fs::path& directory) {
  constexpr std::string_view kPrefix = "models--";
  for (const fs::path& part : directory) {
    std::string name = part.string();
    if (!name.starts_with(kPrefix)) continue;
    name.erase(0, kPrefix.size());
    if (const size_t between = name.find("--"); between != name.npos) name.replace(between, 2, "/");
    return name;
  }
  return "";
}

}  // namespace

std::string model_name(const fs::path& directory) {
  std::error_code unknown;
  fs::path whole = fs::absolute(directory, unknown).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // "gpt2-xl/"
  const std::string folder = whole.filename().string();
  if (std::string name = cached_name(whole); !name.empty()) return name;
  if (!says_nothing(folder)) return folder;
  const Json config = parse_json_file(directory / "config.json");
  const auto name = config.find("_name_or_path");
  if (name != config.end() && name->is_string())
    if (const std::string last = fs::path(name->get<std::string>()).filename().string(); !says_nothing(last))
      return last;
  return whole.parent_path().filename().string() + "/" + folder;
}

}  // namespace loci::app
