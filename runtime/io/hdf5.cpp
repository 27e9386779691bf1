#include "runtime/io/hdf5.h"

#include <hdf5_hl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/hdf5_checksums.h"
#include "runtime/io/hdf5_driver.h"
#include "runtime/shape.h"

namespace loci {

namespace {

/// The library prints its error stack unless told otherwise, per thread: said before every open and create.
void silence_hdf5() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

/// The innermost cause that the library recorded, which is the one that tells most.
std::string last_cause() {
  std::string cause;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* data) -> herr_t {
        auto& text = *static_cast<std::string*>(data);
        if (text.empty() && error->desc != nullptr) text = error->desc;
        return 0;
      },
      &cause);
  if (cause.empty()) return "no cause given";
  // "file write failed: time = ..., error message = 'File too large', ...": keep what was tried and what the system
  // said.
  constexpr std::string_view kSystem = "error message = '";
  if (const auto start = cause.find(kSystem); start != std::string::npos) {
    const auto from = start + kSystem.size();
    return cause.substr(0, cause.find(':')) + ": " + cause.substr(from, cause.find('\'', from) - from);
  }
  std::replace(cause.begin(), cause.end(), '\n', ' ');
  return cause;
}

std::string name_of(const H5File& file, const std::string& object) {
  return fmt::format("{}: {}", file.path().string(), object);
}

/// A result of the library: negative is an error of kind E about `what`.
template <typename E, typename R>
R checked(R result, const std::string& what, std::string_view action) {
  if (result < 0) throw_error<E>("{}: {} failed: {}", what, action, last_cause());
  return result;
}

/// The same for what writes, whose driver tells what the system said.
template <typename R>
R written(const H5File& file, R result, const std::string& what, std::string_view action) {
  file.require_written();
  return checked<SystemError>(result, what, action);
}

template <typename T>
hid_t memory_type();
template <>
hid_t memory_type<float>() {
  return H5T_NATIVE_FLOAT;
}
template <>
hid_t memory_type<double>() {
  return H5T_NATIVE_DOUBLE;
}
template <>
hid_t memory_type<int32_t>() {
  return H5T_NATIVE_INT32;
}
template <>
hid_t memory_type<int64_t>() {
  return H5T_NATIVE_INT64;
}
template <>
hid_t memory_type<uint8_t>() {
  return H5T_NATIVE_UINT8;
}

H5Handle utf8_type() {
  H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

H5Handle make_space(const std::vector<int64_t>& shape, const std::string& what) {
  if (shape.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  H5Handle space(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose);
  checked<SystemError>(space.get(), what, "describing its shape");
  return space;
}

int64_t product(std::span<const int64_t> shape, const std::string& what) {
  require<ShapeError>(std::ranges::none_of(shape, [](int64_t extent) { return extent < 0; }),
                      "{}: a negative extent in its shape", what);
  const std::optional<int64_t> count = product_of(shape);
  require<InputError>(count.has_value(), "{}: its shape overflows", what);
  return *count;
}

std::string shape_string(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + (shape[i] == kAnyExtent ? std::string("any") : fmt::format("{}", shape[i]));
  }
  return text + "]";
}

void require_absolute(const H5File& file, const std::string& path) {
  require<ShapeError>(path.starts_with('/'), "{}: the path {} must start with /", file.path().string(), path);
}

H5Handle open_object(const H5File& file, const std::string& object) {
  silence_hdf5();
  require_absolute(file, object);
  H5Handle handle(H5Oopen(file.id(), object.c_str(), H5P_DEFAULT), H5Oclose);
  const std::string cause = handle ? "" : last_cause();
  require<InputError>(handle || h5_exists(file, object), "{}: {} is missing", file.path().string(), object);
  require<InputError>(static_cast<bool>(handle), "{}: opening it failed: {}", name_of(file, object), cause);
  file.verify(object);
  return handle;
}

H5Handle open_dataset(const H5File& file, const std::string& path) {
  H5Handle handle = open_object(file, path);
  require<InputError>(H5Iget_type(handle.get()) == H5I_DATASET, "{}: is a group, expected a dataset",
                      name_of(file, path));
  return handle;
}

std::vector<int64_t> shape_of(hid_t space, const std::string& what) {
  const int rank = checked<InputError>(H5Sget_simple_extent_ndims(space), what, "reading its shape");
  require<InputError>(H5Sget_simple_extent_type(space) != H5S_NULL, "{}: holds no data (a null space)", what);
  std::vector<hsize_t> extents(static_cast<size_t>(rank));
  if (rank > 0)
    checked<InputError>(H5Sget_simple_extent_dims(space, extents.data(), nullptr), what, "reading its shape");
  std::vector<int64_t> shape;
  for (const hsize_t extent : extents) {
    require<InputError>(extent <= static_cast<hsize_t>(std::numeric_limits<int64_t>::max()),
                        "{}: extent {} of its shape is too large", what, extent);
    shape.push_back(static_cast<int64_t>(extent));
  }
  return shape;
}

H5Kind kind_of(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return H5Kind::floating;
    case H5T_INTEGER:
    case H5T_ENUM:  // h5py's booleans
      return H5Kind::integer;
    case H5T_STRING:
      return H5Kind::string;
    default:
      return H5Kind::other;
  }
}

std::string_view kind_name(H5Kind kind) {
  switch (kind) {
    case H5Kind::floating:
      return "floating-point numbers";
    case H5Kind::integer:
      return "integers";
    case H5Kind::string:
      return "strings";
    case H5Kind::other:
      break;
  }
  return "values of another type";
}

/// What a reader needs to know; `dataset` stays open meanwhile.
DatasetInfo describe(hid_t dataset, const std::string& what) {
  const H5Handle space(checked<InputError>(H5Dget_space(dataset), what, "reading its shape"), H5Sclose);
  const H5Handle type(checked<InputError>(H5Dget_type(dataset), what, "reading its type"), H5Tclose);
  DatasetInfo info;
  info.shape = shape_of(space.get(), what);
  info.kind = kind_of(type.get());
  info.item_size = static_cast<int64_t>(H5Tget_size(type.get()));
  const H5Handle creation(checked<InputError>(H5Dget_create_plist(dataset), what, "reading its layout"), H5Pclose);
  info.in_one_piece = H5Pget_layout(creation.get()) == H5D_CONTIGUOUS;
  int64_t bytes = 0;
  require<InputError>(!__builtin_mul_overflow(product(info.shape, what), info.item_size, &bytes),
                      "{}: its shape {} overflows", what, shape_string(info.shape));
  return info;
}

/// A file may claim an extent that it does not hold (unwritten chunks read as zeros): such a claim must not make us
/// allocate more than a deflated file of this size could ever give.
void require_plausible(const H5File& file, hid_t dataset, const DatasetInfo& info, const std::string& what) {
  constexpr double kDeflateLimit = 1032.0;
  const double claimed = static_cast<double>(product(info.shape, what)) * static_cast<double>(info.item_size);
  const double stored = static_cast<double>(H5Dget_storage_size(dataset));
  std::error_code ignored;
  const auto size = static_cast<double>(std::filesystem::file_size(file.path(), ignored));
  constexpr double kSmall = 64.0 * 1024 * 1024;
  require<InputError>(
      claimed <= kSmall || claimed <= kDeflateLimit * std::min(stored, size),
      "{}: its shape {} claims {:.3g} bytes but only {:.3g} are stored: the file is damaged or unfinished", what,
      shape_string(info.shape), claimed, std::min(stored, size));
}

template <typename T>
void require_type(hid_t dataset, const DatasetInfo& info, const std::string& what) {
  if constexpr (std::floating_point<T>) {
    require<InputError>(info.kind == H5Kind::floating || info.kind == H5Kind::integer, "{}: holds {}, expected numbers",
                        what, kind_name(info.kind));
  } else {
    require<InputError>(info.kind == H5Kind::integer, "{}: holds {}, expected integers", what, kind_name(info.kind));
    const H5Handle type(H5Dget_type(dataset), H5Tclose);
    const bool stored_unsigned = H5Tget_class(type.get()) == H5T_INTEGER && H5Tget_sign(type.get()) == H5T_SGN_NONE;
    const auto width = static_cast<int64_t>(sizeof(T));
    const bool fits = info.item_size < width ||
                      (info.item_size == width && (stored_unsigned == std::unsigned_integral<T>)) ||
                      (info.item_size == 1 && width == 1);
    require<InputError>(fits, "{}: holds integers of {} bits{}, expected {}{} bits", what, 8 * info.item_size,
                        stored_unsigned ? " without sign" : "", width == 1 ? "" : "at most ", 8 * width);
  }
}

/// Enumerations (h5py's booleans) are read as the integers they stand on.
template <typename T>
H5Handle reading_type(hid_t dataset) {
  H5Handle stored(H5Dget_type(dataset), H5Tclose);
  if (H5Tget_class(stored.get()) == H5T_ENUM && sizeof(T) == H5Tget_size(stored.get())) return stored;
  return {H5Tcopy(memory_type<T>()), H5Tclose};
}

H5Handle link_creation() {
  H5Handle plist(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(plist.get(), 1);
  H5Pset_char_encoding(plist.get(), H5T_CSET_UTF8);
  return plist;
}

void write_options(H5File& file, const std::string& path, const DatasetOptions& options) {
  if (!options.units.empty()) write_attribute(file, path, "units", std::string_view(options.units));
  if (!options.long_name.empty()) write_attribute(file, path, "long_name", std::string_view(options.long_name));
}

H5Handle make_dataset(H5File& file, const std::string& path, hid_t type, const std::vector<int64_t>& shape) {
  silence_hdf5();
  const auto what = name_of(file, path);
  require<SystemError>(!h5_exists(file, path), "{}: exists already", what);
  H5Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  // Without object times the same data gives the same file.
  H5Pset_obj_track_times(creation.get(), 0);
  const H5Handle space = make_space(shape, what);
  const H5Handle links = link_creation();
  H5Handle dataset(H5Dcreate2(file.id(), path.c_str(), type, space.get(), links.get(), creation.get(), H5P_DEFAULT),
                   H5Dclose);
  written(file, dataset.get(), what, "creating it");
  return dataset;
}

/// Rows [first, first + count) of axis 0, selected in the file, and the space of the memory that holds them.
struct RowSelection {
  H5Handle file_space;
  H5Handle memory_space;
};

RowSelection select_rows(hid_t dataset, const std::vector<int64_t>& shape, int64_t first, int64_t count,
                         const std::string& what) {
  RowSelection selection{{H5Dget_space(dataset), H5Sclose}, {}};
  std::vector<hsize_t> start(shape.size(), 0);
  std::vector<hsize_t> extents(shape.begin(), shape.end());
  start[0] = static_cast<hsize_t>(first);
  extents[0] = static_cast<hsize_t>(count);
  checked<InputError>(
      H5Sselect_hyperslab(selection.file_space.get(), H5S_SELECT_SET, start.data(), nullptr, extents.data(), nullptr),
      what, "selecting its rows");
  selection.memory_space =
      H5Handle(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), H5Sclose);
  return selection;
}

/// Checks that [first, first + count) lies in axis 0 and that `values` elements fill it exactly.
void require_rows(const std::vector<int64_t>& shape, int64_t first, int64_t count, size_t values,
                  const std::string& what) {
  require<ShapeError>(!shape.empty(), "{}: is a scalar and has no rows", what);
  require<ShapeError>(first >= 0 && count >= 0 && count <= shape[0] && first <= shape[0] - count,
                      "{}: rows {} to {} are outside its {}", what, first, first + count, shape[0]);
  const int64_t row = product(std::span(shape).subspan(1), what);
  require<ShapeError>(static_cast<int64_t>(values) == count * row, "{}: {} rows of {} values, got {} values", what,
                      count, row, values);
}

bool is_number(const std::string& name) {
  return !name.empty() && name.size() <= 18 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool natural_less(const std::string& a, const std::string& b) {
  const bool numbers = is_number(a) && is_number(b);
  if (numbers && std::stoll(a) != std::stoll(b)) return std::stoll(a) < std::stoll(b);
  if (is_number(a) != is_number(b)) return is_number(a);
  return a < b;
}

}  // namespace

// ---- files ----

H5File H5File::create(const std::filesystem::path& path) {
  silence_hdf5();
  H5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), 0);
  H5Pset_link_creation_order(creation.get(), 0);
  auto outcome = std::make_shared<H5WriteOutcome>();
  const H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  set_surviving_driver(access.get(), outcome);
  H5File file({H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose}, path);
  file.outcome_ = std::move(outcome);
  written(file, file.id(), path.string(), "creating it");
  return file;
}

void H5File::require_written() const {
  if (outcome_ && outcome_->error != 0) throw_write_error(path_.string(), outcome_->error);
}

void require_hdf5_signature(const std::filesystem::path& path) {
  std::error_code ignored;
  require<InputError>(std::filesystem::exists(path, ignored), "{}: does not exist", path.string());
  require<InputError>(std::filesystem::is_regular_file(path, ignored), "{}: is not a file", path.string());
  refuse_other_kind(path, kHdf5);
  std::array<char, 8> head{};
  std::ifstream file(path, std::ios::binary);
  require<InputError>(file.is_open(), "{}: cannot be opened: {}", path.string(), std::strerror(errno));
  file.read(head.data(), head.size());
  constexpr std::array<char, 8> kSignature{'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
  require<InputError>(file.gcount() == 8 && head == kSignature, "{}: is not an HDF5 file (its signature is missing)",
                      path.string());
}

H5File H5File::open_unverified(const std::filesystem::path& path) {
  silence_hdf5();
  require_hdf5_signature(path);
  H5Handle handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  checked<InputError>(handle.get(), path.string(), "opening it as HDF5");
  return {std::move(handle), path};
}

H5File H5File::open_read(const std::filesystem::path& path) {
  H5File file = open_unverified(path);
  require_known_format(file);
  file.checksums_ = H5Checksums::of(open_unverified(path));
  return file;
}

void H5File::verify(const std::string& object) const {
  if (checksums_) checksums_->verify(object);
}

void H5File::verify_all() const {
  if (checksums_) checksums_->verify_all();
}

void H5File::close() {
  if (!handle_) return;
  const bool flushed = H5Fflush(handle_.get(), H5F_SCOPE_LOCAL) >= 0;
  const std::string cause = flushed ? "" : last_cause();
  const bool closed = H5Fclose(handle_.release()) >= 0;
  require_written();
  require<SystemError>(flushed && closed, "{}: writing failed, nothing was kept: {}", path_.string(),
                       flushed ? last_cause() : cause);
}

void write_hdf5_atomically(const std::filesystem::path& path, const std::function<void(H5File&)>& write) {
  AtomicPath atomic(path);
  H5File file = H5File::create(atomic.temporary());
  write(file);
  file.close();
  atomic.commit();
}

// ---- groups ----

bool h5_exists(const H5File& file, const std::string& path) {
  silence_hdf5();
  require_absolute(file, path);
  // Negative, not zero, where a parent or the link itself is missing.
  return path == "/" || H5Oexists_by_name(file.id(), path.c_str(), H5P_DEFAULT) > 0;
}

bool h5_is_group(const H5File& file, const std::string& path) {
  silence_hdf5();
  require_absolute(file, path);
  const H5Handle handle(H5Oopen(file.id(), path.c_str(), H5P_DEFAULT), H5Oclose);
  return handle && H5Iget_type(handle.get()) == H5I_GROUP;
}

void create_group(H5File& file, const std::string& path) {
  if (h5_is_group(file, path)) return;
  const H5Handle links = link_creation();
  const H5Handle group(H5Gcreate2(file.id(), path.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  written(file, group.get(), name_of(file, path), "creating the group");
}

std::vector<std::string> group_members(const H5File& file, const std::string& group) {
  const H5Handle handle = open_object(file, group);
  require<InputError>(H5Iget_type(handle.get()) == H5I_GROUP, "{}: is a dataset, expected a group",
                      name_of(file, group));
  std::vector<std::string> names;
  hsize_t position = 0;
  checked<InputError>(H5Literate(
                          handle.get(), H5_INDEX_NAME, H5_ITER_NATIVE, &position,
                          [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
                            static_cast<std::vector<std::string>*>(data)->emplace_back(name);
                            return 0;
                          },
                          &names),
                      name_of(file, group), "listing its members");
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

std::vector<std::string> object_paths(const H5File& file) {
  std::vector<std::string> paths;
  checked<InputError>(H5Lvisit(
                          file.id(), H5_INDEX_NAME, H5_ITER_NATIVE,
                          [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
                            static_cast<std::vector<std::string>*>(data)->emplace_back(std::string("/") + name);
                            return 0;
                          },
                          &paths),
                      file.path().string(), "listing its objects");
  std::sort(paths.begin(), paths.end());
  return paths;
}

namespace {

/// The scales of a copied data set lie in the other file.
herr_t forget_scales(hid_t root, const char* name, const H5O_info_t* info, void*) {
  constexpr const char* kList = "DIMENSION_LIST";
  if (info->type != H5O_TYPE_DATASET || H5Aexists_by_name(root, name, kList, H5P_DEFAULT) <= 0) return 0;
  return H5Adelete_by_name(root, name, kList, H5P_DEFAULT);
}

}  // namespace

void copy_object(const H5File& from, const std::string& from_path, H5File& to, const std::string& to_path) {
  const H5Handle source = open_object(from, from_path);
  const H5Handle links = link_creation();
  written(to, H5Ocopy(from.id(), from_path.c_str(), to.id(), to_path.c_str(), H5P_DEFAULT, links.get()),
          name_of(to, to_path), fmt::format("copying it from {}", from.path().string()));
  const H5Handle copy(H5Oopen(to.id(), to_path.c_str(), H5P_DEFAULT), H5Oclose);
  checked<SystemError>(copy.get(), name_of(to, to_path), "opening it");
  written(to, H5Ovisit2(copy.get(), H5_INDEX_NAME, H5_ITER_NATIVE, forget_scales, nullptr, H5O_INFO_BASIC),
          name_of(to, to_path), "forgetting its scales");
}

// ---- datasets ----

int64_t DatasetInfo::count() const { return product(shape, "a dataset"); }

DatasetInfo dataset_info(const H5File& file, const std::string& path) {
  const H5Handle dataset = open_dataset(file, path);
  const DatasetInfo info = describe(dataset.get(), name_of(file, path));
  require_plausible(file, dataset.get(), info, name_of(file, path));
  return info;
}

template <H5Number T>
void write_dataset(H5File& file, const std::string& path, std::span<const T> values, const std::vector<int64_t>& shape,
                   const DatasetOptions& options) {
  const auto what = name_of(file, path);
  require<ShapeError>(std::ssize(values) == product(shape, what), "{}: shape {} does not hold {} values", what,
                      shape_string(shape), values.size());
  {
    const H5Handle dataset = make_dataset(file, path, memory_type<T>(), shape);
    if (!values.empty()) {
      written(file, H5Dwrite(dataset.get(), memory_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), what,
              "writing it");
    }
  }
  write_options(file, path, options);
}

void write_strings(H5File& file, const std::string& path, std::span<const std::string> values,
                   const std::vector<int64_t>& shape, const DatasetOptions& options) {
  const auto what = name_of(file, path);
  require<ShapeError>(std::ssize(values) == product(shape, what), "{}: shape {} does not hold {} values", what,
                      shape_string(shape), values.size());
  const H5Handle type = utf8_type();
  std::vector<const char*> pointers;
  for (const std::string& value : values) {
    require<InputError>(value.find('\0') == std::string::npos, "{}: a string holds a zero byte, which HDF5 cannot keep",
                        what);
    pointers.push_back(value.c_str());
  }
  {
    const H5Handle dataset = make_dataset(file, path, type.get(), shape);
    if (!values.empty()) {
      written(file, H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()), what,
              "writing it");
    }
  }
  write_options(file, path, options);
}

void require_shape(const H5File& file, const std::string& path, std::span<const int64_t> shape,
                   std::span<const int64_t> expected) {
  const bool fits = std::equal(shape.begin(), shape.end(), expected.begin(), expected.end(),
                               [](int64_t is, int64_t want) { return want == kAnyExtent || is == want; });
  require<InputError>(fits, "{}: has shape {}, expected {}", name_of(file, path), shape_string(shape),
                      shape_string(expected));
}

namespace {

template <typename T>
H5Array<T> read_numbers(const H5File& file, const std::string& path, const std::vector<int64_t>* expected) {
  const auto what = name_of(file, path);
  const H5Handle dataset = open_dataset(file, path);
  const DatasetInfo info = describe(dataset.get(), what);
  require_type<T>(dataset.get(), info, what);
  if (expected != nullptr) require_shape(file, path, info.shape, *expected);
  require_plausible(file, dataset.get(), info, what);
  H5Array<T> array{info.shape, std::vector<T>(static_cast<size_t>(product(info.shape, what)))};
  if (array.values.empty()) return array;
  const H5Handle type = reading_type<T>(dataset.get());
  checked<InputError>(H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, array.values.data()), what,
                      "reading it");
  return array;
}

}  // namespace

template <H5Number T>
H5Array<T> read_dataset(const H5File& file, const std::string& path) {
  return read_numbers<T>(file, path, nullptr);
}

template <H5Number T>
H5Array<T> read_dataset(const H5File& file, const std::string& path, const std::vector<int64_t>& expected_shape) {
  return read_numbers<T>(file, path, &expected_shape);
}

namespace {

/// Strings of a dataset or an attribute: `read(type, buffer)` fills `count` elements of the stored type.
template <typename Read>
std::vector<std::string> decode_strings(hid_t type, hid_t space, size_t count, const std::string& what,
                                        const Read& read) {
  std::vector<std::string> values;
  if (count == 0) return values;
  if (H5Tis_variable_str(type) > 0) {
    std::vector<char*> pointers(count, nullptr);
    const H5Handle memory(H5Tcopy(type), H5Tclose);
    checked<InputError>(read(memory.get(), static_cast<void*>(pointers.data())), what, "reading its strings");
    for (const char* pointer : pointers) values.emplace_back(pointer != nullptr ? pointer : "");
    H5Dvlen_reclaim(memory.get(), space, H5P_DEFAULT, pointers.data());
    return values;
  }
  const size_t size = H5Tget_size(type);
  require<InputError>(size > 0 && size <= (size_t{1} << 30) / count, "{}: its strings of {} bytes are too long", what,
                      size);
  std::vector<char> buffer(count * size);
  checked<InputError>(read(type, static_cast<void*>(buffer.data())), what, "reading its strings");
  for (size_t i = 0; i < count; ++i) {
    const char* start = buffer.data() + i * size;
    values.emplace_back(start, strnlen(start, size));
  }
  return values;
}

}  // namespace

H5Array<std::string> read_strings(const H5File& file, const std::string& path) {
  const auto what = name_of(file, path);
  const H5Handle dataset = open_dataset(file, path);
  const DatasetInfo info = describe(dataset.get(), what);
  require<InputError>(info.kind == H5Kind::string, "{}: holds {}, expected strings", what, kind_name(info.kind));
  require_plausible(file, dataset.get(), info, what);
  const H5Handle type(H5Dget_type(dataset.get()), H5Tclose);
  const H5Handle space(H5Dget_space(dataset.get()), H5Sclose);
  auto values = decode_strings(type.get(), space.get(), static_cast<size_t>(product(info.shape, what)), what,
                               [&](hid_t memory, void* buffer) {
                                 return H5Dread(dataset.get(), memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, buffer);
                               });
  return {info.shape, std::move(values)};
}

std::vector<std::string> read_text_column(const H5File& file, const std::string& path, int64_t rows) {
  require_shape(file, path, dataset_info(file, path).shape, std::vector<int64_t>{rows});
  return read_strings(file, path).values;
}

template <H5Number T>
void read_rows(const H5File& file, const std::string& path, int64_t first, int64_t count, std::span<T> out) {
  const auto what = name_of(file, path);
  const H5Handle dataset = open_dataset(file, path);
  const DatasetInfo info = describe(dataset.get(), what);
  require_type<T>(dataset.get(), info, what);
  require_rows(info.shape, first, count, out.size(), what);
  if (out.empty()) return;
  const RowSelection rows = select_rows(dataset.get(), info.shape, first, count, what);
  const H5Handle type = reading_type<T>(dataset.get());
  checked<InputError>(
      H5Dread(dataset.get(), type.get(), rows.memory_space.get(), rows.file_space.get(), H5P_DEFAULT, out.data()), what,
      "reading its rows");
}

#define LOCI_INSTANTIATE(T)                                                                                    \
  template void write_dataset<T>(H5File&, const std::string&, std::span<const T>, const std::vector<int64_t>&, \
                                 const DatasetOptions&);                                                       \
  template H5Array<T> read_dataset<T>(const H5File&, const std::string&);                                      \
  template H5Array<T> read_dataset<T>(const H5File&, const std::string&, const std::vector<int64_t>&);         \
  template void read_rows<T>(const H5File&, const std::string&, int64_t, int64_t, std::span<T>);
LOCI_INSTANTIATE(float)
LOCI_INSTANTIATE(double)
LOCI_INSTANTIATE(int32_t)
LOCI_INSTANTIATE(int64_t)
LOCI_INSTANTIATE(uint8_t)
#undef LOCI_INSTANTIATE

namespace {

void require_axis(const DatasetInfo& info, int64_t axis, const std::string& what) {
  require<ShapeError>(axis >= 0 && axis < std::ssize(info.shape), "{}: has {} axes, no axis {}", what,
                      info.shape.size(), axis);
}

}  // namespace

void attach_scale(H5File& file, const std::string& dataset, int64_t axis, const std::string& scale,
                  const std::string& label) {
  const auto what = name_of(file, dataset);
  const H5Handle target = open_dataset(file, dataset);
  const H5Handle values = open_dataset(file, scale);
  const DatasetInfo info = describe(target.get(), what);
  require_axis(info, axis, what);
  const DatasetInfo scale_info = describe(values.get(), name_of(file, scale));
  const int64_t extent = info.shape[axis];
  require<InputError>(scale_info.shape == std::vector<int64_t>{extent},
                      "{}: has shape {}, the scale of axis {} of {} needs [{}]", name_of(file, scale),
                      shape_string(scale_info.shape), axis, dataset, extent);
  if (H5DSis_scale(values.get()) <= 0) {
    written(file, H5DSset_scale(values.get(), label.c_str()), name_of(file, scale), "making it a scale");
  }
  written(file, H5DSattach_scale(target.get(), values.get(), static_cast<unsigned>(axis)), what, "attaching a scale");
  written(file, H5DSset_label(target.get(), static_cast<unsigned>(axis), label.c_str()), what, "labelling an axis");
}

void label_axis(H5File& file, const std::string& dataset, int64_t axis, const std::string& label) {
  const auto what = name_of(file, dataset);
  const H5Handle target = open_dataset(file, dataset);
  require_axis(describe(target.get(), what), axis, what);
  written(file, H5DSset_label(target.get(), static_cast<unsigned>(axis), label.c_str()), what, "labelling an axis");
}

// ---- attributes ----

namespace {

std::string attribute_what(const H5File& file, const std::string& object, const std::string& name) {
  return fmt::format("{}: attribute \"{}\" of {}", file.path().string(), name, object);
}

void put_attribute(H5File& file, const std::string& object, const std::string& name, hid_t type,
                   const std::vector<int64_t>& shape, const void* data) {
  const auto what = attribute_what(file, object, name);
  const H5Handle owner = open_object(file, object);
  if (H5Aexists(owner.get(), name.c_str()) > 0) {
    written(file, H5Adelete(owner.get(), name.c_str()), what, "replacing it");
  }
  const H5Handle space = make_space(shape, what);
  const H5Handle attribute(H5Acreate2(owner.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                           H5Aclose);
  written(file, attribute.get(), what, "creating it");
  // An empty list has nothing to write.
  if (data != nullptr) written(file, H5Awrite(attribute.get(), type, data), what, "writing it");
}

struct OpenAttribute {
  H5Handle attribute;
  H5Handle type;
  H5Handle space;
  std::vector<int64_t> shape;
  std::string what;
  size_t count() const { return static_cast<size_t>(product(shape, what)); }
};

/// Of the object `owner`, whose path is `object`.
OpenAttribute open_attribute(const H5File& file, hid_t owner, const std::string& object, const std::string& name) {
  OpenAttribute open;
  open.what = attribute_what(file, object, name);
  require<InputError>(H5Aexists(owner, name.c_str()) > 0, "{} is missing", open.what);
  open.attribute = H5Handle(H5Aopen(owner, name.c_str(), H5P_DEFAULT), H5Aclose);
  checked<InputError>(open.attribute.get(), open.what, "opening it");
  open.type = H5Handle(checked<InputError>(H5Aget_type(open.attribute.get()), open.what, "reading its type"), H5Tclose);
  open.space =
      H5Handle(checked<InputError>(H5Aget_space(open.attribute.get()), open.what, "reading its shape"), H5Sclose);
  open.shape = shape_of(open.space.get(), open.what);
  require<InputError>(open.count() <= (size_t{1} << 26), "{}: has too many elements: {}", open.what, open.count());
  return open;
}

OpenAttribute open_attribute(const H5File& file, const std::string& object, const std::string& name) {
  return open_attribute(file, open_object(file, object).get(), object, name);
}

std::vector<std::string> attribute_strings(const OpenAttribute& open) {
  const H5Kind kind = kind_of(open.type.get());
  require<InputError>(kind == H5Kind::string, "{}: holds {}, expected strings", open.what, kind_name(kind));
  return decode_strings(open.type.get(), open.space.get(), open.count(), open.what,
                        [&](hid_t memory, void* buffer) { return H5Aread(open.attribute.get(), memory, buffer); });
}

template <typename T>
std::vector<T> attribute_numbers(const OpenAttribute& open) {
  const H5Kind kind = kind_of(open.type.get());
  const bool fits = kind == H5Kind::integer || (kind == H5Kind::floating && std::floating_point<T>);
  require<InputError>(fits, "{}: holds {}, expected {}", open.what, kind_name(kind),
                      std::floating_point<T> ? "numbers" : "integers");
  std::vector<T> values(open.count());
  if (!values.empty()) {
    checked<InputError>(H5Aread(open.attribute.get(), memory_type<T>(), values.data()), open.what, "reading it");
  }
  return values;
}

template <typename T>
T only(std::vector<T> values, const OpenAttribute& open) {
  require<InputError>(values.size() == 1, "{}: holds {} values, expected one", open.what, values.size());
  return std::move(values[0]);
}

}  // namespace

bool has_attribute(const H5File& file, const std::string& object, const std::string& name) {
  const H5Handle owner = open_object(file, object);
  return H5Aexists(owner.get(), name.c_str()) > 0;
}

void write_attribute(H5File& file, const std::string& object, const std::string& name, std::string_view value) {
  const std::string text(value);
  require<InputError>(text.find('\0') == std::string::npos, "{}: holds a zero byte, which HDF5 cannot keep",
                      attribute_what(file, object, name));
  const char* pointer = text.c_str();
  const H5Handle type = utf8_type();
  put_attribute(file, object, name, type.get(), {}, static_cast<const void*>(&pointer));
}

void write_attribute(H5File& file, const std::string& object, const std::string& name, double value) {
  put_attribute(file, object, name, H5T_NATIVE_DOUBLE, {}, &value);
}

void write_integer_attribute(H5File& file, const std::string& object, const std::string& name, int64_t value) {
  put_attribute(file, object, name, H5T_NATIVE_INT64, {}, &value);
}

void write_attribute(H5File& file, const std::string& object, const std::string& name,
                     std::span<const std::string> values) {
  std::vector<const char*> pointers;
  for (const std::string& value : values) {
    require<InputError>(value.find('\0') == std::string::npos, "{}: holds a zero byte, which HDF5 cannot keep",
                        attribute_what(file, object, name));
    pointers.push_back(value.c_str());
  }
  const H5Handle type = utf8_type();
  put_attribute(file, object, name, type.get(), {std::ssize(values)},
                values.empty() ? nullptr : static_cast<const void*>(pointers.data()));
}

void write_attribute(H5File& file, const std::string& object, const std::string& name,
                     std::span<const int64_t> values) {
  put_attribute(file, object, name, H5T_NATIVE_INT64, {std::ssize(values)}, values.empty() ? nullptr : values.data());
}

void write_attribute(H5File& file, const std::string& object, const std::string& name, std::span<const double> values) {
  put_attribute(file, object, name, H5T_NATIVE_DOUBLE, {std::ssize(values)}, values.empty() ? nullptr : values.data());
}

H5Kind attribute_kind(const H5File& file, const std::string& object, const std::string& name) {
  return kind_of(open_attribute(file, object, name).type.get());
}

namespace {

std::vector<std::string> names_of_attributes(const H5File& file, hid_t owner, const std::string& object) {
  std::vector<std::string> names;
  hsize_t position = 0;
  checked<InputError>(H5Aiterate2(
                          owner, H5_INDEX_NAME, H5_ITER_INC, &position,
                          [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
                            static_cast<std::vector<std::string>*>(data)->emplace_back(name);
                            return 0;
                          },
                          &names),
                      name_of(file, object), "listing its attributes");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::vector<std::string> attribute_names(const H5File& file, const std::string& object) {
  return names_of_attributes(file, open_object(file, object).get(), object);
}

std::vector<H5Attribute> read_attributes(const H5File& file, const std::string& object) {
  const H5Handle owner = open_object(file, object);
  std::vector<H5Attribute> attributes;
  for (const std::string& name : names_of_attributes(file, owner.get(), object)) {
    const OpenAttribute open = open_attribute(file, owner.get(), object, name);
    H5Attribute attribute{.name = name, .kind = kind_of(open.type.get()), .texts = {}, .integers = {}, .numbers = {}};
    if (attribute.kind == H5Kind::string) attribute.texts = attribute_strings(open);
    if (attribute.kind == H5Kind::integer) attribute.integers = attribute_numbers<int64_t>(open);
    if (attribute.kind == H5Kind::floating) attribute.numbers = attribute_numbers<double>(open);
    attributes.push_back(std::move(attribute));
  }
  return attributes;
}

std::string read_string_attribute(const H5File& file, const std::string& object, const std::string& name) {
  const OpenAttribute open = open_attribute(file, object, name);
  return only(attribute_strings(open), open);
}

int64_t read_int_attribute(const H5File& file, const std::string& object, const std::string& name) {
  const OpenAttribute open = open_attribute(file, object, name);
  return only(attribute_numbers<int64_t>(open), open);
}

double read_double_attribute(const H5File& file, const std::string& object, const std::string& name) {
  const OpenAttribute open = open_attribute(file, object, name);
  return only(attribute_numbers<double>(open), open);
}

std::vector<std::string> read_strings_attribute(const H5File& file, const std::string& object,
                                                const std::string& name) {
  return attribute_strings(open_attribute(file, object, name));
}

std::vector<int64_t> read_ints_attribute(const H5File& file, const std::string& object, const std::string& name) {
  return attribute_numbers<int64_t>(open_attribute(file, object, name));
}

std::vector<double> read_doubles_attribute(const H5File& file, const std::string& object, const std::string& name) {
  return attribute_numbers<double>(open_attribute(file, object, name));
}

}  // namespace loci
