#include "app/edit_options.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "app/help.h"

namespace loci::app {
namespace {

/// The value of --method among arguments; empty where there is none.
std::string method_in(const std::vector<std::string>& arguments) {
  constexpr std::string_view kMethod = "--method";
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == kMethod && i + 1 < arguments.size()) return arguments[i + 1];
    if (arguments[i].starts_with("--method=")) return arguments[i].substr(kMethod.size() + 1);
  }
  return "";
}

std::string hparams_help(const std::vector<std::string>& arguments) {
  const std::string method = method_in(arguments);
  const auto entry = std::ranges::find(methods(), method, &MethodEntry::name);
  if (entry == methods().end() || entry->hparams == nullptr) return "";
  std::string text = fmt::format("\nHyper-parameters of {} (keys of --hparams FILE.json):\n", method);
  for (const SettingRow& row : entry->hparams(method)) {
    std::string right = fmt::format("{}; {} [default: {}]", row.help, row.values, row.default_value);
    std::erase(right, '`');  // of the tables in the documentation
    text += help_entry(row.key, right);
  }
  return text;
}

}  // namespace

void add_edit_options(Command& command, EditOptions& options, const std::vector<std::string>& methods) {
  command.more_help = hparams_help;
  command.add(
      {.name = "method",
       .value = &options.method,
       .help = "how facts are written: " + methods_for_people() + "; with --help, its hyper-parameters are listed",
       .role = Role::by_content,
       .choices = methods});
  command.add({.name = "cov",
               .value = &options.cov,
               .type = "FILE[,...]",
               .help =
                   "second moments: as loci cov wrote them, or the .npz of the published code; of several files, each "
                   "layer is taken from the one that has it",
               .role = Role::input,
               .names = Names::hdf5_file,
               .commas = true,
               .default_text = "none, where \"mom2_adjustment\" is false in --hparams; else required"});
  command.add({.name = "hparams",
               .value = &options.hparams,
               .type = "FILE.json|NAME",
               .help = "hyper-parameters with the keys of the published code: a file, or a name such as gpt2-xl, which "
                       "stands for the method's published ones",
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
  command.add({.name = "memory-texts",
               .value = &options.memory_texts,
               .type = "FILE",
               .help = "texts that the neurons of t-patcher are to leave alone, plain or as JSON lines",
               .role = Role::input,
               .names = Names::file,
               .group = Group::method,
               .default_text = "required for t-patcher"});
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

void add_batch_option(Command& command, int64_t& batch) {
  command.add({.name = "batch",
               .value = &batch,
               .type = "N",
               .help = "write N requests together, in their order; 0: all of them",
               .role = Role::by_content,
               .min = 0,
               .default_text = "0 for memit, emmet, alphaedit and pmet; \"n_edits\" for ultraedit; else 1"});
}

std::optional<int64_t> batch_size(int64_t batch) { return batch < 0 ? std::nullopt : std::optional(batch); }

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

EditOptions edit_options(const CommonOptions& common, EditOptions options) {
  options.seed = common.seed;
  options.forcing = common.rome() ? TeacherForcing::text : TeacherForcing::tokens;
  options.published_quirks = common.rome();
  return options;
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
  command.add({.name = "without",
               .value = &given.without,
               .type = "N[,...]",
               .help = "leave these edits of --edits out, from 0, and what was written together with them",
               .role = Role::by_content,
               .group = Group::input,
               .commas = true,
               .default_text = "none",
               .needs = "edits"});
}

}  // namespace loci::app
