#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/text/rewritten_text.h"

namespace loci {

/// A step of the normalizer in tokenizer.json.
struct NormalizerStep {
  enum class Kind {
    nfc,
    prepend,  ///< `to` goes before the text, unless that is empty
    replace   ///< `from`, which is not empty, becomes `to`
  };
  Kind kind = Kind::nfc;
  std::string from;
  std::string to;
};

/// A text on its way through the steps of a normalizer. It knows which bytes of the original each of its bytes stands
/// for. The original must outlive it.
class NormalizedText {
 public:
  explicit NormalizedText(std::string_view original) : original_(original) {}

  void apply(const NormalizerStep& step);
  void nfc();
  /// What is put in front stands for the first character of the text.
  void prepend(std::string_view text);
  void replace(std::string_view from, std::string_view to);

  std::string_view text() const { return layers_.empty() ? original_ : layers_.back().text(); }
  /// The bytes of the original that bytes [begin, end) of text() stand for, from the first to the last; begin < end.
  ByteRange original(ByteRange bytes) const;

 private:
  std::string_view original_;
  std::vector<RewrittenText> layers_;  // each made of the one before it; none where nothing changed
};

}  // namespace loci
