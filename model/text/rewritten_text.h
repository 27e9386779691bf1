#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

/// Bytes [begin, end) of a text.
struct ByteRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

/// A text that was made of another one from left to right, and which bytes of the original went into it.
class RewrittenText {
 public:
  void reserve(std::size_t bytes) { text_.reserve(bytes); }
  /// Appends these bytes of the original.
  void copy(std::string_view original, ByteRange source);
  /// Appends bytes that stand, each of them, for all of `source`.
  void make(std::string_view bytes, ByteRange source);

  const std::string& text() const { return text_; }
  /// The bytes of the original that bytes [begin, end) of text() stand for, from the first to the last; begin < end.
  ByteRange original(ByteRange bytes) const;

 private:
  /// Bytes of text_ from `begin` to the next stretch: a copy of `source`, or made of all of it.
  struct Stretch {
    std::int64_t begin = 0;
    ByteRange source;
    bool copied = false;
  };

  std::string text_;
  std::vector<Stretch> stretches_;
};

}  // namespace loci
