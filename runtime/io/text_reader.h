#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/input_stream.h"
#include "runtime/io/json.h"

namespace loci {

enum class TextFormat {
  lines,      ///< one document per line
  json_lines  ///< one JSON object a line, its field `text` is the document
};

/// Reads documents from a text file or JSON lines (`-`: standard input), plain or compressed (.gz, .bz2, .zst), in
/// constant memory.
///
/// JSON lines are told by the file's name (.jsonl, .ndjson or .json, before the ending of the compression) or, where it
/// does not end in .txt either, by `{` as the first byte.
///
/// Plain text: the line's bytes without its end (\n or \r\n) are the document, leading and trailing spaces included. A
/// line that is empty or holds ASCII white space alone is not a document and is skipped, as WikiText's separators are.
/// JSON lines: every object is a document, an empty `text` an empty one, so that documents and records stay aligned;
/// only blank lines between records are skipped.
///
/// The text is UTF-8 without NUL; a byte order mark at the beginning is dropped. A file of another kind (an archive, a
/// table, UTF-16, data compressed twice; file_kind.h) is refused by name when it is opened, a single line that is not
/// UTF-8 when the document is made of it.
class TextReader {
 public:
  /// A line that is not blank, as it stands in the file.
  struct Line {
    std::string bytes;
    int64_t number = 0;  ///< from 1
    int64_t offset = 0;  ///< of its first byte in the text, decompressed
  };
  /// A longer line is refused: it would not be a document.
  static constexpr std::size_t kMaxLineBytes = std::size_t{1} << 30;

  /// InputError if the file cannot be opened or does not hold text.
  explicit TextReader(const std::filesystem::path& path);

  /// The next document; false after the last. InputError naming file and line for damaged data, for bytes that are not
  /// UTF-8, and for JSON that is not an object or has no string `text`.
  bool next(std::string& document);

  /// next() in two steps: taking a line, which is serial, and making a document of it, which any number of threads may
  /// do at once.
  bool next_line(Line& line);
  std::string document_of(Line line) const;
  /// "FILE: line N", which leads messages.
  std::string place_of(const Line& line) const;
  /// The object of a line of JSON lines.
  Json record_of(const Line& line) const;

  const std::filesystem::path& path() const { return path_; }
  TextFormat format() const { return format_; }
  int64_t documents_read() const { return documents_; }
  /// Bytes of the file as it lies on disk, compressed or not: how far the reading is.
  int64_t bytes_read() const { return stream_->bytes_read(); }
  int64_t total_bytes() const { return stream_->total_bytes(); }
  /// SHA-256 of the file as it lies on disk; once, after the last document.
  std::string sha256() { return stream_->sha256(); }

 private:
  bool read_raw_line(std::string& line);

  bool fill();
  void check_first_bytes(std::string_view first);

  std::filesystem::path path_;
  std::string name_;  // in messages
  std::unique_ptr<InputStream> stream_;
  TextFormat format_ = TextFormat::lines;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;  // what is left in the buffer
  int64_t line_number_ = 0;
  int64_t text_offset_ = 0;  // of what is left
  int64_t documents_ = 0;
};

}  // namespace loci
