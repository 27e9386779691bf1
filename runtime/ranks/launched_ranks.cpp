#include "runtime/ranks/launched_ranks.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "runtime/error.h"

namespace loci {
namespace {

/// 0 for what is no number.
int number(const char* text) {
  int value = 0;
  if (text) std::from_chars(text, text + std::string_view(text).size(), value);
  return value;
}

}  // namespace

LaunchedRanks detect_launch(const EnvironmentLookup& environment) {
  // srun tells the size of its step too, but mpirun starts its daemons through srun: mpirun's marks come first.
  if (const char* const size = environment("OMPI_COMM_WORLD_SIZE")) return {"mpirun", number(size)};
  const int tasks = environment("SLURM_STEP_ID") ? number(environment("SLURM_STEP_NUM_TASKS")) : 0;
  if (environment("PMIX_RANK")) return {tasks > 0 ? "srun --mpi=pmix" : "a PMIx launcher", tasks};
  if (const char* const size = environment("PMI_SIZE"))
    return {tasks > 0 ? "srun --mpi=pmi2" : "mpiexec", number(size)};
  require<InputError>(
      tasks <= 1,
      "srun started {} tasks that do not know of each other, and each would do the whole job: start them "
      "with `srun --mpi=pmix`, or one with `srun -n 1`",
      tasks);
  return {};
}

LaunchedRanks detect_launch() {
  return detect_launch([](const char* name) { return std::getenv(name); });
}

}  // namespace loci
