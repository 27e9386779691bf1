#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"
#include "model/text/tokenizer.h"
#include "records/edit_requests.h"

/// The token sequences of an edit request: its prompt after each context template, with the target teacher-forced.
namespace loci {

/// The token of a prompt at which a fact is looked up and edited.
enum class FactToken {
  subject_first,
  subject_last,
  subject_first_after_last,  ///< the one after the subject; the subject's last where the prompt ends there
  last,                      ///< the prompt's last
};

/// How a target's tokens follow a prompt while it is written or scored. `tokens`: they are appended. `text`: as in the
/// published code, those that come first are turned into text, and prompt and text are tokenised together; that differs
/// where tokens of both would merge, where a token ends inside a character, or where decoding drops a space before
/// punctuation.
enum class TeacherForcing { tokens, text };

/// One prompt of a request.
struct EditPrompt {
  std::vector<int32_t> tokens;  ///< the prompt, then all target tokens but the last
  int64_t lookup = 0;           ///< position of the fact token
  int64_t first_target = 0;     ///< position whose next token is the target's first
  int64_t weight = 0;           ///< how many of the context templates give this prompt
};

/// A request ready to run. Equal templates share one prompt.
struct PreparedRequest {
  EditRequest request;
  std::vector<int32_t> target;      ///< at least one token
  std::vector<EditPrompt> prompts;  ///< [0] the bare one, of weight 0 where no template is `{}`
  size_t initial = 0;               ///< the prompt of the first template, which gives v0
  EditPrompt essence;               ///< "{subject} is a" up to its fact token, whose next token should not change
  int64_t total_weight = 0;         ///< number of context templates
};

/// Throws InputError "{where}: ..." for a prompt that does not fit the context.
PreparedRequest prepare_request(const EditRequest& request, std::span<const std::string> templates,
                                FactToken fact_token, TeacherForcing forcing, const Tokenizer& tokenizer,
                                const Architecture& config, std::string_view where);
/// The same with the bare prompt alone, for methods that look for no subject.
PreparedRequest prepare_bare_request(const EditRequest& request, const Tokenizer& tokenizer, const Architecture& config,
                                     std::string_view where);

}  // namespace loci
