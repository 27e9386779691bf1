#pragma once

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/tokenizer_files.h"
#include "runtime/json.h"

namespace loci::test {

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
