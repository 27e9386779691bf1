#include "runtime/io/file_kind.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <string>

#include "runtime/error.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kUnpack = "unpack it first";
constexpr std::string_view kTable =
    "convert it to JSON Lines with a field \"text\" (scripts/prepare_wikipedia.py does; so does pandas: "
    "to_json(FILE, orient=\"records\", lines=True))";
constexpr std::string_view kArray = "export what it holds as text or JSON first";
constexpr std::string_view kCheckpoint = "give a Hugging Face checkpoint with model.safetensors";
constexpr std::string_view kOther = "extract its text to a UTF-8 file first";

struct Magic {
  std::size_t place;
  std::string_view bytes;
  std::string_view name;
  std::string_view remedy;
};

/// Longer marks before those that they begin with. No mark is a word that a text may begin with.
constexpr std::array kMagics = {
    Magic{0, "version https://git-lfs.github.com/spec/"sv, "a git-lfs pointer",
          "the file itself was not downloaded; run `git lfs pull` where it was cloned"},
    Magic{0, "PAR1"sv, "a Parquet file", kTable},
    Magic{0, "ARROW1"sv, "an Arrow (Feather) file", kTable},
    Magic{0, "FEA1"sv, "a Feather file", kTable},
    Magic{0, "Obj\x01"sv, "an Avro file", kTable},
    Magic{0, "\x93NUMPY"sv, "a NumPy array (.npy)", kArray},
    Magic{0, "\x89HDF\r\n\x1A\n"sv, kHdf5, kArray},
    Magic{0, "SQLite format 3\0"sv, "an SQLite database", kArray},
    Magic{0, "GGUF\x02"sv, "a GGUF model", kCheckpoint},
    Magic{0, "GGUF\x03"sv, "a GGUF model", kCheckpoint},
    Magic{0, "PK\x03\x04"sv, kZip, "unpack it first (.npz, .pt, .docx and .xlsx files are such archives, too)"},
    Magic{0, "PK\x05\x06"sv, kZip, kUnpack},
    Magic{257, "ustar"sv, "a tar archive", "unpack it first (tar -xf)"},
    Magic{0, "\x1F\x8B"sv, "gzip data", "decompress it first (gzip -d)"},
    Magic{0, "\x28\xB5\x2F\xFD"sv, "zstd data", "decompress it first (zstd -d)"},
    Magic{0,
          "\xFD"
          "7zXZ\0"sv,
          "xz data", "decompress it (xz -d), or store it as .gz, .bz2 or .zst"},
    Magic{0, "\x04\x22\x4D\x18"sv, "lz4 data", "decompress it (lz4 -d), or store it as .gz, .bz2 or .zst"},
    Magic{0, "LZIP\x01"sv, "lzip data", "decompress it first (lzip -d)"},
    Magic{0, "\x5D\0\0"sv, "lzma data", "decompress it first (xz -d --format=lzma)"},
    Magic{0, "\x1F\x9D"sv, "compress (.Z) data", "decompress it first (uncompress)"},
    Magic{0, "\xFF\x06\0\0sNaPpY"sv, "snappy data", "decompress it first"},
    Magic{0, "7z\xBC\xAF\x27\x1C"sv, "a 7z archive", kUnpack},
    Magic{0, "Rar!\x1A\x07"sv, "a rar archive", kUnpack},
    Magic{0, "%PDF-"sv, "a PDF file", "extract its text first (pdftotext)"},
    Magic{0, "{\\rtf"sv, "an RTF file", kOther},
    Magic{0, "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv, "a Microsoft Office file", kOther},
    Magic{0, "\x89PNG\r\n"sv, "a PNG image", kOther},
    Magic{0, "\xFF\xD8\xFF"sv, "a JPEG image", kOther},
    Magic{0, "GIF89a"sv, "a GIF image", kOther},
    Magic{0,
          "\x7F"
          "ELF"sv,
          "a program", kOther},
    Magic{0, "\x80\x02"sv, "a Python pickle (or a PyTorch file)", kArray},
    Magic{0, "\x80\x03"sv, "a Python pickle", kArray},
    Magic{0, "\x80\x04"sv, "a Python pickle", kArray},
    Magic{0, "\x80\x05"sv, "a Python pickle", kArray},
    Magic{0, "\xFF\xFE\0\0"sv, "UTF-32 text", "convert it to UTF-8 (iconv -f UTF-32 -t UTF-8)"},
    Magic{0, "\0\0\xFE\xFF"sv, "UTF-32 text", "convert it to UTF-8 (iconv -f UTF-32 -t UTF-8)"},
    Magic{0, "\xFF\xFE"sv, "UTF-16 text", "convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"},
    Magic{0, "\xFE\xFF"sv, "UTF-16 text", "convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"},
    Magic{0, "<mediawiki"sv, "a dump of a wiki in XML", "make JSON Lines of it with scripts/prepare_wikipedia.py"},
    Magic{0, "<!DOCTYPE html"sv, "a web page", "download the file itself, or extract the page's text"},
    Magic{0, "<!doctype html"sv, "a web page", "download the file itself, or extract the page's text"},
    Magic{0, "<html"sv, "a web page", "download the file itself, or extract the page's text"}};

bool is_bzip2(std::string_view bytes) {
  return bytes.size() >= 10 && bytes.starts_with("BZh") && bytes[3] >= '1' && bytes[3] <= '9' &&
         (bytes.substr(4, 6) == "1AY&SY" || bytes.substr(4, 6) == "\x17rE8P\x90");
}

/// A marker and the length of a message, which is not 0 and below 16 MiB.
bool is_arrow_stream(std::string_view bytes) {
  return bytes.size() >= 8 && bytes.starts_with("\xFF\xFF\xFF\xFF") && bytes[7] == 0 &&
         bytes.substr(4, 3) != "\0\0\0"sv;
}

/// A header length below 100 000 000, and the header's brace.
bool is_safetensors(std::string_view bytes) {
  return bytes.size() > 8 && bytes[8] == '{' && bytes.substr(4, 4) == "\0\0\0\0"sv;
}

const Magic* magic_of(std::string_view bytes) {
  static constexpr Magic kBzip2{0, "", "bzip2 data", "decompress it first (bzip2 -d)"};
  static constexpr Magic kArrowStream{0, "", "an Arrow stream", kTable};
  static constexpr Magic kTensors{0, "", kSafetensors, "give a file of the kind that is asked for"};
  const auto found = std::ranges::find_if(kMagics, [bytes](const Magic& magic) {
    return bytes.size() >= magic.place && bytes.substr(magic.place).starts_with(magic.bytes);
  });
  if (found != kMagics.end()) return &*found;
  if (is_bzip2(bytes)) return &kBzip2;
  if (is_arrow_stream(bytes)) return &kArrowStream;
  return is_safetensors(bytes) ? &kTensors : nullptr;
}

/// The first byte from `at` on that is not ASCII or is NUL.
std::size_t plain_end(std::string_view bytes, std::size_t at) {
  constexpr uint64_t kHighBits = 0x8080808080808080, kOnes = 0x0101010101010101;
  for (uint64_t word; at + sizeof word <= bytes.size(); at += sizeof word) {
    std::memcpy(&word, bytes.data() + at, sizeof word);
    // The second term is not 0 where a byte is 0 (and only in words that hold one, as no high bit is set).
    if ((word & kHighBits) != 0 || ((word - kOnes) & kHighBits) != 0) break;
  }
  while (at < bytes.size() && static_cast<signed char>(bytes[at]) > 0) ++at;
  return at;
}

}  // namespace

void refuse_other_kind(std::string_view first_bytes, std::string_view name, std::string_view wanted,
                       std::string_view verb) {
  const Magic* magic = magic_of(first_bytes);
  if (magic == nullptr || magic->name == wanted) return;
  const bool is_text_too = wanted == kText && magic->name.ends_with(kText);
  throw_error<InputError>("{}: {} {}, not {}: {}", name, verb, magic->name, is_text_too ? "UTF-8" : wanted,
                          magic->remedy);
}

void refuse_other_kind(const std::filesystem::path& path, std::string_view wanted) {
  std::string bytes(kFileKindBytes, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.is_open()) return;
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  refuse_other_kind(bytes, path.string(), wanted);
}

void require_utf8(std::string_view bytes, std::string_view where, int64_t offset) {
  for (std::size_t at = 0; (at = plain_end(bytes, at)) < bytes.size();) {
    const auto place = offset + static_cast<int64_t>(at);
    require<InputError>(bytes[at] != 0,
                        "{}: byte {} is NUL, so this is not text: convert it (from UTF-16 text: iconv -f UTF-16 -t "
                        "UTF-8)",
                        where, place);
    const utf8::Step step = utf8::decode(bytes, at);
    require<InputError>(step.well_formed,
                        "{}: byte {} (0x{:02X}) is not UTF-8: convert the text to UTF-8 (from Latin-1: iconv -f "
                        "ISO-8859-1 -t UTF-8)",
                        where, place, static_cast<unsigned char>(bytes[at]));
    at += step.length;
  }
}

void refuse_binary(std::string_view first_bytes, std::string_view name) {
  const std::size_t zero = first_bytes.find('\0');
  if (zero != first_bytes.npos) {
    const auto line = 1 + std::ranges::count(first_bytes.substr(0, zero), '\n');
    require_utf8(first_bytes.substr(zero), fmt::format("{}: line {}", name, line), static_cast<int64_t>(zero));
  }
  constexpr std::size_t kEnoughToTell = 4096;
  if (first_bytes.size() < kEnoughToTell) return;
  std::size_t ill_formed = 0;
  for (std::size_t at = 0; (at = plain_end(first_bytes, at)) < first_bytes.size();) {
    const utf8::Step step = utf8::decode(first_bytes, at);
    if (!step.well_formed) ill_formed += step.length;
    at += step.length;
  }
  require<InputError>(ill_formed * 10 <= first_bytes.size(),
                      "{}: {} of its first {} bytes are not UTF-8, so this is not text: give a text file, converted to "
                      "UTF-8 where it has another encoding (iconv)",
                      name, ill_formed, first_bytes.size());
}

std::string_view without_byte_order_mark(std::string_view text) {
  return text.starts_with("\xEF\xBB\xBF") ? text.substr(3) : text;
}

}  // namespace loci
