#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/text/tokenizer.h"
#include "runtime/context.h"
#include "runtime/io/text_reader.h"

namespace loci {

/// Hands out the documents of a text one by one, as tokens; false after the last. Empty ones are passed over.
using NextDocument = std::function<bool(std::vector<int32_t>& tokens)>;

/// The documents of a text file (runtime/io/text_reader.h), tokenised in parallel. A line that is not a document is
/// refused (InputError) when its turn comes, or left out with a sentence added to `skipped`.
NextDocument text_documents(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path,
                            OnInvalid on_invalid, std::vector<std::string>& skipped);

/// The documents of a token file: HDF5 with `tokens` and `document_offsets` [documents + 1]. Throws InputError for
/// offsets that do not cover the tokens, ids that are not the tokenizer's, or tokens made by another tokenizer where
/// the file says by which (attribute `tokenizer_sha256`).
NextDocument token_file_documents(const Tokenizer& tokenizer, const std::filesystem::path& path);

}  // namespace loci
