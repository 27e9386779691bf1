#pragma once

#include <signal.h>

#include <array>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "runtime/error.h"

namespace loci {

/// A job stopped where it can be continued, because it was asked to. Exit code 75.
class InterruptedError : public Error {
 public:
  explicit InterruptedError(const std::string& message) : Error(message, 75) {}
};

/// While it lives, SIGUSR1, SIGTERM and a first SIGINT do not end the process but are remembered, for a job that looks
/// between its units of work. A second SIGINT ends the process at once. One at a time; afterwards the signals do what
/// they did before.
///
/// Signals are handled in a thread of its own: oneDNN's products keep numbers in the stack register, and the frame of a
/// handler that interrupts them lands on other data. So make it before the threads that compute, in the thread that
/// starts them; while it lives, these threads do not get the signals.
class Interruption {
 public:
  /// Throws ShapeError where there is one already.
  Interruption();
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  /// The first of the signals that came; 0: none. Any thread may ask.
  int signal() const;

 private:
  void listen();

  std::array<struct sigaction, 3> before_{};
  sigset_t mask_before_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread listener_;
};

/// "SIGTERM"; "signal 50" for those that an Interruption does not take.
std::string signal_name(int signal);

}  // namespace loci
