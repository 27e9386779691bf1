// Any bytes as the files of a tokenizer: they are refused with an InputError or make a tokenizer that encodes any bytes
// without loss. The input holds the files one after the other, each behind a line "@@ NAME" (tokenizer.json,
// vocab.json, merges.txt, added_tokens.json, special_tokens_map.json, tokenizer_config.json; "@@ text" is what is
// encoded).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "model/tokenizer.h"
#include "runtime/error.h"

namespace {

std::map<std::string, std::string, std::less<>> sections(std::string_view input) {
  std::map<std::string, std::string, std::less<>> result;
  std::string* current = &result["text"];
  while (!input.empty()) {
    const std::size_t end = std::min(input.find('\n'), input.size() - 1) + 1;
    const std::string_view line = input.substr(0, end);
    input.remove_prefix(end);
    if (line.starts_with("@@ ")) {
      current = &result[std::string(line.substr(3, line.size() - 3 - (line.ends_with('\n') ? 1 : 0)))];
    } else {
      current->append(line);
    }
  }
  return result;
}

loci::TokenizerFiles tokenizer_files(const std::map<std::string, std::string, std::less<>>& parts) {
  const auto part = [&parts](std::string_view name) -> std::optional<std::string> {
    const auto found = parts.find(name);
    if (found == parts.end()) return std::nullopt;
    return found->second;
  };
  loci::TokenizerFiles files;
  files.folder = "fuzz";
  files.tokenizer_json = part("tokenizer.json");
  files.vocab_json = part("vocab.json");
  files.merges_txt = part("merges.txt");
  files.added_tokens_json = part("added_tokens.json");
  files.special_tokens_map_json = part("special_tokens_map.json");
  files.tokenizer_config_json = part("tokenizer_config.json");
  return files;
}

void require(bool holds) {
  if (!holds) std::abort();
}

void check_encoding(const loci::Tokenizer& tokenizer, const std::string& text, loci::SpecialTokens special) {
  const loci::Encoding encoding = tokenizer.encode(text, special);
  require(encoding.ids == tokenizer.encode_ids(text, special));
  require(encoding.ids.size() == encoding.offsets.size());
  std::int64_t at = 0;
  for (const loci::ByteRange& range : encoding.offsets) {
    require(range.begin == at && range.end >= at);
    at = range.end;
  }
  require(at == static_cast<std::int64_t>(text.size()));
  tokenizer.decode_text(encoding.ids, loci::TextCleanUp::as_configured);
  const std::string back = tokenizer.decode(encoding.ids);
  // Added tokens may take the white space beside them, so only texts without any come back whole in every case.
  if (text.find_first_of(" \t\n\v\f\r\xC2\xE1\xE2\xE3") == std::string::npos) require(back == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parts = sections({reinterpret_cast<const char*>(data), size});
  try {
    const loci::Tokenizer tokenizer(loci::parse_tokenizer(tokenizer_files(parts)));
    for (const loci::SpecialTokens special : {loci::SpecialTokens::parse, loci::SpecialTokens::as_text})
      check_encoding(tokenizer, parts.find("text")->second, special);
  } catch (const loci::InputError& error) {
    require(std::string_view(error.what()).starts_with("fuzz"));
  }
  return 0;
}
