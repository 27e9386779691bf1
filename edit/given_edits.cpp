#include "edit/given_edits.h"

#include <charconv>
#include <optional>

#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci {
namespace {

int64_t edit_number(const char* name, const std::string& text) {
  int64_t number = -1;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  require<InputError>(result.ec == std::errc() && result.ptr == text.data() + text.size(),
                      "{} {}: is not the number of an edit", option(name), text);
  return number;
}

}  // namespace

GivenEdits GivenEdits::then(const std::string& path) const {
  GivenEdits longer = *this;
  if (longer.numbers.empty()) longer.numbers.assign(paths.size(), "all");
  longer.paths.push_back(path);
  longer.numbers.emplace_back("all");
  return longer;
}

EditChain apply_given_edits(Context& context, Model& model, const GivenEdits& given, FileOrigin last) {
  EditChain chain;
  if (!given) return chain;
  require<InputError>(given.numbers.empty() || given.numbers.size() == given.paths.size(),
                      "{} gives {} for {} of {}; give a number or \"all\" per file", option("edit"),
                      count(std::ssize(given.numbers), "number"), count(std::ssize(given.paths), "file"),
                      option("edits"));
  require<InputError>(given.without.empty() || (given.paths.size() == 1 && given.numbers.empty()),
                      "{} leaves edits of one file out: give one file with {}, and no {}", option("without"),
                      option("edits"), option("edit"));
  for (size_t i = 0; i < given.paths.size(); ++i) {
    const EditFile file =
        read_edit_file(given.paths[i], model.config(), i + 1 == given.paths.size() ? last : FileOrigin::handed_in);
    const bool all = given.numbers.empty() || given.numbers[i] == "all";
    EditChoice choice;
    if (!all) choice.only = edit_number("edit", given.numbers[i]);
    for (const std::string& left_out : given.without) choice.without.push_back(edit_number("without", left_out));
    apply_edits(context, model, file, chain, choice);
  }
  return chain;
}

void note_base_edits(Json& config, const EditChain& edits) {
  if (!edits.empty()) config["base_edits_sha256"] = edits.sha256();
}

}  // namespace loci
