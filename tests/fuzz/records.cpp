// What people write by hand or take from data sets: facts, edit requests, records to score, hyper-parameters, prompts.
#include <array>
#include <cmath>
#include <set>
#include <span>

#include "edit/common/context_templates.h"
#include "edit/rome/hparams.h"
#include "eval/datasets.h"
#include "model/families/families.h"
#include "records/edit_requests.h"
#include "records/facts.h"
#include "records/record_list.h"
#include "tests/fuzz/target.h"
#include "tests/support/byte_tokenizer.h"
#include "trace/noise.h"

namespace loci::fuzz {
namespace {

constexpr int64_t kMostTokens = 64;
constexpr std::array kOnInvalid = {OnInvalid::refuse, OnInvalid::skip};
constexpr std::array kZsreTargets = {ZsreTarget::answer, ZsreTarget::alternative};

const Architecture& model_config() {
  static const Architecture config = [] {
    Architecture made;
    made.family = &gpt2();
    made.layers = 2;
    made.width = 4;
    made.set_equal_heads(2);
    made.positions = kMostTokens;
    made.vocabulary = 300;
    made.mlp_width = 8;
    return made;
  }();
  return config;
}

/// One token per byte, and merges that cut characters of several bytes apart.
Tokenizer cutting_tokenizer() {
  TokenizerDefinition definition = test::byte_tokenizer_definition();
  const auto merge = [&](int32_t left, int32_t right) {
    const auto merged = static_cast<int32_t>(definition.token_bytes.size());
    definition.token_bytes.push_back(definition.token_bytes[left] + definition.token_bytes[right]);
    definition.merges.push_back({left, right, merged});
    return merged;
  };
  merge(merge(' ', 't'), 'h');
  merge('a', 'b');
  merge('a', 0xC3);
  merge(0xB6, 'l');
  return Tokenizer(std::move(definition));
}

const Tokenizer& tokenizer() {
  static const Tokenizer tokenizer = cutting_tokenizer();
  return tokenizer;
}

void check_fact(const Fact& fact) {
  const auto [begin, end] = fact.subject_range;
  const std::span<const int32_t> tokens(fact.tokens);
  expect(std::ssize(tokens) <= kMostTokens, "a prompt fits the model");
  expect(begin >= 0 && begin < end && end <= std::ssize(tokens), "the subject's tokens lie in the prompt");
  const std::string subject =
      tokenizer().decode(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  expect(subject.find(fact.subject) != std::string::npos, "the subject's tokens hold the subject");
  expect(tokenizer().decode(tokens) == fact.prompt, "the tokens are the prompt's");
  const std::string_view stripped = strip(fact.attribute);
  expect(strip(stripped) == stripped, "stripping twice is stripping once");
}

bool facts(std::string_view input) {
  bool any = false;
  for (const OnInvalid on_invalid : kOnInvalid)
    any |= accepted("fuzz.json", [&] {
      const FactFile file = parse_facts(input, "fuzz.json", tokenizer(), kMostTokens, on_invalid);
      std::set<int64_t> ids;
      for (const Fact& fact : file.facts) {
        expect(ids.insert(fact.known_id).second, "known_id is given once");
        check_fact(fact);
      }
      expect(!file.facts.empty(), "a file without facts is refused");
    });
  return any;
}
const Registration kFacts("facts", facts);

void check_edit(const EditRequest& request) {
  expect(count_occurrences(request.prompt, "{}") == 1, "a prompt has one place for its subject");
  expect(!request.subject.empty() && !request.target_new.empty(), "a request has a subject and a target");
  check_request(request, tokenizer(), model_config(), "a request that was read");
}

bool requests(std::string_view input) {
  bool any = false;
  for (const OnInvalid on_invalid : kOnInvalid)
    for (const ZsreTarget target : kZsreTargets)
      any |= accepted("fuzz.json", [&] {
        const LoadedRequests file = parse_requests(input, "fuzz.json", tokenizer(), model_config(), on_invalid, target);
        expect(!file.requests.empty(), "a file without requests is refused");
        for (const EditRequest& request : file.requests) check_edit(request);
      });
  return any;
}
const Registration kRequests("requests", requests);

void check_record(const EvalRecord& record) {
  check_edit(record.edit);
  for (const EvalPrompt& prompt : record.prompts)
    for (const TeacherForcing forcing : {TeacherForcing::tokens, TeacherForcing::text}) {
      if (forcing == TeacherForcing::text && prompt.targets.size() != 1) continue;
      const PreparedPrompt prepared = prepare_prompt(prompt, tokenizer(), forcing);
      expect(prepared.target_tokens.size() == prompt.targets.size(), "every target is scored");
      for (const auto& tokens : prepared.target_tokens) expect(!tokens.empty(), "a target has tokens");
    }
}

/// CounterFact's and zsRE's records in each of their forms.
bool records(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path path = folder.write("fuzz.json", input);
  bool any = false;
  for (const Dataset dataset : {Dataset::counterfact, Dataset::zsre})
    for (const OnInvalid on_invalid : kOnInvalid)
      for (const ZsreTarget target : kZsreTargets)
        any |= accepted(path.string(), [&] {
          const LoadedRecords loaded = read_records(
              path, {.dataset = dataset, .zsre_target = target, .on_invalid = on_invalid}, tokenizer(), model_config());
          expect(!loaded.records.empty(), "a file without records is refused");
          for (const EvalRecord& record : loaded.records) check_record(record);
        });
  return any;
}
const Registration kRecords("records", records);

/// Lists whose entries need not be objects, as prompts.
bool list(std::string_view input) {
  return accepted("fuzz.json", [&] {
    RecordReader reader(input, "fuzz.json", "id");
    Record entry;
    for (int64_t index = 0; reader.next_value(entry); ++index) expect(entry.index == index, "entries are numbered");
  });
}
const Registration kList("list", list);

bool hparams(std::string_view input) {
  return accepted("hparams.json", [&] {
    const Json resolved = hparams_to_json(hparams_from_json(parse_json(input, "hparams.json"), "hparams.json"));
    expect(hparams_to_json(hparams_from_json(resolved, "again")) == resolved,
           "hyper-parameters come back as they were");
  });
}
const Registration kHparams("hparams", hparams);

bool templates(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path path = folder.write("fuzz.json", input);
  return accepted(path.string(), [&] {
    const std::vector<std::string> templates = read_context_templates(path);
    expect(!templates.empty(), "an empty list is refused");
    for (const std::string& text : templates) expect(count_occurrences(text, "{}") == 1, "a template has one place");
  });
}
const Registration kTemplates("templates", templates);

/// The text of the option "noise", which stands in place of a file.
bool noise(std::string_view input) {
  return accepted("noise", [&] {
    const NoiseRule rule = NoiseRule::parse(std::string(input));
    expect(std::isfinite(rule.value), "a level is finite");
  });
}
const Registration kNoise("noise", noise);

}  // namespace
}  // namespace loci::fuzz
