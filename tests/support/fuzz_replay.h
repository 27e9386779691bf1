#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/atomic_file.h"
#include "tests/support/paths.h"

/// The fuzz target (tests/fuzz/*_fuzz.cpp) that is linked into this executable.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace loci::test {

/// One input of a fuzz corpus.
struct FuzzInput {
  std::string name;
  std::string bytes;
};

/// The inputs in tests/fuzz/corpus/`target`, by name.
inline std::vector<FuzzInput> fuzz_corpus(const std::string& target) {
  std::vector<FuzzInput> inputs;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "tests/fuzz/corpus" / target))
    inputs.push_back({entry.path().filename().string(), read_text_file(entry.path())});
  std::sort(inputs.begin(), inputs.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return inputs;
}

/// Runs the linked fuzz target on a corpus of `least` inputs or more, as builds without libFuzzer can: on each whole
/// input, and on the input cut at some 16 places. The target ends the process where an input breaks what it promises.
inline void replay_fuzz_corpus(const std::string& target, size_t least) {
  const std::vector<FuzzInput> inputs = fuzz_corpus(target);
  EXPECT_GE(inputs.size(), least);
  for (const auto& [name, bytes] : inputs) {
    SCOPED_TRACE(name);
    const auto* const data = reinterpret_cast<const uint8_t*>(bytes.data());
    EXPECT_EQ(LLVMFuzzerTestOneInput(data, bytes.size()), 0);
    for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 16)
      EXPECT_EQ(LLVMFuzzerTestOneInput(data, size), 0);
  }
}

}  // namespace loci::test
