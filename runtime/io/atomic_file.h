#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace loci {

/// Throws a SystemError: `what` (a file, or an object in it) could not be written because of the system's `error`
/// (errno). It says what to do.
[[noreturn]] void throw_write_error(std::string_view what, int error);

/// Replaces `path` by a file with these bytes, or leaves it as it was: writes `path`.tmp, syncs it, renames it, syncs
/// the folder. A full disk or a short write is a SystemError naming the file, and the .tmp is removed.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// The same for libraries that write by path: give them temporary(), close what they opened, then commit(). Without a
/// commit the destructor removes the temporary file.
class AtomicPath {
 public:
  /// Throws InputError if the folder does not exist or `target` is a folder.
  explicit AtomicPath(std::filesystem::path target);
  /// With another temporary file than `target`.tmp, on the same file system.
  AtomicPath(std::filesystem::path target, std::filesystem::path temporary);
  ~AtomicPath();
  AtomicPath(const AtomicPath&) = delete;
  AtomicPath& operator=(const AtomicPath&) = delete;

  const std::filesystem::path& temporary() const { return temporary_; }
  const std::filesystem::path& target() const { return target_; }
  /// Syncs the temporary file, renames it to the target, syncs the folder. SystemError if any of these fails.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  enum class State { open, committed } state_ = State::open;
};

/// Makes the folder with its parents; one that exists is fine. SystemError where the disk is full, else InputError.
void make_folder(const std::filesystem::path& folder);

/// Throws InputError for a folder, a pipe or a device; not where there is nothing.
void require_regular_file(const std::filesystem::path& path);

/// The whole file (`-`: standard input). InputError naming it if it cannot be read.
std::string read_text_file(const std::filesystem::path& path);

/// Makes a rename or removal in this folder durable. SystemError on failure.
void sync_folder(const std::filesystem::path& folder);

}  // namespace loci
