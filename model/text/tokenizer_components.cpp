#include "model/text/tokenizer_components.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "model/text/pretokenizer.h"
#include "runtime/error.h"
#include "runtime/io/json.h"
#include "runtime/shown_text.h"
#include "runtime/utf8.h"

namespace loci {
namespace {

constexpr std::size_t kShownName = 40;

[[noreturn]] void refuse_type(const std::string& type, const std::string& place, std::string_view known) {
  throw_error<InputError>("{}: type {} is not supported: only {}", place, shown(type, kShownName), known);
}

/// Calls `read(part, place)` for a component or, if it is a sequence, for each in its list.
template <typename Read>
void read_each(const Json& component, std::string_view list, const std::string& place, const Read& read) {
  if (json_string(component, "type", place) != "Sequence") return read(component, place);
  const Json& parts = json_array(component, list, place);
  for (std::size_t i = 0; i < parts.size(); ++i)
    read_each(parts[i], list, fmt::format("{}: {}[{}]", place, list, i), read);
}

/// A field that must hold one character.
std::string read_character(const Json& object, std::string_view field, const std::string& place) {
  const std::string text = json_string(object, field, place);
  require<InputError>(!text.empty() && utf8::decode(text, 0).length == text.size(),
                      "{}: field \"{}\" must be one character, got {}", place, field, shown(text, kShownName));
  return text;
}

NormalizerStep read_replace(const Json& step, const std::string& place) {
  const Json& pattern = json_object(step, "pattern", place);
  require<InputError>(json_has(pattern, "String"),
                      "{}: field \"pattern\" has no text \"String\", and other patterns are not supported", place);
  NormalizerStep made{NormalizerStep::Kind::replace, json_string(pattern, "String", place + ": pattern"),
                      json_string(step, "content", place)};
  require<InputError>(!made.from.empty(), "{}: pattern.String is empty: name what is to be replaced", place);
  return made;
}

// ---- pre-tokenizers ----

std::shared_ptr<const SplitPattern> read_split(const Json& split, const std::string& place) {
  const std::string behavior = json_string(split, "behavior", place);
  require<InputError>(behavior == "Isolated", "{}: behavior {} is not supported: only Isolated is", place,
                      shown(behavior, kShownName));
  require<InputError>(!json_bool_or(split, "invert", false, place),
                      "{}: invert is true, which is not supported: only false is", place);
  const std::string pattern = json_string(json_object(split, "pattern", place), "Regex", place + ": pattern");
  if (pattern == kGpt2Pattern) return nullptr;
  return std::make_shared<const SplitPattern>(pattern, place + ": pattern.Regex");
}

void read_byte_level(const Json& part, PreTokenizer& made, const std::string& place) {
  require<InputError>(!json_bool_or(part, "add_prefix_space", false, place),
                      "{}: add_prefix_space is true: set it to false and write the leading space into the text", place);
  made.spells_bytes = true;
  if (json_bool_or(part, "use_regex", true, place)) made.splits.push_back(nullptr);
}

Metaspace read_metaspace(const Json& part, const std::string& place) {
  Metaspace made;
  made.replacement = read_character(part, "replacement", place);
  made.split = json_bool_or(part, "split", true, place);
  const bool prepends = json_bool_or(part, "add_prefix_space", true, place);  // older files say this alone
  const std::string scheme = json_string_or(part, "prepend_scheme", prepends ? "always" : "never", place);
  if (scheme != "first" && scheme != "always" && scheme != "never")
    throw_error<InputError>("{}: prepend_scheme {} is not supported: only first, always and never are", place,
                            shown(scheme, kShownName));
  require<InputError>(prepends || scheme == "never",
                      "{}: add_prefix_space is false, but prepend_scheme is {}: make them agree", place, scheme);
  made.prepend = scheme == "first"    ? Metaspace::Prepend::first
                 : scheme == "always" ? Metaspace::Prepend::always
                                      : Metaspace::Prepend::never;
  return made;
}

/// Behind ByteLevel the text is spelled in its alphabet, and Metaspace changes it: both would let a pattern see other
/// characters.
void require_last(const Json& pre_tokenizer, const std::string& place) {
  std::vector<std::string> types;
  read_each(pre_tokenizer, "pretokenizers", place, [&types](const Json& part, const std::string& part_place) {
    types.push_back(json_string(part, "type", part_place));
  });
  const bool ends_well = std::ranges::all_of(types.begin(), types.empty() ? types.end() : types.end() - 1,
                                             [](const std::string& type) { return type == "Split"; });
  const bool mixes = types.size() > 1 && types.back() == "Metaspace";
  require<InputError>(ends_well && !mixes,
                      "{}: this sequence of {} pre-tokenizers is not supported: only Split, as often as needed, and "
                      "then ByteLevel, or Metaspace alone, is",
                      place, types.size());
}

// ---- post-processors ----

/// The ids of a special token of a template.
void append_ids(const Json& post, const std::string& name, std::vector<std::int32_t>& ids, const std::string& place) {
  const std::string list = place + ": special_tokens";
  const Json& token = json_object(json_object(post, "special_tokens", place), name, list);
  for (const std::int64_t id : json_ints(token, "ids", fmt::format("{}: {}", list, shown(name, kShownName)), 0,
                                         std::numeric_limits<std::int32_t>::max()))
    ids.push_back(static_cast<std::int32_t>(id));
}

TextTemplate read_template_processing(const Json& post, const std::string& place) {
  TextTemplate made;
  bool behind = false;
  for (const Json& part : json_array(post, "single", place)) {
    if (json_has(part, "Sequence")) {
      const std::string text = json_string(json_object(part, "Sequence", place), "id", place + ": single: Sequence");
      require<InputError>(text == "A" && !behind, "{}: field \"single\" must hold the text, \"A\", once", place);
      behind = true;
    } else {
      const Json& special = json_object(part, "SpecialToken", place + ": single");
      append_ids(post, json_string(special, "id", place + ": single: SpecialToken"), behind ? made.behind : made.before,
                 place);
    }
  }
  require<InputError>(behind, "{}: field \"single\" must hold the text, \"A\", once", place);
  return made;
}

// ---- decoders ----

/// Reads the steps of a decoder, which must come in the order of Decoder's fields.
class DecoderReader {
 public:
  explicit DecoderReader(bool spells_bytes) : spells_bytes_(spells_bytes) {}

  void read(const Json& part, const std::string& place) {
    const std::string type = json_string(part, "type", place);
    const auto is_next = [&](int stage) {
      require<InputError>(!spells_bytes_ && stage_ <= stage,
                          "{}: type {} is not supported here: ByteLevel decodes tokens that spell bytes, and others "
                          "need Replace, ByteFallback, Fuse and Strip in this order, or Metaspace",
                          place, shown(type, kShownName));
      stage_ = stage;
    };
    if (type == "ByteLevel" && spells_bytes_) return;
    if (type == "Replace") {
      is_next(0);
      made_.replacements.push_back(read_replace(part, place));
    } else if (type == "ByteFallback") {
      is_next(1);
      made_.joins_bytes = true;
    } else if (type == "Fuse") {
      is_next(2);
      fused_ = true;
    } else if (type == "Strip") {
      is_next(3);
      read_strip(part, place);
    } else if (type == "Metaspace") {
      is_next(0);
      const Metaspace metaspace = read_metaspace(part, place);
      made_.replacements.push_back({NormalizerStep::Kind::replace, metaspace.replacement, " "});
      made_.drops_first_spaces = metaspace.prepend != Metaspace::Prepend::never;
      stage_ = 4;
    } else {
      refuse_type(type, place, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence are");
    }
  }
  Decoder take() { return std::move(made_); }

 private:
  void read_strip(const Json& part, const std::string& place) {
    require<InputError>(fused_ && made_.stripped.empty(),
                        "{}: Strip is supported once and after Fuse only: elsewhere it would cut every token", place);
    made_.stripped = read_character(part, "content", place);
    made_.strip_begin = json_int(part, "start", place, 0);
    made_.strip_end = json_int(part, "stop", place, 0);
  }

  bool spells_bytes_;
  bool fused_ = false;
  int stage_ = 0;
  Decoder made_;
};

}  // namespace

std::vector<NormalizerStep> read_normalizer(const Json& root, const std::string& place) {
  std::vector<NormalizerStep> steps;
  if (!json_has(root, "normalizer")) return steps;
  const auto read = [&steps](const Json& step, const std::string& step_place) {
    const std::string type = json_string(step, "type", step_place);
    if (type == "NFC")
      steps.push_back({NormalizerStep::Kind::nfc, {}, {}});
    else if (type == "Prepend")
      steps.push_back({NormalizerStep::Kind::prepend, {}, json_string(step, "prepend", step_place)});
    else if (type == "Replace")
      steps.push_back(read_replace(step, step_place));
    else
      refuse_type(type, step_place, "NFC, Prepend, Replace and Sequence are");
  };
  read_each(json_object(root, "normalizer", place), "normalizers", place + ": normalizer", read);
  return steps;
}

PreTokenizer read_pre_tokenizer(const Json& root, const std::string& place) {
  PreTokenizer made{.spells_bytes = false, .splits = {}, .metaspace = {}};
  if (!json_has(root, "pre_tokenizer")) return made;
  const Json& pre_tokenizer = json_object(root, "pre_tokenizer", place);
  const std::string name = place + ": pre_tokenizer";
  read_each(pre_tokenizer, "pretokenizers", name, [&made](const Json& part, const std::string& part_place) {
    const std::string type = json_string(part, "type", part_place);
    if (type == "ByteLevel")
      read_byte_level(part, made, part_place);
    else if (type == "Split")
      made.splits.push_back(read_split(part, part_place));
    else if (type == "Metaspace")
      made.metaspace = read_metaspace(part, part_place);
    else
      refuse_type(type, part_place, "ByteLevel, Split, Metaspace and Sequence are");
  });
  require_last(pre_tokenizer, name);
  return made;
}

TextTemplate read_template(const Json& root, const std::string& place) {
  TextTemplate made;
  bool read_one = false;
  if (!json_has(root, "post_processor")) return made;
  const auto read = [&](const Json& post, const std::string& post_place) {
    const std::string type = json_string(post, "type", post_place);
    if (type == "ByteLevel") return;  // it only moves offsets
    if (type != "TemplateProcessing") refuse_type(type, post_place, "ByteLevel, TemplateProcessing and Sequence are");
    require<InputError>(!std::exchange(read_one, true), "{}: is a second template: leave one", post_place);
    made = read_template_processing(post, post_place);
  };
  read_each(json_object(root, "post_processor", place), "processors", place + ": post_processor", read);
  return made;
}

Decoder read_decoder(const Json& root, const PreTokenizer& pre_tokenizer, const std::string& place) {
  DecoderReader reader(pre_tokenizer.spells_bytes);
  if (json_has(root, "decoder")) {
    read_each(json_object(root, "decoder", place), "decoders", place + ": decoder",
              [&reader](const Json& part, const std::string& part_place) { reader.read(part, part_place); });
  } else {
    require<InputError>(pre_tokenizer.spells_bytes,
                        "{}: there is no decoder, and no ByteLevel in the pre_tokenizer: restore what is missing",
                        place);
  }
  return reader.take();
}

}  // namespace loci
