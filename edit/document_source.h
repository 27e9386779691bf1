#pragma once

#include <filesystem>

#include "edit/second_moments.h"
#include "model/tokenizer.h"
#include "runtime/context.h"

namespace loci {

/// The documents of a text file (runtime/text_reader.h), tokenised in parallel. A line that is not a document is
/// refused (InputError) when its turn comes, or left out with a sentence added to `skipped`.
NextDocument text_documents(Context& context, const Tokenizer& tokenizer, const std::filesystem::path& path,
                            OnInvalid on_invalid, std::vector<std::string>& skipped);

/// The documents of a token file: HDF5 with `tokens` and `document_offsets` [documents + 1]. Throws InputError for
/// offsets that do not cover the tokens, ids that are not the tokenizer's, or tokens made by another tokenizer where
/// the file says by which (attribute `tokenizer_sha256`).
NextDocument token_file_documents(const Tokenizer& tokenizer, const std::filesystem::path& path);

}  // namespace loci
