// Replays the corpus of tests/fuzz/facts_fuzz.cpp, which is linked into this executable, in every build.
#include "tests/support/fuzz_replay.h"

namespace loci {
namespace {

TEST(FactsFuzz, CorpusReplays) { test::replay_fuzz_corpus("facts", 20); }

}  // namespace
}  // namespace loci
