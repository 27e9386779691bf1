#include "model/text/documents.h"

#include <string>
#include <utility>

namespace loci {
namespace {

constexpr std::size_t kBatchBytes = std::size_t{1} << 19;
constexpr std::size_t kBatchLines = 2048;

}  // namespace

std::vector<TextReader::Line> DocumentEncoder::read_lines() {
  std::vector<TextReader::Line> lines;
  std::size_t bytes = 0;
  try {
    while (!ended_ && lines.size() < kBatchLines && bytes < kBatchBytes) {
      TextReader::Line line;
      ended_ = !reader_.next_line(line);
      bytes += line.bytes.size();
      if (!ended_) lines.push_back(std::move(line));
    }
  } catch (...) {
    failure_ = std::current_exception();
    ended_ = true;
  }
  return lines;
}

EncodedDocument DocumentEncoder::encode(TextReader::Line line) const {
  const std::string place = reader_.place_of(line);
  std::string document;
  try {
    document = reader_.document_of(std::move(line));
  } catch (const InputError& error) {
    return {{}, error};
  }
  try {
    return {tokenizer_.encode_ids(document, special_), {}};
  } catch (const InputError& error) {
    return {{}, InputError(fmt::format("{}: {}", place, error.what()))};
  }
}

std::vector<EncodedDocument> DocumentEncoder::next_batch() {
  std::vector<TextReader::Line> lines = read_lines();
  if (lines.empty() && failure_) std::rethrow_exception(failure_);
  std::vector<EncodedDocument> documents(lines.size());
  threads_.parallel_tasks(std::ssize(lines), [&](TaskQueue& queue) {
    while (const auto i = queue.take()) documents[*i] = encode(std::move(lines[*i]));
  });
  return documents;
}

}  // namespace loci
