#include "app/edit_options.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace loci::app {
void add_edit_options(Command& command, EditOptions& options, const std::vector<std::string>& methods) {
  command.add({.name = "method",
               .value = &options.method,
               .help = "how facts are written: " + methods_for_people(),
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
}

}  // namespace loci::app
