#pragma once

#include <functional>
#include <string>

namespace loci {

/// How this process was started.
struct LaunchedRanks {
  /// What started it, for messages: "mpirun", "srun --mpi=pmix"; empty where it was started alone.
  std::string launcher;
  /// Ranks as the launcher counts them; 0 where it does not say.
  int size = 1;

  /// Whether MpiSession is to be made.
  bool uses_mpi() const { return !launcher.empty(); }
};

/// The value of an environment variable; null where it is not set.
using EnvironmentLookup = std::function<const char*(const char* name)>;

/// Looks for the marks of mpirun and srun. Throws InputError, with the fix, for several tasks of srun that do not know
/// of each other.
LaunchedRanks detect_launch(const EnvironmentLookup& environment);
/// The same from this process's environment.
LaunchedRanks detect_launch();

}  // namespace loci
