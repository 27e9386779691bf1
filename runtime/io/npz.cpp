#include "runtime/io/npz.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_kind.h"
#include "runtime/utf8.h"

namespace loci {

static_assert(std::endian::native == std::endian::little, ".npy data is written as it lies in memory");

namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxNpyHeader = 1 << 20;
constexpr size_t kMaxNpyRank = 32;

std::string shape_string(std::span<const int64_t> shape) {
  return fmt::format("({}{})", fmt::join(shape.begin(), shape.end(), ", "), shape.size() == 1 ? "," : "");
}

std::optional<int64_t> checked_product(std::span<const int64_t> shape) {
  int64_t count = 1;
  bool overflow = false;
  bool empty = false;
  for (const int64_t extent : shape) {
    empty = empty || extent == 0;
    overflow = overflow || extent < 0 || __builtin_mul_overflow(count, extent, &count);
  }
  if (empty) return 0;
  if (overflow) return std::nullopt;
  return count;
}

// ---- the header: a Python dictionary literal with three known keys ----

struct NpyHeader {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

/// Reads {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  NpyHeader parse() {
    NpyHeader header;
    bool descr = false, order = false, shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !descr) {
        descr = true;
        header.descr = quoted();
      } else if (key == "fortran_order" && !order) {
        order = true;
        header.fortran_order = boolean();
      } else if (key == "shape" && !shape) {
        shape = true;
        header.shape = tuple();
      } else {
        fail(fmt::format("key '{}' is unknown or occurs twice", key.substr(0, 40)));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (at_ != text_.size()) fail("something follows the dictionary");
    if (!descr || !order || !shape) fail("one of the keys descr, fortran_order, shape is missing");
    return header;
  }

 private:
  [[noreturn]] void fail(std::string_view cause) const {
    throw_error<InputError>("{}: .npy header, byte {}: {}", where_, at_, cause);
  }
  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(fmt::format("'{}' expected", c));
  }
  std::string quoted() {
    skip_spaces();
    if (at_ < text_.size() && text_[at_] == '[') fail("arrays of records are not supported");
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("a quoted string expected");
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a string is not closed");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_spaces();
    for (const auto& [word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    }
    fail("True or False expected");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> extents;
    expect('(');
    while (!accept(')')) {
      extents.push_back(number());
      if (extents.size() > kMaxNpyRank) fail(fmt::format("more than {} axes", kMaxNpyRank));
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return extents;
  }
  int64_t number() {
    skip_spaces();
    int64_t value = 0;
    const size_t start = at_;
    while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]))) {
      if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
          __builtin_add_overflow(value, int64_t{text_[at_] - '0'}, &value)) {
        fail("an extent overflows");
      }
      ++at_;
    }
    if (at_ == start) fail("a whole number expected");
    return value;
  }

  std::string_view text_;
  std::string_view where_;
  size_t at_ = 0;
};

/// The elements of an array that holds values of `From`.
template <typename To, typename From>
std::vector<To> converted(const NpyArray& array) {
  std::vector<From> values(static_cast<size_t>(array.size()));
  if (!values.empty()) std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
  if constexpr (std::is_same_v<To, From>) return values;
  std::vector<To> result;
  result.reserve(values.size());
  for (const From value : values) result.push_back(static_cast<To>(value));
  return result;
}

/// Bytes of an element of the types that can be read as numbers; 0 for others.
int64_t item_size_of(std::string_view descr) {
  for (const auto& [name, size] : {std::pair<std::string_view, int64_t>{"<f4", 4}, {"<f8", 8}, {"<i4", 4}, {"<i8", 8}})
    if (descr == name) return size;
  return 0;
}

}  // namespace

int64_t NpyArray::size() const { return checked_product(shape).value_or(0); }

template <typename T>
std::vector<T> NpyArray::as() const {
  require<InputError>(!fortran_order || shape.size() < 2,
                      "{}: is stored in Fortran order: store it in C order (numpy.ascontiguousarray)", where);
  if (descr == "<i4") return converted<T, int32_t>(*this);
  if (descr == "<i8") return converted<T, int64_t>(*this);
  if constexpr (std::is_floating_point_v<T>) {
    if (descr == "<f4") return converted<T, float>(*this);
    if (descr == "<f8") return converted<T, double>(*this);
  }
  throw_error<InputError>("{}: holds elements of NumPy's type {}, expected {}", where, descr,
                          std::is_floating_point_v<T> ? "<f4, <f8, <i4 or <i8" : "<i4 or <i8");
}

template <typename T>
T NpyArray::scalar() const {
  require<InputError>(size() == 1, "{}: has shape {}, expected one value", where, shape_string(shape));
  return as<T>().at(0);
}

#define LOCI_INSTANTIATE(T)                        \
  template std::vector<T> NpyArray::as<T>() const; \
  template T NpyArray::scalar<T>() const;
LOCI_INSTANTIATE(float)
LOCI_INSTANTIATE(double)
LOCI_INSTANTIATE(int64_t)
#undef LOCI_INSTANTIATE

NpyArray parse_npy(std::span<const std::byte> file, std::string_view where) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  require<InputError>(text.starts_with(kMagic), "{}: is no .npy array (its magic is missing)", where);
  require<InputError>(text.size() >= 10, "{}: .npy header is truncated", where);
  const int version = text[6];
  require<InputError>(version >= 1 && version <= 3, "{}: .npy version {} is unknown", where, version);
  const size_t length_bytes = version == 1 ? 2 : 4;
  const size_t start = 8 + length_bytes;
  require<InputError>(text.size() >= start, "{}: .npy header is truncated", where);
  uint32_t length = 0;
  std::memcpy(&length, file.data() + 8, length_bytes);
  require<InputError>(length <= kMaxNpyHeader && length <= text.size() - start,
                      "{}: .npy header of {} bytes: the file is truncated or damaged", where, length);
  const NpyHeader header = HeaderParser(text.substr(start, length), where).parse();
  const auto count = checked_product(header.shape);
  const int64_t item_size = item_size_of(header.descr);
  int64_t size = 0;
  require<InputError>(count && !__builtin_mul_overflow(*count, item_size, &size), "{}: field \"shape\" {} overflows",
                      where, shape_string(header.shape));
  const auto data = file.subspan(start + length);
  require<InputError>(item_size == 0 || static_cast<uint64_t>(size) == data.size(),
                      "{}: fields \"shape\" {} and \"descr\" {} need {} bytes, {} are there: the file is {}", where,
                      shape_string(header.shape), header.descr, size, data.size(),
                      static_cast<uint64_t>(size) > data.size() ? "truncated" : "too long");
  return {std::string(where), header.descr, header.fortran_order, header.shape, {data.begin(), data.end()}};
}

// ---- reading the zip file ----

namespace {

struct ReaderDeleter {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

std::string archive_cause(archive* reader) {
  const char* text = archive_error_string(reader);
  return text != nullptr ? text : "no cause given";
}

/// A member's bytes; the size in the directory is a claim, so the buffer grows with what is really there.
std::vector<std::byte> read_member(archive* reader, const std::string& where) {
  std::vector<std::byte> bytes;
  for (;;) {
    const void* block = nullptr;
    size_t size = 0;
    la_int64_t offset = 0;
    const int result = archive_read_data_block(reader, &block, &size, &offset);
    if (result == ARCHIVE_EOF) return bytes;
    require<InputError>(result == ARCHIVE_OK, "{}: cannot be read: {}", where, archive_cause(reader));
    require<InputError>(static_cast<size_t>(offset) == bytes.size(), "{}: cannot be read: it has holes", where);
    const auto* data = static_cast<const std::byte*>(block);
    bytes.insert(bytes.end(), data, data + size);
  }
}

}  // namespace

std::map<std::string, NpyArray> read_npz(const std::filesystem::path& path) {
  std::error_code ignored;
  require<InputError>(std::filesystem::exists(path, ignored), "{}: does not exist", path.string());
  require<InputError>(std::filesystem::is_regular_file(path, ignored), "{}: is no file", path.string());
  refuse_other_kind(path, kZip);
  const std::unique_ptr<archive, ReaderDeleter> reader(archive_read_new());
  require<SystemError>(reader != nullptr, "{}: libarchive cannot start", path.string());
  // The seekable reader reads the directory at the end, so a truncated file is seen as one.
  archive_read_support_format_zip_seekable(reader.get());
  require<InputError>(archive_read_open_filename(reader.get(), path.c_str(), 1 << 20) == ARCHIVE_OK,
                      "{}: is no .npz (zip) file or is truncated: {}", path.string(), archive_cause(reader.get()));
  std::map<std::string, NpyArray> arrays;
  for (;;) {
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(reader.get(), &entry);
    if (result == ARCHIVE_EOF) break;
    require<InputError>(result == ARCHIVE_OK, "{}: is no .npz (zip) file or is truncated: {}", path.string(),
                        archive_cause(reader.get()));
    const char* raw = archive_entry_pathname(entry);
    std::string name = raw != nullptr ? raw : "";
    require<InputError>(name.ends_with(".npy"), "{}: member '{}' is no .npy array", path.string(), name.substr(0, 80));
    name.resize(name.size() - 4);
    const auto where = fmt::format("{}: array '{}'", path.string(), name);
    require<InputError>(!arrays.contains(name), "{}: occurs twice", where);
    require<InputError>(archive_entry_is_encrypted(entry) == 0, "{}: is encrypted", where);
    arrays[name] = parse_npy(read_member(reader.get(), where), where);
  }
  return arrays;
}

const NpyArray& npz_at(const std::map<std::string, NpyArray>& arrays, const std::string& name,
                       const std::filesystem::path& path) {
  const auto found = arrays.find(name);
  require<InputError>(found != arrays.end(), "{}: array '{}' is missing", path.string(), name);
  return found->second;
}

// ---- writing ----

namespace {

struct WriterDeleter {
  void operator()(archive* writer) const { archive_write_free(writer); }
};

template <typename T>
std::string descr_of() {
  if constexpr (std::is_same_v<T, float>) return "<f4";
  if constexpr (std::is_same_v<T, double>) return "<f8";
  return "<i8";
}

std::u32string code_points_of(std::string_view text, std::string_view where) {
  std::u32string codes;
  for (size_t at = 0; at < text.size();) {
    const utf8::Step step = utf8::decode(text, at);
    require<InputError>(step.well_formed, "{}: is not valid UTF-8 at byte {}", where, at);
    codes += step.code_point;
    at += step.length;
  }
  return codes;
}

/// A version 1 header, padded so that the data starts at a multiple of 64 bytes.
std::string npy_header(const std::string& descr, std::span<const int64_t> shape) {
  std::string text =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", descr, shape_string(shape));
  text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  text += '\n';
  std::string header(kMagic);
  header += '\x01';
  header += '\0';
  header += static_cast<char>(text.size() & 0xFF);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

}  // namespace

struct NpzWriter::Archive {
  explicit Archive(const std::filesystem::path& path) : file(path), writer(archive_write_new()) {
    require<SystemError>(writer != nullptr, "{}: libarchive cannot start", path.string());
    archive_write_set_format_zip(writer.get());
    // Stored, as numpy.savez does: results are dense numbers.
    archive_write_zip_set_compression_store(writer.get());
    check(archive_write_open_filename(writer.get(), file.temporary().c_str()));
  }

  void check(int result) const {
    if (result == ARCHIVE_OK) return;
    const int error = archive_errno(writer.get());
    if (error > 0) throw_write_error(file.target().string(), error);
    throw_error<SystemError>("{}: writing failed, nothing was kept: {}", file.target().string(),
                             archive_cause(writer.get()));
  }

  void add(const std::string& name, const std::string& descr, std::span<const std::byte> data, int64_t item_size,
           std::span<const int64_t> shape) {
    const auto where = fmt::format("{}: array '{}'", file.target().string(), name);
    const auto count = checked_product(shape);
    require<ShapeError>(count && static_cast<uint64_t>(*count * item_size) == data.size(),
                        "{}: shape {} does not hold {} bytes of {}", where, shape_string(shape), data.size(), descr);
    require<InputError>(!names.contains(name), "{}: occurs twice", where);
    names[name] = true;
    const std::string header = npy_header(descr, shape);
    const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(), archive_entry_free);
    archive_entry_set_pathname(entry.get(), (name + ".npy").c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    archive_entry_set_mtime(entry.get(), 315532800, 0);  // 1980, the first time zip knows: equal data, equal files
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(header.size() + data.size()));
    check(archive_write_header(writer.get(), entry.get()));
    write(std::as_bytes(std::span(header)));
    write(data);
    check(archive_write_finish_entry(writer.get()));
  }

  void write(std::span<const std::byte> data) const {
    while (!data.empty()) {
      const la_ssize_t written = archive_write_data(writer.get(), data.data(), data.size());
      check(written > 0 ? ARCHIVE_OK : ARCHIVE_FATAL);
      data = data.subspan(static_cast<size_t>(written));
    }
  }

  AtomicPath file;
  std::unique_ptr<archive, WriterDeleter> writer;
  std::map<std::string, bool> names;
};

NpzWriter::NpzWriter(const std::filesystem::path& path) : archive_(std::make_unique<Archive>(path)) {}
NpzWriter::~NpzWriter() = default;

template <typename T>
void NpzWriter::add(const std::string& name, std::span<const T> values, std::span<const int64_t> shape) {
  archive_->add(name, descr_of<T>(), std::as_bytes(values), sizeof(T), shape);
}
template void NpzWriter::add<float>(const std::string&, std::span<const float>, std::span<const int64_t>);
template void NpzWriter::add<double>(const std::string&, std::span<const double>, std::span<const int64_t>);
template void NpzWriter::add<int64_t>(const std::string&, std::span<const int64_t>, std::span<const int64_t>);

void NpzWriter::add_boolean(const std::string& name, bool value) {
  archive_->add(name, "|b1", std::as_bytes(std::span(&value, 1)), 1, {});
}

void NpzWriter::add_strings(const std::string& name, std::span<const std::string> values,
                            std::span<const int64_t> shape) {
  std::vector<std::u32string> decoded;
  size_t length = 1;
  for (const std::string& value : values) {
    decoded.push_back(code_points_of(value, fmt::format("{}: array '{}'", archive_->file.target().string(), name)));
    length = std::max(length, decoded.back().size());
  }
  std::u32string codes;
  for (std::u32string& value : decoded) {
    value.resize(length);  // NumPy pads with zeros
    codes += value;
  }
  archive_->add(name, fmt::format("<U{}", length), std::as_bytes(std::span(codes)), static_cast<int64_t>(4 * length),
                shape);
}

void NpzWriter::add_string(const std::string& name, std::string_view value) {
  const std::string text(value);
  add_strings(name, std::span(&text, 1), {});
}

void NpzWriter::finish() {
  archive_->check(archive_write_close(archive_->writer.get()));
  archive_->file.commit();
}

}  // namespace loci
