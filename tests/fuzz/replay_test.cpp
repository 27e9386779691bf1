// Every fuzz target on its corpus, as builds without libFuzzer can run it.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/io/atomic_file.h"
#include "tests/fuzz/target.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

std::filesystem::path corpora() { return source_dir() / "tests/fuzz/corpus"; }

std::vector<std::string> members(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

class FuzzReplay : public testing::TestWithParam<fuzz::Target> {};

/// Each input whole, and cut at some 8 places. Those named good_* are accepted, so that a corpus reaches behind the
/// first checks of its reader.
TEST_P(FuzzReplay, KeepsItsPromises) {
  const fuzz::Target target = GetParam();
  const std::filesystem::path folder = corpora() / target.name;
  const std::vector<std::string> inputs = members(folder);
  EXPECT_GE(inputs.size(), 5u);
  for (const std::string& name : inputs) {
    SCOPED_TRACE(name);
    const std::string bytes = read_text_file(folder / name);
    bool accepted = false;
    EXPECT_NO_THROW(accepted = target.run(bytes));
    EXPECT_TRUE(accepted || !name.starts_with("good_"));
    for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 8)
      EXPECT_NO_THROW(target.run(std::string_view(bytes).substr(0, size))) << "cut to " << size << " bytes";
  }
}

INSTANTIATE_TEST_SUITE_P(Corpus, FuzzReplay, testing::ValuesIn(fuzz::targets()),
                         [](const auto& target) { return std::string(target.param.name); });

TEST(FuzzReplay, EveryCorpusHasATarget) {
  std::vector<std::string> names;
  for (const fuzz::Target& target : fuzz::targets()) names.emplace_back(target.name);
  EXPECT_EQ(members(corpora()), names);
}

TEST(FuzzReplay, ABrokenPromiseIsReported) {
  EXPECT_THROW(fuzz::accepted("a", [] { throw InputError("b: refused"); }), std::logic_error);
  EXPECT_THROW(fuzz::accepted("a", [] { throw std::out_of_range("a: no refusal"); }), std::out_of_range);
  EXPECT_FALSE(fuzz::accepted("a", [] { throw InputError("a: refused"); }));
  EXPECT_TRUE(fuzz::accepted("a", [] {}));
}

}  // namespace
}  // namespace loci::test
