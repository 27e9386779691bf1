#include "runtime/io/input_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/io/standard_input.h"

namespace loci {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 18;

/// The file as it lies on disk, counted and hashed on the way.
class RawFile {
 public:
  explicit RawFile(const std::filesystem::path& path) : path_(input_file(path)), name_(input_name(path)) {
    std::error_code error;
    require<InputError>(std::filesystem::exists(path_, error), "{}: no such file", name_);
    require<InputError>(std::filesystem::is_regular_file(path_, error), "{}: is not a regular file: give a text file",
                        name_);
    file_.reset(std::fopen(path_.c_str(), "rb"));
    require<InputError>(file_ != nullptr, "{}: cannot be opened: {}", name_, std::strerror(errno));
    const auto size = std::filesystem::file_size(path_, error);
    total_ = error ? 0 : static_cast<int64_t>(size);
  }
  std::size_t read(char* out, std::size_t size) {
    const std::size_t got = std::fread(out, 1, size, file_.get());
    require<InputError>(std::ferror(file_.get()) == 0, "{}: cannot be read: {}", name_, std::strerror(errno));
    hash_.update(std::string_view(out, got));
    read_ += static_cast<int64_t>(got);
    return got;
  }
  /// The first bytes, which read() gives again.
  std::string peek(std::size_t size) {
    std::string bytes(size, '\0');
    bytes.resize(std::fread(bytes.data(), 1, size, file_.get()));
    std::rewind(file_.get());
    return bytes;
  }
  const std::string& name() const { return name_; }
  int64_t bytes_read() const { return read_; }
  int64_t total_bytes() const { return total_; }
  std::string sha256() { return hash_.hex(); }

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::string name_;
  std::unique_ptr<std::FILE, Closer> file_;
  int64_t read_ = 0, total_ = 0;
  Sha256 hash_;
};

class StreamOfFile : public InputStream {
 public:
  explicit StreamOfFile(RawFile file) : file_(std::move(file)) {}
  bool is_compressed() const override { return true; }
  int64_t bytes_read() const override { return file_.bytes_read(); }
  int64_t total_bytes() const override { return file_.total_bytes(); }
  std::string sha256() override { return file_.sha256(); }

 protected:
  RawFile file_;
};

class PlainStream : public StreamOfFile {
 public:
  using StreamOfFile::StreamOfFile;
  bool is_compressed() const override { return false; }
  std::size_t read(char* out, std::size_t size) override { return file_.read(out, size); }
};

/// By zlib, because libarchive does not verify gzip's checksums.
class GzipStream : public StreamOfFile {
 public:
  explicit GzipStream(RawFile file) : StreamOfFile(std::move(file)), input_(kChunk) {
    constexpr int kGzipWindow = 16 + MAX_WBITS;
    require<SystemError>(inflateInit2(&state_, kGzipWindow) == Z_OK, "{}: zlib cannot start", file_.name());
  }
  ~GzipStream() override { inflateEnd(&state_); }

  std::size_t read(char* out, std::size_t size) override {
    state_.next_out = reinterpret_cast<Bytef*>(out);
    state_.avail_out = static_cast<uInt>(std::min<std::size_t>(size, kChunk));
    const uInt wanted = state_.avail_out;
    while (state_.avail_out == wanted && next_input()) {
      const int result = inflate(&state_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        in_member_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        throw_error<InputError>("{}: the gzip data are damaged before byte {} ({}): get the file again", file_.name(),
                                file_.bytes_read(), state_.msg ? state_.msg : "no cause given");
      }
    }
    return wanted - state_.avail_out;
  }

 private:
  /// Makes sure that there is input to inflate; false at the end of the file, after the last member.
  bool next_input() {
    refill();
    if (!in_member_) {
      skip_padding();
      if (state_.avail_in == 0) return false;
      require<InputError>(*state_.next_in == 0x1F, "{}: other bytes follow the gzip data: get the file again",
                          file_.name());
      inflateReset(&state_);
      in_member_ = true;
    }
    require<InputError>(state_.avail_in > 0, "{}: the gzip data are cut short after {} bytes: get the file again",
                        file_.name(), file_.bytes_read());
    return true;
  }
  void refill() {
    if (state_.avail_in > 0) return;
    state_.next_in = reinterpret_cast<Bytef*>(input_.data());
    state_.avail_in = static_cast<uInt>(file_.read(input_.data(), input_.size()));
  }
  /// Zeros after a member, as tapes and block devices leave them.
  void skip_padding() {
    while (state_.avail_in > 0 && *state_.next_in == 0) {
      ++state_.next_in, --state_.avail_in;
      refill();
    }
  }

  std::vector<char> input_;
  z_stream state_{};
  bool in_member_ = true;
};

/// bzip2 and zstd, by libarchive.
class ArchiveStream : public StreamOfFile {
 public:
  ArchiveStream(RawFile file, int filter) : StreamOfFile(std::move(file)), input_(kChunk), reader_(archive_read_new()) {
    require<SystemError>(reader_ != nullptr, "{}: libarchive cannot start", file_.name());
    archive_read_support_filter_bzip2(reader_.get());
    archive_read_support_filter_zstd(reader_.get());
    archive_read_support_format_raw(reader_.get());
    archive_entry* entry = nullptr;
    if (archive_read_open(reader_.get(), this, nullptr, &ArchiveStream::next_block, nullptr) != ARCHIVE_OK) fail();
    const int result = archive_read_next_header(reader_.get(), &entry);
    if (result == ARCHIVE_EOF) {
      at_end_ = true;
    } else if (result != ARCHIVE_OK) {
      fail();
    }
    // A file cut within its first bytes is no longer recognised, and would pass for plain text.
    require<InputError>(archive_filter_code(reader_.get(), 0) == filter,
                        "{}: the compressed data are cut short after {} bytes: get the file again", file_.name(),
                        file_.bytes_read());
  }

  std::size_t read(char* out, std::size_t size) override {
    if (at_end_) return 0;
    const la_ssize_t got = archive_read_data(reader_.get(), out, size);
    if (got < 0) fail();
    at_end_ = got == 0;
    return static_cast<std::size_t>(got);
  }

 private:
  static la_ssize_t next_block(archive* reader, void* self_pointer, const void** block) {
    auto* self = static_cast<ArchiveStream*>(self_pointer);
    *block = self->input_.data();
    try {  // no exception may pass through the C library
      return static_cast<la_ssize_t>(self->file_.read(self->input_.data(), self->input_.size()));
    } catch (const std::exception& error) {
      archive_set_error(reader, EIO, "%s", error.what());
      return ARCHIVE_FATAL;
    }
  }
  [[noreturn]] void fail() {
    const char* cause = archive_error_string(reader_.get());
    throw_error<InputError>("{}: the compressed data are damaged or cut short before byte {} ({}): get the file again",
                            file_.name(), file_.bytes_read(), cause ? cause : "no cause given");
  }

  struct Closer {
    void operator()(archive* reader) const { archive_read_free(reader); }
  };
  std::vector<char> input_;
  std::unique_ptr<archive, Closer> reader_;
  bool at_end_ = false;
};

enum class Compression { none, gzip, bzip2, zstd };

Compression compression_of(std::string_view first_bytes) {
  if (first_bytes.starts_with("\x1F\x8B")) return Compression::gzip;
  const bool bzip2 =
      first_bytes.size() >= 4 && first_bytes.starts_with("BZh") && first_bytes[3] >= '1' && first_bytes[3] <= '9';
  if (bzip2) return Compression::bzip2;
  return first_bytes.starts_with("\x28\xB5\x2F\xFD") ? Compression::zstd : Compression::none;
}

Compression compression_named(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".gz") return Compression::gzip;
  if (ending == ".bz2") return Compression::bzip2;
  return ending == ".zst" ? Compression::zstd : Compression::none;
}

}  // namespace

std::unique_ptr<InputStream> InputStream::open(const std::filesystem::path& path) {
  RawFile file(path);
  const Compression found = compression_of(file.peek(4)), named = compression_named(path);
  require<InputError>(named == Compression::none || named == found,
                      "{}: is not {} data, as its name says: get the file again or rename it", file.name(),
                      path.extension().string());
  if (found == Compression::none) return std::make_unique<PlainStream>(std::move(file));
  if (found == Compression::gzip) return std::make_unique<GzipStream>(std::move(file));
  return std::make_unique<ArchiveStream>(std::move(file),
                                         found == Compression::bzip2 ? ARCHIVE_FILTER_BZIP2 : ARCHIVE_FILTER_ZSTD);
}

}  // namespace loci
