#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json_fwd.h"

namespace loci {

/// Objects and arrays may lie this deep inside each other.
inline constexpr int kJsonMaxDepth = 64;

/// Strict JSON (RFC 8259): refuses duplicate keys, nesting deeper than kJsonMaxDepth, invalid UTF-8, NaN and
/// infinities, numbers beyond a double, and anything after the value. A byte order mark at the beginning is passed
/// over. Throws InputError "{name}: line L, byte B: cause"; bytes count from 0 (after the mark), lines from 1. Files of
/// other kinds (archives, UTF-16, git-lfs pointers) are called by their names.
Json parse_json(std::string_view text, std::string_view name);

/// The same for a file; InputError if it cannot be read.
Json parse_json_file(const std::filesystem::path& path);

/// Compact text with sorted keys. Equal values give equal text.
std::string canonical_json(const Json& value);

// Typed access to a member of `object`. `where` says which file and record it is from and leads every message:
// "{where}: field "n_layer" must be an integer, got 1.9". All throw InputError when `object` is no object, the field is
// missing, of another type or out of range. The `_or` forms return the fallback when the field is absent or null.

/// True if the field is there and not null.
bool json_has(const Json& object, std::string_view key);
/// The member of any type, null included.
const Json& json_field(const Json& object, std::string_view key, std::string_view where);
const Json& json_object(const Json& object, std::string_view key, std::string_view where);
const Json& json_array(const Json& object, std::string_view key, std::string_view where);

/// Integers only: 1.9, 1.0, "1" and numbers beyond int64 are refused; so is a value outside [min, max].
int64_t json_int(const Json& object, std::string_view key, std::string_view where,
                 int64_t min = std::numeric_limits<int64_t>::min(), int64_t max = std::numeric_limits<int64_t>::max());
int64_t json_int_or(const Json& object, std::string_view key, int64_t fallback, std::string_view where,
                    int64_t min = std::numeric_limits<int64_t>::min(),
                    int64_t max = std::numeric_limits<int64_t>::max());

/// Integers and finite decimals.
double json_number(const Json& object, std::string_view key, std::string_view where,
                   double min = std::numeric_limits<double>::lowest(), double max = std::numeric_limits<double>::max());
double json_number_or(const Json& object, std::string_view key, double fallback, std::string_view where,
                      double min = std::numeric_limits<double>::lowest(),
                      double max = std::numeric_limits<double>::max());

std::string json_string(const Json& object, std::string_view key, std::string_view where);
std::string json_string_or(const Json& object, std::string_view key, std::string_view fallback, std::string_view where);

/// Texts of records, which end in result files: without U+0000, and not empty unless absent.
std::string json_text(const Json& object, std::string_view key, std::string_view where);
std::string json_text_or(const Json& object, std::string_view key, std::string_view fallback, std::string_view where);
std::vector<std::string> json_texts(const Json& object, std::string_view key, std::string_view where);

bool json_bool(const Json& object, std::string_view key, std::string_view where);
bool json_bool_or(const Json& object, std::string_view key, bool fallback, std::string_view where);

std::vector<std::string> json_strings(const Json& object, std::string_view key, std::string_view where);
std::vector<int64_t> json_ints(const Json& object, std::string_view key, std::string_view where,
                               int64_t min = std::numeric_limits<int64_t>::min(),
                               int64_t max = std::numeric_limits<int64_t>::max());

/// What happens to records of an input file that cannot be used.
enum class OnInvalid { refuse, skip };
/// Throws InputError with the fault and the way out, or adds the fault to the sentences about records left out.
void refuse_or_skip(OnInvalid on_invalid, const std::exception& fault, std::vector<std::string>& skipped);

/// Throws InputError naming the first key of `object` that is not in `known`, and the known one that it resembles.
void refuse_unknown_keys(const Json& object, const std::vector<std::string>& known, std::string_view where);

}  // namespace loci
