#include "tests/support/paths.h"

#include <cstdlib>

namespace loci::test {

std::filesystem::path source_dir() {
  const char* const set = std::getenv("LOCI_TEST_SOURCE");
  return set && *set ? set : LOCI_SOURCE_DIR;
}

}  // namespace loci::test
