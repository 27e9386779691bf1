#pragma once

#include <hdf5.h>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace loci {

/// For main, before anything else: at the end of the process the library then does nothing. Left to itself it visits
/// files whose closing failed, as on a full disk, and crashes. Every file is closed before.
void leave_hdf5_at_exit();

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
  /// Checks existence, size and signature first.
  static H5File open_read(const std::filesystem::path& path);
  static H5File open_readwrite(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  hid_t id() const { return handle_.get(); }
  /// Flushes and closes; SystemError if that fails. The destructor closes too but cannot report.
  void close();

 private:
  H5File(H5Handle handle, std::filesystem::path path) : handle_(std::move(handle)), path_(std::move(path)) {}
  H5Handle handle_;
  std::filesystem::path path_;
};

/// `write` fills a new file that then replaces `path` whole, or not at all.
void write_hdf5_atomically(const std::filesystem::path& path, const std::function<void(H5File&)>& write);

/// Reads the whole file in a child process, so that a malformed one cannot crash or hang this process; of data sets
/// that lie in one piece, which cannot lead the library astray, the ends alone. Throws InputError where the child meets
/// an error or is lost, or does not get on for `seconds`. A file that was found well is not read again while it stays
/// as it is (device, inode, size, time). So call it on files that users hand in before other threads use HDF5: the
/// child would wait for ever for locks that they hold.
void probe_hdf5(const std::filesystem::path& path, int seconds = 60);

// ---- groups ----

bool h5_exists(const H5File& file, const std::string& path);
bool h5_is_group(const H5File& file, const std::string& path);
/// With its parents; one that exists is fine.
void create_group(H5File& file, const std::string& path);
/// Names in a group; sorted, numbers by value ("2" before "10").
std::vector<std::string> group_members(const H5File& file, const std::string& group);
/// Copies a dataset or a group with all below it. Parents of `to_path` are created.
void copy_object(const H5File& from, const std::string& from_path, H5File& to, const std::string& to_path);

// ---- datasets ----

enum class H5Compression { none, deflate };

struct DatasetOptions {
  /// Attribute `units`; "1" for pure numbers, empty to leave out.
  std::string units{};
  /// Attribute `long_name`.
  std::string long_name{};
  H5Compression compression = H5Compression::none;
};

enum class H5Kind { floating, integer, string, other };

struct DatasetInfo {
  /// Empty for a scalar.
  std::vector<int64_t> shape;
  H5Kind kind = H5Kind::other;
  /// Bytes an element takes in the file.
  int64_t item_size = 0;
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

/// Slices [first, first + count) along axis 0 of a dataset of rank >= 1 into `out`, whose size must fit exactly.
template <H5Number T>
void read_rows(const H5File& file, const std::string& path, int64_t first, int64_t count, std::span<T> out);

/// A dataset of given shape, filled with zeros, to be written in slices by write_rows.
template <H5Number T>
void create_dataset(H5File& file, const std::string& path, const std::vector<int64_t>& shape,
                    const DatasetOptions& options = {});
template <H5Number T>
void write_rows(H5File& file, const std::string& path, int64_t first, int64_t count, std::span<const T> values);

/// Axis 0 may grow; starts at shape[0] rows (usually 0).
template <H5Number T>
void create_growing_dataset(H5File& file, const std::string& path, const std::vector<int64_t>& shape,
                            const DatasetOptions& options = {});
/// Adds values.size() / (product of the other extents) rows at the end of a growing dataset.
template <H5Number T>
void append_rows(H5File& file, const std::string& path, std::span<const T> values);

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
std::string read_string_attribute(const H5File& file, const std::string& object, const std::string& name);
int64_t read_int_attribute(const H5File& file, const std::string& object, const std::string& name);
double read_double_attribute(const H5File& file, const std::string& object, const std::string& name);
std::vector<std::string> read_strings_attribute(const H5File& file, const std::string& object, const std::string& name);
std::vector<int64_t> read_ints_attribute(const H5File& file, const std::string& object, const std::string& name);
std::vector<double> read_doubles_attribute(const H5File& file, const std::string& object, const std::string& name);

}  // namespace loci
