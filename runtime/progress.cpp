#include "runtime/progress.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace loci {
namespace {

/// Three digits for speeds of any size.
std::string speed_text(double speed) {
  return speed >= 100 ? fmt::format("{:.0f}", speed) : fmt::format("{:.3g}", speed);
}

}  // namespace

Progress::Progress(std::string job, std::string unit, int64_t total, int64_t done, double interval_seconds)
    : job_(std::move(job)),
      unit_(std::move(unit)),
      total_(total),
      done_(done),
      done_before_(done),
      interval_(interval_seconds),
      start_(Clock::now()),
      last_report_(start_) {}

double Progress::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void Progress::advance(int64_t units) {
  done_ += units;
  if (Clock::now() - last_report_ >= interval_ && (total_ == 0 || done_ < total_)) report();
}

void Progress::report() {
  last_report_ = Clock::now();
  const double speed = static_cast<double>(done_ - done_before_) / std::max(seconds(), 1e-9);
  if (total_ == 0) {
    spdlog::info("{}: {} {}, {} {}/s", job_, done_, unit_, speed_text(speed), unit_);
  } else {
    const std::string left =
        speed > 0 ? duration_text(static_cast<double>(total_ - done_) / speed) + " left" : "time left not known";
    spdlog::info("{}: {} of {} {}, {} {}/s, {}", job_, done_, total_, unit_, speed_text(speed), unit_, left);
  }
}

void Progress::finish() {
  const double speed = static_cast<double>(done_ - done_before_) / std::max(seconds(), 1e-9);
  spdlog::info("{}: {} {} done in {}, {} {}/s", job_, done_ - done_before_, unit_, duration_text(seconds()),
               speed_text(speed), unit_);
}

std::string duration_text(double seconds) {
  if (!(seconds < 1e9)) return "very long";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::lround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return fmt::format("{} d {} h", whole / 86400, whole % 86400 / 3600);
}

}  // namespace loci
