#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

/// What a file is, by its first bytes, and whether bytes are text. So that a file of another kind than the one asked
/// for is called by its name, with the way to convert it.
namespace loci {

/// So many first bytes tell all kinds (a tar archive has its mark at byte 257).
inline constexpr std::size_t kFileKindBytes = 512;

/// Kinds of files that are asked for; `wanted` in messages.
inline constexpr std::string_view kText = "text", kJson = "JSON", kSafetensors = "a safetensors file",
                                  kHdf5 = "an HDF5 file", kZip = "a zip archive";

/// Throws InputError "{name}: is a Parquet file, not text: convert it ..." where the first bytes are those of a kind
/// that is known and is not `wanted`. `verb`: "is", or "holds" for what a compressed file holds.
void refuse_other_kind(std::string_view first_bytes, std::string_view name, std::string_view wanted,
                       std::string_view verb = "is");

/// The same for a file; none where it cannot be opened, which its reader says.
void refuse_other_kind(const std::filesystem::path& path, std::string_view wanted);

/// Throws InputError unless the bytes are UTF-8 without NUL, naming the first that is not by its place in the file;
/// `offset` is the place of the first byte.
void require_utf8(std::string_view bytes, std::string_view where, int64_t offset = 0);

/// Throws InputError where the first bytes of a file hold a NUL, or where more than a tenth of some thousand bytes is
/// not UTF-8: then this is not a text with a bad place, but something else.
void refuse_binary(std::string_view first_bytes, std::string_view name);

/// Without the byte order mark of UTF-8.
std::string_view without_byte_order_mark(std::string_view text);

}  // namespace loci
