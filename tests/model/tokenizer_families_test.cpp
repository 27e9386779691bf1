#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <random>

#include "model/text/tokenizer.h"
#include "model/text/unicode.h"
#include "runtime/error.h"
#include "runtime/utf8.h"
#include "tests/model/tokenizer_support.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

/// Tokenizers of other families than GPT-2: their components, and the reference's ids, offsets and texts.
namespace loci {
namespace {

using test::SmallTokenizer;
using test::tokenizer_of;
using Ids = std::vector<std::int32_t>;
using Ranges = std::vector<ByteRange>;
using Merges = std::vector<std::pair<std::string, std::string>>;

const std::string kSpace = "\u2581";

Json typed(const char* type, Json fields = Json::object()) {
  fields["type"] = type;
  return fields;
}

Json sequence(const char* list, std::initializer_list<Json> parts) {
  return {{"type", "Sequence"}, {list, Json(Json::array_t(parts))}};
}

Json replace(const std::string& from, const std::string& to) {
  return typed("Replace", {{"pattern", {{"String", from}}}, {"content", to}});
}

Json special_token(const std::string& name) { return {{"SpecialToken", {{"id", name}, {"type_id", 0}}}}; }

/// Tokens `before` and `behind` the text, as save_pretrained writes it.
Json template_of(const std::vector<std::pair<std::string, int>>& before,
                 const std::vector<std::pair<std::string, int>>& behind = {}) {
  Json single = Json::array(), tokens = Json::object();
  const auto add = [&](const std::pair<std::string, int>& token) {
    single.push_back(special_token(token.first));
    tokens[token.first] = {{"id", token.first}, {"ids", {token.second}}, {"tokens", {token.first}}};
  };
  for (const auto& token : before) add(token);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  for (const auto& token : behind) add(token);
  return typed("TemplateProcessing", {{"single", single}, {"special_tokens", tokens}});
}

// ---- Llama-2 ----

/// Ids of the small tokenizer below: 3 special tokens, 256 bytes, then U+2581 and the characters.
constexpr std::int32_t byte_id(int byte) { return 3 + byte; }

struct SmallLlama {
  Json root;
  Merges merges;

  explicit SmallLlama(const Merges& merge_list, const std::string& characters = "abcdeimnorstRP'\n")
      : merges(merge_list) {
    Json vocabulary = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
    const auto add = [&vocabulary](const std::string& token) { vocabulary.emplace(token, vocabulary.size()); };
    for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte));
    add(kSpace);
    for (const char character : characters) add(std::string(1, character));
    Json list = Json::array(), added = Json::array();
    for (const auto& [left, right] : merges) {
      add(left + right);
      list.push_back(left + " " + right);
    }
    int id = 0;
    for (const char* name : {"<unk>", "<s>", "</s>"})
      added.push_back({{"id", id++}, {"content", name}, {"special", true}, {"normalized", false}});
    root = {{"added_tokens", added},
            {"normalizer", sequence("normalizers", {typed("Prepend", {{"prepend", kSpace}}), replace(" ", kSpace)})},
            {"pre_tokenizer", nullptr},
            {"post_processor", template_of({{"<s>", 1}})},
            {"decoder", sequence("decoders", {replace(kSpace, " "), typed("ByteFallback"), typed("Fuse"),
                                              typed("Strip", {{"content", " "}, {"start", 1}, {"stop", 0}})})},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", "<unk>"},
              {"fuse_unk", true},
              {"byte_fallback", true},
              {"vocab", vocabulary},
              {"merges", list}}}};
  }
  std::int32_t id(const std::string& token) const { return root["model"]["vocab"].at(token); }
  Ids ids(const std::vector<std::string>& tokens) const {
    Ids made;
    for (const std::string& token : tokens) made.push_back(id(token));
    return made;
  }
};

SmallLlama rome() {
  return SmallLlama({{kSpace, "a"},
                     {kSpace, "R"},
                     {"o", "m"},
                     {kSpace + "R", "om"},
                     {kSpace + "Rom", "e"},
                     {kSpace, kSpace},
                     {"i", "n"},
                     {"a", "in"}});
}

TEST(Llama2Tokenizer, TakesTheWholeTextForOneWordBehindASpaceAndTheFirstToken) {
  const SmallLlama small = rome();
  const Tokenizer tokenizer = tokenizer_of(small.root);
  EXPECT_EQ(tokenizer.encode_ids("Rome a"), small.ids({"<s>", kSpace + "Rome", kSpace + "a"}));
  EXPECT_EQ(tokenizer.encode_ids(""), Ids{1}) << "an empty stretch stays empty";
  EXPECT_EQ(tokenizer.encode_ids("a<s>b"), small.ids({"<s>", kSpace + "a", "<s>", kSpace, "b"}));
  EXPECT_EQ(tokenizer.encode_ids(" a"), small.ids({"<s>", kSpace, kSpace + "a"}))
      << "a merge of lower rank goes first, though two spaces are a token";
  EXPECT_EQ(tokenizer.encode_ids("  "), small.ids({"<s>", kSpace + kSpace, kSpace}));
  EXPECT_EQ(tokenizer.encode_ids("<s>"), small.ids({"<s>", "<s>"}));
  EXPECT_EQ(tokenizer.encode_ids("<s>", SpecialTokens::as_text)[2], byte_id('<'));
  EXPECT_EQ(tokenizer.encode_ids("Rome", SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::bare),
            small.ids({kSpace + "Rome"}));
  EXPECT_EQ(tokenizer.encode_ids("Rome a", SpecialTokens::parse, 2), small.ids({"<s>", kSpace + "Rome"}));
  EXPECT_EQ(tokenizer.text_template().before, Ids{1});
  EXPECT_EQ(tokenizer.start_of_text(), 1);
}

TEST(Llama2Tokenizer, CharactersWithoutATokenBecomeTheirBytesWhichNeverMerge) {
  const SmallLlama small = rome();
  const Tokenizer tokenizer = tokenizer_of(small.root);
  EXPECT_EQ(tokenizer.encode_ids("\u6771"), (Ids{1, small.id(kSpace), byte_id(0xE6), byte_id(0x9D), byte_id(0xB1)}));
  EXPECT_EQ(tokenizer.encode_ids("\xFF"
                                 "a"),
            (Ids{1, small.id(kSpace), byte_id(0xFF), small.id("a")}));
  EXPECT_EQ(tokenizer.encode("a\u6771").offsets, (Ranges{{0, 0}, {0, 1}, {1, 2}, {2, 3}, {3, 4}}));
}

TEST(Llama2Tokenizer, WithoutATokenForAByteTheUnknownOneStandsForItAndItsNeighbours) {
  SmallLlama small = rome();
  small.root["model"]["vocab"].erase("<0x9D>");
  const Tokenizer fused = tokenizer_of(small.root);
  EXPECT_EQ(fused.encode_ids("\u6771\u6771a\u6771"), (Ids{1, small.id(kSpace), 0, small.id("a"), 0}));
  EXPECT_EQ(fused.encode("\u6771\u6771a").offsets, (Ranges{{0, 0}, {0, 3}, {0, 6}, {6, 7}}));
  small.root["model"]["fuse_unk"] = false;
  EXPECT_EQ(tokenizer_of(small.root).encode_ids("\u6771\u6771"), (Ids{1, small.id(kSpace), 0, 0}));
  EXPECT_NE(tokenizer_of(small.root).sha256(), fused.sha256());
  small.root["model"]["byte_fallback"] = false;
  EXPECT_EQ(tokenizer_of(small.root).encode_ids("z"), (Ids{1, small.id(kSpace), 0}));
}

TEST(Llama2Tokenizer, OffsetsAreBytesOfTheOriginal) {
  const SmallLlama small = rome();
  const Tokenizer tokenizer = tokenizer_of(small.root);
  EXPECT_EQ(tokenizer.encode("Rome a").offsets, (Ranges{{0, 0}, {0, 4}, {4, 6}}));
  EXPECT_EQ(tokenizer.encode(" a").offsets, (Ranges{{0, 0}, {0, 1}, {0, 2}}))
      << "the space in front stands for the first character";
  EXPECT_EQ(tokenizer.encode("\u00e9").offsets, (Ranges{{0, 0}, {0, 2}, {0, 1}, {1, 2}}));
  EXPECT_EQ(tokenizer.encode("a<s>b").offsets, (Ranges{{0, 0}, {0, 1}, {1, 4}, {4, 5}, {4, 5}}));
}

TEST(Llama2Tokenizer, DecodesWithOrWithoutTheSpaceInFront) {
  const SmallLlama small = rome();
  const Tokenizer tokenizer = tokenizer_of(small.root);
  const Ids rome = small.ids({kSpace + "Rome"}), all = tokenizer.encode_ids("Rome a");
  const auto as_published = [&](const Ids& ids) {
    return tokenizer.decode_text(ids, TextCleanUp::as_configured, LeadingSpace::as_configured);
  };
  EXPECT_EQ(tokenizer.decode_text(rome), " Rome");
  EXPECT_EQ(as_published(rome), "Rome");
  EXPECT_EQ(as_published(all), "<s> Rome a");
  EXPECT_EQ(as_published(small.ids({kSpace + kSpace, "a"})), " a") << "one space and no more";
  EXPECT_EQ(tokenizer.decode_token(byte_id(0xE6)), "\xE6");
  EXPECT_EQ(tokenizer.decode_text(Ids{byte_id(0xE6), byte_id(0x9D), byte_id(0xB1)}), "\u6771");
  EXPECT_EQ(tokenizer.decode_text(Ids{byte_id(0xE6), byte_id(0x9D), byte_id('a')}), "\uFFFD\uFFFD\uFFFD")
      << "each of the bytes in a row";
  EXPECT_EQ(tokenizer.decode_text(Ids{byte_id(0xE6), small.id("a"), byte_id('a')}), "\uFFFDaa");
  EXPECT_EQ(tokenizer.find("a"), small.id("a")) << "rather than the byte";
  EXPECT_EQ(tokenizer.find("A"), byte_id('A'));
}

TEST(Llama2Tokenizer, TargetsAreTheTokensThatTheyAddToThePrompt) {
  const SmallLlama small = rome();
  const Tokenizer tokenizer = tokenizer_of(small.root);
  EXPECT_EQ(tokenizer.encode_continuation("a", " Rome"), small.ids({kSpace + "Rome"}));
  EXPECT_EQ(tokenizer.encode_continuation("a", "in"), small.ids({"in"})) << "a token would go across";
  EXPECT_EQ(tokenizer.encode_ids(" Rome", SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::continuation),
            small.ids({kSpace + "Rome"}));
  EXPECT_EQ(tokenizer.encode_ids("a<s>a", SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::continuation),
            small.ids({"a", "<s>", kSpace + "a"}));
  const Tokenizer plain(parse_tokenizer(SmallTokenizer({{" ", "R"}, {"a", "b"}}).files()));
  EXPECT_EQ(plain.encode_continuation("a ", " R"), plain.encode_ids(" R"));
  EXPECT_EQ(plain.encode_continuation("a", "b"), plain.encode_ids("b"));
}

/// Merges done as the textbook says, on the whole text.
Ids merge_plainly(const SmallLlama& small, const std::string& text) {
  std::vector<std::string> symbols;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8::decode(text, at).length;
    symbols.push_back(text.substr(at, length));
    at += length;
  }
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t i = 0; i < small.merges.size(); ++i) ranks[small.merges[i]] = i;
  for (;;) {
    std::size_t best = 0, best_rank = small.merges.size();
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
      if (const auto rank = ranks.find({symbols[i], symbols[i + 1]}); rank != ranks.end() && rank->second < best_rank)
        best = i, best_rank = rank->second;
    if (best_rank == small.merges.size()) return small.ids(symbols);
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Llama2Tokenizer, MergesAWholeTextAsTheTextbookDoes) {
  // Tokens across spaces, too, so that not every space ends what is merged together.
  const SmallLlama small({{"t", "a"},
                          {kSpace, "ta"},
                          {"a", kSpace},
                          {"a" + kSpace, "t"},
                          {kSpace, kSpace},
                          {kSpace + kSpace, kSpace + kSpace},
                          {"r", "r"},
                          {"rr", "rr"},
                          {"s", "r"},
                          {"sr", "s"}});
  const Tokenizer tokenizer = tokenizer_of(small.root);
  std::mt19937 random(4);
  for (int i = 0; i < 2000; ++i) {
    std::string text, shown = kSpace;
    for (int length = 1 + static_cast<int>(random() % (i % 10 == 0 ? 200 : 12)); length > 0; --length)
      text += "ta  rrrs"[random() % 8];
    for (const char c : text) shown += c == ' ' ? kSpace : std::string(1, c);
    Ids expected = merge_plainly(small, shown);
    expected.insert(expected.begin(), 1);
    ASSERT_EQ(tokenizer.encode_ids(text), expected) << text;
    ASSERT_EQ(tokenizer.encode(text).ids, expected) << text;
  }
}

TEST(Llama2Tokenizer, AMillionCharactersTakeNoQuadraticTime) {
  const SmallLlama small({{"r", "r"}, {"rr", "rr"}, {"s", "r"}, {"r", "s"}, {"sr", "sr"}});
  const Tokenizer tokenizer = tokenizer_of(small.root);
  std::mt19937 random(6);
  std::string word(1 << 20, 'r');
  for (char& letter : word) letter = "rs"[random() % 2];  // every pair is in some token: all of it is merged together
  const Ids ids = tokenizer.encode_ids(word);
  EXPECT_LT(ids.size(), word.size());
  EXPECT_EQ(tokenizer.decode(ids), "<s> " + word);
}

// ---- Metaspace: Mistral v0.3 ----

Json metaspace(const char* scheme, bool split) {
  return typed("Metaspace", {{"replacement", kSpace}, {"prepend_scheme", scheme}, {"split", split}});
}

TEST(Metaspace, PutsASpaceBeforeTheFirstStretchOnly) {
  SmallLlama small = rome();
  small.root["normalizer"] = nullptr;
  small.root["pre_tokenizer"] = metaspace("first", false);
  const Tokenizer tokenizer = tokenizer_of(small.root);
  EXPECT_EQ(tokenizer.encode_ids("a<s>b"), small.ids({"<s>", kSpace + "a", "<s>", "b"}));
  EXPECT_EQ(tokenizer.encode_ids("<s>b"), small.ids({"<s>", "<s>", "b"}));
  EXPECT_EQ(tokenizer.encode_ids(" a"), small.ids({"<s>", kSpace + "a"})) << "the text begins with a space already";
  EXPECT_EQ(tokenizer.encode_ids(""), Ids{1});
  EXPECT_EQ(tokenizer.encode("Rome a<s>b").offsets, (Ranges{{0, 0}, {0, 4}, {4, 6}, {6, 9}, {9, 10}}));
  EXPECT_EQ(tokenizer.encode_continuation("b", " Rome"), small.ids({kSpace + "Rome"}));
  EXPECT_EQ(tokenizer.encode_ids("b", SpecialTokens::parse, Tokenizer::kNoLimit, TextKind::continuation),
            small.ids({"b"}));
  small.root["pre_tokenizer"] = metaspace("always", false);
  EXPECT_EQ(tokenizer_of(small.root).encode_ids("a<s>b"), small.ids({"<s>", kSpace + "a", "<s>", kSpace, "b"}));
  EXPECT_NE(tokenizer_of(small.root).sha256(), tokenizer.sha256());
  small.root["pre_tokenizer"] = metaspace("never", false);
  EXPECT_EQ(tokenizer_of(small.root).encode_ids("a a"), small.ids({"<s>", "a", kSpace + "a"}));
}

TEST(Metaspace, SplitsAtSpacesWhereItSaysSo) {
  SmallLlama small = rome();
  small.root["normalizer"] = nullptr;
  for (const bool splits : {false, true}) {
    small.root["pre_tokenizer"] = metaspace("never", splits);
    const Tokenizer tokenizer = tokenizer_of(small.root);
    EXPECT_EQ(tokenizer.encode_ids("b  b"),
              splits ? small.ids({"<s>", "b", kSpace, kSpace, "b"}) : small.ids({"<s>", "b", kSpace + kSpace, "b"}));
    EXPECT_EQ(tokenizer.encode("b a").offsets, (Ranges{{0, 0}, {0, 1}, {1, 3}}));
  }
}

TEST(Metaspace, TheOldFormSaysAddPrefixSpace) {
  SmallLlama small = rome();
  small.root["normalizer"] = nullptr;
  small.root["pre_tokenizer"] = typed("Metaspace", {{"replacement", kSpace}, {"add_prefix_space", true}});
  EXPECT_EQ(tokenizer_of(small.root).encode_ids("a<s>b"), small.ids({"<s>", kSpace + "a", "<s>", kSpace, "b"}));
  small.root["pre_tokenizer"]["add_prefix_space"] = false;
  EXPECT_EQ(tokenizer_of(small.root).encode_ids("a"), small.ids({"<s>", "a"}));
}

TEST(Metaspace, DecodesWithoutTheSpacesOfTheFirstToken) {
  SmallLlama small = rome();
  small.root["decoder"] = metaspace("always", true);
  const Ids ids = small.ids({kSpace + "Rome", kSpace + "a"});
  EXPECT_EQ(tokenizer_of(small.root).decode_text(ids), " Rome a");
  EXPECT_EQ(tokenizer_of(small.root).decode_text(ids, TextCleanUp::none, LeadingSpace::as_configured), "Rome a");
  small.root["decoder"] = metaspace("never", true);
  EXPECT_EQ(tokenizer_of(small.root).decode_text(ids, TextCleanUp::none, LeadingSpace::as_configured), " Rome a");
}

// ---- GPT-NeoX, Llama-3, Qwen ----

TEST(NeoXTokenizer, CutsRunsOfSpacesOutBeforeThePatternSeesThem) {
  SmallTokenizer small({{" ", "P"}, {"a", "r"}});
  Json root = small.tokenizer_json();
  root["normalizer"] = typed("NFC");
  for (const int spaces : {2, 3, 4})
    root["added_tokens"].push_back(
        {{"id", 257 + spaces}, {"content", std::string(spaces, ' ')}, {"normalized", true}, {"special", false}});
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("n Par"), (Ids{'n', 256, 257}));
  EXPECT_EQ(tokenizer.encode_ids("n  Par"), (Ids{'n', 259, 'P', 257}));
  EXPECT_EQ(tokenizer.encode_ids("      "), (Ids{261, 259})) << "the longest first";
  EXPECT_EQ(tokenizer.encode("n  P").offsets, (Ranges{{0, 1}, {1, 3}, {3, 4}}));
  EXPECT_EQ(tokenizer.encode_ids("  ", SpecialTokens::as_text), Ids{259}) << "not special";
}

TEST(NormalizedTokenizer, ATokenCoversEveryByteThatWentIntoIt) {
  Json root = SmallTokenizer(Merges{{"\xC3", "\xA9"}}).tokenizer_json();
  root["normalizer"] = typed("NFC");
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("xe\u0301y"), (Ids{'x', 256, 'y'}));
  EXPECT_EQ(tokenizer.encode("xe\u0301y").offsets, (Ranges{{0, 1}, {1, 4}, {4, 5}}));
  EXPECT_EQ(tokenizer.encode("a\u0301").offsets, (Ranges{{0, 3}, {0, 3}})) << "both bytes come from both characters";
  EXPECT_EQ(tokenizer.encode("<|endoftext|>e\u0301").offsets, (Ranges{{0, 13}, {13, 16}}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode_ids("e\u0301")), "\u00e9");
  EXPECT_NE(tokenizer.sha256(), tokenizer_of(SmallTokenizer(Merges{{"\xC3", "\xA9"}}).tokenizer_json()).sha256());
}

TEST(NormalizedTokenizer, FindsNormalizedAddedTokensInNormalizedText) {
  Json root = SmallTokenizer().tokenizer_json();
  root["normalizer"] = sequence("normalizers", {typed("NFC"), replace("--", "\u2014"), replace("~", "")});
  root["added_tokens"].push_back({{"id", 257}, {"content", "<e\u0301>"}, {"normalized", true}});
  root["added_tokens"].push_back({{"id", 258}, {"content", "<--e\u0301>"}, {"normalized", false}});
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("<\u00e9><e\u0301>"), (Ids{257, 257}));
  EXPECT_EQ(tokenizer.encode("a<e\u0301>").offsets, (Ranges{{0, 1}, {1, 6}}));
  EXPECT_EQ(tokenizer.encode_ids("<--e\u0301>"), Ids{258}) << "cut out before the normalizer";
  EXPECT_EQ(tokenizer.encode("a--b").offsets, (Ranges{{0, 1}, {1, 3}, {1, 3}, {1, 3}, {3, 4}}));
  EXPECT_EQ(tokenizer.encode("a~b").offsets, (Ranges{{0, 1}, {2, 3}}));
  EXPECT_TRUE(tokenizer.encode_ids("~").empty());
}

TEST(AddedTokens, OfASingleWordStandAlone) {
  Json root = SmallTokenizer().tokenizer_json();
  root["added_tokens"].push_back({{"id", 257}, {"content", "cat"}, {"single_word", true}});
  root["added_tokens"].push_back({{"id", 258}, {"content", "ca"}});
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("cat"), Ids{257});
  EXPECT_EQ(tokenizer.encode_ids("a cat."), (Ids{'a', ' ', 257, '.'}));
  EXPECT_EQ(tokenizer.encode_ids("cats"), (Ids{'c', 'a', 't', 's'})) << "nor a shorter token instead";
  EXPECT_EQ(tokenizer.encode_ids("\u00e9cat").size(), 5u);
  EXPECT_EQ(tokenizer.encode_ids("cat_").size(), 4u);
  EXPECT_EQ(tokenizer.encode_ids("cat\u0301").size(), 5u);
  EXPECT_EQ(tokenizer.encode_ids("cat\u2014"), (Ids{257, 0xE2, 0x80, 0x94}));
}

TEST(PreTokenizers, SplitOneAfterTheOther) {
  const auto split = [](const char* pattern) {
    return typed("Split", {{"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}});
  };
  Json root = SmallTokenizer({{"a", "b"}, {"b", "c"}, {"1", "2"}}).tokenizer_json();
  root["model"]["byte_fallback"] = true;  // without effect where every byte has a token
  root["pre_tokenizer"] =
      sequence("pretokenizers", {split("b+"), split("\\d"), typed("ByteLevel", {{"use_regex", false}})});
  EXPECT_EQ(tokenizer_of(root).encode_ids("abc12"), (Ids{'a', 'b', 'c', '1', '2'}));
  root["pre_tokenizer"] = sequence("pretokenizers", {split("c"), typed("ByteLevel", {{"use_regex", true}})});
  EXPECT_EQ(tokenizer_of(root).encode_ids("abc12"), (Ids{256, 'c', 258}));
  root["pre_tokenizer"] = typed("ByteLevel", {{"use_regex", false}});
  EXPECT_EQ(tokenizer_of(root).encode_ids("1 2ab"), (Ids{'1', ' ', '2', 256})) << "one piece";
}

// ---- tokens around every text ----

TEST(TextTemplates, PutTokensBeforeAndBehindEveryText) {
  Json root = SmallTokenizer().tokenizer_json();
  root["added_tokens"].push_back({{"id", 257}, {"content", "<bos>"}, {"special", true}});
  root["post_processor"] = sequence("processors", {typed("ByteLevel", {{"trim_offsets", false}}),
                                                   template_of({{"<bos>", 257}}, {{"<|endoftext|>", 256}})});
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("ab"), (Ids{257, 'a', 'b', 256}));
  EXPECT_EQ(tokenizer.encode_ids(""), (Ids{257, 256}));
  EXPECT_EQ(tokenizer.encode("ab").offsets, (Ranges{{0, 0}, {0, 1}, {1, 2}, {2, 2}}));
  EXPECT_EQ(tokenizer.encode_ids("ab", SpecialTokens::parse, 1), Ids{257});
  for (const TextKind kind : {TextKind::bare, TextKind::continuation})
    EXPECT_EQ(tokenizer.encode("ab", SpecialTokens::parse, kind).ids, (Ids{'a', 'b'}));
  EXPECT_EQ(tokenizer.encode_continuation("a", "b"), Ids{'b'});
  EXPECT_EQ(tokenizer.start_of_text(), 257);
  EXPECT_NE(tokenizer.sha256(), tokenizer_of(SmallTokenizer().tokenizer_json()).sha256());
}

/// Which of the tokens <s> (1) and </s> (2) a class puts around a text, with these fields in tokenizer_config.json.
Ids around(const char* tokenizer_class, Json config) {
  SmallLlama small = rome();
  config["tokenizer_class"] = tokenizer_class;
  return tokenizer_of(small.root, config).encode_ids("");
}

TEST(TextTemplates, OfLlamaAndNeoXFollowTheConfiguration) {
  for (const char* name : {"LlamaTokenizer", "LlamaTokenizerFast"}) {
    EXPECT_EQ(around(name, Json::object()), Ids{1});
    EXPECT_EQ(around(name, {{"add_bos_token", false}}), Ids{});
    EXPECT_EQ(around(name, {{"add_bos_token", nullptr}}), Ids{});
    EXPECT_EQ(around(name, {{"add_eos_token", true}}), (Ids{1, 2}));
    EXPECT_EQ(around(name, {{"bos_token", "</s>"}, {"eos_token", {{"content", "<s>"}}}, {"add_eos_token", true}}),
              (Ids{2, 1}));
  }
  EXPECT_EQ(around("GPTNeoXTokenizer", {{"bos_token", "<s>"}}), Ids{}) << "whatever the file's template says";
  EXPECT_EQ(around("GPTNeoXTokenizerFast", {{"bos_token", "<s>"}, {"add_bos_token", true}}), Ids{1});
  EXPECT_EQ(around("PreTrainedTokenizerFast", {{"add_bos_token", false}}), Ids{1}) << "the file's template";
  EXPECT_EQ(around("Qwen2Tokenizer", {{"add_eos_token", true}}), Ids{1});
  EXPECT_EQ(around("GPT2Tokenizer", {{"add_bos_token", true}}), Ids{1}) << "both say so";
  EXPECT_THROW(around("GPT2Tokenizer", {{"add_eos_token", true}}), InputError);
  test::expect_message(test::error_of<InputError>([] {
                         around("GPTNeoXTokenizer", {{"add_bos_token", true}});
                       }),
                       {"small/tokenizer_config.json", "add_bos_token", "<|endoftext|>", "is no token"});
}

TEST(TextTemplates, NeedARowInTheEmbedding) {
  Json root = SmallTokenizer().tokenizer_json();
  root["added_tokens"].push_back({{"id", 257}, {"content", "<bos>"}, {"special", true}});
  root["post_processor"] = template_of({{"<bos>", 257}});
  Tokenizer tokenizer = tokenizer_of(root);
  tokenizer.limit_to_embedding(258, "model");
  test::expect_message(test::error_of<InputError>([&] { tokenizer.limit_to_embedding(257, "model"); }),
                       {"model", "258 tokens", "257 rows"});
}

TEST(PaddedVocabulary, RowsWithoutATokenHaveAnEmptyText) {
  Tokenizer tokenizer(parse_tokenizer(SmallTokenizer().files()));
  EXPECT_THROW(tokenizer.decode_token(300), InputError);
  tokenizer.limit_to_embedding(304, "model");
  EXPECT_EQ(tokenizer.decode_text(Ids{'a', 300, 'b'}), "ab");
  EXPECT_THROW(tokenizer.decode_token(304), InputError);
}

TEST(PaddedVocabulary, TokenizerJsonMayLeaveGapsBetweenIds) {
  Json root = SmallTokenizer(Merges{{"a", "b"}}).tokenizer_json();
  root["model"]["vocab"][test::spelled("ab")] = 300;
  const Tokenizer tokenizer = tokenizer_of(root);
  EXPECT_EQ(tokenizer.encode_ids("ab"), Ids{300});
  EXPECT_FALSE(tokenizer.has_token(299));
}

// ---- what is refused ----

TEST(Components, AreRefusedByName) {
  struct Case {
    std::function<void(Json&)> change;
    std::vector<std::string> says;
  };
  const auto decoder = [](Json value) { return [value](Json& root) { root["decoder"] = value; }; };
  const auto pre = [](Json value) { return [value](Json& root) { root["pre_tokenizer"] = value; }; };
  const auto normalizer = [](Json value) { return [value](Json& root) { root["normalizer"] = value; }; };
  const std::vector<Case> cases = {
      {normalizer(typed("Lowercase")), {"normalizer", "Lowercase", "NFC, Prepend, Replace"}},
      {normalizer(sequence("normalizers", {typed("NFC"), typed("NFKC")})), {"normalizers[1]", "NFKC"}},
      {normalizer(typed("Replace", {{"pattern", {{"Regex", " "}}}, {"content", "_"}})), {"pattern", "String"}},
      {normalizer(replace("", "_")), {"pattern.String is empty"}},
      {normalizer(typed("Prepend")), {"normalizer", "prepend"}},
      {pre(typed("WhitespaceSplit")), {"pre_tokenizer", "WhitespaceSplit", "Metaspace"}},
      {pre(sequence("pretokenizers", {metaspace("first", false), typed("ByteLevel")})), {"2 pre-tokenizers"}},
      {pre(metaspace("last", false)), {"prepend_scheme", "last"}},
      {pre(typed("Metaspace", {{"replacement", "__"}})), {"replacement", "one character"}},
      {pre(typed("Metaspace", {{"replacement", "_"}, {"add_prefix_space", false}, {"prepend_scheme", "first"}})),
       {"add_prefix_space", "make them agree"}},
      {[](Json& root) { root["decoder"] = nullptr; }, {"no decoder"}},
      {decoder(typed("WordPiece")), {"decoder", "WordPiece"}},
      {decoder(typed("ByteLevel")), {"decoder", "ByteLevel"}},
      {decoder(sequence("decoders", {typed("Fuse"), typed("ByteFallback")})), {"decoders[1]", "in this order"}},
      {decoder(sequence("decoders", {typed("Strip", {{"content", " "}, {"start", 1}, {"stop", 0}})})),
       {"Strip", "after Fuse"}},
      {[](Json& root) { root["model"]["byte_fallback"] = false, root["model"]["unk_token"] = nullptr; },
       {"byte_fallback", "unk_token"}},
      {[](Json& root) { root["model"]["unk_token"] = "<none>"; }, {"unk_token", "<none>", "vocabulary"}},
      {[](Json& root) { root["model"]["vocab"].erase("<0xE6>"), root["model"]["unk_token"] = nullptr; },
       {"0xE6", "byte_fallback"}},
      {[](Json& root) { root["model"]["merges"].erase(3); }, {"no merge makes 1", "Rom"}},
      {[](Json& root) { root["post_processor"] = typed("RobertaProcessing"); },
       {"post_processor", "RobertaProcessing"}},
      {[](Json& root) { root["post_processor"]["special_tokens"].erase("<s>"); }, {"special_tokens", "<s>"}},
      {[](Json& root) { root["post_processor"]["special_tokens"]["<s>"]["ids"] = {9999}; }, {"9999", "post_processor"}},
      {[](Json& root) { root["post_processor"]["single"].erase(1); }, {"single", "once"}},
      {[](Json& root) { root["post_processor"]["single"].push_back(root["post_processor"]["single"][1]); },
       {"single", "once"}},
      {[](Json& root) {
         root["post_processor"] = sequence("processors", {template_of({{"<s>", 1}}), template_of({{"<s>", 1}})});
       },
       {"processors[1]", "second template"}},
  };
  for (const Case& bad : cases) {
    Json root = rome().root;
    bad.change(root);
    std::vector<std::string> says = bad.says;
    says.insert(says.begin(), "small/tokenizer.json");
    test::expect_message(test::error_of<InputError>([&] { tokenizer_of(root); }), says);
  }
}

// ---- against the reference's outputs ----

/// How many code points begin before each byte of a text.
std::vector<std::int64_t> code_points_before(const std::string& text) {
  std::vector<std::int64_t> before = {0};
  for (const char byte : text) before.push_back(before.back() + ((static_cast<unsigned char>(byte) & 0xC0) != 0x80));
  return before;
}

class FamilyTokenizer : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto shared = test::shared_dir();
    if (!shared || !std::filesystem::exists(*shared / "golden/families")) GTEST_SKIP() << "no shared data";
    folder_ = *shared / "golden/families" / GetParam();
    tokenizer_.emplace(Tokenizer::load(folder_ / "model"));
  }

  /// Our range in code points: every character of which it holds a byte.
  static ByteRange in_characters(const std::string& text, ByteRange bytes) {
    const std::vector<std::int64_t> before = code_points_before(text);
    const std::int64_t begin =
        before[bytes.begin + (bytes.begin < std::ssize(text))] - (bytes.begin < std::ssize(text));
    return bytes.begin == bytes.end ? ByteRange{begin, begin} : ByteRange{begin, before[bytes.end]};
  }

  void expect_offset(const std::string& text, std::int32_t id, ByteRange bytes, ByteRange reference) const {
    ByteRange ours = in_characters(text, bytes);
    const std::string name = GetParam();
    if (name == "neox") {  // trim_offsets: spaces of a token are not its characters
      const std::string_view token = tokenizer_->decode_token(id);
      const auto spaces = static_cast<std::int64_t>(std::min(token.find_first_not_of(' '), token.size()));
      ours.begin = std::min(ours.begin + spaces, ours.end);
      if (spaces == 0 && token.ends_with(' ')) ours.end -= 1;
    }
    if (name == "llama" && reference.begin == reference.end) ours.end = ours.begin;  // pieces taken as a whole
    const std::string part = text.substr(bytes.begin, bytes.end - bytes.begin);
    // The reference gives the first of several characters that NFC joined; we give all of them.
    const bool joined = (name == "neox" || name.starts_with("qwen")) && unicode::NfcText(part).text() != part;
    EXPECT_EQ(ours.begin, reference.begin) << text << " token " << id;
    if (joined)
      EXPECT_GE(ours.end, reference.end) << text << " token " << id;
    else
      EXPECT_EQ(ours.end, reference.end) << text << " token " << id;
  }

  std::filesystem::path folder_;
  std::optional<Tokenizer> tokenizer_;
};

TEST_P(FamilyTokenizer, GivesTheReferencesIdsOffsetsAndTexts) {
  std::ifstream lines(folder_ / "tokens.jsonl");
  const auto around = static_cast<std::int64_t>(tokenizer_->text_template().before.size());
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json row = parse_json(line, "tokens.jsonl");
    const auto text = row["text"].get<std::string>();
    const Encoding got = tokenizer_->encode(text);
    ASSERT_EQ(got.ids, row["ids"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer_->encode_ids(text), got.ids) << text;
    ASSERT_EQ(got.offsets.size(), got.ids.size());
    for (std::int64_t i = 0; i < std::ssize(got.ids); ++i) {
      const ByteRange reference{row["offsets"][i][0].get<std::int64_t>(), row["offsets"][i][1].get<std::int64_t>()};
      if (i < around)
        EXPECT_EQ(got.offsets[i], (ByteRange{0, 0}));
      else
        expect_offset(text, got.ids[i], got.offsets[i], reference);
    }
    EXPECT_EQ(tokenizer_->decode_text(got.ids, TextCleanUp::none, LeadingSpace::as_configured),
              row["decoded"].get<std::string>());
  }
  EXPECT_GT(count, 200);
}

INSTANTIATE_TEST_SUITE_P(Golden, FamilyTokenizer,
                         ::testing::Values("gptj", "neox", "llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace loci
