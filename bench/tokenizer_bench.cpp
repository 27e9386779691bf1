// Megabytes of text that one core encodes in a second, as JSON: the counterpart of bench/peers/tokenize_text.py.
//   tokenizer_bench MODEL TEXT [REPEATS]
// `lines`: each line of the text is a document; `whole`: all of it is one. The tokens and their checksum are there to
// be compared with the peer's.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "model/text/tokenizer.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"

namespace {

using namespace loci;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

Json measure(const Tokenizer& tokenizer, const std::vector<std::string>& documents, int repeats) {
  std::vector<double> seconds;
  int64_t bytes = 0, tokens = 0;
  uint64_t checksum = 0;
  for (const std::string& document : documents) {
    bytes += std::ssize(document);
    for (const int32_t id : tokenizer.encode_ids(document)) {
      checksum = (checksum * 31 + static_cast<uint64_t>(id)) % 1'000'000'007;
      ++tokens;
    }
  }
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    int64_t again = 0;
    for (const std::string& document : documents) again += std::ssize(tokenizer.encode_ids(document));
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    require<NumericalError>(again == tokens, "the text gave another number of tokens");
  }
  std::ranges::sort(seconds);
  return {{"tokens", tokens},
          {"checksum", checksum},
          {"megabytes_per_second", static_cast<double>(bytes) / 1e6 / seconds[seconds.size() / 2]},
          {"fastest", static_cast<double>(bytes) / 1e6 / seconds[0]}};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    require<InputError>(argc == 3 || argc == 4, "use tokenizer_bench MODEL TEXT [REPEATS]");
    const int repeats = argc == 4 ? std::max(1, std::atoi(argv[3])) : 5;
    const Tokenizer tokenizer = Tokenizer::load(argv[1]);
    const std::string text = read_text_file(argv[2]);
    const Json result = {{"lines", measure(tokenizer, lines_of(text), repeats)},
                         {"whole", measure(tokenizer, {text}, repeats)}};
    fmt::print("{}\n", result.dump(1));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "tokenizer_bench: {}\n", error.what());
    return 2;
  }
}
