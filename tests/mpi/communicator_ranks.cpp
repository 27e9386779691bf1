// One rank of the tests of MPI, started by mpirun: communicator_ranks SCENARIO. tests/mpi/check_communicator.py tells
// what is expected of each.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <random>
#include <string>
#include <thread>

#include "runtime/error.h"
#include "runtime/ranks/communicator_mpi.h"
#include "tests/mpi/collective_checks.h"

namespace loci {
namespace {

using std::chrono::milliseconds;

constexpr int kCulprit = 1;

void sleep_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

/// What the culprit does before it comes, if it comes.
void misbehave(const std::string& scenario) {
  if (scenario == "throw") throw_error<InputError>("the culprit found a fault");
  if (scenario == "stop") std::raise(SIGSTOP);
  if (scenario == "kill") std::raise(SIGKILL);
  if (scenario == "hang") sleep_for_ever();
  if (scenario == "late") std::this_thread::sleep_for(milliseconds(1200));
}

/// A collective to which one rank does not come as it should.
void meet(Communicator& ranks, const std::string& scenario) {
  ranks.barrier("the start");
  if (ranks.rank() == kCulprit) misbehave(scenario);
  if (scenario == "mismatch") {
    int value = 0;
    ranks.broadcast_value(value, ranks.rank() == kCulprit ? 1 : 0, "the broadcast of a number");
  }
  ranks.barrier("the end of the test");
}

/// Collectives without an end, in the middle of which one rank gets a signal.
void exchange_until(int signal, Communicator& ranks) {
  ranks.barrier("the start");
  std::thread culprit;
  if (ranks.rank() == kCulprit)
    culprit = std::thread([signal] {
      std::this_thread::sleep_for(milliseconds(200 + std::random_device()() % 200));
      kill(getpid(), signal);
    });
  for (;;) {
    test::check_broadcasts(ranks, 100000);
    test::check_all_gather(ranks, 100000);
    test::check_all_to_all(ranks, 100000);
  }
}

void run(Communicator& ranks, const std::string& scenario) {
  if (scenario == "collectives")
    test::check_collectives(ranks, 3000001);
  else if (scenario == "pieces")
    test::check_collectives(ranks, 300001);
  else if (scenario == "stop_anywhere")
    exchange_until(SIGSTOP, ranks);
  else if (scenario == "kill_anywhere")
    exchange_until(SIGKILL, ranks);
  else
    meet(ranks, scenario);
  if (ranks.is_root()) std::printf("%d ranks are done\n", ranks.size());
}

int start(const std::string& scenario) {
  CommunicatorOptions options;
  options.time_limit = milliseconds(scenario == "late" ? 1000 : 2000);
  if (scenario == "collectives" || scenario == "pieces") options.time_limit = std::chrono::minutes(5);
  if (scenario == "pieces") options.piece_bytes = 1000;
  const LaunchedRanks launched = detect_launch();
  require<InputError>(launched.uses_mpi(), "this program is to be started by mpirun");
  MpiSession session(launched, options);
  try {
    run(session.communicator(), scenario);
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", session.communicator().rank(), error.what());
    session.communicator().abort(error.exit_code());
  }
  return 0;
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  try {
    return loci::start(argc == 2 ? argv[1] : "collectives");
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
}
