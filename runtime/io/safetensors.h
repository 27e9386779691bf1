#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/shape.h"

namespace loci {

/// Element types of the safetensors format.
enum class DType { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

/// The format's name: "F32", "BF16", "BOOL", ...
std::string_view dtype_name(DType type);
int64_t dtype_size(DType type);

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

/// Product of the extents, 1 for rank 0. Throws InputError "{where}: ..." for a negative extent or on overflow.
int64_t element_count(std::span<const int64_t> shape, std::string_view where);

/// The header of a safetensors file: tensors by name with their place in the buffer after the header.
struct SafetensorsHeader {
  struct Entry {
    TensorInfo info;
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  std::map<std::string, Entry, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;
  /// Where the buffer starts in the file.
  uint64_t buffer_offset = 0;
};

/// Checks and decodes the header at the start of `file` (the whole file's bytes): length at most 100 000 000 and inside
/// the file, UTF-8 JSON from '{' to trailing spaces, no duplicate keys, `__metadata__` from string to string or null,
/// known types, shapes whose size equals their byte range, ranges that tile the buffer exactly. Throws InputError
/// naming file, tensor and cause. Never reads a tensor's data.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view name);

/// A read-only file in memory: mapped, so that pages are read when touched and shared between processes.
class MappedFile {
 public:
  /// Throws InputError if the file cannot be opened or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

/// A mapped and checked safetensors file. Views stay valid as long as this object (or what it was moved to) lives.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  bool contains(std::string_view name) const;
  /// Sorted.
  std::vector<std::string> names() const;
  /// InputError naming the file if there is no such tensor.
  const TensorInfo& at(std::string_view name) const;
  /// The tensor's data in the file's order (little endian, row-major). May start at any address: check its alignment.
  std::span<const std::byte> bytes(std::string_view name) const;
  const std::map<std::string, std::string, std::less<>>& metadata() const { return header_.metadata; }

 private:
  const SafetensorsHeader::Entry& entry(std::string_view name) const;

  std::filesystem::path path_;
  MappedFile map_;
  SafetensorsHeader header_;
};

/// A tensor to write: `data` holds element_count(shape) * dtype_size(dtype) bytes.
struct TensorData {
  TensorInfo info;
  std::span<const std::byte> data;
};

/// Writes a safetensors file atomically (a temporary file beside it, synced, renamed). Data starts 8-byte aligned;
/// tensors lie in the order given. Throws InputError for duplicate names or sizes that do not fit, SystemError if
/// writing fails.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorData> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace loci
