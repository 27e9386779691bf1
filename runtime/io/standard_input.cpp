#include "runtime/io/standard_input.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "runtime/error.h"

namespace loci {
namespace {

void require_written(bool written, const std::filesystem::path& folder) {
  require<SystemError>(written, "standard input cannot be kept in the folder {}: {}", folder.string(),
                       std::strerror(errno));
}

ssize_t read_some(std::vector<char>& buffer) {
  ssize_t got = -1;
  do {
    got = ::read(STDIN_FILENO, buffer.data(), buffer.size());
  } while (got < 0 && errno == EINTR);
  require<InputError>(got >= 0, "standard input cannot be read: {}", std::strerror(errno));
  return got;
}

/// A descriptor of the copy, which has no name any more.
int copy_standard_input() {
  const std::filesystem::path folder = std::filesystem::temp_directory_path();
  std::string name = (folder / "loci_input_XXXXXX").string();
  const int copy = ::mkostemp(name.data(), O_CLOEXEC);
  require_written(copy >= 0, folder);
  ::unlink(name.c_str());
  std::vector<char> buffer(std::size_t{1} << 18);
  for (ssize_t got; (got = read_some(buffer)) > 0;)
    for (ssize_t done = 0; done < got;) {
      const ssize_t written = ::write(copy, buffer.data() + done, static_cast<std::size_t>(got - done));
      require_written(written > 0 || errno == EINTR, folder);
      done += written > 0 ? written : 0;
    }
  return copy;
}

}  // namespace

std::filesystem::path input_file(const std::filesystem::path& path) {
  if (path != kStandardInput) return path;
  static const int copy = copy_standard_input();
  return fmt::format("/proc/self/fd/{}", copy);
}

std::string input_name(const std::filesystem::path& path) {
  return path == kStandardInput ? "standard input" : path.string();
}

}  // namespace loci
