#include "edit/document_source.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "model/token_stream.h"
#include "runtime/error.h"
#include "runtime/hdf5.h"
#include "runtime/hdf5_probe.h"
#include "runtime/text_reader.h"

namespace loci {
namespace {

// Lines that are read before they are tokenised together.
constexpr size_t kLinesAtOnce = 512;

class TextDocuments {
 public:
  TextDocuments(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path, OnInvalid on_invalid,
                std::vector<std::string>& skipped)
      : context_(context), tokenizer_(tokenizer), reader_(path), on_invalid_(on_invalid), skipped_(skipped) {}

  bool next(std::vector<int32_t>& tokens) {
    while (true) {
      if (taken_ == ready_.size() && !fill()) return false;
      Outcome& outcome = ready_[taken_++];
      if (outcome.fault) {
        refuse_or_skip(on_invalid_, *outcome.fault, skipped_);
        continue;
      }
      tokens = std::move(outcome.tokens);
      return true;
    }
  }

 private:
  /// A line's tokens, or why it has none.
  struct Outcome {
    std::vector<int32_t> tokens;
    std::optional<InputError> fault;
  };

  /// False where the text has ended.
  bool fill() {
    std::vector<TextReader::Line> lines;
    TextReader::Line line;
    while (lines.size() < kLinesAtOnce && reader_.next_line(line)) lines.push_back(std::move(line));
    ready_.assign(lines.size(), {});
    taken_ = 0;
    context_.threads().parallel_for(std::ssize(lines), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ready_[i] = outcome_of(std::move(lines[i]));
    });
    return !ready_.empty();
  }

  Outcome outcome_of(TextReader::Line line) const {
    try {
      const std::string place = reader_.place_of(line);
      return {encode_document(tokenizer_, reader_.document_of(std::move(line)), place), {}};
    } catch (const InputError& error) {
      return {{}, error};
    }
  }

  Context& context_;
  const Tokenizer& tokenizer_;
  TextReader reader_;
  OnInvalid on_invalid_;
  std::vector<std::string>& skipped_;
  std::vector<Outcome> ready_;
  size_t taken_ = 0;
};

class TokenFileDocuments {
 public:
  TokenFileDocuments(const Tokenizer& tokenizer, const std::filesystem::path& path)
      : tokenizer_(tokenizer), file_(H5File::open_read(path)) {
    const std::string name = path.string();
    if (has_attribute(file_, "/", "tokenizer_sha256")) {
      require<InputError>(read_string_attribute(file_, "/", "tokenizer_sha256") == tokenizer.sha256(),
                          "{}: the tokens were made by another tokenizer than this model's; run loci tokenize again",
                          name);
    }
    const DatasetInfo info = dataset_info(file_, "/tokens");
    require<InputError>(info.shape.size() == 1, "{}: /tokens must have one axis, got {}", name, info.shape.size());
    offsets_ = read_dataset<int64_t>(file_, "/document_offsets", {kAnyExtent}).values;
    const bool covers = !offsets_.empty() && offsets_.front() == 0 && offsets_.back() == info.shape[0] &&
                        std::is_sorted(offsets_.begin(), offsets_.end());
    require<InputError>(covers, "{}: /document_offsets must rise from 0 to the {} tokens", name, info.shape[0]);
  }

  bool next(std::vector<int32_t>& tokens) {
    if (document_ + 1 >= offsets_.size()) return false;
    const int64_t begin = offsets_[document_], end = offsets_[document_ + 1];
    tokens.resize(static_cast<size_t>(end - begin));
    if (begin < end) read_rows<int32_t>(file_, "/tokens", begin, end - begin, tokens);
    for (const int32_t token : tokens)
      require<InputError>(tokenizer_.has_token(token) && tokenizer_.has_row(token),
                          "{}: document {} holds the token {}, which the model does not have (its tokenizer has {})",
                          file_.path().string(), document_, token, tokenizer_.vocabulary_size());
    ++document_;
    return true;
  }

 private:
  const Tokenizer& tokenizer_;
  H5File file_;
  std::vector<int64_t> offsets_;
  size_t document_ = 0;
};

}  // namespace

NextDocument text_documents(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path,
                            OnInvalid on_invalid, std::vector<std::string>& skipped) {
  auto source = std::make_shared<TextDocuments>(context, tokenizer, path, on_invalid, skipped);
  return [source](std::vector<int32_t>& tokens) { return source->next(tokens); };
}

NextDocument token_file_documents(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  probe_hdf5(path);
  auto source = std::make_shared<TokenFileDocuments>(tokenizer, path);
  return [source](std::vector<int32_t>& tokens) { return source->next(tokens); };
}

}  // namespace loci
