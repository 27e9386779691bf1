#pragma once

#include <signal.h>

#include <array>
#include <string>

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
  std::array<struct sigaction, 3> before_{};
};

/// "SIGTERM"; "signal 50" for those that an Interruption does not take.
std::string signal_name(int signal);

}  // namespace loci
