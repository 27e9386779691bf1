#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "runtime/io/hdf5.h"

/// Result files say which version of their layout they have, and carry a SHA-256 of every object, so that a damaged one
/// is named and not believed:
///   /                  attribute `format` = 1; attribute `checksum`, SHA-256 over the two data sets below
///   /checksums/path    the path of each object, sorted                                                 [objects]
///   /checksums/sha256  over its attributes, and its shape and values where it is a data set            [objects, 32]
/// Files without checksums are read as they are: those of older versions, and those that users made.
namespace loci {

/// The version that this loci writes; it reads all up to it.
inline constexpr int64_t kResultFormat = 1;

/// Adds the format and the checksums to a file that has all else. They are read back from the file.
void seal_result(H5File& file);

/// As write_hdf5_atomically(), sealed.
void write_result_atomically(const std::filesystem::path& path, const std::function<void(H5File&)>& write);

/// Throws InputError for a file whose format is larger than kResultFormat.
void require_known_format(const H5File& file);

/// The checksums of a file that is read.
class H5Checksums {
 public:
  /// Null where the file has none. `file` is an unverified view of it. Throws InputError where the checksums themselves
  /// are damaged, or an object that they list is missing.
  static std::shared_ptr<H5Checksums> of(H5File file);

  /// Throws InputError if the object is not as it was written. Each is looked at once. An object that was added later
  /// has no checksum and is taken as it is.
  void verify(const std::string& object);
  void verify_all();

 private:
  using Digest = std::array<std::byte, 32>;
  explicit H5Checksums(H5File file);
  [[noreturn]] void refuse(const std::string& what) const;

  H5File file_;
  std::map<std::string, Digest> digests_;
  std::mutex mutex_;
  std::set<std::string> verified_;
};

}  // namespace loci
