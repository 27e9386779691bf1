#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>

#include "model/executor/executor.h"
#include "model/text/tokenizer.h"
#include "tests/support/paths.h"

namespace loci::test {

/// The model that the reference's outputs belong to, on the CPU with two threads. Its tests are skipped where those
/// outputs are not to be had: a SetUp() that goes on from this one returns at once if IsSkipped().
class GoldenModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto shared = shared_dir();
    if (!shared) GTEST_SKIP() << "needs the reference's outputs (LOCI_TEST_DATA)";
    golden_ = *shared / "golden" / "tiny-a";
    context_.emplace(ContextOptions{.device = {}, .threads = 2});
    model_.emplace(Model::load(*context_, golden_ / "model"));
    tokenizer_.emplace(Tokenizer::load(golden_ / "model"));
    executor_.emplace(*context_, *model_);
  }

  std::filesystem::path golden_;  ///< with the checkpoint in `model`
  std::optional<Context> context_;
  std::optional<Model> model_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Executor> executor_;
};

}  // namespace loci::test
