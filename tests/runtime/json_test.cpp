#include "runtime/io/json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ostream>

#include "runtime/io/atomic_file.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::error_of;
using test::expect_message;

TEST(Json, ReadsEveryKindOfValue) {
  const Json json =
      parse_json(R"( {"a": [1, -2, 3.5, true, null, "\u00e9\ud83d\ude00"], "b": {"c": {}}, "d": []} )", "x");
  EXPECT_EQ(json["a"][0].get<int>(), 1);
  EXPECT_EQ(json["a"][1].get<int>(), -2);
  EXPECT_EQ(json["a"][2].get<double>(), 3.5);
  EXPECT_EQ(json["a"][3].get<bool>(), true);
  EXPECT_TRUE(json["a"][4].is_null());
  EXPECT_EQ(json["a"][5].get<std::string>(), "\xc3\xa9\xf0\x9f\x98\x80");
  EXPECT_TRUE(json["b"]["c"].is_object());
  EXPECT_TRUE(json["d"].is_array());
  EXPECT_EQ(parse_json("7", "x"), Json(7));
}

TEST(Json, AgreesWithTheLibraryOnNestedValues) {
  const std::string text = R"([{"x":[[1,[2,{"y":[{"z":3}]}]],[]],"w":"v"},{"x":{"x":{"x":1}}},[[[]]],1e-3])";
  EXPECT_EQ(parse_json(text, "x"), Json::parse(text));
}

struct BadText {
  std::string name;
  std::string text;
  std::string cause;
};

// Tests are listed by it.
void PrintTo(const BadText& value, std::ostream* out) { *out << value.name; }

class BadJson : public testing::TestWithParam<BadText> {};

TEST_P(BadJson, IsRefusedWithPlaceAndCause) {
  const std::string message = error_of<InputError>([&] { parse_json(GetParam().text, "file.json"); });
  expect_message(message, {"file.json: line ", ", byte ", GetParam().cause});
}

INSTANTIATE_TEST_SUITE_P(
    Json, BadJson,
    testing::Values(
        BadText{"empty", "", "unexpected end of input"}, BadText{"spaces", "  \n ", "unexpected end of input"},
        BadText{"truncated_object", R"({"a": 1)", "unexpected end of input"},
        BadText{"truncated_string", R"(["abc)", "missing closing quote"},
        BadText{"trailing", "{} {}", "expected end of input"}, BadText{"trailing_comma", "[1,]", "unexpected"},
        BadText{"nan", "[NaN]", "invalid literal"}, BadText{"infinity", "[-Infinity]", "invalid number"},
        BadText{"too_large", "[1e999]", "number overflow"}, BadText{"comment", "[1] // x", "invalid literal"},
        BadText{"single_quotes", "{'a': 1}", "invalid literal"}, BadText{"no_colon", R"({"a" 1})", "expected ':'"},
        BadText{"number_key", "{1: 2}", "expected string"}, BadText{"leading_zero", "[01]", "unexpected number"},
        BadText{"control", "[\"a\x01\"]", "control"}, BadText{"newline_in_string", "[\"a\nb\"]", "control"},
        BadText{"duplicate", R"({"a": 1, "a": 1})", R"(the key "a" occurs twice)"},
        BadText{"duplicate_escaped", R"({"a": 1, "\u0061": 2})", R"(the key "a" occurs twice)"},
        BadText{"duplicate_deep", R"([{"x": {"k": 1, "l": 2, "k": 3}}])", R"(the key "k" occurs twice)"},
        BadText{"utf8_cut", "[\"\xc3\"]", "UTF-8"}, BadText{"utf8_overlong", "[\"\xc0\x80\"]", "UTF-8"},
        BadText{"utf8_surrogate", "[\"\xed\xa0\x80\"]", "UTF-8"}, BadText{"utf8_lone", "[\"\xff\"]", "UTF-8"},
        BadText{"lone_surrogate", R"(["\ud800"])", "surrogate"},
        BadText{"deep_arrays", std::string(65, '[') + std::string(65, ']'), "deeper than 64"},
        BadText{"hostile_depth", std::string(400000, '['), "deeper than 64"}),
    [](const auto& param) { return param.param.name; });

TEST(Json, AZeroByteIsNotText) {
  expect_message(error_of<InputError>([] { parse_json(std::string("[1,\n2\0]", 7), "file.json"); }),
                 {"file.json: line 2: byte 5 is NUL", "not text"});
}

TEST(Json, DepthOf64IsFine) { EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "x")); }

TEST(Json, TellsTheLine) {
  const std::string message = error_of<InputError>([] { parse_json("{\n\"a\": 1,\n\"a\": 2}", "f"); });
  expect_message(message, {"f: line 3, byte 1"});
}

TEST(Json, MissingFileIsNamed) {
  expect_message(error_of<InputError>([] { parse_json_file("/nonexistent/x.json"); }), {"/nonexistent/x.json"});
  expect_message(error_of<InputError>([] { parse_json_file("/tmp"); }), {"/tmp", "folder"});
}

TEST(Json, TypedFields) {
  const Json json = parse_json(R"({"i": 12, "f": 1.5, "s": "x", "b": true, "n": null, "l": ["p", "q"], "k": [1, 2],
                                   "big": 18446744073709551615, "o": {"x": 1}})",
                               "f");
  EXPECT_EQ(json_int(json, "i", "f"), 12);
  EXPECT_EQ(json_int_or(json, "n", 5, "f"), 5);
  EXPECT_EQ(json_int_or(json, "absent", 5, "f"), 5);
  EXPECT_EQ(json_number(json, "i", "f"), 12.0);
  EXPECT_EQ(json_number_or(json, "f", 0, "f"), 1.5);
  EXPECT_EQ(json_string(json, "s", "f"), "x");
  EXPECT_EQ(json_string_or(json, "n", "y", "f"), "y");
  EXPECT_TRUE(json_bool(json, "b", "f"));
  EXPECT_TRUE(json_bool_or(json, "n", true, "f"));
  EXPECT_EQ(json_strings(json, "l", "f"), (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(json_ints(json, "k", "f"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(json_object(json, "o", "f")["x"], 1);
  EXPECT_EQ(json_array(json, "l", "f").size(), 2u);
  EXPECT_FALSE(json_has(json, "n"));
  EXPECT_TRUE(json_has(json, "i"));
}

TEST(Json, WrongTypesNameFileAndField) {
  const Json json = parse_json(R"({"f": 1.9, "one": 1.0, "s": "1", "big": 18446744073709551615, "n": null, "b": 1,
                                   "l": ["x", 1], "neg": -1})",
                               "f");
  const auto int_error = [&](const char* key) { return error_of<InputError>([&] { json_int(json, key, "c.json"); }); };
  expect_message(int_error("f"), {"c.json: field \"f\" must be an integer, got 1.9"});
  expect_message(int_error("one"), {"\"one\" must be an integer, got 1.0"});
  expect_message(int_error("s"), {"\"s\" must be an integer, got \"1\""});
  expect_message(int_error("n"), {"\"n\" must be an integer, got null"});
  expect_message(int_error("big"), {"\"big\" must be an integer of 64 bits"});
  expect_message(int_error("absent"), {"field \"absent\" is missing"});
  expect_message(error_of<InputError>([&] { json_int(json, "neg", "c", 0, 9); }), {"\"neg\" is -1", "between 0 and 9"});
  expect_message(error_of<InputError>([&] { json_bool(json, "b", "c"); }), {"\"b\" must be true or false, got 1"});
  expect_message(error_of<InputError>([&] { json_string(json, "b", "c"); }), {"\"b\" must be a string, got 1"});
  expect_message(error_of<InputError>([&] { json_number(json, "s", "c"); }), {"\"s\" must be a number"});
  expect_message(error_of<InputError>([&] { json_number(json, "f", "c", 0, 1); }), {"\"f\" is 1.9", "between 0 and 1"});
  expect_message(error_of<InputError>([&] { json_strings(json, "l", "c"); }), {"\"l\" must be a list of strings"});
  expect_message(error_of<InputError>([&] { json_array(json, "f", "c"); }), {"\"f\" must be a list"});
  expect_message(error_of<InputError>([&] { json_object(json, "l", "c"); }), {"\"l\" must be an object, got a list"});
  expect_message(error_of<InputError>([&] { json_int(Json(3), "x", "c"); }), {"must be an object", "got 3"});
  expect_message(error_of<InputError>([&] {
                   refuse_unknown_keys(json, {"f", "one"}, "c");
                 }),
                 {"c: field \"b\" is unknown"});
}

TEST(Json, CanonicalTextDoesNotDependOnOrder) {
  EXPECT_EQ(canonical_json(parse_json(R"({"b": 1, "a": {"d": 0.1, "c": []}})", "x")),
            canonical_json(parse_json(R"({"a": {"c": [], "d": 0.10}, "b": 1})", "x")));
}

TEST(Json, LargeFilesLoadInReasonableTime) {
  std::string text = "[";
  for (int i = 0; i < 100000; ++i) {
    if (i > 0) text += ',';
    text +=
        R"({"case_id": )" + std::to_string(i) + R"(, "prompt": "The mother tongue of {} is", "list": ["a", "b", "c"]})";
  }
  text += "]";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_json(text, "x").size(), 100000u);
  // 8 MB; a quadratic step would take minutes. The limit leaves room for sanitizers and busy machines.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace loci
