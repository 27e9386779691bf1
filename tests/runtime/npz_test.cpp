#include "runtime/io/npz.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ostream>

#include "runtime/io/atomic_file.h"
#include "tests/support/errors.h"
#include "tests/support/npz.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::npy_boolean;
using test::npy_by_rows;
using test::npy_string;
using test::npy_strings;
using test::TemporaryDir;

void write_sample(const std::string& path) {
  NpzWriter writer(path);
  writer.add("scores", std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  writer.add("big", std::vector<double>{0.1, -1e300}, {2});
  writer.add("ids", std::vector<int64_t>{-5, int64_t{1} << 60}, {2});
  writer.add("deep", std::vector<int64_t>{7}, {1, 1, 1});
  writer.add("nothing", std::vector<float>{}, {0, 4});
  writer.add_scalar<double>("low_score", 0.25);
  writer.add_boolean("correct_prediction", true);
  writer.add_strings("input_tokens", std::vector<std::string>{"The", " Eiffel", "\xe2\x82\xac \xf0\x9f\x98\x80", ""},
                     std::vector<int64_t>{4});
  writer.add_string("answer", " Paris");
  writer.finish();
}

TEST(Npz, RoundTrip) {
  const TemporaryDir dir;
  write_sample(dir.file("x.npz"));
  EXPECT_FALSE(std::filesystem::exists(dir.file("x.npz.tmp")));
  const auto arrays = read_npz(dir.file("x.npz"));
  ASSERT_EQ(arrays.size(), 9u);
  EXPECT_EQ(arrays.at("scores").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(arrays.at("scores").as<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(arrays.at("scores").as<double>()[5], 6.0);
  EXPECT_EQ(arrays.at("big").as<double>(), (std::vector<double>{0.1, -1e300}));
  EXPECT_EQ(arrays.at("ids").as<int64_t>()[1], int64_t{1} << 60);
  EXPECT_EQ(arrays.at("ids").as<double>()[0], -5.0);
  EXPECT_EQ(arrays.at("deep").scalar<int64_t>(), 7);
  EXPECT_EQ(arrays.at("nothing").size(), 0);
  EXPECT_TRUE(arrays.at("low_score").shape.empty());
  EXPECT_EQ(arrays.at("low_score").scalar<double>(), 0.25);
  EXPECT_TRUE(npy_boolean(arrays.at("correct_prediction")));
  EXPECT_EQ(npy_strings(arrays.at("input_tokens")),
            (std::vector<std::string>{"The", " Eiffel", "\xe2\x82\xac \xf0\x9f\x98\x80", ""}));
  EXPECT_EQ(npy_string(arrays.at("answer")), " Paris");
}

TEST(Npz, EqualDataGivesEqualFiles) {
  const TemporaryDir dir;
  write_sample(dir.file("a.npz"));
  write_sample(dir.file("b.npz"));
  EXPECT_EQ(read_text_file(dir.file("a.npz")), read_text_file(dir.file("b.npz")));
}

TEST(Npz, NothingStaysWithoutFinish) {
  const TemporaryDir dir;
  {
    NpzWriter writer(dir.file("x.npz"));
    writer.add("a", std::vector<float>{1}, {1});
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(Npz, WriterRefusesWrongShapesAndNames) {
  const TemporaryDir dir;
  NpzWriter writer(dir.file("x.npz"));
  expect_message(error_of<ShapeError>([&] {
                   writer.add("a", std::vector<float>{1, 2}, {3});
                 }),
                 {"x.npz", "'a'", "(3,)"});
  writer.add("a", std::vector<float>{1}, {1});
  expect_message(error_of<InputError>([&] { writer.add("a", std::vector<float>{1}, {1}); }), {"'a'", "twice"});
  expect_message(error_of<InputError>([&] { writer.add_string("s", "\xff"); }), {"'s'", "UTF-8"});
}

TEST(Npz, WrongUseNamesTheArray) {
  const TemporaryDir dir;
  write_sample(dir.file("x.npz"));
  const auto arrays = read_npz(dir.file("x.npz"));
  expect_message(error_of<InputError>([&] { arrays.at("scores").as<int64_t>(); }), {"x.npz", "'scores'", "<f4", "<i8"});
  expect_message(error_of<InputError>([&] { arrays.at("scores").scalar<float>(); }),
                 {"'scores'", "(2, 3)", "one value"});
  expect_message(error_of<InputError>([&] { arrays.at("answer").as<float>(); }), {"'answer'", "<U6", "<f4"});
  expect_message(error_of<InputError>([&] { arrays.at("correct_prediction").as<int64_t>(); }), {"|b1"});
  expect_message(error_of<InputError>([&] { npz_at(arrays, "mom2", dir.file("x.npz")); }),
                 {"x.npz", "'mom2' is missing"});
}

// ---- .npy headers ----

std::string npy(const std::string& header, const std::string& data, char version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += version;
  bytes += '\0';
  const auto length = static_cast<uint32_t>(header.size());
  bytes.append(reinterpret_cast<const char*>(&length), version == 1 ? 2 : 4);
  return bytes + header + data;
}

NpyArray parse(const std::string& bytes) { return parse_npy(std::as_bytes(std::span(bytes)), "x.npz: array 'a'"); }

TEST(Npy, ReadsVersionsOrdersAndTypes) {
  const std::string two_floats("\0\0\x80\x3f\0\0\0\x40", 8);
  EXPECT_EQ(parse(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }  \n", two_floats)).as<float>(),
            (std::vector<float>{1, 2}));
  EXPECT_EQ(parse(npy("{'shape': (2,), 'fortran_order': True, 'descr': '<f4'}", two_floats, 2)).as<float>(),
            (std::vector<float>{1, 2}));
  const std::string two_integers("\x05\0\0\0\xff\xff\xff\xff", 8);
  const NpyArray integers = parse(npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2,)}", two_integers, 3));
  EXPECT_EQ(integers.as<int64_t>(), (std::vector<int64_t>{5, -1}));
  EXPECT_EQ(integers.as<float>(), (std::vector<float>{5, -1}));
}

TEST(Npy, WhatIsNotReadFailsOnlyWhenUsed) {
  for (const char* type : {"|O", "<U2", "|S3", "|b1", "<f2", "<u8", ">f4", "<c8", "<M8[ns]"}) {
    const NpyArray array = parse(npy(fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ()}}", type), "x"));
    expect_message(error_of<InputError>([&] { array.as<float>(); }), {"x.npz", "'a'", type});
  }
  // [[1, 2, 3], [4, 5, 6]] by columns
  const std::string header = "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3)}";
  std::string data;
  for (const char value : std::string("\1\4\2\5\3\6")) data += value + std::string(3, '\0');
  const NpyArray columns = parse(npy(header, data));
  expect_message(error_of<InputError>([&] { columns.as<double>(); }), {"x.npz", "'a'", "Fortran", "C order"});
  EXPECT_EQ(npy_by_rows(columns).as<int64_t>(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
}

struct BadNpy {
  std::string name;
  std::string bytes;
  std::string cause;
};

// Tests are listed by it.
void PrintTo(const BadNpy& value, std::ostream* out) { *out << value.name; }

class BadNpyTest : public testing::TestWithParam<BadNpy> {};

TEST_P(BadNpyTest, IsRefusedNamingTheArray) {
  expect_message(error_of<InputError>([] { parse(GetParam().bytes); }), {"x.npz: array 'a'", GetParam().cause});
}

INSTANTIATE_TEST_SUITE_P(
    Npy, BadNpyTest,
    testing::Values(
        BadNpy{"empty", "", "magic"}, BadNpy{"text", "hello, world", "magic"},
        BadNpy{"magic_only", "\x93NUMPY", "truncated"}, BadNpy{"version", npy("{}", "", 9), "version 9"},
        BadNpy{"header_cut", npy("{'descr': '<f4'", "").substr(0, 14), "truncated"},
        BadNpy{"header_long", std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff{}", 14), "truncated or damaged"},
        BadNpy{"no_dictionary", npy("[]", ""), "'{' expected"},
        BadNpy{"missing_key", npy("{'descr': '<f4', 'shape': ()}", "1234"), "is missing"},
        BadNpy{"double_key", npy("{'descr': '<f4', 'descr': '<f4', 'shape': ()}", "1234"), "twice"},
        BadNpy{"unknown_key", npy("{'descr': '<f4', 'x': '<f4'}", "1234"), "'x' is unknown"},
        BadNpy{"not_closed", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", "1234"), "'}' expected"},
        BadNpy{"trailing", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", "1234"), "follows"},
        BadNpy{"order", npy("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}", "1234"), "True or False"},
        BadNpy{"shape_number", npy("{'descr': '<f4', 'fortran_order': False, 'shape': 1}", "1234"), "'(' expected"},
        BadNpy{"shape_negative", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "1234"),
               "whole number"},
        BadNpy{"shape_decimal", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,)}", "1234"), "expected"},
        BadNpy{"extent_overflow", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", ""),
               "overflows"},
        BadNpy{"shape_overflow", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", ""),
               "\"shape\""},
        BadNpy{"bytes_overflow", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,)}", ""),
               "\"shape\""},
        BadNpy{"many_axes",
               npy("{'descr': '|u1', 'fortran_order': False, 'shape': "
                   "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)}",
                   "1"),
               "more than 32 axes"},
        BadNpy{"data_short", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "1234"), "truncated"},
        BadNpy{"data_long", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "12345"), "too long"},
        BadNpy{"record", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "1234"), "records"}),
    [](const auto& param) { return param.param.name; });

// ---- the zip file ----

class BadNpz : public testing::Test {
 protected:
  void expect_refused(const std::string& bytes, const std::vector<std::string>& parts) {
    write_file_atomically(path_, std::string_view(bytes));
    const std::string message = error_of<InputError>([&] { read_npz(path_); });
    expect_message(message, {path_});
    expect_message(message, parts);
  }
  std::string good() {
    write_sample(path_);
    return read_text_file(path_);
  }
  TemporaryDir dir_;
  std::string path_ = dir_.file("x.npz");
};

TEST_F(BadNpz, NoZip) {
  expect_refused("", {"no .npz"});
  expect_refused("hello", {"no .npz"});
  expect_refused(std::string(1000, '\0'), {"no .npz"});
  expect_refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "1234"),
                 {"is a NumPy array (.npy), not a zip archive"});
}

TEST_F(BadNpz, TruncatedAnywhere) {
  const std::string bytes = good();
  for (const double part : {0.999, 0.9, 0.5, 0.1, 0.01}) {
    expect_refused(bytes.substr(0, static_cast<size_t>(part * static_cast<double>(bytes.size()))), {"truncated"});
  }
}

TEST_F(BadNpz, ChangedDataIsSeenByItsChecksum) {
  std::string bytes = good();
  const auto header = bytes.find("NUMPY");
  bytes[header + 128] = static_cast<char>(bytes[header + 128] ^ 1);
  expect_refused(bytes, {"array 'scores'"});
}

TEST_F(BadNpz, MissingAndFolder) {
  expect_message(error_of<InputError>([&] { read_npz(dir_.file("none.npz")); }), {"none.npz", "does not exist"});
  expect_message(error_of<InputError>([&] { read_npz(dir_.path()); }), {"no file"});
}

/// A deflated zip with the given members.
void write_zip(const std::string& path, const std::vector<std::pair<std::string, std::string>>& members) {
  archive* writer = archive_write_new();
  archive_write_set_format_zip(writer);
  archive_write_zip_set_compression_deflate(writer);
  ASSERT_EQ(archive_write_open_filename(writer, path.c_str()), ARCHIVE_OK);
  for (const auto& [name, bytes] : members) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, static_cast<la_int64_t>(bytes.size()));
    ASSERT_EQ(archive_write_header(writer, entry), ARCHIVE_OK);
    archive_write_data(writer, bytes.data(), bytes.size());
    archive_entry_free(entry);
  }
  archive_write_close(writer);
  archive_write_free(writer);
}

TEST_F(BadNpz, DeflatedMembersAreRead) {
  const std::string data(4000, '\x07');
  write_zip(path_, {{"a.npy", npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1000,)}", data)}});
  EXPECT_EQ(read_npz(path_).at("a").as<int64_t>(), std::vector<int64_t>(1000, 0x07070707));
}

TEST_F(BadNpz, StrangeMembers) {
  const std::string array = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", "1");
  write_zip(path_, {{"readme.txt", "hello"}});
  expect_message(error_of<InputError>([&] { read_npz(path_); }), {path_, "readme.txt", "no .npy"});
  write_zip(path_, {{"a.npy", array}, {"a.npy", array}});
  expect_message(error_of<InputError>([&] { read_npz(path_); }), {path_, "'a'", "twice"});
  write_zip(path_, {{"a.npy", array.substr(0, 20)}});
  expect_message(error_of<InputError>([&] { read_npz(path_); }), {path_, "'a'", "truncated"});
}

// ---- against NumPy ----

bool run_python(const std::string& code) {
  const TemporaryDir dir;
  write_file_atomically(dir.file("t.py"), std::string_view(code));
  return std::system(("/usr/bin/python3 " + dir.file("t.py") + " >&2").c_str()) == 0;
}

TEST(NpzNumpy, ReadsWhatWeWrite) {
  if (!run_python("import numpy")) GTEST_SKIP() << "no numpy";
  const TemporaryDir dir;
  write_sample(dir.file("x.npz"));
  EXPECT_TRUE(run_python("import numpy as np\nz = np.load('" + dir.file("x.npz") + R"(')
assert len(z.files) == 9
assert z['scores'].dtype == np.float32 and z['scores'].tolist() == [[1, 2, 3], [4, 5, 6]]
assert z['big'].tolist() == [0.1, -1e300]
assert z['ids'].dtype == np.int64 and z['ids'].tolist() == [-5, 2**60]
assert z['deep'].shape == (1, 1, 1)
assert z['nothing'].shape == (0, 4)
assert z['low_score'].shape == () and z['low_score'] == 0.25
assert z['correct_prediction'].dtype == bool and bool(z['correct_prediction'])
assert z['input_tokens'].tolist() == ['The', ' Eiffel', '\u20ac \U0001f600', '']
assert str(z['answer']) == ' Paris'
)"));
}

TEST(NpzNumpy, WeReadWhatItWrites) {
  const TemporaryDir dir;
  for (const std::string function : {"savez", "savez_compressed"}) {
    const std::string path = dir.file(function + ".npz");
    if (!run_python("import numpy as np\nnp." + function + "('" + path + R"(', a=np.arange(6.).reshape(2,3).T,
      s=np.array(['x', '\u20ac y']), n=np.float32(3), o=np.array(None), i=np.array([1,2],dtype=np.int32), e=np.zeros((0,2)),
      f=np.asfortranarray(np.arange(24).reshape(2,3,4)))
)")) {
      GTEST_SKIP() << "no numpy";
    }
    const auto arrays = read_npz(path);
    EXPECT_EQ(arrays.at("a").shape, (std::vector<int64_t>{3, 2}));
    EXPECT_EQ(npy_by_rows(arrays.at("a")).as<double>(), (std::vector<double>{0, 3, 1, 4, 2, 5}));
    EXPECT_EQ(npy_strings(arrays.at("s")), (std::vector<std::string>{"x", "\xe2\x82\xac y"}));
    EXPECT_EQ(arrays.at("n").scalar<float>(), 3.0f);
    EXPECT_EQ(arrays.at("i").as<int64_t>(), (std::vector<int64_t>{1, 2}));
    EXPECT_EQ(arrays.at("e").shape, (std::vector<int64_t>{0, 2}));
    const auto f = npy_by_rows(arrays.at("f")).as<int64_t>();
    for (size_t i = 0; i < 24; ++i) EXPECT_EQ(f[i], static_cast<int64_t>(i));
    expect_message(error_of<InputError>([&] { arrays.at("o").as<float>(); }), {path, "'o'", "|O"});
  }
}

}  // namespace
}  // namespace loci
