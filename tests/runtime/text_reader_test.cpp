#include "runtime/io/text_reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using Strings = std::vector<std::string>;

void write_plain(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

void write_compressed(const std::string& path, std::string_view text) {
  archive* writer = archive_write_new();
  archive_write_set_format_raw(writer);
  archive_write_set_bytes_in_last_block(writer, 1);
  if (path.ends_with(".gz")) archive_write_add_filter_gzip(writer);
  if (path.ends_with(".bz2")) archive_write_add_filter_bzip2(writer);
  if (path.ends_with(".zst")) archive_write_add_filter_zstd(writer);
  ASSERT_EQ(archive_write_open_filename(writer, path.c_str()), ARCHIVE_OK);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  ASSERT_EQ(archive_write_header(writer, entry), ARCHIVE_OK);
  ASSERT_EQ(archive_write_data(writer, text.data(), text.size()), static_cast<la_ssize_t>(text.size()));
  archive_entry_free(entry);
  ASSERT_EQ(archive_write_close(writer), ARCHIVE_OK);
  archive_write_free(writer);
}

std::string read_back(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Strings documents(const std::string& path) {
  TextReader reader(path);
  Strings result;
  for (std::string document; reader.next(document);) result.push_back(document);
  EXPECT_EQ(reader.documents_read(), std::ssize(result));
  EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
  return result;
}

std::string refusal(const std::string& path) {
  try {
    documents(path);
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << path << " was accepted";
  return "";
}

#define EXPECT_SAYS(message, part) EXPECT_NE((message).find(part), std::string::npos) << (message)

std::string noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(size, ' ');
  for (char& c : text) c = static_cast<char>('a' + random() % 26);
  return text;
}

/// Lines that straddle every buffer's edge.
Strings many_lines() {
  Strings lines;
  for (unsigned i = 0; i < 400; ++i) lines.push_back(noise(1 + (i * 7919) % 5000, i));
  lines.push_back(noise(700000, 1000));
  return lines;
}

std::string joined(const Strings& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

class TextReaderTest : public ::testing::Test {
 protected:
  std::string file(const std::string& name, std::string_view text) {
    write_plain(folder_.file(name), text);
    return folder_.file(name);
  }
  test::TemporaryDir folder_;
};

TEST_F(TextReaderTest, PlainLinesSkipBlankOnes) {
  EXPECT_EQ(documents(file("a.txt", " first \n\n \t \nsecond\r\n\r\n{\"text\": 1}\nlast")),
            (Strings{" first ", "second", "{\"text\": 1}", "last"}));
  EXPECT_EQ(documents(file("empty.txt", "")), Strings{});
  EXPECT_EQ(documents(file("blank.txt", "\n\n")), Strings{});
  EXPECT_EQ(documents(file("any", "\u07ff\u6771\U0001f642\nb")), (Strings{"\u07ff\u6771\U0001f642", "b"}));
  EXPECT_EQ(documents(file("mark.txt", "\xEF\xBB\xBFone\n")), Strings{"one"});
}

TEST_F(TextReaderTest, JsonLinesKeepEmptyDocuments) {
  const std::string text = "{\"text\": \"a\\nb\"}\n{\"text\": \"\", \"id\": 5}\n\n{\"id\": 1, \"text\": \"\\u00e9\"}\n";
  const Strings expected = {"a\nb", "", "\xC3\xA9"};
  for (const char* name : {"a.jsonl", "a.json", "a.ndjson", "by_first_byte", "by_first_byte.dump"})
    EXPECT_EQ(documents(file(name, text)), expected);
  EXPECT_EQ(documents(file("mark.jsonl", "\xEF\xBB\xBF" + text)), expected);
}

TEST_F(TextReaderTest, CompressedFilesReadAsPlainOnes) {
  const Strings lines = many_lines();
  const std::string text = joined(lines);
  EXPECT_EQ(documents(file("a.txt", text)), lines);
  for (const char* ending : {"gz", "bz2", "zst"}) {
    const std::string path = folder_.file(std::string("a.txt.") + ending);
    write_compressed(path, text);
    EXPECT_EQ(documents(path), lines) << ending;
    const std::string renamed = folder_.file(std::string("renamed_") + ending);
    std::filesystem::copy(path, renamed);
    EXPECT_EQ(documents(renamed), lines) << "the content decides";
    TextReader reader(path);
    for (std::string document; reader.next(document);) {
    }
    EXPECT_EQ(reader.sha256(), sha256_hex(read_back(path)));
  }
  const std::string json = folder_.file("b.jsonl.gz");
  write_compressed(json, "{\"text\": \"x\"}\n");
  EXPECT_EQ(documents(json), Strings{"x"});
}

TEST_F(TextReaderTest, MembersInARowAreOneText) {
  for (const char* ending : {"gz", "bz2", "zst"}) {
    const std::string one = folder_.file(std::string("one.") + ending),
                      two = folder_.file(std::string("two.") + ending);
    write_compressed(one, "a\nb");
    write_compressed(two, "c\nd\n");
    EXPECT_EQ(documents(file(std::string("both.") + ending, read_back(one) + read_back(two))),
              (Strings{"a", "bc", "d"}))
        << ending;
  }
  const std::string padded = read_back(folder_.file("one.gz")) + std::string(600, '\0');
  EXPECT_EQ(documents(file("padded.gz", padded)), (Strings{"a", "b"}));
}

TEST_F(TextReaderTest, RefusesDamagedCompression) {
  for (const char* ending : {"gz", "bz2", "zst"}) {
    const std::string path = folder_.file(std::string("good.") + ending);
    write_compressed(path, joined(many_lines()));
    const std::string bytes = read_back(path);
    for (const std::size_t size : {bytes.size() - 1, bytes.size() / 2, std::size_t{12}, std::size_t{5}}) {
      const std::string cut = file(std::string("cut.") + ending, bytes.substr(0, size));
      EXPECT_SAYS(refusal(cut), cut);
    }
    if (path.ends_with(".zst")) continue;  // libarchive writes zstd without checksums
    for (const std::size_t place : {bytes.size() / 2, bytes.size() / 3}) {
      std::string damaged = bytes;
      damaged[place] = static_cast<char>(damaged[place] ^ 0x10);
      const std::string flipped = file(std::string("flipped.") + ending, damaged);
      EXPECT_SAYS(refusal(flipped), flipped);
    }
  }
  std::string bad_sum = read_back(folder_.file("good.gz"));
  bad_sum[bad_sum.size() - 8] = static_cast<char>(bad_sum[bad_sum.size() - 8] ^ 1);
  EXPECT_SAYS(refusal(file("sum.gz", bad_sum)), "damaged");
  // "a document\n" as the zstd program writes it, with a checksum.
  std::string zstd(
      "\x28\xB5\x2F\xFD\x24\x0B\x59\x00\x00"
      "a document\n"
      "\xC7\xAE\x07\xDB",
      24);
  EXPECT_EQ(documents(file("good_sum.zst", zstd)), Strings{"a document"});
  zstd[12] = 'D';
  EXPECT_SAYS(refusal(file("bad_sum.zst", zstd)), "damaged");
  EXPECT_SAYS(refusal(file("tail.gz", read_back(folder_.file("good.gz")) + "more")), "other bytes follow");
  EXPECT_SAYS(refusal(file("name.gz", "plain text\n")), "not .gz data");
  EXPECT_SAYS(refusal(file("name.bz2", "")), "not .bz2 data");
  EXPECT_SAYS(refusal(file("name.zst", "\x1F\x8B\x08\x00")), "not .zst data");
}

TEST_F(TextReaderTest, RefusesBadJsonLinesNamingTheLine) {
  const auto third = [this](const std::string& line) {
    return refusal(file("a.jsonl", "{\"text\": \"\"}\n\n" + line + "\n"));
  };
  for (const char* line :
       {"{", "nonsense", "{\"text\": \"a\"} {}", "{\"text\": \"a\", \"text\": \"b\"}", "{\"text\": \"\xFF\"}",
        "{\"text\": 5}", "{\"text\": null}", "{\"Text\": \"a\"}", "[\"a\"]", "\"a\"", "5"})
    EXPECT_SAYS(third(line), "a.jsonl: line 3") << line;
  EXPECT_SAYS(third(std::string(100000, '[')), "line 3");
}

TEST_F(TextReaderTest, NamesTheLineAndTheByteThatIsNotUtf8) {
  EXPECT_SAYS(refusal(file("latin.txt", "first\r\n\ncaf\xE9 au lait\n")),
              "latin.txt: line 3: byte 11 (0xE9) is not UTF-8");
  EXPECT_SAYS(refusal(file("mark.txt", "\xEF\xBB\xBFone\nt\xFF\n")), "mark.txt: line 2: byte 8 (0xFF)");
  EXPECT_SAYS(refusal(file("a.jsonl", "{\"text\": \"\"}\n{\"text\": \"\xFF\"}\n")), "line 2: byte 23 (0xFF)");
  EXPECT_SAYS(refusal(file("zero.txt", std::string("a\nb\0c\n", 6))), "zero.txt: line 2: byte 3 is NUL");
  const std::string late = std::string(300000, 'x') + "\n" + std::string("a\0b\n", 4);
  EXPECT_SAYS(refusal(file("late.txt", late)), "late.txt: line 2: byte 300002 is NUL") << "beyond the first buffer";
  const std::string packed = folder_.file("latin.txt.gz");
  write_compressed(packed, "one\n" + std::string(300000, 'x') + "\nt\xE9\n");
  EXPECT_SAYS(refusal(packed), "latin.txt.gz: line 3: byte 300006 (0xE9)");
}

TEST_F(TextReaderTest, RefusesOtherFilesInsideCompressedOnes) {
  std::string tar(1024, '\0');
  tar.replace(0, 5, "a.txt").replace(257, 5, "ustar");
  const std::string gzip = folder_.file("inner.gz");
  write_compressed(gzip, "a document\n");
  const std::vector<std::pair<std::string, std::string>> inner = {{tar, "holds a tar archive, not text"},
                                                                  {"PAR1\x15\x04", "holds a Parquet file, not text"},
                                                                  {read_back(gzip), "holds gzip data, not text"},
                                                                  {std::string("\xFD"
                                                                               "7zXZ\0",
                                                                               6),
                                                                   "holds xz data, not text"},
                                                                  {std::string(5000, '\0'), "line 1: byte 0 is NUL"}};
  for (const auto& [bytes, says] : inner)
    for (const char* ending : {"gz", "bz2", "zst"}) {
      const std::string path = folder_.file(std::string("outer.") + ending);
      write_compressed(path, bytes);
      EXPECT_SAYS(refusal(path), path + ": " + says);
    }
}

TEST_F(TextReaderTest, AWholeJsonTextIsTakenForJsonLinesWithAWayOut) {
  for (const char* text : {"[\n  {\"text\": \"a\"}\n]\n", "{\n  \"text\": \"a\"\n}\n"})
    EXPECT_SAYS(refusal(file("list.json", text)), "one object with a field \"text\" per line");
}

TEST_F(TextReaderTest, RefusesWhatIsNoText) {
  EXPECT_SAYS(refusal(folder_.file("absent.txt")), "no such file");
  EXPECT_SAYS(refusal(folder_.path().string()), "not a regular file");
  EXPECT_SAYS(refusal("/dev/null"), "not a regular file");
  EXPECT_SAYS(refusal(file("wide.txt",
                           "\xFF\xFE"
                           "a")),
              "UTF-16");
}

}  // namespace
}  // namespace loci
