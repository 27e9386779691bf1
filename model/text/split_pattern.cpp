#include "model/text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/text/unicode.h"
#include "runtime/error.h"
#include "runtime/shown_text.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

/// Steps of one match and KiB that it may take: published patterns need a few for every character of a run.
constexpr std::uint32_t kMatchSteps = 10'000'000;
constexpr std::uint32_t kMatchKiB = 256 * 1024;

/// Stands for a byte that is no UTF-8: one byte, and of no class.
constexpr char kNoCharacter = '\x1A';

std::string ranges_of(unicode::CharClass wanted) {
  std::string ranges;
  for (const unicode::ClassRange& range : unicode::added_since_unicode_14())
    if (range.char_class == wanted)
      ranges += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", static_cast<std::uint32_t>(range.first),
                            static_cast<std::uint32_t>(range.last));
  return ranges;
}

/// Writes a pattern in Oniguruma's syntax, as tokenizer.json has it, in PCRE2's.
class Translator {
 public:
  Translator(std::string_view pattern, std::string_view place) : pattern_(pattern), place_(place) {}

  std::string translate() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (in_brackets_) {
        bracket_member(c);
      } else if (c == '[') {
        open_bracket();
      } else {
        check_group_and_repeat();
        take(1);
      }
    }
    return std::move(result_);
  }

 private:
  bool starts_with(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void take(std::size_t count) {
    result_ += pattern_.substr(at_, count);
    at_ += count;
  }
  [[noreturn]] void refuse(std::string_view part, std::string_view cause) const {
    throw_error<InputError>("{}: the regular expression has {}, {}", place_, shown(part), cause);
  }
  [[noreturn]] void refuse_unsupported(std::size_t length) const {
    refuse(pattern_.substr(at_, length), "which loci does not support");
  }

  void open_bracket() {
    take(starts_with("[^") ? 2 : 1);
    if (starts_with("]")) take(1);  // a bracket that comes first stands for itself
    in_brackets_ = true;
  }
  void bracket_member(char c) {
    if (c == '[') refuse_unsupported(1);  // Oniguruma: a class in a class; PCRE2: the character
    if (starts_with("&&")) refuse_unsupported(2);
    in_brackets_ = c != ']';
    take(1);
  }

  /// Groups and repeats that one engine alone has, or that differ.
  void check_group_and_repeat() {
    constexpr std::array<std::string_view, 9> kGroups = {
        "(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?i)", "(?-i:"};
    const auto known = [this](std::string_view group) { return starts_with(group); };
    if (starts_with("(?") && std::ranges::none_of(kGroups, known)) refuse_unsupported(4);
    if (starts_with("(*") || starts_with("{,") || starts_with("}+")) refuse_unsupported(2);
  }

  void escape() {
    const char kind = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    if (kind == 'p' || kind == 'P') return property();
    if (kind == 's' || kind == 'S') {
      result_ += kind == 's' ? "\\p{White_Space}" : "\\P{White_Space}";  // PCRE2's \s has U+180E, too
      at_ += 2;
      return;
    }
    constexpr std::string_view kSame = "rntdDAz";
    const bool is_letter_or_digit =
        (kind >= '0' && kind <= '9') || (kind >= 'A' && kind <= 'Z') || (kind >= 'a' && kind <= 'z') || kind == '\0';
    if (is_letter_or_digit && kSame.find(kind) == kSame.npos) refuse_unsupported(2);
    take(2);
  }

  void property() {
    const std::size_t end = pattern_.find('}', at_);
    if (!pattern_.substr(at_ + 2).starts_with('{') || end == pattern_.npos) refuse_unsupported(3);
    const std::string_view whole = pattern_.substr(at_, end + 1 - at_), name = whole.substr(3, whole.size() - 4);
    at_ = end + 1;
    if (name != "L" && name != "N") {
      result_ += whole;
      return;
    }
    const bool negated = whole[1] == 'P';
    if (negated && in_brackets_) refuse(whole, "which is supported outside of brackets only");
    const std::string members = fmt::format(
        "\\p{{{}}}{}", name, ranges_of(name == "L" ? unicode::CharClass::letter : unicode::CharClass::number));
    result_ += in_brackets_ ? members : fmt::format("[{}{}]", negated ? "^" : "", members);
  }

  std::string_view pattern_, place_;
  std::size_t at_ = 0;
  bool in_brackets_ = false;
  std::string result_;
};

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

template <typename T>
std::unique_ptr<T, Free> owned(T* made) {
  require<SystemError>(made != nullptr, "PCRE2 has no memory for a regular expression");
  return std::unique_ptr<T, Free>(made);
}

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

std::unique_ptr<pcre2_code, Free> compile(const std::string& pattern, std::string_view place) {
  const auto context = owned(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  std::size_t offset = 0;
  // As in Ruby's syntax, ^ and $ match at every line.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context.get());
  require<InputError>(code != nullptr, "{}: is no regular expression that loci can use: {}", place, error_text(error));
  return owned(code);
}

}  // namespace

struct SplitPattern::Compiled {
  std::unique_ptr<pcre2_code, Free> code;
  std::unique_ptr<pcre2_match_context, Free> limits;
};

struct SplitPattern::Pieces::State {
  std::unique_ptr<pcre2_match_data, Free> match;
};

SplitPattern::SplitPattern(std::string_view pattern, std::string place) : pattern_(pattern), place_(std::move(place)) {
  auto code = compile(Translator(pattern, place_).translate(), place_);
  std::uint32_t matches_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  require<InputError>(matches_empty == 0,
                      "{}: the regular expression {} matches an empty text: make it take a character", place_,
                      shown(pattern));
  // Where the system allows no code to be made, PCRE2 interprets the pattern.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  auto limits = owned(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(limits.get(), kMatchSteps);
  pcre2_set_heap_limit(limits.get(), kMatchKiB);
  compiled_.reset(new Compiled{std::move(code), std::move(limits)});
}

SplitPattern::~SplitPattern() = default;

SplitPattern::Pieces::Pieces(const SplitPattern& pattern, std::string_view text)
    : pattern_(pattern), text_(text), state_(std::make_unique<State>()) {
  for (std::size_t at = 0; at < text.size();) {
    const utf8::Step step = utf8::decode(text, at);
    if (!step.well_formed) {
      if (replaced_.empty()) replaced_ = text;
      replaced_.replace(at, step.length, step.length, kNoCharacter);
      text_ = replaced_;
    }
    at += step.length;
  }
  state_->match = owned(pcre2_match_data_create_from_pattern(pattern.compiled_->code.get(), nullptr));
}

SplitPattern::Pieces::~Pieces() = default;

std::size_t SplitPattern::Pieces::next() {
  if (begin_ == match_end_) find_match();
  begin_ = begin_ < match_begin_ ? match_begin_ : match_end_;
  return begin_;
}

/// The first match from `begin_` on; where there is none, the end of the text.
void SplitPattern::Pieces::find_match() {
  const auto match = [this](std::uint32_t options) {
    return pcre2_match(pattern_.compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), begin_,
                       PCRE2_NO_UTF_CHECK | options, state_->match.get(), pattern_.compiled_->limits.get());
  };
  int result = match(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) {
    match_begin_ = match_end_ = text_.size();
    return;
  }
  require<InputError>(result > 0, "{}: the regular expression fails at byte {} of a text of {} bytes: {}",
                      pattern_.place_, begin_, text_.size(), error_text(result));
  const std::size_t* bytes = pcre2_get_ovector_pointer(state_->match.get());
  match_begin_ = bytes[0];
  match_end_ = bytes[1];
}

}  // namespace loci
