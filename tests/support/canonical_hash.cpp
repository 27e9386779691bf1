#include "tests/support/canonical_hash.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "runtime/io/hdf5.h"
#include "runtime/io/sha256.h"

namespace loci::test {
namespace {

bool is_volatile(const std::string& name) {
  static constexpr std::string_view kNames[] = {
      "seconds", "peak_memory_bytes", "hostname", "date", "world_size", "threads", "inputs", "checksum", "checksums"};
  return name.ends_with("_seconds") || std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

/// Lengths go before texts, so that no two sequences of texts give the same bytes.
void add_text(Sha256& hash, std::string_view text) { hash.update(fmt::format("{}:", text.size())).update(text); }

template <typename T>
void add_values(Sha256& hash, const std::vector<T>& values) {
  hash.update(std::as_bytes(std::span(values)));
}

void add_attribute(Sha256& hash, const H5File& file, const std::string& object, const std::string& name) {
  const H5Kind kind = attribute_kind(file, object, name);
  // References (of dimension scales) are addresses in the file.
  if (is_volatile(name) || kind == H5Kind::other) return;
  add_text(hash, "attribute");
  add_text(hash, name);
  if (kind == H5Kind::string) {
    for (const std::string& value : read_strings_attribute(file, object, name)) add_text(hash, value);
  } else if (kind == H5Kind::integer) {
    add_values(hash, read_ints_attribute(file, object, name));
  } else {
    add_values(hash, read_doubles_attribute(file, object, name));
  }
}

template <typename T>
void add_rows(Sha256& hash, const H5File& file, const std::string& path, const std::vector<int64_t>& shape) {
  int64_t row = 1;
  for (size_t axis = 1; axis < shape.size(); ++axis) row *= shape[axis];
  if (row == 0) return;
  const int64_t step = std::max<int64_t>(1, (int64_t{1} << 20) / row);
  std::vector<T> values;
  for (int64_t first = 0; first < shape[0]; first += step) {
    const int64_t count = std::min(step, shape[0] - first);
    values.resize(static_cast<size_t>(count * row));
    read_rows<T>(file, path, first, count, values);
    add_values(hash, values);
  }
}

void add_dataset(Sha256& hash, const H5File& file, const std::string& path) {
  const DatasetInfo info = dataset_info(file, path);
  add_text(hash, fmt::format("dataset kind {} size {} shape {}", static_cast<int>(info.kind),
                             info.kind == H5Kind::string ? 0 : info.item_size, fmt::join(info.shape, ",")));
  if (info.kind == H5Kind::string) {
    for (const std::string& value : read_strings(file, path).values) add_text(hash, value);
  } else if (info.kind == H5Kind::integer) {
    info.shape.empty() ? add_values(hash, read_dataset<int64_t>(file, path).values)
                       : add_rows<int64_t>(hash, file, path, info.shape);
  } else if (info.kind == H5Kind::floating) {
    info.shape.empty() ? add_values(hash, read_dataset<double>(file, path).values)
                       : add_rows<double>(hash, file, path, info.shape);
  }
}

void add_object(Sha256& hash, const H5File& file, const std::string& path) {
  add_text(hash, path);
  for (const std::string& name : attribute_names(file, path)) add_attribute(hash, file, path, name);
  if (!h5_is_group(file, path)) {
    add_dataset(hash, file, path);
    return;
  }
  add_text(hash, "group");
  for (const std::string& member : group_members(file, path)) {
    if (!is_volatile(member)) add_object(hash, file, (path == "/" ? "/" : path + "/") + member);
  }
}

}  // namespace

std::string canonical_hash(const std::filesystem::path& path) {
  const H5File file = H5File::open_read(path);
  Sha256 hash;
  add_object(hash, file, "/");
  return hash.hex();
}

}  // namespace loci::test
