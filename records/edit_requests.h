#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "model/architecture.h"
#include "model/text/tokenizer.h"
#include "records/record_list.h"
#include "records/subject.h"

namespace loci {

/// One fact to write into a model: the prompt, with the subject at its `{}`, is to be continued by target_new.
struct EditRequest {
  int64_t case_id = 0;
  std::string prompt;  ///< with exactly one `{}`, the subject's place
  std::string subject;
  std::string target_new;   ///< a leading space is added where it is used
  std::string target_true;  ///< what is true before; may be empty
  /// Whether the record's target_new begins with a space, which is left out here: one is added wherever a target is
  /// used. Only the published code of some methods takes targets as they stand.
  bool spaced_targets = false;
  /// Other ways to ask, where the record has some: of use to methods that look for what several prompts have in common.
  std::vector<std::string> paraphrases = {};

  /// Of what is asked for.
  bool operator==(const EditRequest& other) const {
    const auto fields = [](const EditRequest& r) {
      return std::tie(r.case_id, r.prompt, r.subject, r.target_new, r.target_true);
    };
    return fields(*this) == fields(other);
  }
};

/// Throws InputError "{where}: ..." unless the request can be run on this model: exactly one `{}`, a subject that is
/// more than white space, a target, and a prompt that fits the context together with its target.
void check_request(const EditRequest& request, const Tokenizer& tokenizer, const Architecture& config,
                   std::string_view where);

/// Towards which answer a zsRE record is edited: `answers[0]` (the published code) or `alt` (EasyEdit).
enum class ZsreTarget { answer, alternative };

/// Reads one record, in any of the forms of read_requests(). Throws InputError "{where}: ..." for a missing, empty or
/// wrong field, and for a prompt without, or with several places for, its subject.
EditRequest parse_request(Record& record, ZsreTarget zsre_target = ZsreTarget::answer);

/// The prompt with the subject in its place.
std::string bare_prompt(const EditRequest& request);

/// A request file, read and checked whole.
struct LoadedRequests : RecordReport {
  std::vector<EditRequest> requests;
};

/// Reads a list of records, a single one, or JSON Lines (RecordReader), in any of these forms, which may be mixed:
///   the reference's `requested_rewrite` objects {prompt with {}, subject, target_new{str}, target_true{str}};
///   whole CounterFact records {case_id, requested_rewrite, ...};
///   EasyEdit's {case_id, prompt, subject, target_new, ground_truth}, whose prompt holds the subject itself;
///   zsRE in the form of Mitchell et al. 2022 {subject, src, answers, alt}.
/// A target may be a text, a list whose first entry counts, or an object with the text as `str`. White space at the
/// ends of texts is left out (Record). A subject that is not marked by `{}` is looked for as a whole word first; a
/// prompt that holds it several times is refused. A record without case_id gets its place in the file. Throws
/// InputError naming file, record and field for a record that cannot be run or repeats a case_id; OnInvalid::skip
/// leaves such records out and lists them. A file without any valid record is refused all the same.
LoadedRequests read_requests(const std::filesystem::path& path, const Tokenizer& tokenizer, const Architecture& config,
                             OnInvalid on_invalid, ZsreTarget zsre_target = ZsreTarget::answer);
/// The same from a text; `name` leads messages.
LoadedRequests parse_requests(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                              const Architecture& config, OnInvalid on_invalid,
                              ZsreTarget zsre_target = ZsreTarget::answer);

/// A target as it follows a prompt: with a space in front unless it has one.
std::string spaced_target(std::string_view target);
/// The tokens that it adds to the prompt.
std::vector<int32_t> target_tokens(const Tokenizer& tokenizer, std::string_view prompt, std::string_view target);

}  // namespace loci
