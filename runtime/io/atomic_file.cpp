#include "runtime/io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>

#include "runtime/error.h"
#include "runtime/io/standard_input.h"

namespace loci {

namespace {

/// Closes on every way out; close_checked() where a failure counts (NFS reports a full disk there).
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool close_checked() {
    const int fd = fd_;
    fd_ = -1;
    return ::close(fd) == 0;
  }

 private:
  int fd_;
};

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw_write_error(path.string(), written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void sync_file(const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0 || ::fsync(file.get()) != 0) throw_write_error(path.string(), errno);
}

/// What helps against an error of the system.
std::string_view remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "make space there";
    case EFBIG:
      return "raise the limit on the size of files (ulimit -f)";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check the permissions";
    default:
      return "check the disk";
  }
}

}  // namespace

void throw_write_error(std::string_view what, int error) {
  throw_error<SystemError>("{}: writing failed, nothing was kept: {}; {} and run the same command again", what,
                           std::strerror(error), remedy(error));
}

void sync_folder(const std::filesystem::path& folder) {
  Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  require<SystemError>(descriptor.get() >= 0, "{}: the folder cannot be opened: {}", folder.string(),
                       std::strerror(errno));
  // Some file systems cannot sync a folder and say EINVAL; their renames are as durable as they get.
  require<SystemError>(::fsync(descriptor.get()) == 0 || errno == EINVAL, "{}: the folder cannot be synced: {}",
                       folder.string(), std::strerror(errno));
}

AtomicPath::AtomicPath(std::filesystem::path target) : AtomicPath(target, target.string() + ".tmp") {}

AtomicPath::AtomicPath(std::filesystem::path target, std::filesystem::path temporary)
    : target_(std::move(target)), temporary_(std::move(temporary)) {
  std::error_code ignored;
  require<InputError>(target_.has_filename(), "{}: is not the name of a file to write", target_.string());
  require<InputError>(std::filesystem::is_directory(folder_of(target_), ignored),
                      "{}: the folder {} does not exist; make it first", target_.string(), folder_of(target_).string());
  require<InputError>(!std::filesystem::is_directory(target_, ignored), "{}: is a folder, a file is to be written here",
                      target_.string());
  std::filesystem::remove(temporary_, ignored);
}

AtomicPath::~AtomicPath() {
  if (state_ == State::committed) return;
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void AtomicPath::commit() {
  sync_file(temporary_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) throw_write_error(target_.string(), errno);
  state_ = State::committed;
  sync_folder(folder_of(target_));
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicPath atomic(path);
  Descriptor file(::open(atomic.temporary().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() < 0) throw_write_error(path.string(), errno);
  write_all(file.get(), bytes, path);
  if (!file.close_checked()) throw_write_error(path.string(), errno);
  atomic.commit();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text)));
}

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error && remedy(error.value()) == remedy(ENOSPC)) throw_write_error(folder.string(), error.value());
  require<InputError>(!error && std::filesystem::is_directory(folder),
                      "{}: the folder cannot be made: {}; choose another one", folder.string(),
                      error ? error.message() : "there is a file of that name");
}

void require_regular_file(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  require<InputError>(!std::filesystem::is_directory(status), "{}: is a folder, expected a file", path.string());
  const bool is_other = std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
  require<InputError>(!is_other, "{}: is not a regular file; it is read more than once, so write it to a file first",
                      path.string());
}

std::string read_text_file(const std::filesystem::path& path) {
  const std::filesystem::path file_path = input_file(path);
  const std::string name = input_name(path);
  std::error_code ignored;
  require<InputError>(!std::filesystem::is_directory(file_path, ignored), "{}: is a folder, expected a file", name);
  errno = 0;
  std::ifstream file(file_path, std::ios::binary);
  require<InputError>(file.is_open(), "{}: cannot be opened: {}", name, std::strerror(errno));
  std::string text;
  if (const auto size = std::filesystem::file_size(file_path, ignored); !ignored) text.reserve(size);
  text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  require<InputError>(!file.bad(), "{}: cannot be read to its end", name);
  return text;
}

}  // namespace loci
