// Replays the corpus of tests/fuzz/facts_fuzz.cpp, which is linked into this executable, in every build.
#include <gtest/gtest.h>

#include "runtime/atomic_file.h"
#include "tests/support/paths.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace loci {
namespace {

TEST(FactsFuzz, CorpusReplays) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test::source_dir() / "tests/fuzz/corpus/facts")) {
    SCOPED_TRACE(entry.path().filename().string());
    const std::string bytes = read_text_file(entry.path());
    EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), 0);
    // Every input once more, cut at many places: still an answer or an InputError.
    for (std::size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 16)
      EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), size), 0);
    ++files;
  }
  EXPECT_GE(files, 20);
}

}  // namespace
}  // namespace loci
