#include "runtime/jobs/progress.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace loci {
namespace {

constexpr auto kRedrawInterval = std::chrono::milliseconds(100);
constexpr int64_t kBarWidth = 24;

/// Three digits for speeds of any size.
std::string speed_text(double speed) {
  return speed >= 100 ? fmt::format("{:.0f}", speed) : fmt::format("{:.3g}", speed);
}

/// "512 bytes", "3.1 MiB".
std::string bytes_text(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} bytes", bytes);
  if (bytes < 1024 * 1024) return fmt::format("{:.1f} KiB", bytes / 1024);
  return fmt::format("{:.1f} MiB", bytes / (1024 * 1024));
}

std::shared_ptr<spdlog::logger> logger() {
  std::shared_ptr<spdlog::logger> own = spdlog::get(kProgressLogger);
  return own ? own : spdlog::default_logger();
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
      last_report_(start_),
      last_drawn_(start_) {}

double Progress::seconds() const { return seconds_since(start_); }

double Progress::speed() const { return static_cast<double>(done_ - done_before_) / std::max(seconds(), 1e-9); }

/// "1 fact", "2 facts".
std::string Progress::counted(int64_t units) const {
  if (unit_ == "bytes") return bytes_text(static_cast<double>(units));
  const bool one = units == 1 && unit_.ends_with('s') && unit_.find(' ') == unit_.npos;
  return fmt::format("{} {}", units, one ? unit_.substr(0, unit_.size() - 1) : unit_);
}

/// "120 of 605 facts, 3.2 facts/s, 2 min 31 s left"
std::string Progress::state() const {
  const double rate = speed();
  const std::string per_second =
      unit_ == "bytes" ? bytes_text(rate) + "/s" : fmt::format("{} {}/s", speed_text(rate), unit_);
  if (total_ == 0) return fmt::format("{}, {}", counted(done_), per_second);
  const std::string done = unit_ == "bytes" ? bytes_text(static_cast<double>(done_)) : std::to_string(done_);
  const std::string left = rate > 0 ? duration_text(static_cast<double>(total_ - done_) / rate) + " left"
                                    : std::string("time left not known");
  return fmt::format("{} of {}, {}, {}", done, counted(total_), per_second, left);
}

void Progress::advance(int64_t units) {
  done_ += units;
  const Clock::time_point now = Clock::now();
  if (now - last_drawn_ >= kRedrawInterval) {
    last_drawn_ = now;
    redraw();
  }
  if (now - last_report_ >= interval_ && (total_ == 0 || done_ < total_)) report();
}

void Progress::report() {
  last_report_ = Clock::now();
  logger()->info("{}: {}", job_, state());
}

void Progress::redraw() const {
  const std::shared_ptr<spdlog::logger> own = spdlog::get(kProgressLogger);
  if (!own || !own->should_log(spdlog::level::trace)) return;
  if (total_ == 0) return own->trace("{}: {}", job_, state());
  const auto filled = static_cast<size_t>(std::clamp<int64_t>(kBarWidth * done_ / total_, 0, kBarWidth));
  const std::string bar = std::string(filled, '#') + std::string(static_cast<size_t>(kBarWidth) - filled, '.');
  own->trace("{} [{}] {}", job_, bar, state());
}

void Progress::finish() {
  const std::string rate = unit_ == "bytes" ? bytes_text(speed()) : fmt::format("{} {}", speed_text(speed()), unit_);
  spdlog::info("{}: {} done in {}, {}/s", job_, counted(done_ - done_before_), duration_text(seconds()), rate);
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
