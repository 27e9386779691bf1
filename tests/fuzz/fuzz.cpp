// libFuzzer's entry. One program holds all targets; --target=NAME, before libFuzzer's own flags, chooses one:
//   loci_fuzz --target=facts tests/fuzz/corpus/facts        loci_fuzz --list
#include <spdlog/spdlog.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/target.h"

namespace {

bool (*chosen)(std::string_view input) = nullptr;

void choose(std::string_view name) {
  for (const loci::fuzz::Target& target : loci::fuzz::targets())
    if (target.name == name) chosen = target.run;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  constexpr std::string_view kFlag = "--target=";
  for (int i = 1; i < *count; ++i) {
    const std::string_view argument = (*arguments)[i];
    if (argument.starts_with(kFlag)) choose(argument.substr(kFlag.size()));
    if (argument != "--list") continue;
    for (const loci::fuzz::Target& target : loci::fuzz::targets()) std::puts(target.name.data());
    std::exit(0);
  }
  if (chosen == nullptr) {
    std::fputs("loci_fuzz: choose one of the targets in --list by --target=NAME\n", stderr);
    std::exit(2);
  }
  spdlog::set_level(spdlog::level::off);  // warnings are no faults
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  chosen({reinterpret_cast<const char*>(data), size});
  return 0;
}
