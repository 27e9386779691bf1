#include "model/text/tokenizer_files.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "model/text/pretokenizer.h"
#include "model/text/tokenizer.h"
#include "runtime/error.h"
#include "tests/model/tokenizer_support.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::SmallTokenizer;
using test::tokenizer_of;

SmallTokenizer small() { return SmallTokenizer({{" ", "t"}, {" t", "h"}, {"h", "e"}, {" t", "he"}}); }

/// Files that must be refused, and what the one sentence must say.
struct BadCase {
  std::string name;
  std::function<TokenizerFiles()> files;
  std::vector<std::string> says;
};

BadCase vocabulary(const std::string& name, std::function<void(Json&)> change, std::vector<std::string> says) {
  says.insert(says.begin(), "small/vocab.json");
  return {name,
          [change] {
            SmallTokenizer made = small();
            change(made.vocabulary);
            return made.files();
          },
          says};
}

BadCase vocabulary_text(const std::string& name, std::function<void(std::string&)> change,
                        std::vector<std::string> says) {
  says.insert(says.begin(), "small/vocab.json");
  return {name,
          [change] {
            TokenizerFiles files = small().files();
            change(*files.vocab_json);
            return files;
          },
          says};
}

BadCase merges(const std::string& name, std::function<void(std::string&)> change, std::vector<std::string> says) {
  says.insert(says.begin(), "small/merges.txt");
  return {name,
          [change] {
            TokenizerFiles files = small().files();
            change(*files.merges_txt);
            return files;
          },
          says};
}

BadCase whole(const std::string& name, std::function<void(Json&)> change, std::vector<std::string> says) {
  says.insert(says.begin(), "small/tokenizer.json");
  return {name,
          [change] {
            TokenizerFiles files;
            files.folder = "small";
            Json root = small().tokenizer_json();
            change(root);
            files.tokenizer_json = root.dump();
            return files;
          },
          says};
}

/// A pre-tokenizer as Llama 3 has it.
Json split_sequence() {
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", test::kLlama3Pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}};
}

BadCase split_case(const std::string& name, std::function<void(Json& parts)> change, std::vector<std::string> says) {
  return whole(
      name,
      [change](Json& root) {
        root["pre_tokenizer"] = split_sequence();
        change(root["pre_tokenizer"]["pretokenizers"]);
      },
      says);
}

BadCase beside(const std::string& name, std::optional<std::string> TokenizerFiles::*file, const std::string& text,
               std::vector<std::string> says) {
  return {name,
          [file, text] {
            TokenizerFiles files = small().files();
            files.*file = text;
            return files;
          },
          says};
}

std::vector<BadCase> vocabulary_cases() {
  return {
      vocabulary_text("empty_file", [](std::string& t) { t.clear(); }, {}),
      vocabulary_text("truncated", [](std::string& t) { t.resize(t.size() / 2); }, {}),
      vocabulary_text("trailing_bytes", [](std::string& t) { t += "}"; }, {}),
      vocabulary_text("not_utf8", [](std::string& t) { t[2] = '\xFF'; }, {}),
      vocabulary_text("a_list", [](std::string& t) { t = std::string("[1, 2]"); }, {"object", "array"}),
      vocabulary_text("a_number", [](std::string& t) { t = std::string("1"); }, {"object"}),
      vocabulary_text("deep", [](std::string& t) { t = std::string(100000, '['); }, {}),
      vocabulary_text("deep_value",
                      [](std::string& t) { t = "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}"; },
                      {}),
      vocabulary_text("duplicate_key", [](std::string& t) { t = "{\"a\":97," + t.substr(1); }, {"a"}),
      vocabulary_text("no_tokens", [](std::string& t) { t = std::string("{}"); }, {"empty"}),
      vocabulary("string_id", [](Json& v) { v["a"] = "97"; }, {"\"a\"", "integer"}),
      vocabulary("float_id", [](Json& v) { v["a"] = 97.0; }, {"\"a\"", "97.0"}),
      vocabulary("null_id", [](Json& v) { v["a"] = nullptr; }, {"\"a\"", "null"}),
      vocabulary("list_id", [](Json& v) { v["a"] = {97}; }, {"\"a\"", "[97]"}),
      vocabulary("negative_id", [](Json& v) { v["a"] = -1; }, {"\"a\"", "-1"}),
      vocabulary("huge_id", [](Json& v) { v["a"] = 2147483648; }, {"\"a\"", "2147483648"}),
      vocabulary("wrapping_id", [](Json& v) { v["a"] = 18446744073709551615u; }, {"\"a\"", "18446744073709551615"}),
      vocabulary("id_out_of_range", [](Json& v) { v["a"] = 70000; },
                 {"\"a\" has id 70000", "261 tokens", "0 to 260", "none has id 97"}),
      vocabulary("doubled_id", [](Json& v) { v["a"] = 98; }, {"\"a\"", "\"b\"", "98"}),
      vocabulary("gap", [](Json& v) { v["new"] = 262; }, {"262", "261"}),
      vocabulary("empty_token", [](Json& v) { v[""] = 261; }, {"261", "empty"}),
      vocabulary("missing_byte", [](Json& v) { v.erase("a"), v["aa"] = 97; }, {"0x61"}),
      vocabulary("missing_upper_byte",
                 [](Json& v) {
                   const std::string spelling = test::spelled("\xFF");
                   v["aa"] = v[spelling], v.erase(spelling);
                 },
                 {"0xFF"}),
  };
}

std::vector<BadCase> merges_cases() {
  const std::string space = test::spelled(" ");
  return {
      merges("empty_file", [](std::string& t) { t.clear(); }, {"no merge makes 4"}),
      merges("cut_at_a_line", [](std::string& t) { t.resize(t.rfind('\n', t.size() - 2) + 1); },
             {"no merge makes 1", "the"}),
      merges("cut_in_a_line", [](std::string& t) { t.resize(t.size() - 4); }, {"line 5"}),
      merges("unknown_left", [](std::string& t) { t += "zz a\n"; }, {"line 6", "\"zz\"", "vocabulary"}),
      merges("unknown_right", [](std::string& t) { t += "a zz\n"; }, {"line 6", "\"zz\""}),
      merges("unknown_result", [](std::string& t) { t += "a b\n"; }, {"line 6", "\"ab\""}),
      merges("doubled", [](std::string& t) { t += "h e\n"; }, {"line 6", "line 4", "\"h\"", "\"e\""}),
      merges("three_parts", [](std::string& t) { t += "h e y\n"; }, {"line 6", "h e y"}),
      merges("one_part", [](std::string& t) { t += "he\n"; }, {"line 6", "\"he\""}),
      merges("empty_left", [](std::string& t) { t += " he\n"; }, {"line 6"}),
      merges("empty_right", [](std::string& t) { t += "he \n"; }, {"line 6"}),
      merges("two_spaces", [](std::string& t) { t += "h  e\n"; }, {"line 6"}),
      merges("blank_line_inside", [](std::string& t) { t = "#version: 0.2\n\n" + t.substr(14); }, {"line 2"}),
      merges("second_version_line", [](std::string& t) { t = "#version: 0.2\n" + t; }, {"line 2"}),
      merges("not_utf8", [](std::string& t) { t += "\xFF \xFE\n"; }, {"line 6"}),
      merges("zero_bytes", [](std::string& t) { t = std::string(64, '\0'); }, {"line 1"}),
      merges("html", [](std::string& t) { t = std::string("<!DOCTYPE html>\n<html>"); }, {"web page", "not text"}),
      merges(
          "lfs_pointer",
          [](std::string& t) { t = std::string("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"); },
          {"git-lfs pointer", "git lfs pull"}),
  };
}

std::vector<BadCase> whole_cases() {
  return {
      {"tokenizer_truncated",
       [] {
         TokenizerFiles files;
         files.folder = "small";
         files.tokenizer_json = small().tokenizer_json().dump();
         files.tokenizer_json->resize(files.tokenizer_json->size() - 100);
         return files;
       },
       {"small/tokenizer.json"}},
      whole("is_a_list", [](Json& r) { r = {1}; }, {"object"}),
      whole("no_model", [](Json& r) { r.erase("model"); }, {"model"}),
      whole("model_is_text", [](Json& r) { r["model"] = "BPE"; }, {"model"}),
      whole("word_piece", [](Json& r) { r["model"]["type"] = "WordPiece"; }, {"model", "WordPiece"}),
      whole("type_is_number", [](Json& r) { r["model"]["type"] = 1; }, {"type"}),
      whole("dropout", [](Json& r) { r["model"]["dropout"] = 0.1; }, {"dropout"}),
      whole("byte_fallback", [](Json& r) { r["model"]["byte_fallback"] = "yes"; }, {"byte_fallback"}),
      whole("ignore_merges", [](Json& r) { r["model"]["ignore_merges"] = "yes"; }, {"ignore_merges"}),
      whole("word_suffix", [](Json& r) { r["model"]["end_of_word_suffix"] = "</w>"; }, {"end_of_word_suffix"}),
      whole("subword_prefix", [](Json& r) { r["model"]["continuing_subword_prefix"] = "##"; },
            {"continuing_subword_prefix"}),
      whole("normalizer",
            [](Json& r) {
              r["normalizer"] = {{"type", "Lowercase"}};
            },
            {"normalizer", "Lowercase"}),
      whole("no_pre_tokenizer", [](Json& r) { r.erase("pre_tokenizer"); }, {"pre_tokenizer"}),
      whole("null_pre_tokenizer", [](Json& r) { r["pre_tokenizer"] = nullptr; }, {"pre_tokenizer"}),
      whole("whitespace",
            [](Json& r) {
              r["pre_tokenizer"] = {{"type", "Whitespace"}};
            },
            {"pre_tokenizer", "Whitespace"}),
      whole("no_regex", [](Json& r) { r["pre_tokenizer"]["use_regex"] = "no"; }, {"use_regex"}),
      whole("prefix_space", [](Json& r) { r["pre_tokenizer"]["add_prefix_space"] = true; }, {"add_prefix_space"}),
      whole("prefix_space_is_text", [](Json& r) { r["pre_tokenizer"]["add_prefix_space"] = "no"; },
            {"add_prefix_space"}),
      whole("two_pre_tokenizers",
            [](Json& r) {
              const Json one = r["pre_tokenizer"];
              r["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {one, one}}};
            },
            {"pre_tokenizer", "2 pre-tokenizers"}),
      whole("split_alone", [](Json& r) { r["pre_tokenizer"] = split_sequence()["pretokenizers"][0]; },
            {"pre_tokenizer", "ByteLevel"}),
      split_case("three_parts", [](Json& p) { p.push_back(p[0]); }, {"3 pre-tokenizers"}),
      split_case("bytes_before_split", [](Json& p) { std::swap(p[0], p[1]); }, {"pre_tokenizer", "2 pre-tokenizers"}),
      split_case("split_then_whitespace", [](Json& p) { p[1]["type"] = "Whitespace"; }, {"Whitespace"}),
      split_case("split_prefix_space", [](Json& p) { p[1]["add_prefix_space"] = true; }, {"add_prefix_space"}),
      split_case("split_removes", [](Json& p) { p[0]["behavior"] = "Removed"; }, {"pretokenizers[0]", "Removed"}),
      split_case("split_inverted", [](Json& p) { p[0]["invert"] = true; }, {"pretokenizers[0]", "invert"}),
      split_case("split_by_text",
                 [](Json& p) {
                   p[0]["pattern"] = {{"String", " "}};
                 },
                 {"pretokenizers[0]: pattern", "Regex"}),
      split_case("split_no_pattern", [](Json& p) { p[0].erase("pattern"); }, {"pretokenizers[0]", "pattern"}),
      split_case("split_bad_pattern", [](Json& p) { p[0]["pattern"]["Regex"] = "(a"; },
                 {"pretokenizers[0]: pattern.Regex", "regular expression"}),
      whole("post_processor",
            [](Json& r) {
              r["post_processor"] = {{"type", "TemplateProcessing"}};
            },
            {"post_processor", "single"}),
      whole("post_processor_with_an_unknown_token",
            [](Json& r) {
              r["post_processor"] = {
                  {"type", "TemplateProcessing"},
                  {"single",
                   {{{"SpecialToken", {{"id", "<|endoftext|>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}}}}}}};
            },
            {"post_processor", "special_tokens"}),
      whole("no_vocabulary", [](Json& r) { r["model"].erase("vocab"); }, {"vocab"}),
      whole("vocabulary_is_a_list",
            [](Json& r) {
              r["model"]["vocab"] = {{"a", 1}, {"b", 2}, 3};
            },
            {"vocab"}),
      whole("missing_byte", [](Json& r) { r["model"]["vocab"].erase("a"), r["model"]["vocab"]["aa"] = 97; }, {"0x61"}),
      whole("no_merges", [](Json& r) { r["model"].erase("merges"); }, {"merges"}),
      whole("merges_are_text", [](Json& r) { r["model"]["merges"] = "h e"; }, {"merges"}),
      whole("merge_is_a_number", [](Json& r) { r["model"]["merges"][1] = 5; }, {"model.merges[1]", "5"}),
      whole("merge_of_three",
            [](Json& r) {
              r["model"]["merges"][1] = {"a", "b", "c"};
            },
            {"model.merges[1]"}),
      whole("merge_of_numbers",
            [](Json& r) {
              r["model"]["merges"][1] = {1, 2};
            },
            {"model.merges[1]"}),
      whole("unknown_token", [](Json& r) { r["model"]["merges"].push_back("zz a"); }, {"model.merges[4]", "\"zz\""}),
      whole("outside_the_alphabet",
            [](Json& r) {
              r["model"]["vocab"]["\xE6\x9D\xB1"] = 261;
              r["model"]["merges"].push_back(Json::array({"\xE6\x9D\xB1", "a"}));
            },
            {"model.merges[4]", "byte alphabet"}),
      whole("added_is_a_map",
            [](Json& r) {
              r["added_tokens"] = {{"a", 1}};
            },
            {"added_tokens"}),
      whole("added_is_text", [](Json& r) { r["added_tokens"] = {"<m>"}; }, {"added_tokens[0]"}),
      whole("added_no_id", [](Json& r) { r["added_tokens"][0].erase("id"); }, {"added_tokens[0]", "id"}),
      whole("added_no_content", [](Json& r) { r["added_tokens"][0].erase("content"); }, {"added_tokens[0]", "content"}),
      whole("added_empty", [](Json& r) { r["added_tokens"][0]["content"] = ""; }, {"added_tokens[0]", "empty"}),
      whole("added_negative", [](Json& r) { r["added_tokens"][0]["id"] = -1; }, {"added_tokens[0]", "id"}),
      whole("added_huge", [](Json& r) { r["added_tokens"][0]["id"] = 4294967296; }, {"added_tokens[0]", "id"}),
      whole("added_other_id", [](Json& r) { r["added_tokens"][0]["id"] = 5; }, {"added_tokens[0]", "260"}),
      whole("added_taken_id",
            [](Json& r) {
              r["added_tokens"].push_back({{"id", 5}, {"content", "<m>"}});
            },
            {"<m>", "both have id 5"}),
      whole("added_far_id",
            [](Json& r) {
              r["added_tokens"].push_back({{"id", 2000000000}, {"content", "<m>"}});
            },
            {"<m>", "2000000000"}),
      whole("added_single_word", [](Json& r) { r["added_tokens"][0]["single_word"] = 1; }, {"single_word"}),
      whole("added_flag_is_number", [](Json& r) { r["added_tokens"][0]["lstrip"] = 1; }, {"lstrip"}),
  };
}

std::vector<BadCase> beside_cases() {
  const auto added = &TokenizerFiles::added_tokens_json;
  const auto map = &TokenizerFiles::special_tokens_map_json;
  const auto config = &TokenizerFiles::tokenizer_config_json;
  return {
      beside("added_broken", added, "{", {"small/added_tokens.json"}),
      beside("added_list", added, "[]", {"small/added_tokens.json", "object"}),
      beside("added_text_id", added, R"({"<m>": "261"})", {"small/added_tokens.json", "<m>"}),
      beside("added_other_id", added, R"({"<|endoftext|>": 5})", {"small/added_tokens.json", "260"}),
      beside("added_far", added, R"({"<m>": 2000000})", {"small/added_tokens.json", "<m>", "2000000", "262 tokens"}),
      beside("added_duplicate", added, R"({"<m>": 261, "<m>": 262})", {"small/added_tokens.json"}),
      beside("map_broken", map, "nonsense", {"small/special_tokens_map.json"}),
      beside("map_number", map, R"({"eos_token": 5})", {"small/special_tokens_map.json", "eos_token", "number"}),
      beside("map_no_content", map, R"({"eos_token": {"lstrip": true}})", {"small/special_tokens_map.json", "content"}),
      beside("map_list", map, R"({"additional_special_tokens": "<m>"})", {"additional_special_tokens"}),
      beside("map_empty", map, R"({"pad_token": ""})", {"small/special_tokens_map.json", "pad_token", "empty"}),
      beside("config_broken", config, "{\"a\":}", {"small/tokenizer_config.json"}),
      beside("config_key", config, R"({"added_tokens_decoder": {"x": {"content": "<m>"}}})",
             {"added_tokens_decoder", "\"x\""}),
      beside("config_key_tail", config, R"({"added_tokens_decoder": {"261x": {"content": "<m>"}}})", {"261x"}),
      beside("config_key_negative", config, R"({"added_tokens_decoder": {"-1": {"content": "<m>"}}})", {"-1"}),
      beside("config_key_huge", config, R"({"added_tokens_decoder": {"99999999999": {"content": "<m>"}}})",
             {"99999999999"}),
      beside("config_clash", config, R"({"added_tokens_decoder": {"7": {"content": "<|endoftext|>"}}})",
             {"id 7", "260"}),
      beside("config_prefix", config, R"({"add_prefix_space": true})",
             {"small/tokenizer_config.json", "add_prefix_space"}),
      beside(
          "config_bos", config, R"({"add_bos_token": true})",
          {"small/tokenizer_config.json", "add_bos_token", "a token would be added to every text", "set it to false"}),
      beside("config_eos", config, R"({"add_eos_token": true})", {"small/tokenizer_config.json", "add_eos_token"}),
      beside("config_bos_text", config, R"({"add_bos_token": "yes"})", {"add_bos_token"}),
      beside("config_clean_up", config, R"({"clean_up_tokenization_spaces": "yes"})", {"clean_up_tokenization_spaces"}),
  };
}

void expect_refused(const std::vector<BadCase>& cases) {
  for (const BadCase& bad : cases) {
    SCOPED_TRACE(bad.name);
    try {
      parse_tokenizer(bad.files());
      ADD_FAILURE() << "was accepted";
    } catch (const InputError& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_LT(message.size(), 400u) << message;
      for (const std::string& part : bad.says)
        EXPECT_NE(message.find(part), std::string::npos) << part << " not in: " << message;
    }
  }
}

TEST(TokenizerFiles, RefusesBadVocabularies) { expect_refused(vocabulary_cases()); }
TEST(TokenizerFiles, RefusesBadMerges) { expect_refused(merges_cases()); }
TEST(TokenizerFiles, RefusesBadTokenizerJson) { expect_refused(whole_cases()); }
TEST(TokenizerFiles, RefusesBadFilesBeside) { expect_refused(beside_cases()); }

TEST(TokenizerFiles, TakesWhatHuggingFaceWrites) {
  TokenizerFiles files = small().files();
  files.added_tokens_json = R"({"<m>": 261})";
  files.special_tokens_map_json =
      R"({"eos_token": {"content": "<|endoftext|>", "lstrip": false, "normalized": true}, "pad_token": "<|endoftext|>",
          "additional_special_tokens": ["<m>"]})";
  files.tokenizer_config_json =
      R"({"added_tokens_decoder": {"260": {"content": "<|endoftext|>", "special": true}, "262": {"content": "<n>"}},
          "bos_token": null, "model_max_length": 1000000000000000019884624838656})";
  const Tokenizer tokenizer(parse_tokenizer(files));
  EXPECT_EQ(tokenizer.vocabulary_size(), 263);
  EXPECT_EQ(tokenizer.encode_ids("<m><n>"), (std::vector<std::int32_t>{261, 262}));
  EXPECT_EQ(tokenizer.encode_ids("<m>", SpecialTokens::as_text).size(), 3u)
      << "named special in special_tokens_map.json";
  EXPECT_EQ(tokenizer.encode_ids("<n>", SpecialTokens::as_text).size(), 1u);
}

TEST(TokenizerFiles, TakesWhatAddsNoToken) {
  TokenizerFiles files = small().files();
  files.tokenizer_config_json = R"({"add_bos_token": false, "add_eos_token": null, "add_prefix_space": false})";
  const std::string expected = Tokenizer(parse_tokenizer(files)).sha256();
  const Json alone = {{"type", "TemplateProcessing"}, {"single", {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}};
  const Json bytes = {{"type", "ByteLevel"}, {"trim_offsets", false}};
  for (const Json& post : {alone, bytes, Json{{"type", "Sequence"}, {"processors", {bytes, alone}}}}) {
    Json root = small().tokenizer_json();
    root["post_processor"] = post;
    root["truncation"] = {{"max_length", 8}};
    root["model"].update({{"byte_fallback", false},
                          {"ignore_merges", false},
                          {"fuse_unk", false},
                          {"dropout", nullptr},
                          {"unk_token", "<|endoftext|>"},
                          {"continuing_subword_prefix", ""},
                          {"end_of_word_suffix", ""}});
    for (Json& merge : root["model"]["merges"]) {  // as newer files have them
      const std::string pair = merge;
      merge = {pair.substr(0, pair.find(' ')), pair.substr(pair.find(' ') + 1)};
    }
    TokenizerFiles whole;
    whole.folder = "small";
    whole.tokenizer_json = root.dump();
    EXPECT_EQ(Tokenizer(parse_tokenizer(whole)).sha256(), expected) << post;
  }
}

TEST(TokenizerFiles, SplitsByThePatternOfTheFile) {
  // With GPT-2's pattern " THE'S" is three pieces; with Llama 3's "'S" is one, and letters take what stands before
  // them.
  Json root = SmallTokenizer({{"'", "S"}, {"(", "a"}, {"1", "2"}, {"12", "3"}, {"123", "4"}}).tokenizer_json();
  const Tokenizer plain = tokenizer_of(root);
  EXPECT_EQ(plain.encode_ids("A'S(a1234"), (std::vector<std::int32_t>{'A', '\'', 'S', '(', 'a', 260}));
  root["pre_tokenizer"] = split_sequence();
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("A'S(a1234"), (std::vector<std::int32_t>{'A', 256, 257, 259, '4'}));
  EXPECT_EQ(tokenizer.encode("(a<|endoftext|>'S").offsets, (std::vector<ByteRange>{{0, 2}, {2, 15}, {15, 17}}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode_ids("x\xFF\n 12")), "x\xFF\n 12");
  EXPECT_NE(tokenizer.sha256(), plain.sha256()) << "they encode differently";
  root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = kGpt2Pattern;
  EXPECT_EQ(tokenizer_of(root).sha256(), plain.sha256());
  EXPECT_EQ(tokenizer_of(root).encode_ids("A'S(a1234"), plain.encode_ids("A'S(a1234"));
  root["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}}}};
  EXPECT_EQ(tokenizer_of(root).sha256(), plain.sha256()) << "a sequence of one";
}

TEST(TokenizerFiles, APatternThatTakesTooManyStepsIsNamedWithItsFile) {
  Json root = small().tokenizer_json();
  root["pre_tokenizer"] = split_sequence();
  root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:a+)+b";
  const Tokenizer tokenizer = tokenizer_of(root);
  const std::string message = test::error_of<InputError>([&] { tokenizer.encode_ids(std::string(60, 'a') + "cb"); });
  test::expect_message(message, {"small/tokenizer.json: pre_tokenizer: pretokenizers[0]: pattern.Regex", "limit"});
}

TEST(TokenizerFiles, AWholePieceGoesBeforeMergesWhereTheFileSaysSo) {
  // No merge makes " them", and the order of the merges never gets to " the": " t" and "h" go first.
  Json root = small().tokenizer_json();
  root["model"]["vocab"][test::spelled(" them")] = 261;
  root["added_tokens"].push_back({{"id", 262}, {"content", "them"}, {"special", true}});
  EXPECT_THROW(tokenizer_of(root), InputError) << "the merges look cut short";
  root["model"]["ignore_merges"] = true;
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids(" them the thems", SpecialTokens::as_text),
            (std::vector<std::int32_t>{261, 259, 257, 'e', 'm', 's'}));
  EXPECT_EQ(tokenizer.encode_ids("them", SpecialTokens::as_text), (std::vector<std::int32_t>{'t', 258, 'm'}))
      << "an added token is no entry of the vocabulary";
  EXPECT_EQ(tokenizer.encode(" them", SpecialTokens::as_text).offsets, (std::vector<ByteRange>{{0, 5}}));
  EXPECT_EQ(Tokenizer(parse_tokenizer(small().files())).encode_ids(" the"), (std::vector<std::int32_t>{257, 'e'}));
  root["model"]["ignore_merges"] = false;
  root["model"]["vocab"].erase(test::spelled(" them"));
  root["added_tokens"].erase(1);
  const std::string merging = tokenizer_of(root).sha256();
  root["model"]["ignore_merges"] = true;
  EXPECT_NE(tokenizer_of(root).sha256(), merging) << "they encode differently";
}

TEST(TokenizerFiles, AddedTokensMayLeaveGapsBeforeThem) {
  TokenizerFiles split = small().files();
  split.added_tokens_json = R"({"<m>": 300})";
  TokenizerFiles whole;
  whole.folder = "small";
  Json root = small().tokenizer_json();
  root["added_tokens"].push_back({{"id", 300}, {"content", "<m>"}});
  whole.tokenizer_json = root.dump();
  for (const TokenizerFiles& files : {split, whole}) {
    const Tokenizer tokenizer(parse_tokenizer(files));
    EXPECT_EQ(tokenizer.vocabulary_size(), 301);
    EXPECT_EQ(tokenizer.encode_ids("a<m>"), (std::vector<std::int32_t>{'a', 300}));
    EXPECT_EQ(tokenizer.decode_text(std::vector<std::int32_t>{300}), "<m>");
    EXPECT_TRUE(tokenizer.has_token(260) && tokenizer.has_token(300));
    EXPECT_FALSE(tokenizer.has_token(261) || tokenizer.has_token(299) || tokenizer.has_token(301) ||
                 tokenizer.has_token(-1));
    EXPECT_THROW(tokenizer.decode_token(270), InputError);
    EXPECT_EQ(tokenizer.find(""), std::nullopt);
  }
}

TEST(TokenizerFiles, SpecialTokensWithoutAnIdGetTheNext) {
  TokenizerFiles files = small().files();
  files.added_tokens_json = R"({"<m>": 270})";
  files.special_tokens_map_json = R"({"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<m>"]})";
  files.tokenizer_config_json = R"({"pad_token": "[PAD]", "cls_token": {"content": "[CLS]"}})";
  const Tokenizer tokenizer(parse_tokenizer(files));
  EXPECT_EQ(tokenizer.encode_ids("[PAD]<a>[CLS]<m>"), (std::vector<std::int32_t>{271, 272, 273, 270}));
}

TEST(TokenizerFiles, AddedTokensStandForTheirCharacters) {
  Json root = small().tokenizer_json();
  root["added_tokens"].push_back({{"id", 261}, {"content", "\u00e9\u0120"}});  // both spell bytes in the alphabet
  TokenizerFiles files;
  files.folder = "small";
  files.tokenizer_json = root.dump();
  const Tokenizer tokenizer(parse_tokenizer(files));
  EXPECT_EQ(tokenizer.encode_ids("\u00e9\u0120"), std::vector<std::int32_t>{261});
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{261}), "\u00e9\u0120");
}

TEST(TokenizerFiles, AnAddedTokenWithoutARowRefusesOnlyTheTextsThatHoldIt) {
  TokenizerFiles files = small().files();
  files.added_tokens_json = R"({"[PAD]": 261})";
  Tokenizer tokenizer(parse_tokenizer(files));
  tokenizer.limit_to_embedding(261, "model");
  EXPECT_EQ(tokenizer.encode_ids(" the"), Tokenizer(parse_tokenizer(small().files())).encode_ids(" the"));
  EXPECT_EQ(tokenizer.end_of_text(), 260);
  EXPECT_TRUE(tokenizer.has_token(261));
  EXPECT_FALSE(tokenizer.has_row(261));
  const auto message_of = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const InputError& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const std::string& message :
       {message_of([&] { tokenizer.encode_ids("a [PAD]"); }), message_of([&] { tokenizer.encode("a [PAD]"); })})
    for (const char* part : {"\"a [PAD]\"", "\"[PAD]\" (id 261)", "261 rows"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  tokenizer.limit_to_embedding(260, "model");
  EXPECT_EQ(tokenizer.end_of_text(), std::nullopt) << "it has no row either";
  EXPECT_NE(message_of([&] { tokenizer.limit_to_embedding(259, "model"); }).find("model: the tokenizer has 262 tokens"),
            std::string::npos)
      << "a token of the vocabulary itself";
}

TEST(TokenizerFiles, EndOfTextIsTheEosTokenWhereTheVocabularyHasNoOther) {
  SmallTokenizer made = small();
  made.vocabulary.erase("<|endoftext|>");
  made.vocabulary["</s>"] = 260;
  TokenizerFiles files = made.files();
  EXPECT_EQ(Tokenizer(parse_tokenizer(files)).end_of_text(), std::nullopt);
  files.tokenizer_config_json = R"({"eos_token": "</s>"})";
  EXPECT_EQ(Tokenizer(parse_tokenizer(files)).end_of_text(), 260);
}

TEST(TokenizerFiles, WindowsLineEndsAndNoVersionLineAreTheSameMerges) {
  TokenizerFiles files = small().files();
  const std::string expected = Tokenizer(parse_tokenizer(files)).sha256();
  std::string windows;
  for (const char c : *files.merges_txt) windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
  files.merges_txt = windows;
  EXPECT_EQ(Tokenizer(parse_tokenizer(files)).sha256(), expected);
  files.merges_txt = small().merges_text().substr(std::string("#version: 0.2\n").size());
  EXPECT_EQ(Tokenizer(parse_tokenizer(files)).sha256(), expected);
}

TEST(TokenizerFiles, ReadsAFolder) {
  const test::TemporaryDir folder;
  const auto message_of = [](const std::filesystem::path& path) -> std::string {
    try {
      Tokenizer::load(path);
    } catch (const InputError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_NE(message_of(folder.path() / "absent").find("not a folder"), std::string::npos);
  EXPECT_NE(message_of(folder.path()).find("tokenizer.json"), std::string::npos);
  std::ofstream(folder.file("vocab.json")) << *small().files().vocab_json;
  EXPECT_NE(message_of(folder.path()).find("merges.txt"), std::string::npos);
  std::ofstream(folder.file("merges.txt")) << small().merges_text();
  EXPECT_EQ(Tokenizer::load(folder.path()).vocabulary_size(), 261);
  std::ofstream(folder.file("tokenizer.json")) << "{";
  EXPECT_NE(message_of(folder.path()).find(folder.file("tokenizer.json")), std::string::npos) << "it goes first";
}

}  // namespace
}  // namespace loci
