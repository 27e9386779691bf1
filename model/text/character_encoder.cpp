#include "model/text/character_encoder.h"

#include <algorithm>
#include <utility>

#include "runtime/utf8.h"

namespace loci {

CharacterEncoder::CharacterEncoder(const TokenizerDefinition& definition)
    : byte_tokens_(definition.byte_tokens),
      unknown_(definition.characters->unknown),
      fuses_unknown_(definition.characters->fuses_unknown) {
  const std::vector<std::string>& spelled = definition.characters->spelled;
  for (std::size_t id = 0; id < spelled.size(); ++id) {
    length_.push_back(static_cast<std::uint32_t>(spelled[id].size()));
    if (spelled[id].empty()) continue;
    const utf8::Step first = utf8::decode(spelled[id], 0);
    if (first.length != spelled[id].size()) continue;
    if (first.code_point >= token_of_character_.size()) token_of_character_.resize(first.code_point + 1, -1);
    token_of_character_[first.code_point] = static_cast<std::int32_t>(id);
  }
  neighbours_ = MergeTable(neighbours_in(definition));
}

/// The pairs of characters side by side in tokens that merges make, each once.
std::vector<Merge> CharacterEncoder::neighbours_in(const TokenizerDefinition& definition) const {
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs;
  for (const Merge& merge : definition.merges) {
    const std::string& text = definition.characters->spelled[merge.merged];
    std::int32_t before = -1;
    for (std::size_t at = 0; at < text.size();) {
      const utf8::Step step = utf8::decode(text, at);
      const std::int32_t id = token_of(step.code_point);
      if (before >= 0 && id >= 0) pairs.emplace_back(before, id);
      before = id;
      at += step.length;
    }
  }
  std::ranges::sort(pairs);
  pairs.erase(std::unique(pairs.begin(), pairs.end()),
              pairs.end());  // clang 14 does not compile the one of std::ranges
  std::vector<Merge> neighbours;
  for (const auto& [left, right] : pairs) neighbours.push_back({left, right, 0});
  return neighbours;
}

void CharacterEncoder::encode(std::string_view piece, const MergeTable& merges, MergeScratch& scratch,
                              EncodedText& tokens) const {
  std::vector<std::int32_t> run;
  std::size_t after_unknown = 0;  // tokens up to the last unknown one
  const auto finish_run = [&] {
    scratch.merge(merges, run);
    for (const std::int32_t id : run) tokens.add(id, length_[id]);
    run.clear();
  };
  for (std::size_t at = 0; at < piece.size() && !tokens.is_full();) {
    const utf8::Step step = utf8::decode(piece, at);
    const std::int32_t id = step.well_formed ? token_of(step.code_point) : -1;
    if (id < 0) {
      finish_run();
      add_missing(piece.substr(at, step.length), after_unknown, tokens);
    } else {
      if (!run.empty() && neighbours_.find(run.back(), id).rank == MergeTable::kNoRank) finish_run();
      run.push_back(id);
    }
    at += step.length;
  }
  finish_run();
}

void CharacterEncoder::add_missing(std::string_view character, std::size_t& after_unknown, EncodedText& tokens) const {
  const auto token = [this](char byte) { return byte_tokens_[static_cast<unsigned char>(byte)]; };
  if (std::ranges::none_of(character, [&](char byte) { return token(byte) < 0; })) {
    for (const char byte : character) tokens.add(token(byte), 1);
  } else if (fuses_unknown_ && after_unknown > 0 && after_unknown == tokens.ids.size()) {
    if (tokens.with_ends) tokens.ends.back() += static_cast<std::int64_t>(character.size());
  } else {
    tokens.add(*unknown_, character.size());  // every definition has one if a byte has no token
    after_unknown = tokens.ids.size();
  }
}

}  // namespace loci
