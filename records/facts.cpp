#include "records/facts.h"

#include <algorithm>

#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/io/standard_input.h"
#include "runtime/shown_text.h"

namespace loci {
namespace {

/// The bytes of the subject at the `{}` of `marked`, which must be the beginning of the prompt.
ByteRange place_by_mark(std::string_view prompt, std::string_view subject, std::string_view marked,
                        std::string_view where) {
  const int64_t marks = count_occurrences(marked, kSubjectMark);
  require<InputError>(marks == 1, "{}: field \"template\" must hold exactly one {{}} for the subject, got {}", where,
                      marks);
  const std::string begin = fill_subject(marked, subject);
  const auto differs = static_cast<size_t>(std::ranges::mismatch(begin, prompt).in1 - begin.begin());
  require<InputError>(differs == begin.size(),
                      "{}: field \"template\" with its subject gives {}, but the field \"prompt\" is {}; make them "
                      "agree or leave the template out",
                      where, show_from(begin, differs), show_from(prompt, differs));
  const auto at = static_cast<int64_t>(marked.find(kSubjectMark));
  return {at, at + std::ssize(subject)};
}

/// The bytes of the subject in a prompt that marks it nowhere else.
ByteRange place_by_search(Record& record, const Fact& fact, SubjectChoice choice) {
  const SubjectPlace place = find_subject(fact.prompt, fact.subject, choice);
  require<InputError>(place.candidates > 0, "{}: field \"subject\": {} does not occur in the prompt {}", record.where,
                      shown(fact.subject), shown(fact.prompt));
  const std::string at = show_place(fact.prompt, place.bytes);
  const char* const fix = choice == SubjectChoice::whole_word ? "; mark its place by {}" : "";
  if (place.is_clear()) return place.bytes;
  record.warnings.push_back(
      place.whole_word
          ? fmt::format("the prompt holds its subject {} times, the first is taken: {}{}", place.candidates, at, fix)
          : fmt::format("the subject is taken inside another word: {}{}", at, fix));
  return place.bytes;
}

ByteRange place_subject(Record& record, Fact& fact, SubjectChoice choice) {
  const std::string untrimmed = json_string(record.value, "subject", record.where);
  std::string marked = record.prompt_or_empty(record.value, "template", record.where);
  const bool prompt_is_marked = marked.empty() && count_occurrences(fact.prompt, kSubjectMark) == 1;
  marked = keep_words_apart(prompt_is_marked ? fact.prompt : std::move(marked), untrimmed);
  if (prompt_is_marked) fact.prompt = fill_subject(marked, fact.subject);
  if (marked.empty()) return place_by_search(record, fact, choice);
  const ByteRange place = place_by_mark(fact.prompt, fact.subject, marked, record.where);
  if (choice == SubjectChoice::whole_word) return place;
  const ByteRange first = find_subject(fact.prompt, fact.subject, choice).bytes;
  if (first != place)
    record.warnings.push_back(
        fmt::format("the subject is taken where it first occurs, as the published code does: {}; the "
                    "template marks {}",
                    show_place(fact.prompt, first), show_place(fact.prompt, place)));
  return first;
}

Fact parse_fact(Record& record, const Tokenizer& tokenizer, int64_t max_tokens, SubjectChoice choice) {
  const Json& value = record.value;
  const std::string& where = record.where;
  Fact fact;
  fact.record = record.index;
  fact.known_id = json_int_or(value, "known_id", record.index, where);
  fact.subject = record.text(value, "subject", where);
  if (json_has(value, "attribute")) fact.attribute = record.text(value, "attribute", where);
  fact.prompt = record.prompt(value, "prompt", where);
  fact.relation_id = json_text_or(value, "relation_id", "", where);
  fact.prediction = json_string_or(value, "prediction", "", where);
  const ByteRange place = place_subject(record, fact, choice);
  const Encoding encoding = tokenizer.encode(fact.prompt);
  fact.tokens = encoding.ids;
  require<InputError>(std::ssize(fact.tokens) <= max_tokens,
                      "{}: field \"prompt\" has {} tokens, the model's context holds {}", where, fact.tokens.size(),
                      max_tokens);
  fact.subject_range = token_range(encoding, place);
  return fact;
}

/// The subject of a record that may not be valid otherwise; empty where it has none.
std::string subject_of(const Json& record) {
  const auto subject = record.find("subject");
  if (subject == record.end() || !subject->is_string()) return "";
  return std::string(strip(subject->get_ref<const std::string&>()));
}

}  // namespace

FactFile parse_facts(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t max_tokens,
                     OnInvalid on_invalid, SubjectChoice choice) {
  FactFile file;
  file.facts = read_all_records(text, name, "known_id", on_invalid, file, [&](Record& record) {
    if (std::string subject = subject_of(record.value); !subject.empty()) file.subjects.push_back(std::move(subject));
    return parse_fact(record, tokenizer, max_tokens, choice);
  });
  require<InputError>(!file.facts.empty(), "{}: there is no fact in it that can be traced", name);
  return file;
}

FactFile read_facts(const std::filesystem::path& path, const Tokenizer& tokenizer, int64_t max_tokens,
                    OnInvalid on_invalid, SubjectChoice choice) {
  return parse_facts(read_record_text(path), input_name(path), tokenizer, max_tokens, on_invalid, choice);
}

}  // namespace loci
