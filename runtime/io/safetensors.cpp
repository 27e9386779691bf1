#include "runtime/io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/json.h"

namespace loci {

static_assert(std::endian::native == std::endian::little, "safetensors data is used as it lies in the file");

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxRank = 64;

struct TypeRow {
  DType type;
  std::string_view name;
  int64_t size;
};
constexpr std::array<TypeRow, 15> kTypes{{{DType::f64, "F64", 8},
                                          {DType::f32, "F32", 4},
                                          {DType::f16, "F16", 2},
                                          {DType::bf16, "BF16", 2},
                                          {DType::f8_e4m3, "F8_E4M3", 1},
                                          {DType::f8_e5m2, "F8_E5M2", 1},
                                          {DType::i64, "I64", 8},
                                          {DType::i32, "I32", 4},
                                          {DType::i16, "I16", 2},
                                          {DType::i8, "I8", 1},
                                          {DType::u64, "U64", 8},
                                          {DType::u32, "U32", 4},
                                          {DType::u16, "U16", 2},
                                          {DType::u8, "U8", 1},
                                          {DType::boolean, "BOOL", 1}}};

const TypeRow& row_of(DType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.type == type; });
}

DType parse_dtype(const std::string& name, std::string_view where) {
  const auto row = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& r) { return r.name == name; });
  require<InputError>(row != kTypes.end(), "{}: field \"dtype\" is \"{}\", which loci does not know", where,
                      name.substr(0, 40));
  return row->type;
}

uint64_t read_u64(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

SafetensorsHeader::Entry parse_entry(const std::string& name, const Json& json, std::string_view where) {
  refuse_unknown_keys(json, {"dtype", "shape", "data_offsets"}, where);
  SafetensorsHeader::Entry entry;
  entry.info.name = name;
  entry.info.dtype = parse_dtype(json_string(json, "dtype", where), where);
  entry.info.shape = json_ints(json, "shape", where, 0);
  require<InputError>(entry.info.shape.size() <= kMaxRank, "{}: field \"shape\" has {} extents, at most {} are allowed",
                      where, entry.info.shape.size(), kMaxRank);
  const auto offsets = json_ints(json, "data_offsets", where, 0);
  require<InputError>(offsets.size() == 2, "{}: field \"data_offsets\" must hold two numbers, it holds {}", where,
                      offsets.size());
  require<InputError>(offsets[0] <= offsets[1], "{}: field \"data_offsets\" ends at {} before it begins at {}", where,
                      offsets[1], offsets[0]);
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);

  const int64_t elements = element_count(entry.info.shape, where);
  int64_t size = 0;
  require<InputError>(!__builtin_mul_overflow(elements, dtype_size(entry.info.dtype), &size),
                      "{}: field \"shape\" {} overflows", where, shape_text(entry.info.shape));
  require<InputError>(static_cast<uint64_t>(size) == entry.end - entry.begin,
                      "{}: fields \"shape\" {} and \"dtype\" {} need {} bytes, but \"data_offsets\" spans {}", where,
                      shape_text(entry.info.shape), dtype_name(entry.info.dtype), size, entry.end - entry.begin);
  return entry;
}

/// Sorted by (begin, end), every range starts where the one before ended, the last one ends with the buffer.
void require_tiling(const SafetensorsHeader& header, uint64_t buffer_size, std::string_view file) {
  std::vector<const SafetensorsHeader::Entry*> order;
  for (const auto& [name, entry] : header.tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return std::tie(a->begin, a->end) < std::tie(b->begin, b->end); });
  uint64_t covered = 0;
  for (const auto* entry : order) {
    require<InputError>(entry->begin == covered,
                        "{}: tensor \"{}\": field \"data_offsets\" begins at {} where {} was expected: the tensors {}",
                        file, entry->info.name, entry->begin, covered,
                        entry->begin < covered ? "overlap" : "leave a gap");
    covered = entry->end;
  }
  require<InputError>(covered == buffer_size,
                      "{}: field \"data_offsets\": the tensors end at byte {} of a buffer of {}: the file is {}", file,
                      covered, buffer_size, covered > buffer_size ? "truncated" : "too long");
}

}  // namespace

std::string_view dtype_name(DType type) { return row_of(type).name; }

int64_t dtype_size(DType type) { return row_of(type).size; }

int64_t element_count(std::span<const int64_t> shape, std::string_view where) {
  require<InputError>(std::ranges::none_of(shape, [](int64_t extent) { return extent < 0; }),
                      "{}: field \"shape\" {} holds a negative extent", where, shape_text(shape));
  const std::optional<int64_t> count = product_of(shape);
  require<InputError>(count.has_value(), "{}: field \"shape\" {} overflows", where, shape_text(shape));
  return *count;
}

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view name) {
  refuse_other_kind({reinterpret_cast<const char*>(file.data()), std::min(file.size(), kFileKindBytes)}, name,
                    kSafetensors);
  require<InputError>(file.size() >= 8, "{}: header length: the file has {} bytes, a safetensors file at least 8", name,
                      file.size());
  const uint64_t length = read_u64(file);
  require<InputError>(length <= kMaxHeader, "{}: header length is {}, at most {} is allowed: is it a safetensors file?",
                      name, length, kMaxHeader);
  require<InputError>(length <= file.size() - 8,
                      "{}: header length is {} but only {} bytes follow: the file is truncated", name, length,
                      file.size() - 8);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  require<InputError>(text.starts_with('{'), "{}: header does not start with '{{': is it a safetensors file?", name);
  const auto last = text.find_last_not_of(' ');
  require<InputError>(text[last] == '}', "{}: header is followed by something other than spaces", name);

  SafetensorsHeader header;
  header.buffer_offset = 8 + length;
  const Json json = parse_json(text, fmt::format("{}: header", name));
  for (const auto& [key, value] : json.items()) {
    if (key == "__metadata__") {
      if (value.is_null()) continue;
      const auto where = fmt::format("{}: __metadata__", name);
      require<InputError>(value.is_object(), "{}: must be an object of strings", where);
      for (const auto& item : value.items()) header.metadata[item.key()] = json_string(value, item.key(), where);
    } else {
      header.tensors[key] = parse_entry(key, value, fmt::format("{}: tensor \"{}\"", name, key.substr(0, 120)));
    }
  }
  require_tiling(header, file.size() - header.buffer_offset, name);
  return header;
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require<InputError>(fd >= 0, "{}: cannot be opened: {}", path.string(), std::strerror(errno));
  struct stat status {};
  const bool regular = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  size_ = regular ? static_cast<size_t>(status.st_size) : 0;
  // An empty file cannot be mapped; it is an empty span.
  if (size_ > 0) data_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  ::close(fd);
  require<InputError>(regular, "{}: is not a regular file", path.string());
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw_error<SystemError>("{}: cannot be mapped into memory: {}", path.string(), std::strerror(error));
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), map_(path), header_(parse_safetensors_header(map_.bytes(), path.string())) {}

bool SafetensorsFile::contains(std::string_view name) const {
  return header_.tensors.find(name) != header_.tensors.end();
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : header_.tensors) names.push_back(name);
  return names;
}

const SafetensorsHeader::Entry& SafetensorsFile::entry(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  require<InputError>(found != header_.tensors.end(), "{}: tensor \"{}\" is missing", path_.string(), name);
  return found->second;
}

const TensorInfo& SafetensorsFile::at(std::string_view name) const { return entry(name).info; }

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const auto& found = entry(name);
  return map_.bytes().subspan(header_.buffer_offset + found.begin, found.end - found.begin);
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorData> tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorData& tensor : tensors) {
    const auto where = fmt::format("{}: tensor \"{}\"", path.string(), tensor.info.name);
    require<InputError>(!header.contains(tensor.info.name), "{}: occurs twice", where);
    const auto size = element_count(tensor.info.shape, where) * dtype_size(tensor.info.dtype);
    require<InputError>(static_cast<uint64_t>(size) == tensor.data.size(), "{}: shape {} of {} needs {} bytes, got {}",
                        where, shape_text(tensor.info.shape), dtype_name(tensor.info.dtype), size, tensor.data.size());
    header[tensor.info.name] = {{"dtype", dtype_name(tensor.info.dtype)},
                                {"shape", tensor.info.shape},
                                {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require<InputError>(text.size() <= kMaxHeader, "{}: the header would be longer than {} bytes", path.string(),
                      kMaxHeader);
  const uint64_t length = text.size();

  AtomicPath atomic(path);
  std::ofstream file(atomic.temporary(), std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  for (const TensorData& tensor : tensors) {
    file.write(reinterpret_cast<const char*>(tensor.data.data()), static_cast<std::streamsize>(tensor.data.size()));
  }
  file.close();
  if (file.fail()) throw_write_error(path.string(), errno);
  atomic.commit();
}

}  // namespace loci
