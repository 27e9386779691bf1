#include "model/text/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <memory>
#include <set>
#include <thread>

#include "model/text/pretokenizer.h"
#include "model/text/split_pattern.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/utf8.h"
#include "tests/model/tokenizer_support.h"
#include "tests/support/paths.h"

namespace loci {
namespace {

using test::RandomText;
using test::SmallTokenizer;
using test::spelled;
using Ids = std::vector<std::int32_t>;

// ---- the oracle: pieces by GPT-2's regular expression, and merges done as the textbook says ----

class Oracle {
 public:
  Oracle(const Json& vocabulary, const std::vector<std::pair<std::string, std::string>>& merges) {
    for (const auto& [token, id] : vocabulary.items()) ids_[token] = id.get<std::int32_t>();
    for (std::size_t i = 0; i < merges.size(); ++i) ranks_[merges[i]] = i;
  }
  explicit Oracle(const SmallTokenizer& small) : Oracle(small.vocabulary, small.merges) {}

  Ids encode(const std::string& text) {
    Ids result;
    SplitPattern::Pieces pieces(pattern_, text);
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = pieces.next();
      const Ids& ids = encode_piece(text.substr(begin, end - begin));
      result.insert(result.end(), ids.begin(), ids.end());
    }
    return result;
  }
  const Ids& encode_piece(const std::string& piece) {
    const auto [found, is_new] = cache_.try_emplace(piece);
    if (!is_new) return found->second;
    std::vector<std::string> symbols;
    for (const char byte : piece) symbols.push_back(spelled(std::string(1, byte)));
    while (symbols.size() > 1) {
      std::size_t best = symbols.size(), best_rank = std::numeric_limits<std::size_t>::max();
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto rank = ranks_.find({symbols[i], symbols[i + 1]});
        if (rank != ranks_.end() && rank->second < best_rank) best = i, best_rank = rank->second;
      }
      if (best == symbols.size()) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    for (const std::string& symbol : symbols) found->second.push_back(ids_.at(symbol));
    return found->second;
  }

 private:
  SplitPattern pattern_{kGpt2Pattern, "oracle"};
  std::map<std::string, std::int32_t> ids_;
  std::map<std::pair<std::string, std::string>, std::size_t> ranks_;
  std::map<std::string, Ids> cache_;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> pieces;
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = piece_end(text, begin);
    pieces.push_back(text.substr(begin, end - begin));
  }
  return pieces;
}

SmallTokenizer english() {
  std::vector<std::string> words;
  std::mt19937 random(3);
  const std::vector<std::string> syllables = {"the", "re", "in", "ing", "er",       " a",   " th",
                                              "ou",  "n",  "t",  "e",   "\xC3\xA9", "\n\n", "00"};
  for (int i = 0; i < 400; ++i) {
    words.emplace_back();
    for (int j = 0; j < 4; ++j) words.back() += syllables[random() % syllables.size()];
  }
  return SmallTokenizer(test::learn_merges(words, 150));
}

Tokenizer make(const SmallTokenizer& small) { return Tokenizer(parse_tokenizer(small.files())); }

void expect_offsets_cover(const Tokenizer& tokenizer, const std::string& text, const Encoding& encoding) {
  ASSERT_EQ(encoding.ids.size(), encoding.offsets.size());
  std::int64_t at = 0;
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    ASSERT_EQ(encoding.offsets[i].begin, at);
    at = encoding.offsets[i].end;
    ASSERT_EQ(text.substr(encoding.offsets[i].begin, at - encoding.offsets[i].begin),
              tokenizer.decode_token(encoding.ids[i]));
  }
  EXPECT_EQ(at, std::ssize(text));
}

// ---- characters and pieces ----

TEST(Utf8, RefusesWhatUnicodeRefuses) {
  const auto step = [](std::string_view text) {
    const utf8::Step s = utf8::decode(text, 0);
    return std::tuple(s.well_formed, s.length);
  };
  EXPECT_EQ(step("\xC3\xA9"), std::tuple(true, 2u));
  EXPECT_EQ(step("\xF0\x9F\x98\x80"), std::tuple(true, 4u));
  EXPECT_EQ(step("\x80"), std::tuple(false, 1u));
  EXPECT_EQ(step("\xC0\x80"), std::tuple(false, 1u));          // overlong
  EXPECT_EQ(step("\xE0\x80\x80"), std::tuple(false, 1u));      // overlong
  EXPECT_EQ(step("\xED\xA0\x80"), std::tuple(false, 1u));      // surrogate
  EXPECT_EQ(step("\xF4\x90\x80\x80"), std::tuple(false, 1u));  // beyond U+10FFFF
  EXPECT_EQ(step("\xF0\x9F\x98"), std::tuple(false, 3u));      // cut
  EXPECT_EQ(step("\xF0\x9F"
                 "A"),
            std::tuple(false, 2u));
  EXPECT_EQ(utf8::replace_ill_formed("a\xF0\x9F\x98"
                                     "b\xFF\xED\xA0\x80"),
            "a\uFFFDb\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST(Pretokenizer, SplitsByHand) {
  using Pieces = std::vector<std::string>;
  EXPECT_EQ(split("Hello, world's  end"), (Pieces{"Hello", ",", " world", "'s", " ", " end"}));
  EXPECT_EQ(split("I'll we'VE 'tis"), (Pieces{"I", "'ll", " we", "'", "VE", " '", "tis"}));
  EXPECT_EQ(split("a \n\t b  "), (Pieces{"a", " \n\t", " b", "  "}));
  EXPECT_EQ(split("a\n\nb\xC2\xA0\xC2\xA0"), (Pieces{"a", "\n", "\n", "b", "\xC2\xA0\xC2\xA0"}));
  EXPECT_EQ(split("x2y \xC2\xB2"), (Pieces{"x", "2", "y", " \xC2\xB2"}));
  EXPECT_EQ(split("!\xFF\x80 \xFF"), (Pieces{"!\xFF\x80", " \xFF"}));
  EXPECT_EQ(split("'l 'r 'v '"), (Pieces{"'", "l", " '", "r", " '", "v", " '"}));
}

// ---- encoding ----

TEST(Tokenizer, AgreesWithTheOracleOnRandomText) {
  const SmallTokenizer small = english();
  const Tokenizer tokenizer = make(small);
  Oracle oracle(small);
  RandomText random(11);
  const std::vector<std::string> syllables = {"the",      "there", "ing",  " a",       "thering",
                                              "\xC3\xA9", "er",    "\n\n", "\n\n\n\n", "0000"};
  for (int i = 0; i < 5000; ++i) {
    std::string text = random(12);
    for (int j = random.below(5); j > 0; --j) text += syllables[random.below(static_cast<int>(syllables.size()))];
    const Encoding got = tokenizer.encode(text, SpecialTokens::as_text);
    ASSERT_EQ(got.ids, oracle.encode(text)) << text;
    expect_offsets_cover(tokenizer, text, got);
    ASSERT_EQ(tokenizer.decode(got.ids), text);
  }
}

TEST(Tokenizer, LongPiecesMergeAsShortOnesDo) {
  const SmallTokenizer small = english();
  const Tokenizer tokenizer = make(small);
  Oracle oracle(small);
  std::mt19937 random(5);
  for (const int length : {1, 2, 31, 32, 33, 34, 129, 400}) {
    for (int i = 0; i < 30; ++i) {
      std::string word;
      for (int j = 0; j < length; ++j) word.push_back("thering"[random() % 7]);
      ASSERT_EQ(tokenizer.encode_ids(word), oracle.encode_piece(word)) << word;
    }
  }
}

TEST(Tokenizer, AMillionLettersWithoutASpaceTakeNoQuadraticTime) {
  const Tokenizer tokenizer = make(english());
  std::mt19937 random(6);
  std::string word(1 << 20, 'a');
  for (char& letter : word) letter = "thering"[random() % 7];
  // Quadratic merging would take 10^11 steps here, which no test's time limit allows.
  const Ids ids = tokenizer.encode_ids(word);
  EXPECT_LT(ids.size(), word.size());
  EXPECT_EQ(tokenizer.decode(ids), word);
}

TEST(Tokenizer, AnyBytesComeBack) {
  const Tokenizer tokenizer = make(english());
  std::mt19937 random(8);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    const Encoding encoding = tokenizer.encode(bytes);
    ASSERT_EQ(tokenizer.decode(encoding.ids), bytes);
    expect_offsets_cover(tokenizer, bytes, encoding);
  }
}

TEST(Tokenizer, LimitCutsTheSameIds) {
  const Tokenizer tokenizer = make(english());
  const std::string text = "there the <|endoftext|>thering 0000 the";
  const Ids all = tokenizer.encode_ids(text);
  for (std::size_t limit = 0; limit <= all.size() + 1; ++limit) {
    const Ids cut(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(limit, all.size())));
    EXPECT_EQ(tokenizer.encode_ids(text, SpecialTokens::parse, static_cast<std::int64_t>(limit)), cut);
  }
}

TEST(Tokenizer, SpecialTokensAreParsedOrSpelledOut) {
  const Tokenizer tokenizer = make(SmallTokenizer{});
  EXPECT_EQ(tokenizer.vocabulary_size(), 257);
  EXPECT_EQ(tokenizer.end_of_text(), 256);
  EXPECT_EQ(tokenizer.encode_ids("a<|endoftext|>b"), (Ids{'a', 256, 'b'}));
  EXPECT_EQ(tokenizer.encode_ids("<|endoftext|><|endoftext|"),
            (Ids{256, '<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't', '|'}));
  EXPECT_EQ(tokenizer.encode_ids("<|endoftext|>", SpecialTokens::as_text).size(), 13u);
  const Encoding encoding = tokenizer.encode("\xC3\xA9<|endoftext|>");
  EXPECT_EQ(encoding.offsets, (std::vector<ByteRange>{{0, 1}, {1, 2}, {2, 15}}));
  EXPECT_EQ(tokenizer.decode(encoding.ids), "\xC3\xA9<|endoftext|>");
}

TEST(Tokenizer, AddedTokensTakeTheLongestAndTheirSpaces) {
  SmallTokenizer small;
  Json root = small.tokenizer_json();
  const auto add = [&root](int id, const char* content, bool left, bool right, bool normalized) {
    root["added_tokens"].push_back(
        {{"id", id}, {"content", content}, {"lstrip", left}, {"rstrip", right}, {"normalized", normalized}});
  };
  add(257, "<m>", false, false, false);
  add(258, "<m>s", false, false, false);
  add(259, "<left>", true, false, false);
  add(260, "<right>", false, true, false);
  add(261, "x<m>", false, false, true);
  TokenizerFiles files;
  files.folder = "small";
  files.tokenizer_json = root.dump();
  const Tokenizer tokenizer(parse_tokenizer(files));
  EXPECT_EQ(tokenizer.encode_ids("<m><m>s"), (Ids{257, 258}));
  EXPECT_EQ(tokenizer.encode_ids("x<m>"), (Ids{'x', 257})) << "tokens of the first pass go first";
  EXPECT_EQ(tokenizer.encode_ids("a \xE2\x80\x83<left> b"), (Ids{'a', 259, ' ', 'b'}));
  EXPECT_EQ(tokenizer.encode_ids("a <right>\n\t<left> b"), (Ids{'a', ' ', 260, 259, ' ', 'b'}));
  EXPECT_EQ(tokenizer.encode("a <left>").offsets, (std::vector<ByteRange>{{0, 1}, {1, 8}}));
  EXPECT_EQ(tokenizer.encode_ids("<m>", SpecialTokens::as_text), Ids{257}) << "added, but not special";
}

TEST(Tokenizer, DecodesToTextAsHuggingFaceDoes) {
  SmallTokenizer small;
  TokenizerFiles files = small.files();
  files.tokenizer_config_json = R"({"clean_up_tokenization_spaces": true, "eos_token": "<|endoftext|>"})";
  const Tokenizer tokenizer(parse_tokenizer(files));
  const Ids cut = {'a', 0xC3, 'b', 0xF0, 0x9F};
  EXPECT_EQ(tokenizer.decode_text(cut), "a\uFFFDb\uFFFD");
  EXPECT_EQ(tokenizer.decode(cut),
            "a\xC3"
            "b\xF0\x9F");
  const Ids spaced = tokenizer.encode_ids("It 's , well , n't . 've ' a ' !");
  EXPECT_EQ(tokenizer.decode_text(spaced), "It 's , well , n't . 've ' a ' !");
  EXPECT_EQ(tokenizer.decode_text(spaced, TextCleanUp::as_configured), "It's, well,n't.'ve'a '!");
  EXPECT_EQ(make(small).decode_text(spaced, TextCleanUp::as_configured), "It 's , well , n't . 've ' a ' !");
  EXPECT_THROW(tokenizer.decode(Ids{257}), InputError);
  EXPECT_THROW(tokenizer.decode_token(-1), InputError);
}

TEST(Tokenizer, FindsTokensByTheirBytes) {
  const Tokenizer tokenizer = make(SmallTokenizer({{" ", "t"}, {" t", "h"}}));
  EXPECT_EQ(tokenizer.find(" th"), 257);
  EXPECT_EQ(tokenizer.find("<|endoftext|>"), 258);
  EXPECT_EQ(tokenizer.find("th"), std::nullopt);
}

TEST(Tokenizer, BothFormatsGiveTheSameTokenizer) {
  const SmallTokenizer small = english();
  TokenizerFiles files;
  files.folder = "small";
  files.tokenizer_json = small.tokenizer_json().dump();
  const Tokenizer from_json(parse_tokenizer(files));
  EXPECT_EQ(from_json.sha256(), make(small).sha256());
  Json pairs = small.tokenizer_json();
  for (std::size_t i = 0; i < small.merges.size(); ++i)
    pairs["model"]["merges"][i] = {small.merges[i].first, small.merges[i].second};
  files.tokenizer_json = pairs.dump();
  EXPECT_EQ(Tokenizer(parse_tokenizer(files)).sha256(), make(small).sha256());
  EXPECT_NE(make(SmallTokenizer{}).sha256(), make(small).sha256());
}

TEST(Tokenizer, ManyThreadsEncodeAtOnce) {
  const Tokenizer tokenizer = make(english());
  const std::string text = "there thering 0000\n\n the end<|endoftext|>";
  const Ids expected = tokenizer.encode_ids(text);
  std::vector<int> right(4, 0);
  std::vector<std::thread> threads;
  for (int& count : right)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += tokenizer.encode_ids(text) == expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(4, 200));
}

// ---- against the original's outputs and data ----

TEST(TokenizerGolden, GivesTheIdsOfTheOriginal) {
  const auto shared = test::shared_dir();
  if (!shared) GTEST_SKIP() << "no shared data";
  const Tokenizer tokenizer = Tokenizer::load(*shared / "golden/tiny-a/model");
  std::ifstream lines(*shared / "golden/tiny-a/tokens.jsonl");
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json row = parse_json(line, "tokens.jsonl");
    const auto text = row["text"].get<std::string>();
    const Encoding got = tokenizer.encode(text);
    EXPECT_EQ(got.ids, row["ids"].get<Ids>()) << text;
    expect_offsets_cover(tokenizer, text, got);
  }
  EXPECT_EQ(count, 330);
}

void collect_strings(const Json& value, std::set<std::string>& strings) {
  if (value.is_string()) strings.insert(value.get<std::string>());
  if (value.is_structured())
    for (const Json& part : value) collect_strings(part, strings);
}

class SharedData : public ::testing::Test {
 protected:
  void SetUp() override {
    shared_ = test::shared_dir();
    if (!shared_) GTEST_SKIP() << "no shared data";
    const std::filesystem::path folder = *shared_ / "data/gpt2_bpe";
    std::vector<std::pair<std::string, std::string>> merges;
    std::ifstream lines(folder / "merges.txt");
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line))
      merges.emplace_back(line.substr(0, line.find(' ')), line.substr(line.find(' ') + 1));
    ASSERT_EQ(merges.size(), 50000u);
    oracle_ = std::make_unique<Oracle>(parse_json_file(folder / "vocab.json"), merges);
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::load(folder));
    EXPECT_EQ(tokenizer_->vocabulary_size(), 50257);
    EXPECT_EQ(tokenizer_->end_of_text(), 50256);
  }
  void expect_agreement(const std::string& text) {
    const Encoding got = tokenizer_->encode(text, SpecialTokens::as_text);
    ASSERT_EQ(got.ids, oracle_->encode(text)) << text;
    expect_offsets_cover(*tokenizer_, text, got);
  }

  std::optional<std::filesystem::path> shared_;
  std::unique_ptr<Oracle> oracle_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SharedData, EveryStringOfTheFactFilesAgreesWithTheOracle) {
  for (const char* file : {"counterfact.json", "known_facts.json", "zsre.json"}) {
    std::set<std::string> strings;
    collect_strings(parse_json_file(*shared_ / "data" / file), strings);
    EXPECT_GT(strings.size(), 1000u) << file;
    for (const std::string& text : strings) ASSERT_NO_FATAL_FAILURE(expect_agreement(text)) << file;
  }
}

TEST_F(SharedData, WikitextAgreesWithTheOracle) {
  std::istringstream lines(read_text_file(*shared_ / "data/wikitext2_test.txt"));
  for (std::string line; std::getline(lines, line);) ASSERT_NO_FATAL_FAILURE(expect_agreement(line + "\n"));
}

TEST_F(SharedData, RandomTextAgreesWithTheOracle) {
  RandomText random(13);
  for (int i = 0; i < 10000; ++i) ASSERT_NO_FATAL_FAILURE(expect_agreement(random(30)));
}

TEST_F(SharedData, TheModelsTokenizerJsonIsTheSameTokenizer) {
  EXPECT_EQ(Tokenizer::load(*shared_ / "golden/tiny-a/model").sha256(), tokenizer_->sha256());
}

}  // namespace
}  // namespace loci
