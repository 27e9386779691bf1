#include "loci_build_info.h"
#include "runtime/jobs/provenance.h"

namespace loci {

std::string loci_version() { return LOCI_VERSION; }

std::string loci_git_commit() { return LOCI_GIT_COMMIT; }

}  // namespace loci
