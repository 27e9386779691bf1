#include "edit/common/context_templates.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "model/generation.h"
#include "records/subject.h"
#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/wording.h"

namespace loci {
namespace {

void replace_all(std::string& text, std::string_view part, std::string_view by) {
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + by.size()))
    text.replace(at, part.size(), by);
}

int32_t first_token(const Tokenizer& tokenizer, const Architecture& config) {
  if (const auto id = tokenizer.start_of_text()) return *id;
  require<InputError>(config.bos_token >= 0,
                      "the tokenizer has no <|endoftext|> to sample context templates from; give {}",
                      option("context-templates"));
  return static_cast<int32_t>(config.bos_token);
}

}  // namespace

void check_context_templates(std::span<const std::string> templates, std::string_view where) {
  require<InputError>(!templates.empty(), "{}: the list of context templates is empty; at least [\"{{}}\"] is needed",
                      where);
  for (size_t i = 0; i < templates.size(); ++i) {
    const int64_t places = count_occurrences(templates[i], kSubjectMark);
    require<InputError>(places == 1, "{}: template {} must hold exactly one {{}}, got {}", where, i, places);
    // Result files could not hold it.
    require<InputError>(templates[i].find('\0') == std::string::npos, "{}: template {} holds the character U+0000",
                        where, i);
  }
}

std::vector<std::string> read_context_templates(const std::filesystem::path& path) {
  const Json json = parse_json_file(path);
  require<InputError>(json.is_array(), "{}: the file must hold a list of context templates", path.string());
  std::vector<std::string> templates;
  int64_t trimmed = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    require<InputError>(json[i].is_string(), "{}: template {} must be a text", path.string(), i);
    const auto text = json[i].get<std::string>();
    templates.emplace_back(strip_end(text));
    trimmed += templates.back() != text;
  }
  if (trimmed > 0)
    spdlog::info("{}: white space at the end of {} is left out", path.string(), count(trimmed, "template"));
  check_context_templates(templates, path.string());
  return templates;
}

std::vector<std::string> sample_context_templates(Executor& executor, const Tokenizer& tokenizer,
                                                  std::span<const TemplateSample> samples, uint64_t seed) {
  std::vector<std::string> templates = {"{}"};
  const int32_t first = first_token(tokenizer, executor.model().config());
  for (size_t s = 0; s < samples.size(); ++s) {
    const std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(samples[s].count), {first});
    // Each length has random streams of its own.
    const GenerationOptions options{.max_tokens = samples[s].length - 1,
                                    .top_k = 5,
                                    .temperature = 1,
                                    .seed = seed ^ (uint64_t{s} << 32),
                                    .tokenizer = &tokenizer};
    for (const std::vector<int32_t>& tokens : generate(executor, prompts, options)) {
      std::string text = tokenizer.decode_text(tokens, TextCleanUp::as_configured);
      replace_all(text, "\n\n", " ");
      replace_all(text, "<|endoftext|>", "");
      std::erase_if(text, [](char c) { return c == '{' || c == '}'; });
      templates.push_back(text + ". {}");
    }
  }
  return templates;
}

std::vector<std::string> continue_context_templates(Executor& executor, const Tokenizer& tokenizer,
                                                    std::span<const std::string_view> beginnings, int64_t length,
                                                    uint64_t seed) {
  std::vector<std::string> templates = {"{}"};
  for (size_t b = 0; b < beginnings.size(); ++b) {
    const std::vector<std::vector<int32_t>> prompt = {tokenizer.encode_ids(beginnings[b])};
    const GenerationOptions options{.max_tokens = std::max<int64_t>(1, length - std::ssize(prompt[0])),
                                    .top_k = 5,
                                    .temperature = 1,
                                    .seed = seed ^ (uint64_t{b} << 32),
                                    .tokenizer = &tokenizer};
    const std::vector<std::vector<int32_t>> drawn = generate(executor, prompt, options);
    std::string text = std::string(beginnings[b]) + tokenizer.decode_text(drawn[0], TextCleanUp::as_configured);
    replace_all(text, "\n\n", " ");
    replace_all(text, "<|endoftext|>", "");
    std::ranges::replace_if(
        text, [](char c) { return c == '{' || c == '}'; }, ' ');
    templates.push_back(text + ". {}");
  }
  return templates;
}

}  // namespace loci
