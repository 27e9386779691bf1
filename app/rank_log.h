#pragma once

#include <spdlog/sinks/base_sink.h>

#include <map>
#include <mutex>

namespace loci::app {

/// Standard error, shared by ranks: those other than rank 0 have a word only with warnings and errors, which then begin
/// with "rank 2: ". The rank is that of the thread that logs, else that of the process.
class RankLog : public spdlog::sinks::base_sink<std::mutex> {
 public:
  RankLog();

  void set_process_rank(int rank);
  /// The calling thread speaks for this rank, until it forgets it.
  void enter_thread(int rank);
  void leave_thread();

 private:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override;
  void set_formatter_(std::unique_ptr<spdlog::formatter> formatter) override;
  void set_pattern_(const std::string& pattern) override;

  spdlog::sink_ptr inner_;
  int process_rank_ = 0;
  std::map<size_t, int> thread_ranks_;
};

}  // namespace loci::app
