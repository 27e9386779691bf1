// Replays the corpus of tests/fuzz/tokenizer_fuzz.cpp, which is linked into this executable, in every build.
#include "tests/support/fuzz_replay.h"

namespace loci {
namespace {

TEST(TokenizerFuzz, CorpusReplays) { test::replay_fuzz_corpus("tokenizer", 35); }

}  // namespace
}  // namespace loci
