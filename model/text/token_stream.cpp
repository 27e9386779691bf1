#include "model/text/token_stream.h"

#include <algorithm>

#include "model/text/documents.h"
#include "runtime/error.h"
#include "runtime/io/hdf5_checksums.h"
#include "runtime/io/hdf5_probe.h"

namespace loci {
namespace {

/// Adds a document, without what is beyond the limit.
void append(TokenStream& stream, std::span<const std::int32_t> ids, std::int64_t limit) {
  if (const auto cut = std::ssize(ids) - limit; cut > 0) {
    ids = ids.first(static_cast<std::size_t>(limit));
    ++stream.source.cut_documents;
    stream.source.cut_tokens += cut;
  }
  stream.tokens.insert(stream.tokens.end(), ids.begin(), ids.end());
  stream.document_offsets.push_back(std::ssize(stream.tokens));
}

}  // namespace

TokenStream tokenize(ThreadPool& threads, const Tokenizer& tokenizer, TextReader& reader,
                     const TokenizeOptions& options) {
  require<InputError>(options.max_tokens_per_document >= 1,
                      "a document must keep at least one token, not {}: raise the limit",
                      options.max_tokens_per_document);
  require<InputError>(reader.documents_read() == 0, "{}: {} documents were read before: open the text anew",
                      reader.path().string(), reader.documents_read());
  TokenStream stream;
  DocumentEncoder encoder(threads, tokenizer, reader, options.special);
  for (auto batch = encoder.next_batch(); !batch.empty(); batch = encoder.next_batch()) {
    for (const EncodedDocument& document : batch) {
      if (document.fault) throw *document.fault;
      append(stream, document.ids, options.max_tokens_per_document);
    }
    if (options.progress)
      options.progress({stream.documents(), std::ssize(stream.tokens), reader.bytes_read(), reader.total_bytes()});
  }
  stream.source = {.tokenizer_sha256 = tokenizer.sha256(),
                   .vocabulary = tokenizer.vocabulary_size(),
                   .file = reader.path().filename().string(),
                   .sha256 = reader.sha256(),
                   .bytes = reader.total_bytes(),
                   .max_tokens_per_document = options.max_tokens_per_document,
                   .cut_documents = stream.source.cut_documents,
                   .cut_tokens = stream.source.cut_tokens};
  return stream;
}

void write_token_stream(H5File& file, const TokenStream& stream) {
  const TokenStreamSource& source = stream.source;
  write_dataset(file, "/tokens", stream.tokens, {std::ssize(stream.tokens)},
                {.units = "1", .long_name = "token ids of all documents, one after the other"});
  write_dataset(file, "/document_offsets", stream.document_offsets, {std::ssize(stream.document_offsets)},
                {.units = "1", .long_name = "first token of each document, and the number of tokens"});
  write_attribute(file, "/", "kind", "tokens");
  write_attribute(file, "/", "tokenizer_sha256", source.tokenizer_sha256);
  write_attribute(file, "/", "vocabulary", source.vocabulary);
  write_attribute(file, "/", "source_file", source.file);
  write_attribute(file, "/", "source_sha256", source.sha256);
  write_attribute(file, "/", "source_bytes", source.bytes);
  if (source.max_tokens_per_document == Tokenizer::kNoLimit) return;
  write_attribute(file, "/", "max_tokens_per_document", source.max_tokens_per_document);
  write_attribute(file, "/", "cut_documents", source.cut_documents);
  write_attribute(file, "/", "cut_tokens", source.cut_tokens);
}

void write_token_stream(const std::filesystem::path& path, const TokenStream& stream, const Json& config,
                        const Provenance& provenance) {
  write_result_atomically(path, [&](H5File& file) {
    write_token_stream(file, stream);
    write_provenance(file, config, provenance);
  });
}

namespace {

void check_stream(const TokenStream& stream, const std::string& path) {
  const std::vector<std::int64_t>& offsets = stream.document_offsets;
  const auto count = std::ssize(stream.tokens);
  require<InputError>(
      !offsets.empty() && offsets.front() == 0 && offsets.back() == count && std::ranges::is_sorted(offsets),
      "{}: dataset document_offsets must rise from 0 to the number of tokens, {}: tokenize the text anew", path, count);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t token = stream.tokens[i];
    if (token < 0 || token >= stream.source.vocabulary)
      throw_error<InputError>(
          "{}: dataset tokens: element {} is {}, outside the vocabulary of {}: tokenize the text anew", path, i, token,
          stream.source.vocabulary);
  }
}

}  // namespace

TokenStream read_token_stream(const std::filesystem::path& path) {
  probe_hdf5(path);
  const H5File file = H5File::open_read(path);
  require<InputError>(
      h5_exists(file, "/tokens") && h5_exists(file, "/document_offsets") &&
          has_attribute(file, "/", "tokenizer_sha256"),
      "{}: is not a token stream (tokens, document_offsets, tokenizer_sha256): make one with `loci tokenize`",
      path.string());
  TokenStream stream;
  stream.source.tokenizer_sha256 = read_string_attribute(file, "/", "tokenizer_sha256");
  stream.source.vocabulary = read_int_attribute(file, "/", "vocabulary");
  stream.source.file = read_string_attribute(file, "/", "source_file");
  stream.source.sha256 = read_string_attribute(file, "/", "source_sha256");
  stream.source.bytes = read_int_attribute(file, "/", "source_bytes");
  if (has_attribute(file, "/", "max_tokens_per_document"))
    stream.source.max_tokens_per_document = read_int_attribute(file, "/", "max_tokens_per_document");
  if (has_attribute(file, "/", "cut_tokens")) {
    stream.source.cut_documents = read_int_attribute(file, "/", "cut_documents");
    stream.source.cut_tokens = read_int_attribute(file, "/", "cut_tokens");
  }
  stream.tokens = read_dataset<std::int32_t>(file, "/tokens", {kAnyExtent}).values;
  stream.document_offsets = read_dataset<std::int64_t>(file, "/document_offsets", {kAnyExtent}).values;
  check_stream(stream, path.string());
  return stream;
}

}  // namespace loci
