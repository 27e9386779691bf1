#include "runtime/io/hdf5_checksums.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/sha256.h"

namespace loci {
namespace {

constexpr const char* kGroup = "/checksums";
constexpr const char* kPaths = "/checksums/path";
constexpr const char* kDigests = "/checksums/sha256";
constexpr const char* kTotal = "checksum";
constexpr const char* kFormat = "format";

/// So much of a data set is in memory at a time.
constexpr int64_t kPieceBytes = int64_t{4} << 20;

void add_text(Sha256& hash, std::string_view text) { hash.update(fmt::format("{}:", text.size())).update(text); }

template <typename T>
void add_values(Sha256& hash, const std::vector<T>& values) {
  hash.update(fmt::format("{}:", values.size())).update(std::as_bytes(std::span(values)));
}

void add_texts(Sha256& hash, const std::vector<std::string>& texts) {
  hash.update(fmt::format("{}:", texts.size()));
  for (const std::string& text : texts) add_text(hash, text);
}

/// References, which dimension scales are made of, are places in the file: they say nothing by themselves.
void add_attribute(Sha256& hash, const H5Attribute& attribute) {
  add_text(hash, attribute.name);
  hash.update(fmt::format("{}:", static_cast<int>(attribute.kind)));
  add_texts(hash, attribute.texts);
  add_values(hash, attribute.integers);
  add_values(hash, attribute.numbers);
}

template <typename T>
void add_rows(Sha256& hash, const H5File& file, const std::string& path, const DatasetInfo& info) {
  if (info.count() * static_cast<int64_t>(sizeof(T)) <= kPieceBytes)
    return add_values(hash, read_dataset<T>(file, path).values);
  const int64_t rows = info.shape[0], row = info.count() / rows;
  const int64_t step = std::clamp<int64_t>(kPieceBytes / (row * static_cast<int64_t>(sizeof(T))), 1, rows);
  std::vector<T> piece(static_cast<size_t>(step * row));
  hash.update(fmt::format("{}:", info.count()));
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const auto values = std::span(piece).first(static_cast<size_t>(count * row));
    read_rows<T>(file, path, first, count, values);
    hash.update(std::as_bytes(values));
  }
}

void add_dataset(Sha256& hash, const H5File& file, const std::string& path) {
  const DatasetInfo info = dataset_info(file, path);
  hash.update(fmt::format("{}:{}:", static_cast<int>(info.kind), info.item_size));
  add_values(hash, info.shape);
  const bool wide = info.item_size == 8;
  if (info.kind == H5Kind::string) add_texts(hash, read_strings(file, path).values);
  if (info.kind == H5Kind::floating && wide) add_rows<double>(hash, file, path, info);
  if (info.kind == H5Kind::floating && !wide) add_rows<float>(hash, file, path, info);
  if (info.kind == H5Kind::integer && wide) add_rows<int64_t>(hash, file, path, info);
  if (info.kind == H5Kind::integer && info.item_size == 1) add_rows<uint8_t>(hash, file, path, info);
  if (info.kind == H5Kind::integer && !wide && info.item_size != 1) add_rows<int32_t>(hash, file, path, info);
}

std::array<std::byte, 32> digest_of(const H5File& file, const std::string& object) {
  Sha256 hash;
  for (const H5Attribute& attribute : read_attributes(file, object))
    if (object != "/" || attribute.name != kTotal) add_attribute(hash, attribute);
  hash.update("values:");
  if (!h5_is_group(file, object)) add_dataset(hash, file, object);
  return hash.digest();
}

bool is_ours(const std::string& path) { return path == kGroup || path.starts_with(std::string(kGroup) + "/"); }

std::string total_of(const std::vector<std::string>& paths, const std::vector<uint8_t>& digests) {
  Sha256 hash;
  add_texts(hash, paths);
  add_values(hash, digests);
  return hash.hex();
}

}  // namespace

void seal_result(H5File& file) {
  write_attribute(file, "/", kFormat, kResultFormat);
  std::vector<std::string> paths{"/"};
  for (std::string& path : object_paths(file))
    if (!is_ours(path)) paths.push_back(std::move(path));
  std::vector<uint8_t> digests;
  for (const std::string& path : paths)
    for (const std::byte byte : digest_of(file, path)) digests.push_back(static_cast<uint8_t>(byte));
  const int64_t count = std::ssize(paths);
  write_strings(file, kPaths, paths, {count}, {.long_name = "objects of this file"});
  write_dataset(file, kDigests, digests, {count, 32},
                {.long_name = "SHA-256 over the attributes of each object, and the shape and values of data sets"});
  write_attribute(file, "/", kTotal, total_of(paths, digests));
}

void write_result_atomically(const std::filesystem::path& path, const std::function<void(H5File&)>& write) {
  write_hdf5_atomically(path, [&](H5File& file) {
    write(file);
    seal_result(file);
  });
}

void require_known_format(const H5File& file) {
  // States of trainings once had a text here.
  if (!has_attribute(file, "/", kFormat) || attribute_kind(file, "/", kFormat) != H5Kind::integer) return;
  const int64_t format = read_int_attribute(file, "/", kFormat);
  require<InputError>(format <= kResultFormat,
                      "{}: was written by a newer loci (its format is {}, this loci reads formats up to {}); use a "
                      "newer loci, or make the file again with this one",
                      file.path().string(), format, kResultFormat);
}

std::shared_ptr<H5Checksums> H5Checksums::of(H5File file) {
  if (!has_attribute(file, "/", kTotal) && !h5_exists(file, kGroup)) return nullptr;
  return std::shared_ptr<H5Checksums>(new H5Checksums(std::move(file)));
}

H5Checksums::H5Checksums(H5File file) : file_(std::move(file)) {
  const bool whole = has_attribute(file_, "/", kTotal) && h5_exists(file_, kPaths) && h5_exists(file_, kDigests);
  if (!whole) refuse("its checksums are damaged: a part of them is missing");
  const std::vector<std::string> paths = read_strings(file_, kPaths).values;
  const int64_t count = std::ssize(paths);
  const std::vector<uint8_t> digests =
      read_dataset<uint8_t>(file_, kDigests, {count, std::tuple_size_v<Digest>}).values;
  if (total_of(paths, digests) != read_string_attribute(file_, "/", kTotal)) refuse("its checksums are damaged");
  const std::vector<std::string> found = object_paths(file_);
  for (int64_t i = 0; i < count; ++i) {
    const std::string& path = paths[i];
    if (path != "/" && !std::binary_search(found.begin(), found.end(), path)) refuse(path + " is missing");
    std::memcpy(digests_[path].data(), digests.data() + i * std::ssize(Digest{}), sizeof(Digest));
  }
}

void H5Checksums::refuse(const std::string& what) const {
  throw_error<InputError>(
      "{}: the file is damaged: {}; make it again, or take a copy (where it was changed on purpose, remove the group "
      "\"checksums\" and the attribute \"checksum\" of the file)",
      file_.path().string(), what);
}

void H5Checksums::verify(const std::string& object) {
  const std::lock_guard lock(mutex_);
  const auto known = digests_.find(object);
  if (known == digests_.end() || verified_.contains(object)) return;
  if (digest_of(file_, object) != known->second)
    refuse(fmt::format("{} does not hold what was written (its checksum differs)", object));
  verified_.insert(object);
}

void H5Checksums::verify_all() {
  for (const auto& entry : digests_) verify(entry.first);
}

}  // namespace loci
