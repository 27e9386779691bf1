#include "runtime/jobs/interruption.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "tests/support/errors.h"

namespace loci {
namespace {

using test::error_of;

/// Sends this process a signal, and waits until it has arrived.
void send(int signal, const Interruption& interruption) {
  const int expected = interruption.signal() == 0 ? signal : interruption.signal();
  kill(getpid(), signal);
  for (int i = 0; i < 10000 && interruption.signal() != expected; ++i) usleep(1000);
}

class TakenSignal : public testing::TestWithParam<int> {};

TEST_P(TakenSignal, IsRememberedInsteadOfEndingTheProcess) {
  const Interruption interruption;
  EXPECT_EQ(interruption.signal(), 0);
  send(GetParam(), interruption);
  EXPECT_EQ(interruption.signal(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Interruption, TakenSignal, testing::Values(SIGUSR1, SIGTERM, SIGINT),
                         [](const auto& param) { return signal_name(param.param); });

TEST(Interruption, TheFirstSignalCountsAndANewObjectForgetsIt) {
  {
    const Interruption interruption;
    send(SIGTERM, interruption);
    send(SIGUSR1, interruption);
    EXPECT_EQ(interruption.signal(), SIGTERM);
  }
  const Interruption again;
  EXPECT_EQ(again.signal(), 0);
}

TEST(Interruption, ThereIsOneAtATime) {
  const Interruption interruption;
  error_of<ShapeError>([] { const Interruption second; });
  send(SIGUSR1, interruption);
  EXPECT_EQ(interruption.signal(), SIGUSR1);
}

TEST(Interruption, ThreadsThatComputeDoNotGetTheSignals) {
  const auto blocked = [](int signal) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, signal) == 1;
  };
  {
    const Interruption interruption;
    for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
      EXPECT_TRUE(blocked(signal));
      std::thread([&] { EXPECT_TRUE(blocked(signal)); }).join();
    }
  }
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) EXPECT_FALSE(blocked(signal));
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
              send(SIGINT, interruption);
              kill(getpid(), SIGINT);
              sleep(60);
            }),
            SIGINT);
  EXPECT_EQ(ending_signal([] {
              const Interruption interruption;
              send(SIGINT, interruption);
              send(SIGTERM, interruption);
              send(SIGTERM, interruption);
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
