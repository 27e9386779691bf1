#pragma once

#include <filesystem>
#include <string>

namespace loci::test {

/// SHA-256 over what a file says, not how it is stored: every object's path in sorted order with its class, element
/// type, shape, data and attributes. Attributes and datasets that change from run to run (names: seconds,
/// peak_memory_bytes, hostname, date, world_size, threads, inputs, checksum, checksums, and whatever ends in _seconds)
/// are left out. Equal for a run that was interrupted and one that was not.
std::string canonical_hash(const std::filesystem::path& path);

}  // namespace loci::test
