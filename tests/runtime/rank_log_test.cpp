// What is said where: on a terminal, in a pipe, in a log file.
#include "runtime/jobs/rank_log.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <spdlog/logger.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "runtime/jobs/progress.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

/// Standard error is a terminal, or a pipe, until the end of the scope.
class OtherStandardError {
 public:
  explicit OtherStandardError(bool terminal) : saved_(::dup(STDERR_FILENO)) {
    std::array<int, 2> ends{};
    winsize size{};
    size.ws_row = 24;
    size.ws_col = 40;
    if (terminal)
      EXPECT_EQ(::openpty(&ends[0], &ends[1], nullptr, nullptr, &size), 0);
    else
      EXPECT_EQ(::pipe(ends.data()), 0);
    reader_ = ends[0];
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[1]);
  }
  ~OtherStandardError() { restore(); }
  OtherStandardError(const OtherStandardError&) = delete;
  OtherStandardError& operator=(const OtherStandardError&) = delete;

  /// What was written; little enough to have fitted. Standard error is the old one from then on.
  std::string text() {
    // A terminal hands out what was written piece by piece: it is read up to a mark.
    const std::string mark = "the end of the test's text";
    std::fflush(stderr);
    std::string text;
    if (::write(STDERR_FILENO, (mark + "\n").data(), mark.size() + 1) == std::ssize(mark) + 1) {
      std::array<char, 4096> buffer{};
      for (ssize_t count = 1; count > 0 && text.find(mark) == text.npos;) {
        count = ::read(reader_, buffer.data(), buffer.size());
        text.append(buffer.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
      }
    }
    restore();
    return text.substr(0, text.find(mark));
  }

 private:
  void restore() {
    if (saved_ < 0) return;
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    ::close(reader_);
    saved_ = -1;
  }

  int saved_;
  int reader_ = -1;
};

class RankLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TERM", "xterm", 1);
    ::unsetenv("NO_COLOR");
  }

  /// What standard error gets of some messages of rank 0, one of rank 1, and progress.
  std::string said(bool terminal, const LogOptions& options) {
    OtherStandardError standard_error(terminal);
    const auto log = std::make_shared<RankLog>();
    log->set_pattern("%^%l%$: %v");
    log->configure(options);
    spdlog::logger logger("loci", log), progress(kProgressLogger, log);
    for (spdlog::logger* one : {&logger, &progress}) one->set_level(spdlog::level::trace);
    logger.debug("a detail");
    progress.trace("trace [##..] half of it, and much more than fits the terminal");
    progress.info("trace: half");
    logger.info("a fact");
    std::thread([&] {
      log->enter_thread(1);
      logger.info("not heard");
      logger.warn("a worry");
      log->leave_thread();
    }).join();
    return standard_error.text();
  }
  static void expect_parts(const std::string& text, const std::vector<std::string>& there,
                           const std::vector<std::string>& absent) {
    for (const std::string& part : there)
      EXPECT_NE(text.find(part), std::string::npos) << Json(part).dump() << " is not in " << Json(text).dump();
    for (const std::string& part : absent)
      EXPECT_EQ(text.find(part), std::string::npos) << Json(part).dump() << " is in " << Json(text).dump();
  }

  test::TemporaryDir folder_;
};

TEST_F(RankLogTest, APipeGetsPlainLines) {
  expect_parts(said(false, {}), {"info: a fact\n", "info: trace: half\n", "warning: rank 1: a worry\n"},
               {"a detail", "##", "not heard", "\x1b", "\r"});
}

TEST_F(RankLogTest, ATerminalGetsALineThatIsRewrittenAndRemoved) {
  // 39 columns of 40, then the line is cleared before a message.
  const std::string text = said(true, {});
  expect_parts(text, {"\rtrace [##..] half of it, and much more \x1b[K", "\r\x1b[K\x1b[32minfo", "a worry"},
               {"trace: half", "a detail", "not heard"});
}

TEST_F(RankLogTest, NoColourWhereItIsNotWanted) {
  ::setenv("NO_COLOR", "1", 1);
  expect_parts(said(true, {}), {"##", "info: a fact"}, {"\x1b[32m", "\x1b[33m"});
  ::unsetenv("NO_COLOR");
  ::setenv("TERM", "dumb", 1);
  expect_parts(said(true, {}), {"info: a fact", "info: trace: half"}, {"\x1b", "##"});
}

TEST_F(RankLogTest, QuietLeavesWarnings) {
  for (const bool terminal : {false, true})
    expect_parts(said(terminal, {.quiet = true, .verbose = false, .file = ""}), {"rank 1: a worry"},
                 {"a fact", "half", "##", "a detail"});
}

TEST_F(RankLogTest, VerboseTellsDetails) {
  expect_parts(said(false, {.quiet = false, .verbose = true, .file = ""}), {"debug: a detail", "info: a fact"},
               {"not heard"});
}

TEST_F(RankLogTest, ALogFileGetsEverythingWithTimeAndRank) {
  const std::string path = folder_.file("log.txt");
  said(true, {.quiet = true, .verbose = false, .file = path});
  said(true, {.quiet = true, .verbose = false, .file = path});
  const std::string text = read_text_file(path);
  expect_parts(text,
               {" debug rank 0: a detail\n", " info rank 0: trace: half\n", " info rank 1: not heard\n",
                " warning rank 1: a worry\n"},
               {"##", "\x1b"});
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10) << text;  // the second run appended
  EXPECT_EQ(text.substr(4, 1) + text.substr(7, 1) + text.substr(13, 1), "--:") << text;
}

TEST_F(RankLogTest, ALogFileThatCannotBeMadeIsRefused) {
  RankLog log;
  EXPECT_THROW(log.configure({.quiet = false, .verbose = false, .file = folder_.path().string()}), InputError);
}

}  // namespace
}  // namespace loci
