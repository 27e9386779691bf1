#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace loci {

/// The bytes of a file, decompressed where it is gzip, bzip2 or zstd (several members in a row included), in constant
/// memory. Its first bytes decide; a file named .gz, .bz2 or .zst that holds something else is refused.
class InputStream {
 public:
  /// InputError if the file cannot be opened or is not what its name says.
  static std::unique_ptr<InputStream> open(const std::filesystem::path& path);
  virtual ~InputStream() = default;
  InputStream(const InputStream&) = delete;
  InputStream& operator=(const InputStream&) = delete;

  /// Up to `size` (> 0) bytes; 0 at the end alone. InputError naming the file where the data are damaged or cut short
  /// (checksums are verified).
  virtual std::size_t read(char* out, std::size_t size) = 0;
  virtual bool is_compressed() const = 0;
  /// Bytes of the file itself, as it lies on disk, taken so far.
  virtual int64_t bytes_read() const = 0;
  /// Size of the file when it was opened.
  virtual int64_t total_bytes() const = 0;
  /// SHA-256 of the file as it lies on disk; call it once, after read() gave 0.
  virtual std::string sha256() = 0;

 protected:
  InputStream() = default;
};

}  // namespace loci
