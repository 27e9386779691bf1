#include "runtime/io/json.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_kind.h"
#include "runtime/io/standard_input.h"
#include "runtime/wording.h"

namespace loci {

namespace {

/// Walks the text and tells how far the parser has come, so that every message can say where.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    *seen_ = at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

/// Builds the value from the parser's events and refuses what the library would take.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, std::string_view name) : text_(text), name_(name), seen_(text.data()) {}

  Json parse() {
    const CountingIterator begin(text_.data(), &seen_);
    const CountingIterator end(text_.data() + text_.size(), &seen_);
    Json::sax_parse(begin, end, this);
    return std::move(root_);
  }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) fail(fmt::format("the number {} does not fit a double", text.substr(0, 40)));
    return put(value);
  }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { fail("binary values are not JSON"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    auto [member, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(value);
    if (!is_new) fail(fmt::format("the key \"{}\" occurs twice in one object", printable(value.substr(0, 80))));
    member_ = &member->second;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    std::string cause = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 3: cause": the place is told in our own words.
    if (const auto colon = cause.find(": "); cause.starts_with('[') && colon != std::string::npos) {
      cause = cause.substr(colon + 2);
    } else if (const auto bracket = cause.find("] "); cause.starts_with('[') && bracket != std::string::npos) {
      cause = cause.substr(bracket + 2);
    }
    // The message quotes the input, which may be long.
    if (cause.size() > 300) cause = cause.substr(0, 150) + " ... " + cause.substr(cause.size() - 140);
    fail(printable(cause));
  }

 private:
  static std::string printable(const std::string& text) {
    std::string out;
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x20 || byte >= 0x7f) {
        out += fmt::format("\\x{:02x}", byte);
      } else {
        out += c;
      }
    }
    return out;
  }

  [[noreturn]] void fail(const std::string& cause) const {
    const auto offset = std::min(static_cast<size_t>(seen_ - text_.data()), text_.size());
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(offset), '\n');
    throw_error<InputError>("{}: line {}, byte {}: {}", name_, line, offset, cause);
  }

  Json* place(Json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& items = open_.back()->get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    *member_ = std::move(value);
    return member_;
  }

  bool put(Json&& value) {
    place(std::move(value));
    return true;
  }

  bool open(Json&& container) {
    if (static_cast<int>(open_.size()) >= kJsonMaxDepth) {
      fail(fmt::format("nested deeper than {} levels", kJsonMaxDepth));
    }
    open_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  std::string_view name_;
  const char* seen_;
  Json root_;
  // A container on this stack cannot move: its parent takes no further items until it is closed.
  std::vector<Json*> open_;
  Json* member_ = nullptr;
};

std::string shown_value(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

[[noreturn]] void wrong_type(std::string_view key, std::string_view where, std::string_view wanted, const Json& got) {
  throw_error<InputError>("{}: field \"{}\" must be {}, got {}", where, key, wanted, shown_value(got));
}

template <typename Number>
void require_in_range(Number number, std::string_view key, std::string_view where, Number min, Number max) {
  if (number >= min && number <= max) return;
  throw_error<InputError>("{}: field \"{}\" is {}, it must {}", where, key, number,
                          max == std::numeric_limits<Number>::max() ? fmt::format("be at least {}", min)
                                                                    : fmt::format("lie between {} and {}", min, max));
}

int64_t to_int(const Json& value, std::string_view key, std::string_view where, int64_t min, int64_t max) {
  if (!value.is_number_integer()) wrong_type(key, where, "an integer", value);
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    wrong_type(key, where, "an integer of 64 bits", value);
  }
  const auto number = value.get<int64_t>();
  require_in_range(number, key, where, min, max);
  return number;
}

void require_no_zero(const std::string& text, std::string_view key, std::string_view where) {
  require<InputError>(text.find('\0') == text.npos, "{}: field \"{}\" holds the character U+0000; remove it", where,
                      key);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view name) {
  refuse_other_kind(text.substr(0, kFileKindBytes), name, kJson);
  refuse_binary(text.substr(0, kFileKindBytes), name);
  return Builder(without_byte_order_mark(text), name).parse();
}

Json parse_json_file(const std::filesystem::path& path) { return parse_json(read_text_file(path), input_name(path)); }

std::string canonical_json(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

bool json_has(const Json& object, std::string_view key) {
  if (!object.is_object()) return false;
  const auto member = object.find(key);
  return member != object.end() && !member->is_null();
}

const Json& json_field(const Json& object, std::string_view key, std::string_view where) {
  require<InputError>(object.is_object(), "{}: must be an object with the field \"{}\", got {}", where, key,
                      shown_value(object));
  const auto member = object.find(key);
  require<InputError>(member != object.end(), "{}: field \"{}\" is missing", where, key);
  return *member;
}

const Json& json_object(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = json_field(object, key, where);
  if (!value.is_object()) wrong_type(key, where, "an object", value);
  return value;
}

const Json& json_array(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = json_field(object, key, where);
  if (!value.is_array()) wrong_type(key, where, "a list", value);
  return value;
}

int64_t json_int(const Json& object, std::string_view key, std::string_view where, int64_t min, int64_t max) {
  return to_int(json_field(object, key, where), key, where, min, max);
}

int64_t json_int_or(const Json& object, std::string_view key, int64_t fallback, std::string_view where, int64_t min,
                    int64_t max) {
  return json_has(object, key) ? json_int(object, key, where, min, max) : fallback;
}

double json_number(const Json& object, std::string_view key, std::string_view where, double min, double max) {
  const Json& value = json_field(object, key, where);
  if (!value.is_number()) wrong_type(key, where, "a number", value);
  const auto number = value.get<double>();
  require_in_range(number, key, where, min, max);
  return number;
}

double json_number_or(const Json& object, std::string_view key, double fallback, std::string_view where, double min,
                      double max) {
  return json_has(object, key) ? json_number(object, key, where, min, max) : fallback;
}

std::string json_string(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = json_field(object, key, where);
  if (!value.is_string()) wrong_type(key, where, "a string", value);
  return value.get<std::string>();
}

std::string json_string_or(const Json& object, std::string_view key, std::string_view fallback,
                           std::string_view where) {
  return json_has(object, key) ? json_string(object, key, where) : std::string(fallback);
}

std::string json_text_or(const Json& object, std::string_view key, std::string_view fallback, std::string_view where) {
  std::string text = json_string_or(object, key, fallback, where);
  require_no_zero(text, key, where);
  return text;
}

std::string json_text(const Json& object, std::string_view key, std::string_view where) {
  std::string text = json_string(object, key, where);
  require<InputError>(!text.empty(), "{}: field \"{}\" is empty", where, key);
  require_no_zero(text, key, where);
  return text;
}

std::vector<std::string> json_texts(const Json& object, std::string_view key, std::string_view where) {
  std::vector<std::string> texts = json_strings(object, key, where);
  for (const std::string& text : texts) {
    require<InputError>(!text.empty(), "{}: field \"{}\" holds an empty text", where, key);
    require_no_zero(text, key, where);
  }
  return texts;
}

bool json_bool(const Json& object, std::string_view key, std::string_view where) {
  const Json& value = json_field(object, key, where);
  if (!value.is_boolean()) wrong_type(key, where, "true or false", value);
  return value.get<bool>();
}

bool json_bool_or(const Json& object, std::string_view key, bool fallback, std::string_view where) {
  return json_has(object, key) ? json_bool(object, key, where) : fallback;
}

std::vector<std::string> json_strings(const Json& object, std::string_view key, std::string_view where) {
  std::vector<std::string> items;
  for (const Json& item : json_array(object, key, where)) {
    if (!item.is_string()) wrong_type(key, where, "a list of strings, all of them", item);
    items.push_back(item.get<std::string>());
  }
  return items;
}

std::vector<int64_t> json_ints(const Json& object, std::string_view key, std::string_view where, int64_t min,
                               int64_t max) {
  std::vector<int64_t> items;
  for (const Json& item : json_array(object, key, where)) items.push_back(to_int(item, key, where, min, max));
  return items;
}

void refuse_or_skip(OnInvalid on_invalid, const std::exception& fault, std::vector<std::string>& skipped) {
  require<InputError>(on_invalid == OnInvalid::skip, "{}; fix it, or leave such records out with {}", fault.what(),
                      option("skip-invalid"));
  skipped.emplace_back(fault.what());
}

void refuse_unknown_keys(const Json& object, const std::vector<std::string>& known, std::string_view where) {
  require<InputError>(object.is_object(), "{}: must be an object, got {}", where, shown_value(object));
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::count(known, key) > 0) continue;
    const std::string shown = key.substr(0, 80);
    throw_error<InputError>("{}: field \"{}\" is unknown{}", where, shown, did_you_mean(shown, known, "\"", "\""));
  }
}

}  // namespace loci
