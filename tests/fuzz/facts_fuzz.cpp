// Any bytes as a fact file: it is refused with an InputError that names it, or every fact has a subject whose tokens
// hold the subject's bytes and no more tokens than needed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "runtime/error.h"
#include "tests/support/byte_tokenizer.h"
#include "trace/facts.h"

namespace {

constexpr int64_t kMostTokens = 64;

void require(bool holds) {
  if (!holds) std::abort();
}

/// One token a byte, and merges that cut characters of several bytes apart.
loci::Tokenizer cutting_tokenizer() {
  loci::TokenizerDefinition definition = loci::test::byte_tokenizer_definition();
  const auto merge = [&](int32_t left, int32_t right) {
    const auto merged = static_cast<int32_t>(definition.token_bytes.size());
    definition.token_bytes.push_back(definition.token_bytes[static_cast<size_t>(left)] +
                                     definition.token_bytes[static_cast<size_t>(right)]);
    definition.merges.push_back({left, right, merged});
    return merged;
  };
  merge(merge(' ', 't'), 'h');
  merge('a', 'b');
  merge('a', 0xC3);
  merge(0xB6, 'l');
  return loci::Tokenizer(std::move(definition));
}

void check_fact(const loci::Fact& fact, const loci::Tokenizer& tokenizer) {
  const auto [begin, end] = fact.subject_range;
  const std::span<const int32_t> tokens(fact.tokens);
  require(static_cast<int64_t>(tokens.size()) <= kMostTokens);
  require(begin >= 0 && begin < end && end <= static_cast<int64_t>(tokens.size()));
  const auto bytes = [&](int64_t first, int64_t last) {
    return tokenizer.decode(tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
  };
  require(bytes(begin, end).find(fact.subject) != std::string::npos);
  require(tokenizer.decode(tokens) == fact.prompt);
  const std::string_view stripped = loci::strip(fact.attribute);
  require(loci::strip(stripped) == stripped);
}

void check(std::string_view text, const loci::Tokenizer& tokenizer, loci::OnInvalid invalid) {
  try {
    const loci::FactFile file = loci::parse_facts(text, "fuzz.json", tokenizer, kMostTokens, invalid);
    std::set<int64_t> ids;
    for (const loci::Fact& fact : file.facts) {
      require(ids.insert(fact.known_id).second);
      check_fact(fact, tokenizer);
    }
    require(!file.facts.empty());
  } catch (const loci::InputError& error) {
    require(std::string_view(error.what()).starts_with("fuzz.json"));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const loci::Tokenizer tokenizer = cutting_tokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto invalid : {loci::OnInvalid::refuse, loci::OnInvalid::skip}) check(text, tokenizer, invalid);
  return 0;
}
