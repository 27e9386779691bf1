#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <vector>

#include "model/text/tokenizer.h"
#include "runtime/error.h"
#include "runtime/io/text_reader.h"
#include "runtime/thread_pool.h"

namespace loci {

/// A document's token ids, or why it has none: a sentence that its place in the file leads.
struct EncodedDocument {
  std::vector<std::int32_t> ids;
  std::optional<InputError> fault;
};

/// Tokenises the documents of a text, in the file's order. The threads of a pool share the documents of a batch; what
/// comes out depends on neither threads nor batches.
class DocumentEncoder {
 public:
  /// A fresh reader; all must outlive the encoder.
  DocumentEncoder(ThreadPool& threads, const Tokenizer& tokenizer, TextReader& reader,
                  SpecialTokens special = SpecialTokens::parse)
      : threads_(threads), tokenizer_(tokenizer), reader_(reader), special_(special) {}

  /// The next documents, some half a megabyte of text; none after the last. What makes the file unreadable is thrown
  /// when all documents before it have been handed out.
  std::vector<EncodedDocument> next_batch();

 private:
  std::vector<TextReader::Line> read_lines();
  EncodedDocument encode(TextReader::Line line) const;

  ThreadPool& threads_;
  const Tokenizer& tokenizer_;
  TextReader& reader_;
  SpecialTokens special_;
  bool ended_ = false;
  std::exception_ptr failure_;
};

}  // namespace loci
