#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace loci {

/// Says on the log how far a job is: "trace: 120 of 605 facts, 3.2 facts/s, 2 min 31 s left". At most one line an
/// interval, and one at the end.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  /// `done` of `total` units were finished by an earlier run; they do not count for the speed. `total` 0: unknown.
  Progress(std::string job, std::string unit, int64_t total, int64_t done = 0, double interval_seconds = 10);

  void advance(int64_t units = 1);
  /// The closing line with units, seconds and speed.
  void finish();

  int64_t done() const { return done_; }
  double seconds() const;

 private:
  void report();

  std::string job_;
  std::string unit_;
  int64_t total_;
  int64_t done_;
  int64_t done_before_;
  std::chrono::duration<double> interval_;
  Clock::time_point start_;
  Clock::time_point last_report_;
};

/// "47 s", "2 min 31 s", "3 h 12 min", "2 d 4 h".
std::string duration_text(double seconds);

}  // namespace loci
