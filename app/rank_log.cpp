#include "app/rank_log.h"

#include <fmt/format.h>
#include <spdlog/details/os.h>
#include <spdlog/sinks/stdout_color_sinks.h>

namespace loci::app {

RankLog::RankLog() : inner_(std::make_shared<spdlog::sinks::stderr_color_sink_mt>()) {}

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
  if (rank == 0) return inner_->log(message);
  if (message.level < spdlog::level::warn) return;
  const std::string text = fmt::format("rank {}: {}", rank, message.payload);
  spdlog::details::log_msg prefixed = message;
  prefixed.payload = text;
  inner_->log(prefixed);
}

void RankLog::flush_() { inner_->flush(); }

void RankLog::set_formatter_(std::unique_ptr<spdlog::formatter> formatter) {
  inner_->set_formatter(std::move(formatter));
}

void RankLog::set_pattern_(const std::string& pattern) { inner_->set_pattern(pattern); }

}  // namespace loci::app
