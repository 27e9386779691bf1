#include "runtime/io/file_kind.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5.h"
#include "runtime/io/json.h"
#include "runtime/io/npz.h"
#include "runtime/io/safetensors.h"
#include "runtime/io/text_reader.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using namespace std::string_literals;
using test::error_of;
using test::expect_message;

const std::string kPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 548118077\n";

/// The first bytes of a file, and what the refusal must say.
struct Kind {
  std::string name;
  std::string bytes;
  std::vector<std::string> says;
};

std::string tar_archive() {
  std::string bytes(512, '\0');
  bytes.replace(0, 5, "a.txt");
  bytes.replace(257, 6, "ustar\0"s);
  return bytes;
}

std::vector<Kind> kinds() {
  return {{"lfs", kPointer, {"git-lfs pointer", "git lfs pull"}},
          {"parquet", "PAR1\x15\x04\x15", {"Parquet", "JSON Lines", "prepare_wikipedia.py"}},
          {"arrow", "ARROW1\0\0\xff\xff"s, {"Arrow", "JSON Lines"}},
          {"feather", "FEA1\0\0"s, {"Feather"}},
          {"arrow_stream", "\xff\xff\xff\xff\x10\0\0\0"s, {"Arrow stream"}},
          {"avro", "Obj\x01\x04", {"Avro"}},
          {"npy", "\x93NUMPY\x01\0"s, {"NumPy"}},
          {"npz", "PK\x03\x04\x14\0"s, {"zip archive", ".npz", "unpack"}},
          {"hdf5", "\x89HDF\r\n\x1a\n", {"HDF5"}},
          {"xz", "\xFD"s + "7zXZ\0"s, {"xz data", "xz -d"}},
          {"lz4", "\x04\x22\x4D\x18", {"lz4"}},
          {"lzma", "\x5D\0\0\x80"s, {"lzma"}},
          {"lzip", "LZIP\x01", {"lzip"}},
          {"z", "\x1F\x9D\x90", {"compress"}},
          {"7z", "7z\xBC\xAF\x27\x1C", {"7z"}},
          {"tar", tar_archive(), {"tar archive", "tar -xf"}},
          {"pickle", "\x80\x04\x95\x10\0"s, {"pickle"}},
          {"torch", "\x80\x02\x8a\x0a", {"pickle", "PyTorch"}},
          {"safetensors", "\x40\0\0\0\0\0\0\0{\"a\":"s, {"safetensors"}},
          {"gguf", "GGUF\x03\0\0\0"s, {"GGUF"}},
          {"sqlite", "SQLite format 3\0"s, {"SQLite"}},
          {"pdf", "%PDF-1.7\n", {"PDF", "pdftotext"}},
          {"office", "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", {"Office"}},
          {"png", "\x89PNG\r\n\x1a\n", {"PNG"}},
          {"jpeg", "\xFF\xD8\xFF\xE0", {"JPEG"}},
          {"utf16", "\xFF\xFEh\0i\0"s, {"UTF-16", "iconv"}},
          {"utf16_be", "\xFE\xFF\0h\0i"s, {"UTF-16", "iconv"}},
          {"utf32", "\xFF\xFE\0\0h\0\0\0"s, {"UTF-32", "iconv"}},
          {"wiki", "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.10/\">", {"XML", "prepare_wikipedia.py"}},
          {"page", "<!DOCTYPE html>\n<html>", {"web page"}}};
}

class FileKinds : public ::testing::TestWithParam<Kind> {};

TEST_P(FileKinds, AreRefusedByNameAsText) {
  const test::TemporaryDir folder;
  const std::string path = folder.file("input");
  write_file_atomically(path, GetParam().bytes);
  const std::string message = error_of<InputError>([&] { TextReader reader(path); });
  expect_message(message, GetParam().says);
  const bool is_text_too = GetParam().name.starts_with("utf");
  expect_message(message, {path, is_text_too ? "not UTF-8: " : "not text: "});
}

TEST_P(FileKinds, AreRefusedByNameAsJson) {
  const std::string message = error_of<InputError>([&] { parse_json(GetParam().bytes, "facts.json"); });
  expect_message(message, GetParam().says);
  expect_message(message, {"facts.json", "not JSON"});
}

INSTANTIATE_TEST_SUITE_P(All, FileKinds, ::testing::ValuesIn(kinds()),
                         [](const auto& test) { return test.param.name; });

TEST(FileKind, CompressedDataAreNotJson) {
  for (const std::string& bytes : {"\x1F\x8B\x08\0"s, "\x28\xB5\x2F\xFD\x04"s, "BZh91AY&SYabc"s})
    expect_message(error_of<InputError>([&] { parse_json(bytes, "f.json"); }), {"f.json", "data", "decompress it"});
}

TEST(FileKind, GitLfsPointersAreCalledSoWhateverWasAskedFor) {
  const test::TemporaryDir folder;
  const std::string path = folder.file("pointer");
  write_file_atomically(path, kPointer);
  const std::vector<std::string> says = {path, "git-lfs pointer", "git lfs pull"};
  expect_message(error_of<InputError>([&] { SafetensorsFile{path}; }), says);
  expect_message(error_of<InputError>([&] { H5File::open_read(path); }), says);
  expect_message(error_of<InputError>([&] { read_npz(path); }), says);
  expect_message(error_of<InputError>([&] { parse_json_file(path); }), says);
}

TEST(FileKind, WhatIsAskedForPasses) {
  refuse_other_kind("\x89HDF\r\n\x1a\n", "x", kHdf5);
  refuse_other_kind("PK\x03\x04", "x", kZip);
  refuse_other_kind("\x40\0\0\0\0\0\0\0{}"s, "x", kSafetensors);
  refuse_other_kind("\xff\xff\xff\xff\xff\xff\xff\xff", "x", kSafetensors);
  for (const std::string text : {"", "P", "PARENTS are", "ORCA whales", "LZIP is", "BZh9 is", "GGUF is", "{\"a\": 1}",
                                 "[1]", "version 2", "<p>", "]"})
    refuse_other_kind(text, "x", kText);
}

TEST(FileKind, RequireUtf8NamesTheFirstBadByte) {
  const std::string good = "Zwölf 東京 🙂 \u07ff\u0800\uffff";
  for (std::size_t shift = 0; shift < 9; ++shift) {
    const std::string before = std::string(shift, 'a') + good;
    require_utf8(before, "x");
    const std::string place = std::to_string(1000 + before.size());
    expect_message(error_of<InputError>([&] { require_utf8(before + "\xE9 sixteen more bytes", "x", 1000); }),
                   {"x: byte " + place, "0xE9", "UTF-8", "iconv"});
    expect_message(error_of<InputError>([&] { require_utf8(before + "\0 sixteen more bytes"s, "x", 1000); }),
                   {"x: byte " + place, "NUL"});
  }
  for (const std::string bad : {"\xC0\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\xE2\x82", "\x80"})
    EXPECT_THROW(require_utf8(bad, "x"), InputError);
}

TEST(FileKind, ABinaryFileWithoutAMarkIsRefusedWhenItIsOpened) {
  refuse_binary("a text", "x");
  refuse_binary(std::string(5000, 'a') + "\xE9", "x");
  expect_message(error_of<InputError>([] { refuse_binary("a\nb\0c"s, "x"); }), {"x: line 2: byte 3", "NUL"});
  std::string noise;
  for (int i = 0; i < 5000; ++i) noise += static_cast<char>(1 + i * 7 % 255);
  expect_message(error_of<InputError>([&] { refuse_binary(noise, "x"); }), {"x: ", "first 5000 bytes", "not text"});
}

TEST(FileKind, JsonMayBeginWithAByteOrderMark) {
  EXPECT_EQ(parse_json("\xEF\xBB\xBF{\"a\": 1}", "x"), (Json{{"a", 1}}));
  EXPECT_THROW(parse_json("{\xEF\xBB\xBF}", "x"), InputError);
}

}  // namespace
}  // namespace loci
