#pragma once

#include <hdf5.h>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace loci {

struct H5WriteOutcome;
class H5Checksums;

/// Owns any HDF5 identifier and closes it with the function it was made with.
class H5Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  H5Handle() = default;
  H5Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  ~H5Handle() { reset(); }
  H5Handle(H5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
  H5Handle& operator=(H5Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, -1);
      closer_ = other.closer_;
    }
    return *this;
  }
  H5Handle(const H5Handle&) = delete;
  H5Handle& operator=(const H5Handle&) = delete;

  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  void reset() {
    if (id_ >= 0 && closer_ != nullptr) closer_(id_);
    id_ = -1;
  }
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

/// An HDF5 file. Objects are named by absolute paths ("/edits/0/u"). Failures to read are InputErrors, failures to
/// write SystemErrors; both name file and object. The library's own error printing is off. HDF5 calls are serialised by
/// the library; one file may not be written from two threads at once.
class H5File {
 public:
  /// Creates or truncates. Write through AtomicPath, or write_hdf5_atomically below.
  static H5File create(const std::filesystem::path& path);
  /// Checks existence, size and signature first. What is read is held against the file's checksums, where it has them
  /// (hdf5_checksums.h).
  static H5File open_read(const std::filesystem::path& path);
  /// The same without checksums: for damaged files, and those that have checksums elsewhere.
  static H5File open_unverified(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  hid_t id() const { return handle_.get(); }
  /// Flushes and closes; SystemError if that fails. The destructor closes too but cannot report.
  void close();
  /// Throws SystemError if a write has failed so far.
  void require_written() const;
  /// Before `object` is read: throws InputError if its checksum does not fit. Does nothing for a file without any.
  void verify(const std::string& object) const;
  /// Verifies all objects.
  void verify_all() const;

 private:
  H5File(H5Handle handle, std::filesystem::path path) : handle_(std::move(handle)), path_(std::move(path)) {}
  H5Handle handle_;
  std::filesystem::path path_;
  std::shared_ptr<H5WriteOutcome> outcome_;  // of a file that is created
  std::shared_ptr<H5Checksums> checksums_;   // of a file that is read and has them
};

/// Throws InputError for what is no HDF5 file by its first bytes.
void require_hdf5_signature(const std::filesystem::path& path);

/// `write` fills a new file that then replaces `path` whole, or not at all.
void write_hdf5_atomically(const std::filesystem::path& path, const std::function<void(H5File&)>& write);

// ---- groups ----

bool h5_exists(const H5File& file, const std::string& path);
bool h5_is_group(const H5File& file, const std::string& path);
/// With its parents; one that exists is fine.
void create_group(H5File& file, const std::string& path);
/// Names in a group; sorted, numbers by value ("2" before "10").
std::vector<std::string> group_members(const H5File& file, const std::string& group);
/// All that lies below "/", however deep, sorted.
std::vector<std::string> object_paths(const H5File& file);
/// Copies a dataset or a group with all below it. Parents of `to_path` are created.
/// Scales are not copied: attach_scale() gives the copy its own.
void copy_object(const H5File& from, const std::string& from_path, H5File& to, const std::string& to_path);

// ---- datasets ----

struct DatasetOptions {
  /// Attribute `units`; "1" for pure numbers, empty to leave out.
  std::string units{};
  /// Attribute `long_name`.
  std::string long_name{};
};

enum class H5Kind { floating, integer, string, other };

struct DatasetInfo {
  /// Empty for a scalar.
  std::vector<int64_t> shape;
  H5Kind kind = H5Kind::other;
  /// Bytes an element takes in the file.
  int64_t item_size = 0;
  /// Not in chunks.
  bool in_one_piece = false;

  int64_t count() const;
};

/// InputError if it is missing, no dataset, or its extents overflow or exceed what the file could hold.
DatasetInfo dataset_info(const H5File& file, const std::string& path);

template <typename T>
concept H5Number = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, int32_t> ||
    std::same_as<T, int64_t> || std::same_as<T, uint8_t>;

/// Creates `path` (and its parent groups) with values.size() == product of `shape` elements; shape {} is a scalar. An
/// existing dataset of that name is an error.
template <H5Number T>
void write_dataset(H5File& file, const std::string& path, std::span<const T> values, const std::vector<int64_t>& shape,
                   const DatasetOptions& options = {});
template <H5Number T>
void write_dataset(H5File& file, const std::string& path, const std::vector<T>& values,
                   const std::vector<int64_t>& shape, const DatasetOptions& options = {}) {
  write_dataset<T>(file, path, std::span<const T>(values), shape, options);
}
/// Variable-length UTF-8 strings.
void write_strings(H5File& file, const std::string& path, std::span<const std::string> values,
                   const std::vector<int64_t>& shape, const DatasetOptions& options = {});

template <typename T>
struct H5Array {
  std::vector<int64_t> shape;
  std::vector<T> values;
};

/// Extent kAnyExtent in an expected shape fits every extent.
inline constexpr int64_t kAnyExtent = -1;

/// Throws InputError unless `path` has this rank and these extents (kAnyExtent fits all).
void require_shape(const H5File& file, const std::string& path, std::span<const int64_t> shape,
                   std::span<const int64_t> expected);

/// The whole dataset. The class must fit: integers for integer T (no narrower than stored, or InputError), floating
/// point or integers for float and double.
template <H5Number T>
H5Array<T> read_dataset(const H5File& file, const std::string& path);
/// The same, with the shape checked before anything is read.
template <H5Number T>
H5Array<T> read_dataset(const H5File& file, const std::string& path, const std::vector<int64_t>& expected_shape);
H5Array<std::string> read_strings(const H5File& file, const std::string& path);

/// A list of `rows` elements (kAnyExtent: of any number).
template <H5Number T>
std::vector<T> read_column(const H5File& file, const std::string& path, int64_t rows) {
  return read_dataset<T>(file, path, {rows}).values;
}
std::vector<std::string> read_text_column(const H5File& file, const std::string& path, int64_t rows = kAnyExtent);

/// Slices [first, first + count) along axis 0 of a dataset of rank >= 1 into `out`, whose size must fit exactly.
template <H5Number T>
void read_rows(const H5File& file, const std::string& path, int64_t first, int64_t count, std::span<T> out);

/// Makes the 1-D dataset `scale` the scale of `axis` of `dataset`, with this label (h5py: dataset.dims[axis]).
/// InputError if their lengths differ.
void attach_scale(H5File& file, const std::string& dataset, int64_t axis, const std::string& scale,
                  const std::string& label);
/// Names an axis that has no scale.
void label_axis(H5File& file, const std::string& dataset, int64_t axis, const std::string& label);

// ---- attributes; `object` is "/" for the file's own ----

bool has_attribute(const H5File& file, const std::string& object, const std::string& name);
/// Writing replaces an attribute of that name.
void write_attribute(H5File& file, const std::string& object, const std::string& name, std::string_view value);
void write_attribute(H5File& file, const std::string& object, const std::string& name, double value);
void write_integer_attribute(H5File& file, const std::string& object, const std::string& name, int64_t value);
inline void write_attribute(H5File& file, const std::string& object, const std::string& name, const char* value) {
  write_attribute(file, object, name, std::string_view(value));
}
template <std::integral I>
void write_attribute(H5File& file, const std::string& object, const std::string& name, I value) {
  write_integer_attribute(file, object, name, static_cast<int64_t>(value));
}
void write_attribute(H5File& file, const std::string& object, const std::string& name,
                     std::span<const std::string> values);
void write_attribute(H5File& file, const std::string& object, const std::string& name, std::span<const int64_t> values);
void write_attribute(H5File& file, const std::string& object, const std::string& name, std::span<const double> values);

H5Kind attribute_kind(const H5File& file, const std::string& object, const std::string& name);
std::vector<std::string> attribute_names(const H5File& file, const std::string& object);

struct H5Attribute {
  std::string name;
  H5Kind kind = H5Kind::other;
  /// The values are in the list of their kind; those of another kind are left out.
  std::vector<std::string> texts;
  std::vector<int64_t> integers;
  std::vector<double> numbers;
};
/// All attributes of an object, sorted by their names; faster than one by one.
std::vector<H5Attribute> read_attributes(const H5File& file, const std::string& object);
std::string read_string_attribute(const H5File& file, const std::string& object, const std::string& name);
int64_t read_int_attribute(const H5File& file, const std::string& object, const std::string& name);
double read_double_attribute(const H5File& file, const std::string& object, const std::string& name);
std::vector<std::string> read_strings_attribute(const H5File& file, const std::string& object, const std::string& name);
std::vector<int64_t> read_ints_attribute(const H5File& file, const std::string& object, const std::string& name);
std::vector<double> read_doubles_attribute(const H5File& file, const std::string& object, const std::string& name);

}  // namespace loci
