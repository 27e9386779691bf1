#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/text/tokenizer.h"
#include "runtime/io/json.h"
#include "runtime/io/text_reader.h"
#include "runtime/jobs/provenance.h"
#include "runtime/thread_pool.h"

namespace loci {

/// Which text a token stream was made of, and how.
struct TokenStreamSource {
  std::string tokenizer_sha256;
  std::int64_t vocabulary = 0;
  /// File name, SHA-256 and size in bytes of the text as it lies on disk.
  std::string file;
  std::string sha256;
  std::int64_t bytes = 0;
  /// Tokenizer::kNoLimit where documents were not cut.
  std::int64_t max_tokens_per_document = Tokenizer::kNoLimit;
  /// Documents that were longer, and the tokens that they lost.
  std::int64_t cut_documents = 0;
  std::int64_t cut_tokens = 0;
};

/// Documents as token ids, one after the other.
struct TokenStream {
  std::vector<std::int32_t> tokens;
  /// Document i holds tokens [offsets[i], offsets[i + 1]); documents + 1 entries, the first 0.
  std::vector<std::int64_t> document_offsets{0};
  TokenStreamSource source;

  std::int64_t documents() const { return std::ssize(document_offsets) - 1; }
  std::span<const std::int32_t> document(std::int64_t index) const {
    return std::span(tokens).subspan(static_cast<std::size_t>(document_offsets[index]),
                                     static_cast<std::size_t>(document_offsets[index + 1] - document_offsets[index]));
  }
};

struct TokenizeProgress {
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::int64_t bytes_read = 0;
  std::int64_t total_bytes = 0;
};

struct TokenizeOptions {
  /// Each document keeps its first tokens up to this many (>= 1).
  std::int64_t max_tokens_per_document = Tokenizer::kNoLimit;
  SpecialTokens special = SpecialTokens::parse;
  /// Called on the calling thread now and then; may be empty.
  std::function<void(const TokenizeProgress&)> progress;
};

/// Encodes all documents of a fresh reader. An unreadable document ends it with the InputError of the first one in the
/// file's order. Holds the tokens and a few megabytes of text in memory.
TokenStream tokenize(ThreadPool& threads, const Tokenizer& tokenizer, TextReader& reader,
                     const TokenizeOptions& options = {});

/// Writes datasets `tokens` (int32) and `document_offsets` (int64) and the source as attributes into an open file.
void write_token_stream(H5File& file, const TokenStream& stream);

/// The same with configuration and provenance; `path` is replaced whole or not at all.
void write_token_stream(const std::filesystem::path& path, const TokenStream& stream, const Json& config,
                        const Provenance& provenance);

/// Reads it back and checks it: InputError naming file and dataset for offsets that do not fit and tokens outside the
/// vocabulary.
TokenStream read_token_stream(const std::filesystem::path& path);

}  // namespace loci
