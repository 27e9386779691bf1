#include "model/token_stream.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "runtime/error.h"
#include "runtime/hdf5_checksums.h"
#include "runtime/hdf5_probe.h"

namespace loci {
namespace {

/// A batch is a fixed slice of the input: so much text, or so many documents.
constexpr std::size_t kBatchBytes = std::size_t{1} << 19;
constexpr std::size_t kBatchDocuments = 2048;

using Batch = std::vector<TextReader::Line>;

struct EncodedBatch {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> lengths;
  std::int64_t cut_documents = 0, cut_tokens = 0;
  /// Of the first document that could not be read; those before it are encoded.
  std::exception_ptr failure;
};

EncodedBatch encode_batch(const Tokenizer& tokenizer, const TextReader& reader, const TokenizeOptions& options,
                          Batch batch) {
  EncodedBatch encoded;
  try {
    for (TextReader::Line& line : batch) {
      const std::string place = reader.place_of(line);
      std::vector<std::int32_t> ids =
          encode_document(tokenizer, reader.document_of(std::move(line)), place, options.special);
      if (const auto cut = std::ssize(ids) - options.max_tokens_per_document; cut > 0) {
        ids.resize(static_cast<std::size_t>(options.max_tokens_per_document));
        ++encoded.cut_documents;
        encoded.cut_tokens += cut;
      }
      encoded.tokens.insert(encoded.tokens.end(), ids.begin(), ids.end());
      encoded.lengths.push_back(std::ssize(ids));
    }
  } catch (...) {
    encoded.failure = std::current_exception();
  }
  return encoded;
}

/// Threads that encode batches; results are taken in the order in which batches were given.
class EncoderPool {
 public:
  using Encode = std::function<EncodedBatch(Batch)>;
  EncoderPool(int threads, Encode encode) : encode_(std::move(encode)) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~EncoderPool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_workers_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  EncoderPool(const EncoderPool&) = delete;
  EncoderPool& operator=(const EncoderPool&) = delete;

  void give(Batch batch) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.emplace_back(given_++, std::move(batch));
    }
    wake_workers_.notify_one();
  }
  /// Batches given and not yet taken.
  std::int64_t in_flight() const { return given_ - taken_; }
  /// Waits for the oldest batch in flight.
  EncodedBatch take() {
    std::unique_lock lock(mutex_);
    result_ready_.wait(lock, [this] { return ready_.contains(taken_); });
    return std::move(ready_.extract(taken_++).mapped());
  }

 private:
  void work() {
    for (std::unique_lock lock(mutex_);;) {
      wake_workers_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
      if (stop_) return;
      auto [index, batch] = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      EncodedBatch result = encode_(std::move(batch));
      lock.lock();
      ready_.emplace(index, std::move(result));
      result_ready_.notify_one();
    }
  }

  const Encode encode_;
  std::mutex mutex_;
  std::condition_variable wake_workers_, result_ready_;
  std::deque<std::pair<std::int64_t, Batch>> waiting_;
  std::map<std::int64_t, EncodedBatch> ready_;
  bool stop_ = false;
  std::int64_t given_ = 0, taken_ = 0;  // touched by the calling thread alone
  std::vector<std::thread> threads_;    // last: they use all of the above
};

/// Takes batches from a reader; where reading fails, the lines before the failure still make a batch.
class BatchSource {
 public:
  explicit BatchSource(TextReader& reader) : reader_(reader) {}
  /// Empty at the end.
  Batch next() {
    Batch batch;
    std::size_t bytes = 0;
    try {
      while (!ended_ && batch.size() < kBatchDocuments && bytes < kBatchBytes) {
        TextReader::Line line;
        ended_ = !reader_.next_line(line);
        bytes += line.bytes.size();
        if (!ended_) batch.push_back(std::move(line));
      }
    } catch (...) {
      failure_ = std::current_exception();
      ended_ = true;
    }
    return batch;
  }
  bool ended() const { return ended_; }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  TextReader& reader_;
  bool ended_ = false;
  std::exception_ptr failure_;
};

void append(TokenStream& stream, EncodedBatch batch) {
  if (batch.failure) std::rethrow_exception(batch.failure);
  stream.tokens.insert(stream.tokens.end(), batch.tokens.begin(), batch.tokens.end());
  for (const std::int64_t length : batch.lengths)
    stream.document_offsets.push_back(stream.document_offsets.back() + length);
  stream.source.cut_documents += batch.cut_documents;
  stream.source.cut_tokens += batch.cut_tokens;
}

void encode_all(TokenStream& stream, const Tokenizer& tokenizer, TextReader& reader, const TokenizeOptions& options) {
  const int threads =
      options.threads > 0 ? options.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  BatchSource source(reader);
  EncoderPool pool(threads, [&](Batch batch) { return encode_batch(tokenizer, reader, options, std::move(batch)); });
  while (!source.ended() || pool.in_flight() > 0) {
    if (!source.ended() && pool.in_flight() < 2 * threads + 2) {
      if (Batch batch = source.next(); !batch.empty()) pool.give(std::move(batch));
      continue;
    }
    append(stream, pool.take());
    if (options.progress)
      options.progress({stream.documents(), std::ssize(stream.tokens), reader.bytes_read(), reader.total_bytes()});
  }
  source.rethrow();
}

}  // namespace

std::vector<std::int32_t> encode_document(const Tokenizer& tokenizer, std::string_view document,
                                          const std::string& place, SpecialTokens special) {
  try {
    return tokenizer.encode_ids(document, special);
  } catch (const InputError& error) {
    throw_error<InputError>("{}: {}", place, error.what());
  }
}

TokenStream tokenize(const Tokenizer& tokenizer, TextReader& reader, const TokenizeOptions& options) {
  require<InputError>(options.max_tokens_per_document >= 1,
                      "a document must keep at least one token, not {}: raise the limit",
                      options.max_tokens_per_document);
  require<InputError>(reader.documents_read() == 0, "{}: {} documents were read before: open the text anew",
                      reader.path().string(), reader.documents_read());
  TokenStream stream;
  encode_all(stream, tokenizer, reader, options);
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

void require_tokenizer(const TokenStream& stream, const Tokenizer& tokenizer, const std::filesystem::path& path) {
  const std::string expected = tokenizer.sha256();
  require<InputError>(
      stream.source.tokenizer_sha256 == expected,
      "{}: was made by another tokenizer (attribute tokenizer_sha256 is {}, the model's is {}): tokenize the "
      "text with this model",
      path.string(), stream.source.tokenizer_sha256, expected);
}

}  // namespace loci
