#include "model/text/normalizer.h"

#include <ranges>
#include <utility>

#include "model/text/unicode.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

ByteRange range(std::size_t begin, std::size_t end) {
  return {static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)};
}

}  // namespace

void NormalizedText::apply(const NormalizerStep& step) {
  switch (step.kind) {
    case NormalizerStep::Kind::nfc:
      return nfc();
    case NormalizerStep::Kind::prepend:
      return prepend(step.to);
    case NormalizerStep::Kind::replace:
      return replace(step.from, step.to);
  }
}

void NormalizedText::nfc() {
  if (!unicode::is_surely_nfc(text())) layers_.push_back(unicode::NfcText(text()));
}

void NormalizedText::prepend(std::string_view front) {
  const std::string_view before = text();
  if (before.empty()) return;
  RewrittenText after;
  after.reserve(front.size() + before.size());
  after.make(front, range(0, utf8::decode(before, 0).length));
  after.copy(before, range(0, before.size()));
  layers_.push_back(std::move(after));
}

void NormalizedText::replace(std::string_view from, std::string_view to) {
  const std::string_view before = text();
  std::size_t hit = before.find(from);
  if (hit == before.npos) return;
  RewrittenText after;
  after.reserve(before.size() + before.size() / 2);
  for (std::size_t at = 0;; hit = before.find(from, at)) {
    const std::size_t end = hit == before.npos ? before.size() : hit;
    if (at < end) after.copy(before, range(at, end));
    if (hit == before.npos) break;
    at = hit + from.size();
    after.make(to, range(hit, at));
  }
  layers_.push_back(std::move(after));
}

ByteRange NormalizedText::original(ByteRange bytes) const {
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) bytes = layer->original(bytes);
  return bytes;
}

}  // namespace loci
