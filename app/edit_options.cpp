#include "app/edit_options.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <optional>

#include "runtime/error.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

int64_t edit_number(const std::string& text) {
  int64_t number = -1;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  require<InputError>(result.ec == std::errc() && result.ptr == text.data() + text.size(),
                      "--edit {}: is not the number of an edit", text);
  return number;
}

}  // namespace

void add_edit_options(Command& command, EditOptions& options, const std::vector<std::string>& methods) {
  command.add({.name = "method",
               .value = &options.method,
               .help = "how facts are written: " + methods_for_people(),
               .role = Role::by_content,
               .choices = methods});
  command.add({.name = "cov",
               .value = &options.cov,
               .type = "FILE",
               .help = "second moments: as loci cov wrote them, or the .npz of the published code",
               .role = Role::input,
               .names = Names::hdf5_file,
               .default_text = "none, where \"mom2_adjustment\" is false in --hparams; else required"});
  command.add({.name = "hparams",
               .value = &options.hparams,
               .type = "FILE.json",
               .help = "hyper-parameters with the keys of the published code",
               .role = Role::input,
               .names = Names::file,
               .group = Group::method,
               .default_text = "those of the published code, with --layer"});
  command.add({.name = "context-templates",
               .value = &options.context_templates,
               .type = "FILE.json",
               .help = "list of texts with one {} each, in which the key is averaged",
               .role = Role::input,
               .names = Names::file,
               .group = Group::method,
               .default_text = "sampled from the model by --seed"});
  command.add({.name = "layer",
               .value = &options.layer,
               .type = "N",
               .help = "layer to edit",
               .role = Role::by_content,
               .min = 0,
               .default_text = "that of --hparams"});
  command.add({.name = "ridge",
               .value = &options.ridge,
               .type = "X",
               .help = "added to the diagonal of C = E[k k^T]",
               .role = Role::by_content,
               .min = 0});
  command.add({.name = "cov-of-other-model",
               .value = &options.cov_of_other_model,
               .help = "take second moments that were collected on another model (such as the one before fine-tuning) "
                       "where their shape fits",
               .role = Role::by_content});
}

void add_zsre_target(Command& command, std::string& name) {
  command.add({.name = "zsre-target",
               .value = &name,
               .help = "edit zsRE records towards answers[0] (answers) or the field alt (alt)",
               .group = Group::input,
               .choices = {"answers", "alt"}});
}

ZsreTarget zsre_target_from_name(const std::string& name) {
  return name == "alt" ? ZsreTarget::alternative : ZsreTarget::answer;
}

PreparedEdits prepare_edits(const CommonOptions& common, EditOptions options, Executor& executor,
                            const Tokenizer& tokenizer, const Lineage& lineage) {
  options.seed = common.seed;
  options.forcing = common.rome() ? TeacherForcing::text : TeacherForcing::tokens;
  Resources resources(options, executor, tokenizer, lineage);
  PreparedEdits prepared{make_method(options.method, resources), {{"method", options.method}}};
  prepared.config.update(prepared.method->settings());
  prepared.config.update(resources.configuration());
  return prepared;
}

std::optional<PreparedRequest> prepare_or_skip(const Method& method, const EditRequest& request,
                                               const std::string& name, OnInvalid on_invalid,
                                               std::vector<std::string>& skipped) {
  try {
    return method.prepare(request, fmt::format("{}: case_id {}", name, request.case_id));
  } catch (const InputError& error) {
    refuse_or_skip(on_invalid, error, skipped);
    return std::nullopt;
  }
}

void warn_of_sequence(const Method& method) {
  if (!method.warning_of_sequences().empty()) spdlog::warn("{}", method.warning_of_sequences());
}

GivenEdits GivenEdits::then(const std::string& path) const {
  GivenEdits longer = *this;
  if (longer.numbers.empty()) longer.numbers.assign(paths.size(), "all");
  longer.paths.push_back(path);
  longer.numbers.emplace_back("all");
  return longer;
}

void add_given_edits(Command& command, GivenEdits& given) {
  command.add({.name = "edits",
               .value = &given.paths,
               .type = "FILE.h5[,...]",
               .help = "use the model with these edits; of several files, each was made on top of those before it",
               .role = Role::input,
               .names = Names::hdf5_file,
               .commas = true});
  command.add({.name = "edit",
               .value = &given.numbers,
               .type = "N[,...]",
               .help = "take only this edit of --edits, from 0; for several files, a number or \"all\" per file",
               .role = Role::by_content,
               .group = Group::input,
               .commas = true,
               .default_text = "all, in their order",
               .needs = "edits"});
}

EditChain apply_given_edits(Context& context, Model& model, const GivenEdits& given, FileOrigin last) {
  EditChain chain;
  if (!given) return chain;
  require<InputError>(given.numbers.empty() || given.numbers.size() == given.paths.size(),
                      "--edit gives {} for {} of --edits; give a number or \"all\" per file",
                      count(std::ssize(given.numbers), "number"), count(std::ssize(given.paths), "file"));
  for (size_t i = 0; i < given.paths.size(); ++i) {
    const EditFile file =
        read_edit_file(given.paths[i], model.config(), i + 1 == given.paths.size() ? last : FileOrigin::handed_in);
    const bool all = given.numbers.empty() || given.numbers[i] == "all";
    apply_edits(context, model, file, chain, all ? std::nullopt : std::optional(edit_number(given.numbers[i])));
  }
  return chain;
}

void note_base_edits(Json& config, const EditChain& edits) {
  if (!edits.empty()) config["base_edits_sha256"] = edits.sha256();
}

}  // namespace loci::app
