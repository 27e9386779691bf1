#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/io/json.h"

/// Files that hold a list of records: what they may look like, what messages call a record, and what is told beside the
/// records.
namespace loci {

/// What reading a file has to tell beside its records.
struct RecordReport {
  std::vector<std::string> skipped;   ///< why records were left out, one sentence each
  std::vector<std::string> warnings;  ///< about records that were read, one sentence each
  std::string trimmed;                ///< one sentence where white space at the ends of texts was left out, or empty
  std::string sha256;                 ///< of the file's text, decompressed
};

/// Says on the log why records were left out.
void log_skipped(std::span<const std::string> reasons);
/// Says on the log what there is to tell about the records that were read.
void log_records(const RecordReport& report);

/// One record while it is read. Its texts are handed out by one rule: subjects, targets and answers without white space
/// at either end, prompts and templates without white space at their end, since a model goes on with a space itself.
/// The functions that read a field throw InputError "{in}: ..." where it is missing, no text, or nothing but white
/// space, and where it holds U+0000.
class Record {
 public:
  Json value;
  int64_t index = 0;  ///< place in the file, from 0
  std::string place;  ///< "record 3", or in JSON Lines "line 4"
  std::string where;  ///< leads messages: "FILE: record 3 (case_id 17)"

  std::vector<std::string> warnings;  ///< without `where`

  /// A subject or attribute.
  std::string text(const Json& object, std::string_view key, std::string_view in);
  /// A target or answer: a text, a list whose first entry counts, or an object with the text as `str`.
  std::string target(const Json& object, std::string_view key, std::string_view in);
  /// The same, or nothing where the field is absent, null, an empty list or blank.
  std::string target_or_empty(const Json& object, std::string_view key, std::string_view in);
  std::string prompt(const Json& object, std::string_view key, std::string_view in);
  std::string prompt_or_empty(const Json& object, std::string_view key, std::string_view in);
  std::vector<std::string> prompts(const Json& object, std::string_view key, std::string_view in);

  /// How many texts lost white space, and where the first one stands.
  int64_t trimmed_texts() const { return trimmed_; }
  const std::string& first_trimmed() const { return first_trimmed_; }

 private:
  std::string trimmed(std::string_view text, std::string_view kept, std::string_view key, std::string_view in);

  int64_t trimmed_ = 0;
  std::string first_trimmed_;
};

/// The records of a text, in order: a JSON list, a single JSON object, or JSON Lines (one object per line, blank lines
/// between them). JSON Lines are told by the file's name (.jsonl, .ndjson, also before the ending of a compression) or
/// by a first line that is a whole value with more lines after it; a text that begins with [ is a list under any name.
class RecordReader {
 public:
  /// `id_field` is shown in the places of records that have it. Throws InputError "{name}: ..." for a text that is none
  /// of the three.
  RecordReader(std::string_view text, std::string name, std::string_view id_field);

  /// The next record; false after the last. Throws InputError for a line that is not JSON and for a record that is not
  /// an object; the next call goes on after it.
  bool next(Record& record);
  /// The same for lists whose entries need not be objects.
  bool next_value(Record& record);

 private:
  bool next_line(std::string_view& line);

  std::string_view text_;
  std::string name_, id_field_;
  bool lines_ = false;
  Json list_;
  size_t next_byte_ = 0;
  int64_t line_ = 0, index_ = 0;
};

/// Collects what there is to tell about the records of a file, and refuses ids that occur twice.
class RecordLog {
 public:
  RecordLog(std::string name, std::string id_field, OnInvalid on_invalid, RecordReport& report);

  /// A record that was read: its place stands for an absent id. Throws InputError where another one has its id.
  void accept(const Record& record);
  /// A record that cannot be used is left out, or ends the reading with an InputError.
  void reject(const InputError& fault) { refuse_or_skip(on_invalid_, fault, report_.skipped); }
  /// After the last record of `text`.
  void finish(std::string_view text);

 private:
  std::string name_, id_field_;
  OnInvalid on_invalid_;
  RecordReport& report_;
  std::unordered_map<int64_t, std::string> place_of_id_;
  int64_t trimmed_ = 0;
  std::string first_trimmed_;
};

/// A file of records as text, decompressed where it is gzip, bzip2 or zstd.
std::string read_record_text(const std::filesystem::path& path);

/// All records of a text that `parse` (Record& -> Item) takes. Records that it or the reader refuses (InputError), and
/// those that repeat the id of another, are refused or left out as `on_invalid` says. `report` is filled.
template <typename Parse>
auto read_all_records(std::string_view text, const std::string& name, std::string_view id_field, OnInvalid on_invalid,
                      RecordReport& report, Parse parse) {
  std::vector<decltype(parse(std::declval<Record&>()))> items;
  RecordReader reader(text, name, id_field);
  RecordLog log(name, std::string(id_field), on_invalid, report);
  for (bool more = true; more;) {
    try {
      Record record;
      more = reader.next(record);
      if (!more) break;
      auto item = parse(record);
      log.accept(record);
      items.push_back(std::move(item));
    } catch (const InputError& error) {
      log.reject(error);
    }
  }
  log.finish(text);
  return items;
}

}  // namespace loci
