#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

/// NumPy element types that loci reads. `object` entries are kept so that the other entries of their file can be used,
/// but their contents (a Python pickle) cannot be read.
enum class NpyType { f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, boolean, unicode, bytes, object };

/// "float32", "str", ...
std::string_view npy_type_name(NpyType type);

/// One array of a .npz file, in C order (Fortran order is transposed on reading).
struct NpyArray {
  /// "file.npz: array 'scores'"; leads every message.
  std::string where;
  NpyType dtype = NpyType::f32;
  /// Empty for a 0-d array.
  std::vector<int64_t> shape;
  /// Bytes an element takes; for unicode 4 times its length.
  int64_t item_size = 0;
  std::vector<std::byte> bytes;

  int64_t size() const;
  /// All elements in C order. T is float, double, int64_t, int32_t, uint8_t (booleans too). Integers convert to
  /// floating point and to wider integers, doubles to float; decimals to integers, and values that do not fit, are an
  /// InputError.
  template <typename T>
  std::vector<T> as() const;
  /// The only element.
  template <typename T>
  T scalar() const;
  /// Unicode or byte strings as UTF-8.
  std::vector<std::string> strings() const;
  std::string string() const;
};

/// All arrays of a .npz file (stored or deflated; .npy versions 1 to 3) by name without ".npy". Throws InputError for
/// what is no .npz, is truncated, or whose headers contradict its data.
std::map<std::string, NpyArray> read_npz(const std::filesystem::path& path);

/// A member of read_npz's result; InputError naming file and array when missing.
const NpyArray& npz_at(const std::map<std::string, NpyArray>& arrays, const std::string& name,
                       const std::filesystem::path& path);

/// Decodes one .npy file's bytes. `where` leads every message.
NpyArray parse_npy(std::span<const std::byte> file, std::string_view where);

/// Writes a .npz file that numpy reads without pickle. Nothing is left behind unless finish() returns.
class NpzWriter {
 public:
  explicit NpzWriter(const std::filesystem::path& path);
  ~NpzWriter();
  NpzWriter(const NpzWriter&) = delete;
  NpzWriter& operator=(const NpzWriter&) = delete;

  /// A numeric array; shape {} is a 0-d array. T is float, double, int64_t, int32_t or uint8_t.
  template <typename T>
  void add(const std::string& name, std::span<const T> values, std::span<const int64_t> shape);
  template <typename T>
  void add(const std::string& name, const std::vector<T>& values, const std::vector<int64_t>& shape) {
    add<T>(name, std::span<const T>(values), std::span<const int64_t>(shape));
  }
  template <typename T>
  void add_scalar(const std::string& name, T value) {
    add<T>(name, std::span<const T>(&value, 1), std::span<const int64_t>());
  }
  /// dtype bool; values are 0 or 1.
  void add_booleans(const std::string& name, std::span<const uint8_t> values, std::span<const int64_t> shape);
  void add_boolean(const std::string& name, bool value);
  /// dtype <U; UTF-8 in.
  void add_strings(const std::string& name, std::span<const std::string> values, std::span<const int64_t> shape);
  void add_string(const std::string& name, std::string_view value);

  /// Closes, syncs and renames the file into place. SystemError on failure.
  void finish();

 private:
  struct Archive;
  std::unique_ptr<Archive> archive_;
};

}  // namespace loci
