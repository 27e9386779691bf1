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

/// One array of a .npz file, as it stands there.
struct NpyArray {
  /// "file.npz: array 'scores'"; leads every message.
  std::string where;
  /// NumPy's name of the element type: "<f4", "|b1", "<U12".
  std::string descr;
  bool fortran_order = false;
  /// Empty for a 0-d array.
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  int64_t size() const;
  /// All elements; T is float, double or int64_t. Reads arrays of <f4, <f8, <i4 and <i8 in C order (InputError for
  /// others): integers also as floating point and doubles as float, but decimals not as integers.
  template <typename T>
  std::vector<T> as() const;
  /// The only element.
  template <typename T>
  T scalar() const;
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

  /// A numeric array; shape {} is a 0-d array. T is float, double or int64_t.
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
  /// dtype bool, 0-d.
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
