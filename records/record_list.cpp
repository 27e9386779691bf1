#include "records/record_list.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

#include "records/subject.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/input_stream.h"
#include "runtime/io/sha256.h"
#include "runtime/io/standard_input.h"
#include "runtime/wording.h"

namespace loci {
namespace {

constexpr std::string_view kJsonSpace = " \t\r\n";

bool is_blank(std::string_view line) { return line.find_first_not_of(kJsonSpace) == line.npos; }

bool named_json_lines(const std::filesystem::path& path) {
  std::filesystem::path name = path.filename();
  if (name.extension() == ".gz" || name.extension() == ".bz2" || name.extension() == ".zst") name = name.stem();
  return name.extension() == ".jsonl" || name.extension() == ".ndjson";
}

bool is_json_lines(std::string_view text, const std::string& name) {
  const size_t begin = text.find_first_not_of(kJsonSpace);
  require<InputError>(begin != text.npos, "{}: the file is empty", name);
  if (text[begin] == '[') return false;
  if (named_json_lines(name)) return true;
  const size_t end = text.find('\n', begin);
  return end != text.npos && !is_blank(text.substr(end)) && Json::accept(text.substr(begin, end - begin));
}

/// The value, or of a list its first entry; null where there is none.
const Json& first_of(const Json& value) {
  static const Json kNone;
  const Json* first = &value;
  while (first->is_array()) first = first->empty() ? &kNone : &first->front();
  return *first;
}

/// The text of a field that holds it, or a list of texts, or an object with the text as `str`.
std::string target_of(const Json& object, std::string_view key, std::string_view where) {
  const Json& field = json_field(object, key, where);
  require<InputError>(!field.is_array() || !first_of(field).is_null(), "{}: field \"{}\" is empty", where, key);
  const Json& value = first_of(field);
  if (value.is_object()) return json_text(value, "str", fmt::format("{}: {}", where, key));
  return json_text({{std::string(key), value}}, key, where);
}

}  // namespace

std::string read_record_text(const std::filesystem::path& path) {
  const std::unique_ptr<InputStream> stream = InputStream::open(path);
  std::string text;
  for (size_t size = 0, got = 1; got > 0; size += got) {
    text.resize(std::max(size + (size_t{1} << 16), 2 * size));
    got = stream->read(text.data() + size, text.size() - size);
    if (got == 0) text.resize(size);
  }
  const std::string_view first = std::string_view(text).substr(0, kFileKindBytes);
  refuse_other_kind(first, input_name(path), kJson, stream->is_compressed() ? "holds" : "is");
  refuse_binary(first, input_name(path));
  return text;
}

// --- Record ----------------------------------------------------------------------------------------------------------

std::string Record::trimmed(std::string_view text, std::string_view kept, std::string_view key, std::string_view in) {
  require<InputError>(!kept.empty(), "{}: field \"{}\" is empty but for white space", in, key);
  if (kept.size() < text.size() && trimmed_++ == 0) first_trimmed_ = fmt::format("{}, field \"{}\"", place, key);
  return std::string(kept);
}

std::string Record::text(const Json& object, std::string_view key, std::string_view in) {
  const std::string whole = json_text(object, key, in);
  return trimmed(whole, strip(whole), key, in);
}

std::string Record::target(const Json& object, std::string_view key, std::string_view in) {
  const std::string whole = target_of(object, key, in);
  return trimmed(whole, strip(whole), key, in);
}

std::string Record::target_or_empty(const Json& object, std::string_view key, std::string_view in) {
  if (!json_has(object, key)) return "";
  const Json& first = first_of(object.at(std::string(key)));
  const bool is_absent = first.is_null() || (first.is_string() && strip(first.get_ref<const std::string&>()).empty());
  return is_absent ? "" : target(object, key, in);
}

std::string Record::prompt(const Json& object, std::string_view key, std::string_view in) {
  const std::string whole = json_text(object, key, in);
  return trimmed(whole, strip_end(whole), key, in);
}

std::string Record::prompt_or_empty(const Json& object, std::string_view key, std::string_view in) {
  return json_text_or(object, key, "", in).empty() ? "" : prompt(object, key, in);
}

std::vector<std::string> Record::prompts(const Json& object, std::string_view key, std::string_view in) {
  std::vector<std::string> texts = json_texts(object, key, in);
  for (std::string& text : texts) text = trimmed(text, strip_end(text), key, in);
  return texts;
}

// --- RecordReader ----------------------------------------------------------------------------------------------------

RecordReader::RecordReader(std::string_view text, std::string name, std::string_view id_field)
    : text_(without_byte_order_mark(text)), name_(std::move(name)), id_field_(id_field) {
  refuse_other_kind(text.substr(0, kFileKindBytes), name_, kJson);
  refuse_binary(text.substr(0, kFileKindBytes), name_);
  lines_ = is_json_lines(text_, name_);
  if (lines_) return;
  list_ = parse_json(text_, name_);
  if (list_.is_object()) list_ = Json::array({std::move(list_)});
  require<InputError>(list_.is_array(),
                      "{}: the file must hold a list of records, a single one, or JSON Lines (one object per line)",
                      name_);
}

bool RecordReader::next(Record& record) {
  record = {};
  if (!next_value(record)) return false;
  record.where = fmt::format("{}: {}", name_, record.place);
  require<InputError>(record.value.is_object(), "{}: must be an object with the fields of a record, got {}",
                      record.where, record.value.type_name());
  const auto id = record.value.find(id_field_);
  if (id != record.value.end() && id->is_number_integer())
    record.where += fmt::format(" ({} {})", id_field_, id->dump());
  return true;
}

bool RecordReader::next_value(Record& record) {
  record = {};
  std::string_view line;
  if (lines_ ? !next_line(line) : index_ >= std::ssize(list_)) return false;
  record.index = index_++;
  record.place = lines_ ? fmt::format("line {}", line_) : fmt::format("record {}", record.index);
  record.where = fmt::format("{}: {}", name_, record.place);
  record.value = lines_ ? parse_json(line, record.where) : std::move(list_[record.index]);
  return true;
}

bool RecordReader::next_line(std::string_view& line) {
  while (next_byte_ < text_.size()) {
    const size_t end = std::min(text_.find('\n', next_byte_), text_.size());
    line = text_.substr(next_byte_, end - next_byte_);
    next_byte_ = end + 1;
    ++line_;
    if (!is_blank(line)) return true;
  }
  return false;
}

// --- RecordLog -------------------------------------------------------------------------------------------------------

RecordLog::RecordLog(std::string name, std::string id_field, OnInvalid on_invalid, RecordReport& report)
    : name_(std::move(name)), id_field_(std::move(id_field)), on_invalid_(on_invalid), report_(report) {}

void RecordLog::accept(const Record& record) {
  const int64_t id = json_int_or(record.value, id_field_, record.index, record.where);
  const auto [other, is_new] = place_of_id_.emplace(id, record.place);
  require<InputError>(is_new || !json_has(record.value, id_field_), "{}: field \"{}\" repeats that of {}", record.where,
                      id_field_, other->second);
  require<InputError>(is_new, "{}: without a field \"{}\" its number is its place, {}, which is that of {} already",
                      record.where, id_field_, id, other->second);
  for (const std::string& warning : record.warnings)
    report_.warnings.push_back(fmt::format("{}: {}", record.where, warning));
  if (trimmed_ == 0) first_trimmed_ = record.first_trimmed();
  trimmed_ += record.trimmed_texts();
}

void RecordLog::finish(std::string_view text) {
  report_.sha256 = sha256_hex(text);
  if (trimmed_ > 0)
    report_.trimmed = fmt::format("{}: white space at the ends of {} is left out (first: {})", name_,
                                  count(trimmed_, "text"), first_trimmed_);
}

void log_skipped(std::span<const std::string> reasons) {
  for (const std::string& reason : reasons) spdlog::warn("skipped: {}", reason);
}

void log_records(const RecordReport& report) {
  constexpr size_t kMost = 10;
  if (!report.trimmed.empty()) spdlog::info("{}", report.trimmed);
  for (size_t i = 0; i < std::min(kMost, report.warnings.size()); ++i) spdlog::warn("{}", report.warnings[i]);
  if (report.warnings.size() > kMost) spdlog::warn("and {} more records like these", report.warnings.size() - kMost);
}

}  // namespace loci
