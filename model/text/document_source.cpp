#include "model/text/document_source.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "model/text/documents.h"
#include "runtime/error.h"
#include "runtime/io/hdf5.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/io/text_reader.h"

namespace loci {
namespace {

class TextDocuments {
 public:
  TextDocuments(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path, OnInvalid on_invalid,
                std::vector<std::string>& skipped)
      : reader_(path), encoder_(context.threads(), tokenizer, reader_), on_invalid_(on_invalid), skipped_(skipped) {}

  bool next(std::vector<int32_t>& tokens) {
    for (;; ++taken_) {
      if (taken_ == ready_.size()) {
        ready_ = encoder_.next_batch();
        taken_ = 0;
        if (ready_.empty()) return false;
      }
      EncodedDocument& document = ready_[taken_];
      if (!document.fault) {
        tokens = std::move(document.ids);
        ++taken_;
        return true;
      }
      refuse_or_skip(on_invalid_, *document.fault, skipped_);
    }
  }

 private:
  TextReader reader_;
  DocumentEncoder encoder_;
  OnInvalid on_invalid_;
  std::vector<std::string>& skipped_;
  std::vector<EncodedDocument> ready_;
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
