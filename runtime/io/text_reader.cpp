#include "runtime/io/text_reader.h"

#include <algorithm>
#include <cstring>

#include "runtime/error.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/standard_input.h"

namespace loci {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 18;

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\v\f") == std::string_view::npos; }

TextFormat format_of(const std::filesystem::path& path, std::string_view first_bytes) {
  std::filesystem::path name = path.filename();
  if (name.extension() == ".gz" || name.extension() == ".bz2" || name.extension() == ".zst") name = name.stem();
  const std::string ending = name.extension().string();
  if (ending == ".jsonl" || ending == ".ndjson" || ending == ".json") return TextFormat::json_lines;
  if (ending == ".txt") return TextFormat::lines;
  return first_bytes.starts_with('{') ? TextFormat::json_lines : TextFormat::lines;
}

}  // namespace

TextReader::TextReader(const std::filesystem::path& path)
    : path_(path), name_(input_name(path)), stream_(InputStream::open(path)), buffer_(kBuffer) {
  while (end_ < kFileKindBytes) {
    const std::size_t got = stream_->read(buffer_.data() + end_, buffer_.size() - end_);
    if (got == 0) break;
    end_ += got;
  }
  const std::string_view first(buffer_.data(), end_);
  check_first_bytes(first);
  begin_ = first.size() - without_byte_order_mark(first).size();
  text_offset_ = static_cast<int64_t>(begin_);
  format_ = format_of(path, first.substr(begin_));
}

void TextReader::check_first_bytes(std::string_view first) {
  refuse_other_kind(first, name_, kText, stream_->is_compressed() ? "holds" : "is");
  refuse_binary(first, name_);
}

bool TextReader::fill() {
  begin_ = 0;
  end_ = stream_->read(buffer_.data(), buffer_.size());
  return end_ > 0;
}

bool TextReader::read_raw_line(std::string& line) {
  line.clear();
  bool any = false;
  while (begin_ < end_ || fill()) {
    any = true;
    const char* from = buffer_.data() + begin_;
    const auto* newline = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
    const std::size_t length = newline ? static_cast<std::size_t>(newline - from) : end_ - begin_;
    if (line.size() + length > kMaxLineBytes)
      throw_error<InputError>("{}: line {} is longer than {} bytes: put one document on a line", name_,
                              line_number_ + 1, kMaxLineBytes);
    line.append(from, length);
    begin_ += length + (newline ? 1 : 0);
    text_offset_ += static_cast<int64_t>(length + (newline ? 1 : 0));
    if (newline) break;
  }
  line_number_ += any;
  return any;
}

bool TextReader::next_line(Line& line) {
  while (true) {
    line.offset = text_offset_;
    if (!read_raw_line(line.bytes)) return false;
    if (is_blank(line.bytes)) continue;
    if (line.bytes.ends_with('\r')) line.bytes.pop_back();
    line.number = line_number_;
    ++documents_;
    return true;
  }
}

std::string TextReader::place_of(const Line& line) const { return fmt::format("{}: line {}", name_, line.number); }

std::string TextReader::document_of(Line line) const {
  if (format_ == TextFormat::json_lines) return json_string(record_of(line), "text", place_of(line));
  require_utf8(line.bytes, place_of(line), line.offset);
  return std::move(line.bytes);
}

Json TextReader::record_of(const Line& line) const {
  const std::string where = place_of(line);
  require_utf8(line.bytes, where, line.offset);
  Json record;
  try {
    record = parse_json(line.bytes, where);
  } catch (const InputError& error) {
    const std::size_t first = line.bytes.find_first_not_of(" \t");
    const bool is_whole = line.number == 1 && first != std::string::npos && line.bytes.find_first_of("[{") == first;
    require<InputError>(!is_whole,
                        "{}; a JSON text must be JSON Lines, one object with a field \"text\" per line (of a list of "
                        "objects: jq -c '.[]' FILE.json > FILE.jsonl)",
                        error.what());
    throw;
  }
  require<InputError>(record.is_object(), "{}: must be one JSON object with a field \"text\", got {}", where,
                      record.type_name());
  return record;
}

bool TextReader::next(std::string& document) {
  Line line;
  if (!next_line(line)) return false;
  document = document_of(std::move(line));
  return true;
}

}  // namespace loci
