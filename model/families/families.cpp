#include "model/families/families.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "runtime/error.h"

namespace loci {
namespace {

std::vector<const Family*>& known_families() {
  static std::vector<const Family*> families = {&gpt2(),    &gptj(),  &gpt_neox(), &llama(),
                                                &mistral(), &qwen2(), &qwen3()};
  return families;
}

const Family* family_of(std::string_view model_type) {
  const auto found = std::ranges::find(known_families(), model_type, &Family::model_type);
  return found == known_families().end() ? nullptr : *found;
}

}  // namespace

void add_family(const Family& family) {
  require<Error>(!family_of(family.model_type), "the family {} is known already", family.model_type);
  known_families().push_back(&family);
}

std::vector<int64_t> token_ids(const Json& json, std::string_view name, std::string_view where) {
  if (!json_has(json, name)) return {};
  constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
  if (json_field(json, name, where).is_array()) return json_ints(json, name, where, 0, kMaxId);
  // Some files say "none" by -1.
  const int64_t id = json_int(json, name, where, -1, kMaxId);
  return id < 0 ? std::vector<int64_t>() : std::vector<int64_t>{id};
}

Architecture architecture_from_json(const Json& json, std::string_view where, std::vector<std::string>* notes) {
  require<InputError>(json.is_object(), "{}: must be a JSON object with the fields of a model's configuration", where);
  const std::string type = json_string_or(json, "model_type", gpt2().model_type, where);
  const Family* family = family_of(type);
  if (!family) {
    std::vector<std::string_view> known;
    for (const Family* one : known_families()) known.push_back(one->model_type);
    throw_error<InputError>("{}: field \"model_type\" is \"{}\"; loci reads {}", where, type.substr(0, 40),
                            fmt::join(known, ", "));
  }
  return family->read(json, where, notes);
}

Architecture read_architecture(const std::filesystem::path& path, std::vector<std::string>* notes) {
  return architecture_from_json(parse_json_file(path), path.string(), notes);
}

Json architecture_to_json(const Architecture& architecture) { return architecture.family->write(architecture); }

std::vector<int64_t> read_end_tokens(const std::filesystem::path& model, const Architecture& architecture) {
  const std::filesystem::path path = model / "generation_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return architecture.eos_tokens;
  const std::vector<int64_t> ids = token_ids(parse_json_file(path), "eos_token_id", path.string());
  return ids.empty() ? architecture.eos_tokens : ids;
}

}  // namespace loci
