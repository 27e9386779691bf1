#pragma once

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/text/tokenizer.h"
#include "model/text/tokenizer_files.h"
#include "runtime/io/json.h"
#include "runtime/utf8.h"

namespace loci::test {

/// The patterns of `Split` in these families' tokenizer.json.
inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Random characters: ASCII, spaces of every kind, what patterns tell apart, neighbours in one block, anything.
class RandomText {
 public:
  explicit RandomText(std::uint32_t seed) : random_(seed) {}
  std::string operator()(int max_length) {
    static const std::u32string kSpaces =
        U" \t\n\r\v\f\u0085\u00A0\u1680\u2003\u2028\u2029\u202F\u205F\u3000\u180E\u200B\uFEFF";
    static const std::u32string kTelling = U"'strvemlld '' ''sS012\u00B2\u00BD\u0661\u2160\u4E00\u00E9e\u0301";
    std::string text;
    for (int length = below(max_length + 1); length > 0; --length) {
      const int kind = below(6);
      if (kind == 0)
        utf8::append(text, kSpaces[below(static_cast<int>(kSpaces.size()))]);
      else if (kind == 1)
        utf8::append(text, kTelling[below(static_cast<int>(kTelling.size()))]);
      else if (kind <= 3)
        utf8::append(text, static_cast<char32_t>(below(128)));
      else
        utf8::append(text, any_below(kind == 4 ? 0x3000 : 0x33000));
    }
    return text;
  }
  int below(int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(random_); }

 private:
  char32_t any_below(int limit) {
    const int code = below(limit);
    return code >= 0xD800 && code <= 0xDFFF ? U'\uFFFD' : static_cast<char32_t>(code);
  }
  std::mt19937 random_;
};

/// The 256 characters that spell bytes, written down once more, apart from the code under test.
inline std::vector<std::string> byte_spellings() {
  std::vector<std::string> result(256);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (33 <= byte && byte <= 126) || (161 <= byte && byte <= 172) || (174 <= byte && byte <= 255);
    const int code = printable ? byte : next++;
    if (code < 0x80) {
      result[byte] = std::string(1, static_cast<char>(code));
    } else {
      result[byte] = {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return result;
}

inline std::string spelled(std::string_view bytes) {
  static const std::vector<std::string> spellings = byte_spellings();
  std::string result;
  for (const char byte : bytes) result += spellings[static_cast<unsigned char>(byte)];
  return result;
}

/// A vocabulary of the 256 bytes (id = byte) and the given merges of bytes, in order, then `<|endoftext|>`.
struct SmallTokenizer {
  Json vocabulary = Json::object();
  std::vector<std::pair<std::string, std::string>> merges;  // spelled

  explicit SmallTokenizer(const std::vector<std::pair<std::string, std::string>>& merges_of_bytes = {}) {
    for (int byte = 0; byte < 256; ++byte) vocabulary[byte_spellings()[byte]] = byte;
    for (const auto& [left, right] : merges_of_bytes) {
      merges.emplace_back(spelled(left), spelled(right));
      vocabulary.emplace(spelled(left + right), vocabulary.size());
    }
    vocabulary["<|endoftext|>"] = vocabulary.size();
  }

  std::string merges_text() const {
    std::string text = "#version: 0.2\n";
    for (const auto& [left, right] : merges) text += left + " " + right + "\n";
    return text;
  }
  TokenizerFiles files() const {
    TokenizerFiles files;
    files.folder = "small";
    files.vocab_json = vocabulary.dump();
    files.merges_txt = merges_text();
    return files;
  }
  Json tokenizer_json() const {
    Json list = Json::array();
    for (const auto& [left, right] : merges) list.push_back(left + " " + right);
    const Json end_of_text = {{"id", vocabulary["<|endoftext|>"]}, {"content", "<|endoftext|>"}, {"special", true}};
    return {{"version", "1.0"},
            {"normalizer", nullptr},
            {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
            {"post_processor", nullptr},
            {"added_tokens", Json::array({end_of_text})},
            {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", list}}}};
  }
};

/// The tokenizer of one file, and of tokenizer_config.json where there is one.
inline Tokenizer tokenizer_of(const Json& root, const Json& config = nullptr) {
  TokenizerFiles files;
  files.folder = "small";
  files.tokenizer_json = root.dump();
  if (!config.is_null()) files.tokenizer_config_json = config.dump();
  return Tokenizer(parse_tokenizer(files));
}

/// Merges learnt from a text in the textbook's way: again and again the pair of neighbours that is most frequent.
inline std::vector<std::pair<std::string, std::string>> learn_merges(const std::vector<std::string>& words, int count) {
  std::vector<std::vector<std::string>> split;
  for (const std::string& word : words) {
    split.emplace_back();
    for (const char byte : word) split.back().emplace_back(1, byte);
  }
  std::vector<std::pair<std::string, std::string>> merges;
  for (int round = 0; round < count; ++round) {
    std::map<std::pair<std::string, std::string>, int> pairs;
    for (const auto& word : split)
      for (std::size_t i = 0; i + 1 < word.size(); ++i) ++pairs[{word[i], word[i + 1]}];
    if (pairs.empty()) break;
    const auto best =
        std::max_element(pairs.begin(), pairs.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
    merges.push_back(best);
    for (auto& word : split)
      for (std::size_t i = 0; i + 1 < word.size(); ++i)
        if (word[i] == best.first && word[i + 1] == best.second) {
          word[i] += word[i + 1];
          word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
  }
  return merges;
}

}  // namespace loci::test
