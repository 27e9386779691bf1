#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include <unistd.h>

namespace loci::test {

/// The checkout: $LOCI_TEST_SOURCE where the tests run elsewhere than they were built.
std::filesystem::path source_dir();

/// The folder with the reference's outputs and data sets (`golden/`, `data/`): $LOCI_TEST_DATA, else ../shared beside
/// the checkout. Empty where neither exists: tests that need it are then reported as skipped.
inline std::optional<std::filesystem::path> shared_dir() {
  if (const char* set = std::getenv("LOCI_TEST_DATA"); set && *set) return std::filesystem::path(set);
  const auto beside = source_dir().parent_path() / "shared";
  if (std::filesystem::exists(beside / "golden")) return beside;
  return std::nullopt;
}

/// A fresh folder under the system's temporary folder, removed with everything in it at the end of the scope.
class TemporaryDir {
 public:
  TemporaryDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "loci-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace loci::test
