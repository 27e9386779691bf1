// Replays the fuzz corpora through the same code as the fuzz targets, in every build.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "runtime/atomic_file.h"
#include "runtime/safetensors.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> corpus(const std::string& target) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(test::source_dir() / "tests/fuzz/corpus" / target)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST(FuzzReplay, SafetensorsHeaders) {
  const auto files = corpus("safetensors");
  ASSERT_GE(files.size(), 20u);
  int accepted = 0;
  for (const fs::path& path : files) {
    const std::string bytes = read_text_file(path);
    try {
      parse_safetensors_header(std::as_bytes(std::span(bytes)), "fuzz");
      ++accepted;
    } catch (const InputError& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with("fuzz")) << error.what();
    }
  }
  EXPECT_GE(accepted, 3);
  EXPECT_LT(accepted, static_cast<int>(files.size()));
}

}  // namespace
}  // namespace loci
