#pragma once

#include <spdlog/sinks/base_sink.h>

#include <map>
#include <mutex>
#include <string>

namespace loci {

/// What is said where: --quiet, --verbose and --log-file of every command.
struct LogOptions {
  bool quiet = false;
  bool verbose = false;
  std::string file;
};

/// Standard error, shared by ranks: those other than rank 0 have a word only with warnings and errors, which then begin
/// with "rank 2: ". The rank is that of the thread that logs, else that of the process. A log file gets everything,
/// with time and rank. Progress is one rewritten line on a terminal, and lines elsewhere.
class RankLog : public spdlog::sinks::base_sink<std::mutex> {
 public:
  RankLog();
  ~RankLog() override;

  /// Throws InputError where the log file cannot be written. Several processes may share one.
  void configure(const LogOptions& options);
  void set_process_rank(int rank);
  /// The calling thread speaks for this rank, until it forgets it.
  void enter_thread(int rank);
  void leave_thread();

 private:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override;
  void set_formatter_(std::unique_ptr<spdlog::formatter> formatter) override;
  void set_pattern_(const std::string& pattern) override;

  void write_to_file(const spdlog::details::log_msg& message, int rank);
  void write_to_terminal(const spdlog::details::log_msg& message, int rank);
  void draw_bar(std::string line);
  void clear_bar();

  spdlog::sink_ptr terminal_;
  spdlog::sink_ptr file_;  // null: none
  spdlog::level::level_enum terminal_level_ = spdlog::level::info;
  bool shows_bar_ = false;
  bool bar_is_drawn_ = false;
  int process_rank_ = 0;
  std::map<size_t, int> thread_ranks_;
};

}  // namespace loci
