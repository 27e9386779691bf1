#include "model/training_data.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "runtime/atomic_file.h"
#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/random.h"
#include "runtime/sha256.h"

namespace loci {
namespace {

std::vector<size_t> shuffled(size_t count, Random& random) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);  // Fisher & Yates
  return order;
}

void append(const std::vector<int32_t>& tokens, std::vector<int32_t>& to) {
  to.insert(to.end(), tokens.begin(), tokens.end());
}

/// The documents of a text file: one a line, or the field `text` of JSON lines.
std::vector<std::string> read_documents(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  const bool json = path.extension() == ".jsonl";
  std::vector<std::string> documents;
  int64_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string document = text.substr(begin, end - begin);
    begin = end + 1;
    ++line;
    if (document.empty()) continue;
    const std::string where = fmt::format("{} line {}", path.string(), line);
    documents.push_back(json ? json_string(parse_json(document, where), "text", where) : document);
  }
  require<InputError>(!documents.empty(), "{}: the file holds no document", path.string());
  return documents;
}

}  // namespace

Corpus read_corpus(Context& context, const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                   const SequenceOptions& options) {
  std::vector<std::string> documents;
  for (const auto& file : files)
    for (std::string& document : read_documents(file)) documents.push_back(std::move(document));
  return tokenize_corpus(context, tokenizer, documents, options);
}

int64_t Corpus::tokens() const {
  int64_t total = 0;
  for (const auto& document : alone) total += static_cast<int64_t>(document.size());
  return total;
}

std::string Corpus::sha256() const {
  Sha256 hash;
  for (const auto* list : {&alone, &joined})
    for (const auto& document : *list) {
      const auto length = static_cast<int64_t>(document.size());
      hash.update(std::as_bytes(std::span(&length, 1))).update(std::as_bytes(std::span(document)));
    }
  return hash.hex();
}

Corpus tokenize_corpus(Context& context, const Tokenizer& tokenizer, std::span<const std::string> documents,
                       const SequenceOptions& options) {
  const bool joins = options.join_most > 1 && options.join_probability > 0;
  Corpus corpus;
  corpus.alone.resize(documents.size());
  if (joins) corpus.joined.resize(documents.size());
  context.threads().parallel_for(static_cast<int64_t>(documents.size()), 64, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      corpus.alone[i] = tokenizer.encode_ids(documents[i]);
      if (joins) corpus.joined[i] = tokenizer.encode_ids(options.join_separator + documents[i]);
    }
  });
  return corpus;
}

Corpus hold_out(Corpus& corpus, double fraction, uint64_t seed) {
  Corpus held;
  if (fraction <= 0 || corpus.size() < 2) return held;
  const auto wanted = static_cast<size_t>(std::llround(fraction * static_cast<double>(corpus.size())));
  const size_t count = std::clamp<size_t>(wanted, 1, corpus.size() - 1);
  Random random(seed, random_stream(RandomPurpose::hold_out, 0));
  const std::vector<size_t> order = shuffled(corpus.size(), random);
  const std::set<size_t> chosen(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count));
  for (const auto list : {&Corpus::alone, &Corpus::joined}) {
    if ((corpus.*list).empty()) continue;
    std::vector<std::vector<int32_t>> rest;
    for (size_t i = 0; i < (corpus.*list).size(); ++i)
      (chosen.contains(i) ? held.*list : rest).push_back(std::move((corpus.*list)[i]));
    corpus.*list = std::move(rest);
  }
  return held;
}

SequenceMaker::SequenceMaker(const Corpus& corpus, SequenceOptions options, int32_t end_of_text, int64_t max_tokens,
                             uint64_t seed)
    : corpus_(corpus), options_(std::move(options)), end_of_text_(end_of_text), max_tokens_(max_tokens), seed_(seed) {
  require<InputError>(max_tokens_ >= 2, "sequences of {} tokens leave nothing to predict", max_tokens_);
  require<InputError>(
      end_of_text_ >= 0 || (options_.endoftext_before == 0 && !options_.endoftext_after),
      "the tokenizer has no <|endoftext|>: set \"endoftext_after\" to false and \"endoftext_before\" to 0");
}

/// Pieces of max_tokens; each piece but the first starts with the last token of the one before it, so that every token
/// is predicted once.
void SequenceMaker::append_cut(std::vector<int32_t> tokens, std::vector<std::vector<int32_t>>& sequences) const {
  const auto size = static_cast<int64_t>(tokens.size());
  if (size >= 2 && size <= max_tokens_) {
    sequences.push_back(std::move(tokens));
    return;
  }
  for (int64_t begin = 0; begin + 1 < size; begin += max_tokens_ - 1)
    sequences.emplace_back(tokens.begin() + begin, tokens.begin() + std::min(begin + max_tokens_, size));
}

std::vector<std::vector<int32_t>> SequenceMaker::epoch(int64_t number) const {
  Random random(seed_, random_stream(RandomPurpose::epoch, static_cast<uint64_t>(number)));
  const std::vector<size_t> order = shuffled(corpus_.size(), random);
  const int64_t room = options_.endoftext_after ? max_tokens_ - 1 : max_tokens_;
  std::vector<std::vector<int32_t>> sequences;
  std::vector<int32_t> tokens;
  int64_t documents = 0;
  const auto finish = [&] {
    if (tokens.empty()) return;
    if (options_.endoftext_after) tokens.push_back(end_of_text_);
    append_cut(std::move(tokens), sequences);
    tokens.clear();
  };
  for (const size_t i : order) {
    const bool fits = !corpus_.joined.empty() && documents > 0 && documents < options_.join_most &&
                      static_cast<int64_t>(tokens.size() + corpus_.joined[i].size()) <= room;
    // One draw a document, whether it can be joined or not, keeps the stream the same for all lengths.
    if (random.uniform() < options_.join_probability && fits) {
      append(corpus_.joined[i], tokens);
      ++documents;
      continue;
    }
    finish();
    if (random.uniform() < options_.endoftext_before) tokens.push_back(end_of_text_);
    append(corpus_.alone[i], tokens);
    documents = 1;
  }
  finish();
  return sequences;
}

std::vector<std::vector<int32_t>> SequenceMaker::plain() const {
  std::vector<std::vector<int32_t>> sequences;
  for (const auto& document : corpus_.alone) {
    std::vector<int32_t> tokens = document;
    if (options_.endoftext_after) tokens.push_back(end_of_text_);
    append_cut(std::move(tokens), sequences);
  }
  return sequences;
}

std::vector<size_t> cut_into_runs(std::span<const std::vector<int32_t>> sequences, int64_t tokens) {
  std::vector<size_t> starts = {0};
  int64_t filled = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto size = static_cast<int64_t>(sequences[i].size());
    if (filled > 0 && filled + size > tokens) {
      starts.push_back(i);
      filled = 0;
    }
    filled += size;
  }
  if (!sequences.empty()) starts.push_back(sequences.size());
  return starts;
}

}  // namespace loci
