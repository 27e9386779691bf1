// Replays the corpus of tests/fuzz/safetensors_fuzz.cpp, which is linked into this executable, in every build.
#include "tests/support/fuzz_replay.h"
#include "runtime/error.h"
#include "runtime/safetensors.h"

namespace loci {
namespace {

TEST(FuzzReplay, SafetensorsHeaders) { test::replay_fuzz_corpus("safetensors", 20); }

TEST(FuzzReplay, SafetensorsHeadersOfBothKinds) {
  int accepted = 0, refused = 0;
  for (const auto& [name, bytes] : test::fuzz_corpus("safetensors")) {
    try {
      parse_safetensors_header(std::as_bytes(std::span(bytes)), "fuzz");
      ++accepted;
    } catch (const InputError&) {
      ++refused;
    }
  }
  EXPECT_GE(accepted, 3);
  EXPECT_GE(refused, 1);
}

}  // namespace
}  // namespace loci
