#include "model/train/data.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <set>

#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/io/sha256.h"
#include "runtime/io/text_reader.h"
#include "runtime/random.h"

namespace loci {
namespace {

std::vector<size_t> shuffled(size_t count, Random& random) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);  // Fisher & Yates
  return order;
}

/// [[begin, end], ...] in bytes of a text, ascending.
std::vector<ByteRange> subjects_from_json(const Json& object, int64_t text_size, const std::string& where) {
  std::vector<ByteRange> subjects;
  if (!json_has(object, "subjects")) return subjects;
  int64_t before = 0;
  for (const Json& range : json_array(object, "subjects", where)) {
    require<InputError>(
        range.is_array() && range.size() == 2 && range[0].is_number_integer() && range[1].is_number_integer(),
        "{}: field \"subjects\" must hold pairs [begin, end] of byte positions", where);
    const ByteRange made{range[0].get<int64_t>(), range[1].get<int64_t>()};
    require<InputError>(made.begin >= before && made.begin < made.end && made.end <= text_size,
                        "{}: the subject [{}, {}] is empty, outside the text or not after the one before it", where,
                        made.begin, made.end);
    before = made.end;
    subjects.push_back(made);
  }
  return subjects;
}

std::vector<Document> read_documents(const std::filesystem::path& path) {
  TextReader reader(path);
  std::vector<Document> documents;
  for (TextReader::Line line; reader.next_line(line);) {
    Document document;
    if (reader.format() == TextFormat::json_lines) {
      const std::string where = fmt::format("{}: line {}", path.string(), line.number);
      const Json object = reader.record_of(line);
      document.text = json_string(object, "text", where);
      document.subjects = subjects_from_json(object, std::ssize(document.text), where);
    } else {
      document.text = reader.document_of(std::move(line));
    }
    if (!document.text.empty()) documents.push_back(std::move(document));
  }
  require<InputError>(!documents.empty(), "{}: the file holds no document", path.string());
  return documents;
}

/// Tokenises prefix + document. A subject's tokens are those that overlap its bytes.
TrainingSequence encode(const Tokenizer& tokenizer, const std::string& prefix, const Document& document) {
  Encoding encoding = tokenizer.encode(prefix + document.text);
  TrainingSequence made{.tokens = std::move(encoding.ids), .subjects = {}};
  const auto shift = std::ssize(prefix);
  int64_t token = 0;
  const auto count = std::ssize(encoding.offsets);
  for (const ByteRange& subject : document.subjects) {
    while (token < count && encoding.offsets[token].end <= subject.begin + shift) ++token;
    TokenSpan span{token, token};
    while (span.end < count && encoding.offsets[span.end].begin < subject.end + shift) ++span.end;
    token = span.end;
    if (span.begin < span.end) made.subjects.push_back(span);
  }
  return made;
}

/// Appends `from` to `to`.
void append(const TrainingSequence& from, TrainingSequence& to) {
  const int64_t shift = to.size();
  to.tokens.insert(to.tokens.end(), from.tokens.begin(), from.tokens.end());
  for (const TokenSpan& span : from.subjects) to.subjects.push_back({span.begin + shift, span.end + shift});
}

/// Tokens [begin, end) with what lies in them of the subjects.
TrainingSequence piece(const TrainingSequence& whole, int64_t begin, int64_t end) {
  TrainingSequence made;
  made.tokens.assign(whole.tokens.begin() + begin, whole.tokens.begin() + end);
  for (const TokenSpan& span : whole.subjects) {
    const TokenSpan inside{std::max(span.begin, begin) - begin, std::min(span.end, end) - begin};
    if (inside.begin < inside.end) made.subjects.push_back(inside);
  }
  return made;
}

}  // namespace

Corpus read_corpus(Context& context, const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                   const SequenceOptions& options) {
  std::vector<Document> documents;
  for (const auto& file : files) {
    std::vector<Document> more = read_documents(file);
    std::move(more.begin(), more.end(), std::back_inserter(documents));
  }
  return tokenize_corpus(context, tokenizer, documents, options);
}

int64_t Corpus::tokens() const {
  int64_t total = 0;
  for (const TrainingSequence& document : alone) total += document.size();
  return total;
}

std::string Corpus::sha256() const {
  Sha256 hash;
  const auto add_count = [&](int64_t count) { hash.update(std::as_bytes(std::span(&count, 1))); };
  for (const auto* list : {&alone, &joined})
    for (const TrainingSequence& document : *list) {
      add_count(document.size());
      hash.update(std::as_bytes(std::span(document.tokens)));
      add_count(std::ssize(document.subjects));
      hash.update(std::as_bytes(std::span(document.subjects)));
    }
  return hash.hex();
}

Corpus tokenize_corpus(Context& context, const Tokenizer& tokenizer, std::span<const Document> documents,
                       const SequenceOptions& options) {
  const bool joins = options.join_most > 1 && options.join_probability > 0;
  Corpus corpus;
  corpus.alone.resize(documents.size());
  if (joins) corpus.joined.resize(documents.size());
  context.threads().parallel_for(std::ssize(documents), 64, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      corpus.alone[i] = encode(tokenizer, "", documents[i]);
      if (joins) corpus.joined[i] = encode(tokenizer, options.join_separator, documents[i]);
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
    std::vector<TrainingSequence> rest;
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
void SequenceMaker::append_cut(TrainingSequence whole, std::vector<TrainingSequence>& sequences) const {
  if (whole.size() >= 2 && whole.size() <= max_tokens_) {
    sequences.push_back(std::move(whole));
    return;
  }
  for (int64_t begin = 0; begin + 1 < whole.size(); begin += max_tokens_ - 1)
    sequences.push_back(piece(whole, begin, std::min(begin + max_tokens_, whole.size())));
}

std::vector<TrainingSequence> SequenceMaker::epoch(int64_t number) const {
  Random random(seed_, random_stream(RandomPurpose::epoch, static_cast<uint64_t>(number)));
  const std::vector<size_t> order = shuffled(corpus_.size(), random);
  const int64_t room = options_.endoftext_after ? max_tokens_ - 1 : max_tokens_;
  std::vector<TrainingSequence> sequences;
  TrainingSequence current;
  int64_t documents = 0;
  const auto finish = [&] {
    if (documents == 0) return;
    if (options_.endoftext_after) current.tokens.push_back(end_of_text_);
    append_cut(std::move(current), sequences);
    current = {};
  };
  for (const size_t i : order) {
    const bool fits = !corpus_.joined.empty() && documents > 0 && documents < options_.join_most &&
                      current.size() + corpus_.joined[i].size() <= room;
    // One draw a document, whether it can be joined or not, keeps the stream the same for all lengths.
    if (random.uniform() < options_.join_probability && fits) {
      append(corpus_.joined[i], current);
      ++documents;
      continue;
    }
    finish();
    if (random.uniform() < options_.endoftext_before) current.tokens.push_back(end_of_text_);
    append(corpus_.alone[i], current);
    documents = 1;
  }
  finish();
  return sequences;
}

std::vector<TrainingSequence> SequenceMaker::plain() const {
  std::vector<TrainingSequence> sequences;
  for (const TrainingSequence& document : corpus_.alone) {
    TrainingSequence whole = document;
    if (options_.endoftext_after) whole.tokens.push_back(end_of_text_);
    append_cut(std::move(whole), sequences);
  }
  return sequences;
}

std::vector<size_t> cut_into_runs(std::span<const TrainingSequence> sequences, int64_t tokens) {
  std::vector<size_t> starts = {0};
  int64_t filled = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (filled > 0 && filled + sequences[i].size() > tokens) {
      starts.push_back(i);
      filled = 0;
    }
    filled += sequences[i].size();
  }
  if (!sequences.empty()) starts.push_back(sequences.size());
  return starts;
}

}  // namespace loci
