#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "model/text/tokenizer.h"
#include "records/record_list.h"
#include "records/subject.h"

namespace loci {

/// One statement to trace: a prompt that holds its subject, and the attribute the model should complete it with.
struct Fact {
  int64_t record = 0;  ///< place in its file, from 0
  int64_t known_id = 0;
  std::string subject, prompt;
  std::string attribute;                ///< empty: whatever the model answers
  std::string relation_id, prediction;  ///< may be empty
  std::vector<int32_t> tokens;          ///< of the prompt
  TokenRange subject_range;             ///< the tokens that hold a byte of the subject
};

/// A fact file, read and checked whole.
struct FactFile : RecordReport {
  std::vector<Fact> facts;
  /// Of every record that has one, skipped records included: the noise level is measured on them.
  std::vector<std::string> subjects;
};

/// Reads facts: objects with `subject` and `prompt` and optionally `known_id`, `attribute`, `template`, `prediction`,
/// `relation_id`, as a list, a single object, or JSON Lines (RecordReader). White space at the ends of texts is left
/// out (Record). A record without `known_id` gets its place in the file; one without `attribute` expects nothing.
///
/// `template` says where the subject stands: with the subject at its `{}` the prompt begins. Without a template, the
/// prompt may hold the `{}` itself. Without either mark, find_subject() decides, and there is a warning where it had a
/// choice or found the subject inside another word. SubjectChoice::first_occurrence passes over the mark, with a
/// warning where that makes a difference.
///
/// InputError naming file, record and field for a missing or doubled value, a subject that is not in its prompt, a
/// template that is not that of the prompt, more tokens than `max_tokens`; with OnInvalid::skip such records are left
/// out and listed. A file that holds no records is refused in either case.
FactFile read_facts(const std::filesystem::path& path, const Tokenizer& tokenizer, int64_t max_tokens,
                    OnInvalid on_invalid, SubjectChoice choice = SubjectChoice::whole_word);
/// The same from a text; `name` leads messages.
FactFile parse_facts(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t max_tokens,
                     OnInvalid on_invalid, SubjectChoice choice = SubjectChoice::whole_word);

}  // namespace loci
