#pragma once

#include <filesystem>
#include <string>

namespace loci {

/// "process 1234 on node7": who writes here.
std::string this_process();

/// An exclusive lock on a file, which says who holds it, until destruction: so that two jobs do not write one output.
/// The system drops it when the process dies, on network file systems too where they support flock.
class OutputLock {
 public:
  /// Makes the folder of `path` if it is not there. Throws SystemError where another job (whose process and host are
  /// named) holds the lock of `output`, or none can be had.
  OutputLock(const std::filesystem::path& path, const std::filesystem::path& output);
  /// Removes the file.
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  bool take(const std::filesystem::path& output);
  bool is_named() const;
  void write_holder() const;
  std::string read_holder() const;
  void release();

  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace loci
