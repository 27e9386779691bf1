#include "runtime/jobs/interruption.h"

#include <atomic>

namespace loci {
namespace {

constexpr std::array kSignals{SIGUSR1, SIGTERM, SIGINT};

// A signal handler reaches nothing but what is static.
std::atomic<int> first_signal{0};
std::atomic<bool> in_use{false};
static_assert(std::atomic<int>::is_always_lock_free);

void remember(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
}

sigset_t taken_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

}  // namespace

Interruption::Interruption() {
  require<ShapeError>(!in_use.exchange(true), "signals are taken by one job at a time");
  first_signal = 0;
  const sigset_t signals = taken_signals();
  pthread_sigmask(SIG_BLOCK, &signals, &mask_before_);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction action {};
    action.sa_handler = remember;
    sigemptyset(&action.sa_mask);
    // The system call under way goes on. The second SIGINT finds the default action, which ends the process.
    action.sa_flags = SA_RESTART;
    if (kSignals[i] == SIGINT) action.sa_flags |= static_cast<int>(SA_RESETHAND);
    sigaction(kSignals[i], &action, &before_[i]);
  }
  listener_ = std::thread([this] { listen(); });
}

void Interruption::listen() {
  const sigset_t signals = taken_signals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_; });
}

Interruption::~Interruption() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  listener_.join();
  // What came while this object was there was meant for it, also where the listener ended before it was heard.
  const sigset_t signals = taken_signals();
  const timespec at_once{};
  while (sigtimedwait(&signals, nullptr, &at_once) > 0) {
  }
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  in_use = false;
}

int Interruption::signal() const { return first_signal; }

std::string signal_name(int signal) {
  switch (signal) {
    case SIGUSR1:
      return "SIGUSR1";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    default:
      return fmt::format("signal {}", signal);
  }
}

}  // namespace loci
