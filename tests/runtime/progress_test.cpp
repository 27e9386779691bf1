#include "runtime/jobs/progress.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>

namespace loci::test {
namespace {

/// The lines of a job whose progress goes to a logger of its own.
class ProgressTest : public ::testing::Test {
 protected:
  ProgressTest() : before_(spdlog::default_logger()) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_st>(stream_);
    auto logger = std::make_shared<spdlog::logger>("loci_test", sink);
    auto progress = std::make_shared<spdlog::logger>(kProgressLogger, sink);
    for (auto& one : {logger, progress}) {
      one->set_pattern("%l: %v");
      one->set_level(spdlog::level::trace);
    }
    spdlog::set_default_logger(logger);
    spdlog::register_logger(progress);
  }
  ~ProgressTest() override {
    spdlog::drop(kProgressLogger);
    spdlog::set_default_logger(before_);
  }
  std::string text() const { return stream_.str(); }

  std::ostringstream stream_;
  std::shared_ptr<spdlog::logger> before_;
};

TEST_F(ProgressTest, LinesTellAmountSpeedAndTimeLeft) {
  Progress progress("trace", "facts", 10, 2, 0);
  progress.advance(3);
  EXPECT_EQ(text().rfind("info: trace: 5 of 10 facts, ", 0), 0u) << text();
  EXPECT_NE(text().find("facts/s, "), std::string::npos) << text();
  EXPECT_NE(text().find(" left\n"), std::string::npos) << text();
}

TEST_F(ProgressTest, ABarIsRewrittenBetweenTheLines) {
  Progress progress("trace", "facts", 4, 0, 1000);
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  progress.advance(1);
  EXPECT_EQ(text().rfind("trace: trace [######..................] 1 of 4 facts, ", 0), 0u) << text();
  const std::string once = text();
  progress.advance(1);  // at once after the other
  EXPECT_EQ(text(), once);
}

TEST_F(ProgressTest, TheLastLineCountsInTheSingularToo) {
  Progress progress("edit", "requests", 3, 2, 1000);
  progress.advance(1);
  progress.finish();
  EXPECT_EQ(text().rfind("info: edit: 1 request done in ", 0), 0u) << text();
}

TEST_F(ProgressTest, FewBytesAreNotZeroMebibytes) {
  Progress progress("tokenize", "bytes", 0, 0, 1000);
  progress.advance(700);
  progress.advance(800);
  progress.finish();
  EXPECT_EQ(text().rfind("info: tokenize: 1.5 KiB done in ", 0), 0u) << text();
}

}  // namespace
}  // namespace loci::test
