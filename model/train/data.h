#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/text/tokenizer.h"
#include "model/train/config.h"
#include "runtime/context.h"

namespace loci {

/// What random numbers are drawn for; each purpose has streams of its own (runtime/random.h).
enum class RandomPurpose : uint64_t { initialisation = 1, hold_out, epoch, mlp_drop, attention_cut, name_mlp_drop };

/// The stream number of the index-th stream for a purpose.
constexpr uint64_t random_stream(RandomPurpose purpose, uint64_t index) {
  return (static_cast<uint64_t>(purpose) << 56) | index;
}

/// Tokens [begin, end) of a sequence.
struct TokenSpan {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const TokenSpan&) const = default;
};

/// Tokens, and where the subjects stand in them (ascending, not overlapping).
struct TrainingSequence {
  std::vector<int32_t> tokens;
  std::vector<TokenSpan> subjects;

  int64_t size() const { return std::ssize(tokens); }
  bool operator==(const TrainingSequence&) const = default;
};

/// A text and the bytes in which its subjects stand.
struct Document {
  std::string text;
  std::vector<ByteRange> subjects;
};

/// Tokenised documents.
struct Corpus {
  std::vector<TrainingSequence> alone;   ///< each document as it stands at the start of a sequence
  std::vector<TrainingSequence> joined;  ///< the separator and the document; empty where documents are never joined

  size_t size() const { return alone.size(); }
  int64_t tokens() const;
  /// Hash of all tokens: equal for equal training data, wherever it was read from.
  std::string sha256() const;
};

/// Reads the files (runtime/io/text_reader.h) and tokenises their documents. JSON lines may hold `subjects`, a list of
/// [begin, end) in bytes. InputError for a file without any document, and for subjects outside their text.
Corpus read_corpus(Context& context, const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                   const SequenceOptions& options);
Corpus tokenize_corpus(Context& context, const Tokenizer& tokenizer, std::span<const Document> documents,
                       const SequenceOptions& options);

/// Takes a fraction of the documents, drawn by seed, out of `corpus` and returns them: at least one where fraction > 0.
Corpus hold_out(Corpus& corpus, double fraction, uint64_t seed);

/// Makes the sequences of each epoch. They are a function of (corpus, options, seed, epoch) alone.
class SequenceMaker {
 public:
  /// `end_of_text` may be -1 where the options never ask for it. max_tokens >= 2 is the longest sequence.
  SequenceMaker(const Corpus& corpus, SequenceOptions options, int32_t end_of_text, int64_t max_tokens, uint64_t seed);

  /// All documents once, shuffled, joined and cut; each sequence has 2 to max_tokens tokens.
  std::vector<TrainingSequence> epoch(int64_t number) const;
  /// All documents alone, in order, cut: for validation.
  std::vector<TrainingSequence> plain() const;

 private:
  void append_cut(TrainingSequence whole, std::vector<TrainingSequence>& sequences) const;

  const Corpus& corpus_;
  SequenceOptions options_;
  int32_t end_of_text_;
  int64_t max_tokens_;
  uint64_t seed_;
};

/// Cuts sequences into runs of at most `tokens` tokens, in order; one longer than that is a run alone. Returns where
/// each run starts, and after the last their number.
std::vector<size_t> cut_into_runs(std::span<const TrainingSequence> sequences, int64_t tokens);

}  // namespace loci
