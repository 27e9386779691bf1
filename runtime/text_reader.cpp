#include "runtime/text_reader.h"

#include <algorithm>
#include <cstring>

#include "runtime/error.h"
#include "runtime/json.h"

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
    : path_(path), stream_(InputStream::open(path)), buffer_(kBuffer) {
  while (end_ < 3) {  // enough to see a byte order mark
    const std::size_t got = stream_->read(buffer_.data() + end_, buffer_.size() - end_);
    if (got == 0) break;
    end_ += got;
  }
  std::string_view first(buffer_.data(), end_);
  require<InputError>(!first.starts_with("\xFF\xFE") && !first.starts_with("\xFE\xFF"),
                      "{}: is UTF-16 text: convert it to UTF-8", path.string());
  if (first.starts_with("\xEF\xBB\xBF")) begin_ = 3;
  format_ = format_of(path, first.substr(begin_));
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
      throw_error<InputError>("{}: line {} is longer than {} bytes: put one document on a line", path_.string(),
                              line_number_ + 1, kMaxLineBytes);
    line.append(from, length);
    begin_ += length + (newline ? 1 : 0);
    if (newline) break;
  }
  line_number_ += any;
  return any;
}

bool TextReader::next_line(Line& line) {
  while (read_raw_line(line.bytes)) {
    if (is_blank(line.bytes)) continue;
    if (line.bytes.ends_with('\r')) line.bytes.pop_back();
    line.number = line_number_;
    ++documents_;
    return true;
  }
  return false;
}

std::string TextReader::document_of(Line line) const {
  if (format_ == TextFormat::lines) return std::move(line.bytes);
  const std::string where = fmt::format("{}: line {}", path_.string(), line.number);
  const Json record = parse_json(line.bytes, where);
  require<InputError>(record.is_object(), "{}: must be one JSON object with a field \"text\", got {}", where,
                      record.type_name());
  return json_string(record, "text", where);
}

bool TextReader::next(std::string& document) {
  Line line;
  if (!next_line(line)) return false;
  document = document_of(std::move(line));
  return true;
}

}  // namespace loci
