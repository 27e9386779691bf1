#pragma once

#include <cstdint>
#include <string>

#include "runtime/clock.h"

namespace loci {

/// The spdlog logger that progress goes to, where one of this name is registered; else the default one. It gets lines
/// at level info, and at level trace what a terminal shows as one line that is rewritten.
inline constexpr const char* kProgressLogger = "progress";

/// Says how far a job is: "trace: 120 of 605 facts, 3.2 facts/s, 2 min 31 s left". At most one line per interval, and
/// one at the end; several rewritten lines per second for a terminal.
class Progress {
 public:
  /// `done` of `total` units were finished by an earlier run; they do not count for the speed. `total` 0: unknown.
  /// Units are named in the plural; "bytes" are shown in MiB where there are many.
  Progress(std::string job, std::string unit, int64_t total, int64_t done = 0, double interval_seconds = 10);

  void advance(int64_t units = 1);
  /// The closing line with units, seconds and speed.
  void finish();

  int64_t done() const { return done_; }
  double seconds() const;

 private:
  void report();
  void redraw() const;
  double speed() const;
  std::string counted(int64_t units) const;
  std::string state() const;

  std::string job_;
  std::string unit_;
  int64_t total_;
  int64_t done_;
  int64_t done_before_;
  std::chrono::duration<double> interval_;
  Clock::time_point start_;
  Clock::time_point last_report_;
  Clock::time_point last_drawn_;
};

/// "47 s", "2 min 31 s", "3 h 12 min", "2 d 4 h".
std::string duration_text(double seconds);

}  // namespace loci
