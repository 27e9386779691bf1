#include "runtime/io/safetensors.h"

#include <span>

#include "tests/fuzz/target.h"

namespace loci::fuzz {
namespace {

/// A safetensors file: what is accepted lies inside the file.
bool safetensors(std::string_view input) {
  return accepted("fuzz", [&] {
    const auto header = parse_safetensors_header(std::as_bytes(std::span(input)), "fuzz");
    for (const auto& [name, entry] : header.tensors)
      expect(entry.begin <= entry.end && header.buffer_offset + entry.end <= input.size(), "tensors lie in the file");
  });
}
const Registration kSafetensors("safetensors", safetensors);

}  // namespace
}  // namespace loci::fuzz
