#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "runtime/json.h"

namespace loci {

/// Tokens [begin, end).
struct TokenRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const TokenRange&) const = default;
};

/// One statement to trace: a prompt that holds its subject, and the attribute the model should complete it with.
struct Fact {
  int64_t record = 0;  ///< place in its file, from 0
  int64_t known_id = 0;
  std::string subject, attribute, prompt;
  std::string relation_id, prediction;  ///< may be empty
  std::vector<int32_t> tokens;          ///< of the prompt
  TokenRange subject_range;             ///< the tokens that hold a byte of the subject
};

/// A fact file, read and checked whole.
struct FactFile {
  std::vector<Fact> facts;
  /// Of every record that has one, skipped records included: the noise level is measured on them.
  std::vector<std::string> subjects;
  /// Why records were skipped, one sentence each.
  std::vector<std::string> skipped;
  /// Of the file's bytes.
  std::string sha256;
};

/// Reads a list of objects with `known_id`, `subject`, `attribute`, `prompt` and optionally `template`, `prediction`,
/// `relation_id`. InputError naming file, record and field for a missing or doubled value, a subject that is not in its
/// prompt, more tokens than `max_tokens`; with OnInvalid::skip such records are left out and listed. A file that
/// is no list of objects is refused in either case.
FactFile read_facts(const std::filesystem::path& path, const Tokenizer& tokenizer, int64_t max_tokens,
                    OnInvalid on_invalid);
/// The same from JSON text; `name` leads messages.
FactFile parse_facts(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t max_tokens,
                     OnInvalid on_invalid);

/// The tokens that hold a byte of the first occurrence of `part` in `text`. Throws InputError "{where}: ..." where
/// there is none.
TokenRange token_range(const Encoding& encoding, std::string_view text, std::string_view part, std::string_view where);

/// Text without white space (as Unicode has it) at either end: how answers are compared with attributes.
std::string_view strip(std::string_view text);

}  // namespace loci
