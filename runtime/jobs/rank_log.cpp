#include "runtime/jobs/rank_log.h"

#include <fmt/format.h>
#include <spdlog/details/os.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "runtime/error.h"
#include "runtime/jobs/progress.h"
#include "runtime/wording.h"

namespace loci {
namespace {

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : value;
}

/// Whether standard error is a terminal that can move its cursor.
bool on_terminal() { return ::isatty(STDERR_FILENO) == 1 && !variable("TERM").empty() && variable("TERM") != "dumb"; }

size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

spdlog::color_mode colours() {
  return on_terminal() && variable("NO_COLOR").empty() ? spdlog::color_mode::automatic : spdlog::color_mode::never;
}

spdlog::details::log_msg with_rank(const spdlog::details::log_msg& message, std::string& text, int rank) {
  text = fmt::format("rank {}: {}", rank, message.payload);
  spdlog::details::log_msg prefixed = message;
  prefixed.payload = text;
  return prefixed;
}

}  // namespace

RankLog::RankLog() : terminal_(std::make_shared<spdlog::sinks::stderr_color_sink_mt>(colours())) {}

RankLog::~RankLog() { clear_bar(); }

void RankLog::configure(const LogOptions& options) {
  std::lock_guard lock(mutex_);
  if (options.quiet) terminal_level_ = spdlog::level::warn;
  if (options.verbose) terminal_level_ = spdlog::level::debug;
  shows_bar_ = on_terminal() && !options.quiet;
  if (options.file.empty()) return;
  try {
    file_ = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    file_->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  } catch (const spdlog::spdlog_ex&) {
    throw_error<InputError>("{} {}: the file cannot be written; choose another place", option("log-file"),
                            options.file);
  }
}

void RankLog::set_process_rank(int rank) {
  std::lock_guard lock(mutex_);
  process_rank_ = rank;
}

void RankLog::enter_thread(int rank) {
  std::lock_guard lock(mutex_);
  thread_ranks_[spdlog::details::os::thread_id()] = rank;
}

void RankLog::leave_thread() {
  std::lock_guard lock(mutex_);
  thread_ranks_.erase(spdlog::details::os::thread_id());
}

void RankLog::sink_it_(const spdlog::details::log_msg& message) {
  const auto found = thread_ranks_.find(message.thread_id);
  const int rank = found == thread_ranks_.end() ? process_rank_ : found->second;
  const bool is_progress = std::string_view(message.logger_name.data(), message.logger_name.size()) == kProgressLogger;
  if (is_progress && message.level == spdlog::level::trace) {
    if (shows_bar_ && rank == 0) draw_bar(fmt::to_string(message.payload));
    return;
  }
  if (!is_progress || !shows_bar_) write_to_terminal(message, rank);
  if (file_) write_to_file(message, rank);
}

void RankLog::write_to_terminal(const spdlog::details::log_msg& message, int rank) {
  if (message.level < terminal_level_ || (rank != 0 && message.level < spdlog::level::warn)) return;
  clear_bar();
  std::string text;
  terminal_->log(rank == 0 ? message : with_rank(message, text, rank));
}

void RankLog::write_to_file(const spdlog::details::log_msg& message, int rank) {
  try {
    std::string text;
    file_->log(with_rank(message, text, rank));
    file_->flush();
  } catch (const spdlog::spdlog_ex&) {
    file_.reset();  // the job is worth more than its log
    clear_bar();
    fmt::print(stderr, "warning: the log file cannot be written any more; is its disk full?\n");
  }
}

void RankLog::draw_bar(std::string line) {
  line.resize(std::min(line.size(), terminal_width() - 1));
  fmt::print(stderr, "\r{}\x1b[K", line);
  std::fflush(stderr);
  bar_is_drawn_ = true;
}

void RankLog::clear_bar() {
  if (!bar_is_drawn_) return;
  bar_is_drawn_ = false;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
}

void RankLog::flush_() {
  terminal_->flush();
  if (file_) file_->flush();
}

void RankLog::set_formatter_(std::unique_ptr<spdlog::formatter> formatter) {
  terminal_->set_formatter(std::move(formatter));
}

void RankLog::set_pattern_(const std::string& pattern) { terminal_->set_pattern(pattern); }

}  // namespace loci
