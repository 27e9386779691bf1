#include "runtime/io/hdf5_probe.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/hdf5.h"

namespace loci {

namespace {

/// What the child of a probe says: now and then that it makes progress, and at the end that all is well, or a message.
constexpr char kGetsOn = '.', kWell = '+', kRefused = '-';

/// Reads what a reader would, in the child.
class Walk {
 public:
  Walk(const H5File& file, int answer) : file_(file), answer_(answer) {}

  void all_below(const std::string& object, int depth = 0) {
    require<InputError>(depth < 64, "{}: groups are nested too deep", file_.path().string());
    get_on();
    read_attributes(file_, object);
    if (!h5_is_group(file_, object)) return dataset(object);
    for (const std::string& member : group_members(file_, object)) {
      const std::string path = (object == "/" ? "/" : object + "/") + member;
      if (h5_exists(file_, path)) all_below(path, depth + 1);
    }
  }

 private:
  void dataset(const std::string& path) {
    const DatasetInfo info = dataset_info(file_, path);
    if (info.kind == H5Kind::string) {
      read_strings(file_, path);
      return get_on();
    }
    if (info.kind == H5Kind::other || info.shape.empty() || info.count() == 0) return;
    const int64_t row = info.count() / info.shape[0], last = info.shape[0] - 1;
    if (info.in_one_piece) {
      read(path, 0, 1, row);
      return read(path, last, 1, row);
    }
    const int64_t step = std::max<int64_t>(1, (int64_t{1} << 20) / row);
    for (int64_t first = 0; first <= last; first += step) read(path, first, std::min(step, last + 1 - first), row);
  }

  void read(const std::string& path, int64_t first, int64_t count, int64_t row) {
    buffer_.resize(static_cast<size_t>(count * row));
    read_rows<double>(file_, path, first, count, buffer_);
    get_on();
  }

  void get_on() {
    const auto now = std::chrono::steady_clock::now();
    if (now - told_ < std::chrono::milliseconds(200)) return;
    told_ = now;
    if (::write(answer_, &kGetsOn, 1) != 1) _exit(1);  // nobody listens
  }

  const H5File& file_;
  int answer_;
  std::chrono::steady_clock::time_point told_ = std::chrono::steady_clock::now();
  std::vector<double> buffer_;
};

/// Makes this process end with its parent. The signal comes when the thread that forked ends: that one waits here. The
/// parent may be gone already.
void end_with_parent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
}

[[noreturn]] void probe_in_child(const std::filesystem::path& path, int answer) {
  // Whatever the library does to this process, nobody wants its core or its last words.
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) signal(number, SIG_DFL);
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  if (const int nowhere = ::open("/dev/null", O_WRONLY); nowhere >= 0) ::dup2(nowhere, STDERR_FILENO);
  std::string message(1, kWell);
  try {
    const H5File file = H5File::open_unverified(path);
    Walk(file, answer).all_below("/");
  } catch (const std::exception& error) {
    message = kRefused + std::string(error.what()).substr(0, 4000);
  }
  _exit(::write(answer, message.data(), message.size()) > 0 ? 0 : 1);
}

/// The files that were found well.
class WellFiles {
 public:
  /// What tells a file, and a change of it.
  using Identity = std::array<int64_t, 5>;
  static Identity identity(const std::filesystem::path& path) {
    struct stat status {};
    require<InputError>(::stat(path.c_str(), &status) == 0, "{}: cannot be read: {}", path.string(),
                        std::strerror(errno));
    return {static_cast<int64_t>(status.st_dev), static_cast<int64_t>(status.st_ino), status.st_size,
            status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
  }

  bool holds(const Identity& file) {
    const std::lock_guard lock(mutex_);
    return files_.contains(file);
  }
  void add(const Identity& file) {
    const std::lock_guard lock(mutex_);
    files_.insert(file);
  }

 private:
  std::mutex mutex_;
  std::set<Identity> files_;
};

/// What the child said in the end; nothing where it was lost, or made no progress for `seconds`.
struct ProbeAnswer {
  std::string text;
  bool in_time = true;
};
ProbeAnswer listen(int end, int seconds) {
  ProbeAnswer answer;
  while (answer.in_time) {
    pollfd waiting{end, POLLIN, 0};
    const int ready = ::poll(&waiting, 1, 1000 * seconds);
    if (ready < 0 && errno == EINTR) continue;
    answer.in_time = ready > 0;
    std::array<char, 4096> buffer{};
    const ssize_t got = answer.in_time ? ::read(end, buffer.data(), buffer.size()) : 0;
    if (got <= 0) break;
    answer.text.append(buffer.data(), static_cast<size_t>(got));
  }
  answer.text.erase(0, answer.text.find_first_not_of(kGetsOn));
  return answer;
}

}  // namespace

void probe_hdf5(const std::filesystem::path& path, int seconds) {
  static WellFiles well;
  require_hdf5_signature(path);
  const WellFiles::Identity identity = WellFiles::identity(path);
  if (well.holds(identity)) return;
  std::array<int, 2> ends{};
  require<SystemError>(::pipe2(ends.data(), O_CLOEXEC) == 0, "{}: no pipe for a check: {}", path.string(),
                       std::strerror(errno));
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    end_with_parent(parent);
    ::close(ends[0]);
    probe_in_child(path, ends[1]);
  }
  ::close(ends[1]);
  const ProbeAnswer answer = child > 0 ? listen(ends[0], seconds) : ProbeAnswer{};
  ::close(ends[0]);
  require<SystemError>(child > 0, "{}: no child process for a check: {}", path.string(), std::strerror(errno));
  if (!answer.in_time) ::kill(child, SIGKILL);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  require<InputError>(answer.in_time,
                      "{}: reading it as HDF5 makes no progress for {} s: the file is damaged, or its disk hangs",
                      path.string(), seconds);
  require<InputError>(!answer.text.empty(), "{}: the HDF5 library crashes on it: the file is damaged", path.string());
  require<InputError>(answer.text[0] == kWell, "{}", answer.text.substr(1));
  well.add(identity);
}

}  // namespace loci
