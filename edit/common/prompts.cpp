#include "edit/common/prompts.h"

#include <algorithm>
#include <map>

#include "runtime/error.h"

namespace loci {
namespace {

/// A text and the bytes of its subject.
struct MarkedText {
  std::string text;
  ByteRange subject;
};

/// Puts the subject at the `{}` of the prompt, and both at the `{}` of the template. White space at the subject's ends
/// is not part of it: it may belong to the next token.
MarkedText fill(std::string_view context, std::string_view prompt, std::string_view subject) {
  const std::string_view bare = strip(subject);
  const auto begin =
      static_cast<int64_t>(context.find(kSubjectMark) + prompt.find(kSubjectMark)) + (bare.data() - subject.data());
  return {fill_subject(context, fill_subject(prompt, subject)), {begin, begin + std::ssize(bare)}};
}

int64_t find_lookup(const Encoding& encoding, const MarkedText& marked, FactToken fact_token) {
  const auto tokens = std::ssize(encoding.ids);
  const TokenRange subject = token_range(encoding, marked.subject);
  switch (fact_token) {
    case FactToken::subject_first:
      return subject.begin;
    case FactToken::subject_last:
      return subject.end - 1;
    case FactToken::subject_first_after_last:
      return std::min(subject.end, tokens - 1);
    case FactToken::last:
      return tokens - 1;
  }
  return subject.end - 1;
}

EditPrompt make_prompt(const MarkedText& marked, std::span<const int32_t> target, FactToken fact_token,
                       TeacherForcing forcing, const Tokenizer& tokenizer, std::string_view where) {
  const std::span<const int32_t> forced = target.first(target.size() - 1);
  const Encoding encoding = tokenizer.encode(marked.text);
  EditPrompt prompt;
  prompt.lookup = find_lookup(encoding, marked, fact_token);
  prompt.tokens = encoding.ids;
  if (forcing == TeacherForcing::text && !forced.empty()) {
    prompt.tokens = tokenizer.encode_ids(marked.text + tokenizer.decode_text(forced, TextCleanUp::as_configured));
  } else {
    prompt.tokens.insert(prompt.tokens.end(), forced.begin(), forced.end());
  }
  prompt.first_target = std::ssize(prompt.tokens) - std::ssize(target);
  require<InputError>(prompt.first_target >= 0 && prompt.lookup <= prompt.first_target,
                      "{}: in \"{}\" the fact token does not come before the target \"{}\"", where, marked.text,
                      tokenizer.decode_text(target));
  return prompt;
}

EditPrompt essence_prompt(const EditRequest& request, FactToken fact_token, const Tokenizer& tokenizer) {
  const MarkedText marked = fill(kSubjectMark, "{} is a", request.subject);
  const Encoding encoding = tokenizer.encode(marked.text);
  EditPrompt prompt;
  prompt.lookup = find_lookup(encoding, marked, fact_token);
  prompt.tokens.assign(encoding.ids.begin(), encoding.ids.begin() + prompt.lookup + 1);
  return prompt;
}

}  // namespace

PreparedRequest prepare_request(const EditRequest& request, std::span<const std::string> templates,
                                FactToken fact_token, TeacherForcing forcing, const Tokenizer& tokenizer,
                                const Architecture& config, std::string_view where) {
  PreparedRequest made;
  made.request = request;
  made.target = target_tokens(tokenizer, bare_prompt(request), request.target_new);
  made.total_weight = std::ssize(templates);
  std::map<std::string, size_t> index_of;
  const auto prompt_of = [&](std::string_view context) {
    const MarkedText marked = fill(context, request.prompt, request.subject);
    const auto [found, is_new] = index_of.emplace(marked.text, made.prompts.size());
    if (is_new) made.prompts.push_back(make_prompt(marked, made.target, fact_token, forcing, tokenizer, where));
    return found->second;
  };
  prompt_of(kSubjectMark);
  for (size_t i = 0; i < templates.size(); ++i) {
    const size_t index = prompt_of(templates[i]);
    ++made.prompts[index].weight;
    if (i == 0) made.initial = index;
  }
  made.essence = essence_prompt(request, fact_token, tokenizer);
  for (const EditPrompt& prompt : made.prompts)
    require<InputError>(std::ssize(prompt.tokens) <= config.positions,
                        "{}: after a context template the prompt takes {} tokens, but the model reads {}; shorten the "
                        "prompt or the templates",
                        where, prompt.tokens.size(), config.positions);
  return made;
}

PreparedRequest prepare_bare_request(const EditRequest& request, const Tokenizer& tokenizer, const Architecture& config,
                                     std::string_view where) {
  const std::vector<std::string> bare = {"{}"};
  return prepare_request(request, bare, FactToken::last, TeacherForcing::tokens, tokenizer, config, where);
}

}  // namespace loci
