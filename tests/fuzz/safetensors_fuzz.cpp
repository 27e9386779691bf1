// Any bytes as a safetensors file: the header is accepted or refused with an InputError that names the file, nothing
// else, and what is accepted lies inside the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "runtime/error.h"
#include "runtime/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    const auto header = loci::parse_safetensors_header(file, "fuzz");
    for (const auto& [name, entry] : header.tensors) {
      if (entry.begin > entry.end || header.buffer_offset + entry.end > size) std::abort();
    }
  } catch (const loci::InputError& error) {
    if (!std::string_view(error.what()).starts_with("fuzz")) std::abort();
  }
  return 0;
}
