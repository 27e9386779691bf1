#include "runtime/jobs/output_lock.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"

namespace loci {

namespace fs = std::filesystem;

std::string this_process() {
  std::array<char, 256> host{};
  return fmt::format("process {} on {}", ::getpid(),
                     ::gethostname(host.data(), host.size() - 1) == 0 ? host.data() : "");
}

OutputLock::OutputLock(const fs::path& path, const fs::path& output) : path_(path) {
  // The holder may remove the file between our open and our lock: then the lock is on nothing, so look again.
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) throw_write_error(path.parent_path().string(), error.value());
    if (take(output)) return;
  }
  throw_error<SystemError>("{}: cannot be locked: other jobs keep removing it", path.string());
}

/// False where the file was removed meanwhile.
bool OutputLock::take(const fs::path& output) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0 && errno == ENOENT) return false;
  if (fd_ < 0) throw_write_error(path_.string(), errno);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int cause = errno;
    const std::string holder = cause == EWOULDBLOCK ? read_holder() : "";
    release();
    require<SystemError>(cause != EWOULDBLOCK,
                         "{}: another job{} is writing this output; wait for it, or choose another", output.string(),
                         holder);
    throw_error<SystemError>("{}: cannot be locked: {}", path_.string(), std::strerror(cause));
  }
  const bool named = is_named();
  if (named)
    write_holder();
  else
    release();
  return named;
}

/// Whether the path still names the file that is locked.
bool OutputLock::is_named() const {
  struct stat held {};
  struct stat named {};
  return ::fstat(fd_, &held) == 0 && ::stat(path_.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

OutputLock::~OutputLock() {
  std::error_code ignored;
  if (is_named()) fs::remove(path_, ignored);
  release();
}

/// Only for the sentence that another job prints, so failures do not matter.
void OutputLock::write_holder() const {
  const std::string text = this_process();
  if (::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, text.data(), text.size(), 0) < 0)
    spdlog::debug("the lock's holder cannot be written");
}

std::string OutputLock::read_holder() const {
  std::array<char, 320> text{};
  return ::pread(fd_, text.data(), text.size() - 1, 0) > 0 ? fmt::format(" ({})", text.data()) : "";
}

void OutputLock::release() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

}  // namespace loci
