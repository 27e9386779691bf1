#include "model/text/rewritten_text.h"

#include <algorithm>
#include <limits>

namespace loci {

void RewrittenText::copy(std::string_view original, ByteRange source) {
  Stretch* last = stretches_.empty() ? nullptr : &stretches_.back();
  if (last && last->copied && last->source.end == source.begin) {
    last->source.end = source.end;
  } else {
    stretches_.push_back({std::ssize(text_), source, true});
  }
  text_.append(original, static_cast<std::size_t>(source.begin), static_cast<std::size_t>(source.end - source.begin));
}

void RewrittenText::make(std::string_view bytes, ByteRange source) {
  stretches_.push_back({std::ssize(text_), source, false});
  text_ += bytes;
}

ByteRange RewrittenText::original(ByteRange bytes) const {
  ByteRange hull{std::numeric_limits<std::int64_t>::max(), 0};
  auto stretch = std::ranges::upper_bound(stretches_, bytes.begin, {}, &Stretch::begin) - 1;
  for (; stretch != stretches_.end() && stretch->begin < bytes.end; ++stretch) {
    ByteRange part = stretch->source;
    if (stretch->copied) {
      const std::int64_t shift = part.begin - stretch->begin;
      part = {std::max(part.begin, bytes.begin + shift), std::min(part.end, bytes.end + shift)};
    }
    hull = {std::min(hull.begin, part.begin), std::max(hull.end, part.end)};
  }
  return hull;
}

}  // namespace loci
