#include "model/text/tokenizer.h"

#include "tests/fuzz/target.h"

namespace loci::fuzz {
namespace {

TokenizerFiles files_of(const Sections& parts) {
  const auto part = [&parts](std::string_view name) -> std::optional<std::string> {
    const auto found = parts.find(name);
    if (found == parts.end()) return std::nullopt;
    return found->second;
  };
  return {.folder = "fuzz",
          .tokenizer_json = part("tokenizer.json"),
          .vocab_json = part("vocab.json"),
          .merges_txt = part("merges.txt"),
          .added_tokens_json = part("added_tokens.json"),
          .special_tokens_map_json = part("special_tokens_map.json"),
          .tokenizer_config_json = part("tokenizer_config.json")};
}

/// `exact`: tokens spell bytes, and nothing but them changes or adds to a text.
void check_encoding(const Tokenizer& tokenizer, const std::string& text, SpecialTokens special, bool exact) {
  const Encoding encoding = tokenizer.encode(text, special);
  expect(encoding.ids == tokenizer.encode_ids(text, special), "both ways of encoding agree");
  expect(encoding.ids.size() == encoding.offsets.size(), "every token has its bytes");
  tokenizer.decode_text(encoding.ids, TextCleanUp::as_configured, LeadingSpace::as_configured);
  tokenizer.encode_continuation(text.substr(0, text.size() / 2), text.substr(text.size() / 2), special);
  for (const ByteRange& range : encoding.offsets)
    expect(0 <= range.begin && range.begin <= range.end && range.end <= std::ssize(text), "tokens lie in the text");
  if (!exact) return;
  int64_t at = 0;
  for (const ByteRange& range : encoding.offsets) {
    expect(range.begin == at && range.end >= at, "tokens follow each other");
    at = range.end;
  }
  expect(at == std::ssize(text), "tokens cover the text");
  const std::string back = tokenizer.decode(encoding.ids);
  // Added tokens may take the white space beside them, so only texts without any come back whole in every case.
  if (text.find_first_of(" \t\n\v\f\r\xC2\xE1\xE2\xE3") == std::string::npos)
    expect(back == text, "decoding gives the text");
}

/// The files of a tokenizer, each after a line "@@ NAME"; "@@ text" is what is encoded.
bool tokenizer(std::string_view input) {
  const Sections parts = sections(input);
  return accepted("fuzz", [&] {
    TokenizerDefinition definition = parse_tokenizer(files_of(parts));
    const bool exact = !definition.characters && definition.normalizer.empty() &&
                       definition.text_template.before.empty() && definition.text_template.behind.empty();
    const Tokenizer tokenizer(std::move(definition));
    for (const SpecialTokens special : {SpecialTokens::parse, SpecialTokens::as_text})
      check_encoding(tokenizer, parts.find("text")->second, special, exact);
  });
}
const Registration kTokenizer("tokenizer", tokenizer);

}  // namespace
}  // namespace loci::fuzz
