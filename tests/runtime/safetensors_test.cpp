#include "runtime/io/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <ostream>

#include "runtime/io/atomic_file.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;
using test::TemporaryDir;

std::string with_length(uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + rest;
}

std::string file_of(const std::string& header, size_t buffer) {
  return with_length(header.size(), header + std::string(buffer, '\x01'));
}

TEST(Safetensors, RoundTrip) {
  const TemporaryDir dir;
  const std::vector<float> a{1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> b{-1};
  const std::vector<uint8_t> c{1, 0, 1};
  const std::vector<TensorData> tensors{{{"b", DType::i64, {}}, std::as_bytes(std::span(b))},
                                        {{"a", DType::f32, {2, 3}}, std::as_bytes(std::span(a))},
                                        {{"empty", DType::f16, {0, 7}}, {}},
                                        {{"c \"\xc3\xa9", DType::boolean, {3}}, std::as_bytes(std::span(c))}};
  write_safetensors(dir.file("x.safetensors"), tensors, {{"format", "pt"}});
  SafetensorsFile first(dir.file("x.safetensors"));
  const SafetensorsFile file = std::move(first);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "b", "c \"\xc3\xa9", "empty"}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.at("a").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.at("b").shape, std::vector<int64_t>{});
  EXPECT_EQ(file.at("c \"\xc3\xa9").dtype, DType::boolean);
  EXPECT_EQ(file.bytes("empty").size(), 0u);
  ASSERT_EQ(file.bytes("a").size(), 24u);
  EXPECT_EQ(std::memcmp(file.bytes("a").data(), a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.bytes("b").data(), b.data(), 8), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.bytes("b").data()) % 8, 0u);
  EXPECT_FALSE(file.contains("z"));
  expect_message(error_of<InputError>([&] { file.bytes("z"); }), {"x.safetensors", "\"z\" is missing"});
}

TEST(Safetensors, EmptyFileOfTensorsIsLegal) {
  const TemporaryDir dir;
  write_file_atomically(dir.file("x"), file_of("{}   ", 0));
  EXPECT_TRUE(SafetensorsFile(dir.file("x")).names().empty());
}

TEST(Safetensors, WriterRefusesWhatDoesNotFit) {
  const TemporaryDir dir;
  const std::vector<float> a{1, 2};
  const TensorData good{{"a", DType::f32, {2}}, std::as_bytes(std::span(a))};
  const TensorData bad{{"a", DType::f32, {3}}, std::as_bytes(std::span(a))};
  const std::vector<TensorData> twice{good, good};
  expect_message(error_of<InputError>([&] { write_safetensors(dir.file("x"), twice); }), {"x", "\"a\"", "twice"});
  expect_message(error_of<InputError>([&] { write_safetensors(dir.file("x"), std::span(&bad, 1)); }), {"\"a\"", "[3]"});
  EXPECT_FALSE(std::filesystem::exists(dir.file("x")));
  EXPECT_FALSE(std::filesystem::exists(dir.file("x.tmp")));
}

struct BadFile {
  std::string name;
  std::string bytes;
  std::vector<std::string> parts;
};

// Tests are listed by it.
void PrintTo(const BadFile& value, std::ostream* out) { *out << value.name; }

std::string entry(const std::string& fields) { return "{\"t\":{" + fields + "}}"; }

class BadSafetensors : public testing::TestWithParam<BadFile> {};

TEST_P(BadSafetensors, IsRefusedNamingFileAndCause) {
  const TemporaryDir dir;
  write_file_atomically(dir.file("bad.safetensors"), std::string_view(GetParam().bytes));
  const std::string message = error_of<InputError>([&] { SafetensorsFile file(dir.file("bad.safetensors")); });
  expect_message(message, {dir.file("bad.safetensors")});
  expect_message(message, GetParam().parts);
}

const std::string kGood = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

INSTANTIATE_TEST_SUITE_P(
    Safetensors, BadSafetensors,
    testing::Values(
        BadFile{"empty", "", {"header length", "0 bytes"}}, BadFile{"seven_bytes", "1234567", {"7 bytes"}},
        BadFile{"length_zero", with_length(0, ""), {"header"}},
        BadFile{"length_beyond_end", with_length(100, "{}"), {"header length is 100", "truncated"}},
        BadFile{"length_over_limit", with_length(100'000'001, "{}"), {"at most 100000000"}},
        BadFile{"length_wraps", with_length(std::numeric_limits<uint64_t>::max(), "{}"), {"at most 100000000"}},
        BadFile{"length_wraps_by_eight", with_length(std::numeric_limits<uint64_t>::max() - 7, "{}"), {"at most"}},
        BadFile{"no_brace", file_of("[]", 0), {"does not start with"}},
        BadFile{"space_first", file_of(" {}", 0), {"does not start with"}},
        BadFile{"pickle", std::string("PK\x03\x04 an old pytorch file, zipped"), {"zip archive"}},
        BadFile{"trailing_newline", file_of("{}\n", 0), {"something other than spaces"}},
        BadFile{"trailing_zeros", file_of(std::string("{}\0\0", 4), 0), {"something other than spaces"}},
        BadFile{"trailing_text", file_of("{}x", 0), {"something other than spaces"}},
        BadFile{"two_objects", file_of("{}{}", 0), {"header", "line 1"}},
        BadFile{"truncated_json", file_of(R"({"a":{})", 0), {"header"}},
        BadFile{"invalid_utf8", file_of("{\"\xff\":1}", 0), {"UTF-8"}},
        BadFile{
            "duplicate_tensor", file_of("{\"t\":{" + kGood + "},\"t\":{" + kGood + "}}", 8), {"\"t\" occurs twice"}},
        BadFile{"duplicate_field", file_of(entry(kGood + R"(,"dtype":"F32")"), 8), {"\"dtype\" occurs twice"}},
        BadFile{"deep", file_of("{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}", 0), {"deeper"}},
        BadFile{"metadata_list", file_of(R"({"__metadata__":[]})", 0), {"__metadata__", "object of strings"}},
        BadFile{"metadata_number", file_of(R"({"__metadata__":{"k":1}})", 0), {"__metadata__", "\"k\"", "string"}},
        BadFile{"tensor_number", file_of(R"({"t":1})", 0), {"tensor \"t\"", "object"}},
        BadFile{"tensor_null", file_of(R"({"t":null})", 0), {"tensor \"t\"", "object"}},
        BadFile{"unknown_field", file_of(entry(kGood + R"(,"strides":[1])"), 8), {"\"t\"", "\"strides\" is unknown"}},
        BadFile{
            "no_dtype", file_of(entry(R"("shape":[2],"data_offsets":[0,8])"), 8), {"\"t\"", "\"dtype\" is missing"}},
        BadFile{"no_shape", file_of(entry(R"("dtype":"F32","data_offsets":[0,8])"), 8), {"\"shape\" is missing"}},
        BadFile{"no_offsets", file_of(entry(R"("dtype":"F32","shape":[2])"), 8), {"\"data_offsets\" is missing"}},
        BadFile{"dtype_unknown",
                file_of(entry(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), 8),
                {"\"dtype\"", "F31"}},
        BadFile{"dtype_lower", file_of(entry(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), 8), {"\"dtype\""}},
        BadFile{"dtype_number",
                file_of(entry(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), 8),
                {"\"dtype\"", "string"}},
        BadFile{
            "shape_negative", file_of(entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8), {"\"shape\""}},
        BadFile{"shape_decimal",
                file_of(entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8),
                {"\"shape\"", "integer"}},
        BadFile{"shape_number",
                file_of(entry(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), 8),
                {"\"shape\"", "list"}},
        BadFile{"shape_too_small",
                file_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), 8),
                {"\"shape\"", "need 4 bytes", "8"}},
        BadFile{"shape_too_large",
                file_of(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8),
                {"need 12 bytes"}},
        BadFile{"shape_overflow",
                file_of(entry(R"("dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8])"), 8),
                {"overflows"}},
        BadFile{"shape_wraps_to_8",
                file_of(entry(R"("dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8])"), 8),
                {"overflows"}},
        BadFile{"shape_beyond_int64",
                file_of(entry(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"), 8),
                {"\"shape\"", "64 bits"}},
        BadFile{"shape_huge_rank",
                file_of(entry("\"dtype\":\"U8\",\"shape\":[1" +
                              [] {
                                std::string s;
                                for (int i = 0; i < 80; ++i) s += ",1";
                                return s;
                              }() +
                              "],\"data_offsets\":[0,1]"),
                        1),
                {"\"shape\" has 81"}},
        BadFile{"offsets_one",
                file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[8])"), 8),
                {"\"data_offsets\"", "two"}},
        BadFile{"offsets_three",
                file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), 8),
                {"\"data_offsets\"", "two"}},
        BadFile{"offsets_reversed",
                file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8),
                {"before it begins"}},
        BadFile{"offsets_negative",
                file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), 8),
                {"\"data_offsets\" is -8"}},
        BadFile{"offsets_strings",
                file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":["0","8"])"), 8),
                {"\"data_offsets\"", "integer"}},
        BadFile{
            "offsets_beyond_int64",
            file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615])"),
                    8),
            {"\"data_offsets\""}},
        BadFile{"starts_late",
                file_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), 12),
                {"\"t\"", "leave a gap"}},
        BadFile{"buffer_short", file_of(entry(kGood), 7), {"truncated"}},
        BadFile{"buffer_missing", file_of(entry(kGood), 0), {"truncated"}},
        BadFile{"buffer_long", file_of(entry(kGood), 9), {"too long"}},
        BadFile{"no_tensor_but_data", file_of("{}", 1), {"too long"}},
        BadFile{
            "gap",
            file_of(
                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                3),
            {"\"b\"", "gap"}},
        BadFile{
            "overlap",
            file_of(
                R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                3),
            {"\"b\"", "overlap"}},
        BadFile{
            "same_range",
            file_of(
                R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                2),
            {"overlap"}},
        BadFile{
            "empty_tensor_outside", file_of(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[9,9]}})", 0), {"gap"}}),
    [](const auto& param) { return param.param.name; });

TEST(Safetensors, EmptyTensorsBetweenOthersAreLegal) {
  const TemporaryDir dir;
  write_file_atomically(
      dir.file("x"),
      file_of(
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"z":{"dtype":"F32","shape":[0,4611686018427387906,8],"data_offsets":[2,2]},"b":{"dtype":"U8","shape":[],"data_offsets":[2,3]}})",
          3));
  const SafetensorsFile file(dir.file("x"));
  EXPECT_EQ(file.bytes("z").size(), 0u);
  EXPECT_EQ(file.bytes("b").size(), 1u);
}

TEST(Safetensors, MissingFilesAndFoldersAreNamed) {
  const TemporaryDir dir;
  expect_message(error_of<InputError>([&] { SafetensorsFile file(dir.file("none")); }), {dir.file("none")});
  expect_message(error_of<InputError>([&] { SafetensorsFile file(dir.path()); }), {dir.path().string(), "regular"});
}

}  // namespace
}  // namespace loci
