// Files of records: a list, a single object, JSON Lines; what messages call a record; ids; white space.
#include "records/record_list.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "runtime/io/atomic_file.h"
#include "runtime/io/sha256.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci::test {
namespace {

struct Read {
  std::vector<std::string> texts;
  RecordReport report;
};

/// The field `t` of every record.
Read read(std::string_view text, OnInvalid on_invalid = OnInvalid::refuse, const std::string& name = "r.json") {
  Read made;
  made.texts = read_all_records(text, name, "id", on_invalid, made.report,
                                [](Record& record) { return record.target(record.value, "t", record.where); });
  return made;
}

using Texts = std::vector<std::string>;

TEST(RecordList, AListAnObjectAndJsonLinesAreTheSame) {
  for (const char* text : {R"([{"t": "a"}, {"t": "b"}])", "{\"t\": \"a\"}\n{\"t\": \"b\"}\n",
                           "{\"t\": \"a\"}\r\n\r\n  {\"t\": \"b\"}", "\xEF\xBB\xBF{\"t\": \"a\"}\n{\"t\": \"b\"}",
                           "\xEF\xBB\xBF[{\"t\": \"a\"},\n{\"t\": \"b\"}]", "\n{\"t\": \"a\"}\n\n\n{\"t\": \"b\"}\n\n"})
    for (const char* name : {"r.json", "r.jsonl", "r.ndjson.gz", "r"}) {
      SCOPED_TRACE(text);
      EXPECT_EQ(read(text, OnInvalid::refuse, name).texts, (Texts{"a", "b"})) << name;
    }
  EXPECT_EQ(read("{\n\"t\":\n\"a\"}").texts, Texts{"a"});
  EXPECT_EQ(read("{\"t\": \"a\"}", OnInvalid::refuse, "r.jsonl").texts, Texts{"a"});
  EXPECT_EQ(read("{\"t\": \"a\"}\n").texts, Texts{"a"});
  EXPECT_EQ(read("[]").texts, Texts{});
}

TEST(RecordList, BadFilesAreRefused) {
  const auto refused = [](const char* text, const std::vector<std::string>& parts, const std::string& name = "r.json") {
    SCOPED_TRACE(text);
    expect_message(error_of<InputError>([&] { read(text, OnInvalid::skip, name); }), parts);
  };
  refused("", {"r.json", "empty"});
  refused(" \n\t", {"r.json", "empty"});
  refused("\xEF\xBB\xBF", {"r.json", "empty"});
  refused("3", {"r.json", "list", "JSON Lines"});
  refused("\"a\"", {"r.json", "list", "JSON Lines"});
  refused("PAR1 \x15", {"r.json", "Parquet"});
  refused("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", {"r.jsonl", "git-lfs"}, "r.jsonl");
  refused("[{\"t\": \"a\"},", {"r.json", "line 1"});
  refused("{\"t\": \"a\"", {"r.json", "line 1"});
  refused("{\n\"t\": \"a\"\n}\n{\n\"t\": \"b\"\n}", {"r.json", "line 4"});
  refused("[{\"t\": \"a\"}]\n[]", {"r.jsonl", "line 2"}, "r.jsonl");
}

TEST(RecordList, ARecordIsCalledByItsPlaceAndItsId) {
  const auto message = [](const char* text) { return error_of<InputError>([&] { read(text); }); };
  expect_message(message(R"([{"t": "a"}, {"id": 17}])"), {"r.json: record 1 (id 17): field \"t\" is missing"});
  expect_message(message(R"([{"t": "a"}, {}])"), {"r.json: record 1: field \"t\" is missing", "skip-invalid"});
  expect_message(message("{\"t\": \"a\"}\n\n{\"id\": 17}"), {"r.json: line 3 (id 17): field \"t\" is missing"});
  expect_message(message("{\"t\": \"a\"}\n{\"t\": "), {"r.json: line 2: ", "byte"});
  expect_message(message("{\"t\": \"a\"}\n[]"), {"r.json: line 2: must be an object", "array"});
  expect_message(message("[3]"), {"r.json: record 0: must be an object", "number"});
}

TEST(RecordList, IdsAreDistinctAndDefaultToThePlace) {
  const auto message = [](const char* text) { return error_of<InputError>([&] { read(text); }); };
  EXPECT_EQ(read(R"([{"t": "a"}, {"t": "b", "id": 7}, {"t": "c", "id": null}])").texts.size(), 3u);
  expect_message(message(R"([{"t": "a", "id": 4}, {"t": "b", "id": 4}])"),
                 {"record 1 (id 4)", "\"id\" repeats that of record 0"});
  expect_message(message("{\"t\": \"a\", \"id\": 4}\n{\"t\": \"b\", \"id\": 4}"),
                 {"line 2 (id 4)", "repeats that of line 1"});
  expect_message(message(R"([{"t": "a", "id": 1}, {"t": "b"}])"), {"record 1", "without a field \"id\"", "record 0"});
  for (const char* id : {"1.5", "\"a\"", "[1]", "true", "1e30"})
    expect_message(message(("[{\"t\": \"a\", \"id\": " + std::string(id) + "}]").c_str()), {"record 0", "\"id\""});
}

TEST(RecordList, InvalidRecordsCanBeLeftOut) {
  const auto list = read(R"([{"t": "a", "id": 40}, {"t": "b", "id": 40}, 3, {"t": " "}, {"t": "c"}])", OnInvalid::skip);
  EXPECT_EQ(list.texts, (Texts{"a", "c"}));
  ASSERT_EQ(list.report.skipped.size(), 3u);
  expect_message(list.report.skipped[1], {"record 2", "object"});
  const auto lines = read("{\"t\": \"a\"}\nnot JSON\n{\"t\": \"b\"}", OnInvalid::skip);
  EXPECT_EQ(lines.texts, (Texts{"a", "b"}));
  ASSERT_EQ(lines.report.skipped.size(), 1u);
  expect_message(lines.report.skipped[0], {"line 2"});
  // A record that was left out does not hold its id.
  EXPECT_EQ(read(R"([{"id": 4}, {"t": "b", "id": 4}])", OnInvalid::skip).texts, Texts{"b"});
}

TEST(RecordList, WhiteSpaceAtTheEndsIsLeftOutAndToldOnce) {
  EXPECT_EQ(read(R"([{"t": "a b"}])").report.trimmed, "");
  const auto made = read(R"([{"t": "a"}, {"t": " b\u00a0"}, {"t": "\n c"}])");
  EXPECT_EQ(made.texts, (Texts{"a", "b", "c"}));
  EXPECT_EQ(made.report.trimmed,
            "r.json: white space at the ends of 2 texts is left out (first: record 1, field \"t\")");
  expect_message(error_of<InputError>([] { read(R"([{"t": " \u2003"}])"); }),
                 {"record 0", "\"t\" is empty but for white space"});
}

TEST(RecordList, ATargetMayBeAListOrAnObject) {
  EXPECT_EQ(read(R"([{"t": ["a", "b"]}, {"t": {"str": "c", "id": "Q1"}}, {"t": [["d "], "e"]}, {"t": [{"str": "f"}]}])")
                .texts,
            (Texts{"a", "c", "d", "f"}));
  const auto message = [](const std::string& value) {
    return error_of<InputError>([&] { read("[{\"t\": " + value + "}]"); });
  };
  expect_message(message("[]"), {"record 0", "\"t\" is empty"});
  expect_message(message("[[]]"), {"record 0", "\"t\" is empty"});
  expect_message(message("[\"\"]"), {"record 0", "\"t\" is empty"});
  expect_message(message("[3]"), {"record 0", "\"t\"", "3"});
  expect_message(message("{}"), {"record 0", "\"str\" is missing"});
  expect_message(message("{\"str\": \" \"}"), {"record 0", "\"t\" is empty but for white space"});
  expect_message(message("\"a\\u0000\""), {"record 0", "\"t\"", "U+0000"});
}

TEST(RecordList, OptionalTextsAndPrompts) {
  Record record;
  record.value = Json::parse(R"({"none": null, "list": [], "blank": " ", "empty": "", "t": " a ", "ps": ["a ", "b"]})");
  for (const char* key : {"absent", "none", "list", "blank", "empty"})
    EXPECT_EQ(record.target_or_empty(record.value, key, "w"), "") << key;
  EXPECT_EQ(record.target_or_empty(record.value, "t", "w"), "a");
  EXPECT_EQ(record.text(record.value, "t", "w"), "a");
  EXPECT_EQ(record.prompt(record.value, "t", "w"), " a");
  EXPECT_EQ(record.prompt_or_empty(record.value, "absent", "w"), "");
  EXPECT_EQ(record.prompts(record.value, "ps", "w"), (Texts{"a", "b"}));
  EXPECT_EQ(record.trimmed_texts(), 4);
  expect_message(error_of<InputError>([&] { record.prompt(record.value, "blank", "w"); }), {"w: ", "\"blank\""});
  expect_message(error_of<InputError>([&] { record.text(record.value, "ps", "w"); }), {"w: ", "\"ps\""});
}

TEST(RecordList, CompressedFilesAreReadAndHashedByTheirText) {
  const TemporaryDir dir;
  const std::string text = "{\"t\": \"a\"}\n" + std::string(300000, '\n') + "{\"t\": \"b\"}\n";
  const gzFile file = gzopen(dir.file("r.jsonl.gz").c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  EXPECT_EQ(read_record_text(dir.file("r.jsonl.gz")), text);
  EXPECT_EQ(read(text).report.sha256, sha256_hex(text));
  write_file_atomically(dir.file("empty.json"), "");
  EXPECT_EQ(read_record_text(dir.file("empty.json")), "");
  expect_message(error_of<InputError>([&] { read_record_text(dir.file("absent")); }), {"absent"});
}

}  // namespace
}  // namespace loci::test
