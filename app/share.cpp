#include "app/share.h"

namespace loci::app {

std::filesystem::path share_folder() {
  std::error_code unknown;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", unknown);
  return (program.parent_path() / ".." / "share" / "loci").lexically_normal();
}

}  // namespace loci::app
