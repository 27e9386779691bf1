// What figures call a model.
#include "app/model_name.h"

#include <gtest/gtest.h>

#include "runtime/io/atomic_file.h"
#include "tests/support/paths.h"

namespace loci::app {
namespace {

/// The name of a model in this folder of a temporary one.
std::string name_of(const std::string& folder, const std::string& config = "{}") {
  const test::TemporaryDir dir;
  std::filesystem::create_directories(dir.path() / folder);
  write_file_atomically(dir.path() / folder / "config.json", config);
  return model_name(dir.path() / folder);
}

TEST(ModelName, IsTheFoldersWhereThatSaysSomething) {
  EXPECT_EQ(name_of("gpt2-xl"), "gpt2-xl");
  EXPECT_EQ(name_of("gpt2-xl/"), "gpt2-xl");
  EXPECT_EQ(name_of("gpt2-xl/x/.."), "gpt2-xl");
  EXPECT_EQ(name_of("tuned", R"({"_name_or_path": "gpt2-xl"})"), "tuned");
}

TEST(ModelName, ComesFromTheConfigurationWhereTheFolderSaysNothing) {
  EXPECT_EQ(name_of("a/model", R"({"_name_or_path": "openai-community/gpt2-xl"})"), "gpt2-xl");
  EXPECT_EQ(name_of("a/model", R"({"_name_or_path": "./out/model"})"), "a/model");
  EXPECT_EQ(name_of("a/model", R"({"_name_or_path": ""})"), "a/model");
  EXPECT_EQ(name_of("a/model", R"({"_name_or_path": 3})"), "a/model");
  EXPECT_EQ(name_of("study/output"), "study/output");
}

TEST(ModelName, OfASnapshotInHuggingFacesCacheIsTheRepositorys) {
  const std::string hash = "/snapshots/15ea56dee5df4983c59b2538573817e1667135e2";
  EXPECT_EQ(name_of("models--gpt2-xl" + hash), "gpt2-xl");
  EXPECT_EQ(name_of("models--EleutherAI--gpt-j-6b" + hash), "EleutherAI/gpt-j-6b");
}

}  // namespace
}  // namespace loci::app
