#include "runtime/interruption.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/errors.h"

namespace loci {
namespace {

using test::error_of;

class TakenSignal : public testing::TestWithParam<int> {};

TEST_P(TakenSignal, IsRememberedInsteadOfEndingTheProcess) {
  const Interruption interruption;
  EXPECT_EQ(interruption.signal(), 0);
  raise(GetParam());
  EXPECT_EQ(interruption.signal(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Interruption, TakenSignal, testing::Values(SIGUSR1, SIGTERM, SIGINT),
                         [](const auto& param) { return signal_name(param.param); });

TEST(Interruption, TheFirstSignalCountsAndANewObjectForgetsIt) {
  {
    const Interruption interruption;
    raise(SIGTERM);
    raise(SIGUSR1);
    EXPECT_EQ(interruption.signal(), SIGTERM);
  }
  const Interruption again;
  EXPECT_EQ(again.signal(), 0);
}

TEST(Interruption, ThereIsOneAtATime) {
  const Interruption interruption;
  error_of<ShapeError>([] { const Interruption second; });
  raise(SIGUSR1);
  EXPECT_EQ(interruption.signal(), SIGUSR1);
}

/// The signal that ended a child process which runs `child`; 0 if it ended by itself.
template <typename F>
int ending_signal(const F& child) {
  const pid_t id = fork();
  if (id == 0) {
    child();
    _exit(0);
  }
  int status = 0;
  waitpid(id, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(Interruption, ASecondInterruptEndsTheProcess) {
  EXPECT_EQ(ending_signal([] {
              const Interruption interruption;
              raise(SIGINT);
              raise(SIGINT);
            }),
            SIGINT);
  EXPECT_EQ(ending_signal([] {
              const Interruption interruption;
              raise(SIGINT);
              raise(SIGTERM);
              raise(SIGTERM);
            }),
            0);
}

TEST(Interruption, AfterwardsSignalsDoWhatTheyDid) {
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    EXPECT_EQ(ending_signal([signal] {
                { const Interruption interruption; }
                raise(signal);
              }),
              signal);
  }
}

TEST(Interruption, NamesOfSignals) {
  EXPECT_EQ(signal_name(SIGUSR1), "SIGUSR1");
  EXPECT_EQ(signal_name(50), "signal 50");
}

}  // namespace
}  // namespace loci
