#include "app/edit_options.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <future>
#include <optional>

#include "edit/common/context_templates.h"
#include "edit/moments/second_moments.h"
#include "runtime/error.h"
#include "runtime/io/sha256.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

RomeHparams resolve_hparams(const EditOptions& options, const GptConfig& config) {
  RomeHparams hparams = options.hparams.empty() ? RomeHparams() : read_hparams(options.hparams);
  if (!hparams.without_effect.empty())
    spdlog::info("{}: without effect here: {}", options.hparams, fmt::join(hparams.without_effect, ", "));
  if (hparams.method)
    require<InputError>(*hparams.method == options.method,
                        "{}: the hyper-parameters are made for {}, but --method is {}; give --method {}, or remove the "
                        "fields that say so (\"alg_name\", \"original_implementation\", \"enable_...\")",
                        options.hparams, *hparams.method, options.method, *hparams.method);
  if (options.layer >= 0) hparams.layer = options.layer;
  check_layer(hparams, config);
  return hparams;
}

/// Notes in `config` where the statistics come from another model.
std::shared_ptr<const Cholesky> factor_given_moment(const EditOptions& options, const RomeHparams& hparams,
                                                    Executor& executor, const Lineage& lineage, Json& config) {
  if (!hparams.uses_second_moment) {
    require<InputError>(options.cov.empty(), "--cov {} contradicts \"mom2_adjustment\": false in --hparams",
                        options.cov);
    require<InputError>(!options.cov_of_other_model, "--cov-of-other-model belongs to --cov FILE, which is not given");
    return nullptr;
  }
  if (options.cov.empty()) refuse_missing_second_moment();
  SecondMomentMatrix matrix =
      read_second_moment(options.cov, hparams.layer, executor.model().config().mlp_width, lineage,
                         options.cov_of_other_model ? OtherModels::accept : OtherModels::refuse);
  if (matrix.origin == MomentOrigin::ancestor || matrix.origin == MomentOrigin::other_model)
    config["cov_collected_on"] = {{"model", moment_origin_name(matrix.origin)},
                                  {"weights_sha256", matrix.collected_on.weights_sha256},
                                  {"base_edits_sha256", matrix.collected_on.edits_sha256}};
  return factor_second_moment(executor.context(), std::move(matrix), options.ridge,
                              fmt::format("{}: the second moment of layer {}", options.cov, hparams.layer));
}

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
               .help = "which key an edit takes: rome, r-rome (the mean key throughout) or p-rome (the bare key "
                       "throughout)",
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

void warn_of_sequential_edits(const EditOptions& options) {
  if (options.method == "rome")
    spdlog::warn(
        "rome takes a mean key in one place and a bare one in another, and in sequence such edits are known to "
        "disable a model (Gupta et al. 2024); --method r-rome or p-rome takes one key throughout");
}

PreparedEdits prepare_edits(const CommonOptions& common, const EditOptions& options, Executor& executor,
                            const Tokenizer& tokenizer, const Lineage& lineage) {
  PreparedEdits prepared;
  // Hashed while it is read and factored.
  std::future<std::string> cov_sha256 =
      std::async(std::launch::async, [&] { return options.cov.empty() ? std::string() : sha256_file(options.cov); });
  RomeSettings& settings = prepared.settings;
  settings.method = rome_method_from_name(options.method);
  settings.hparams = resolve_hparams(options, executor.model().config());
  settings.forcing = common.rome() ? TeacherForcing::text : TeacherForcing::tokens;
  Json cov = Json::object();
  settings.second_moment = factor_given_moment(options, settings.hparams, executor, lineage, cov);
  settings.templates = options.context_templates.empty()
                           ? sample_context_templates(executor, tokenizer, settings.hparams.samples, common.seed)
                           : read_context_templates(options.context_templates);
  check_settings(settings, executor.model().config());
  prepared.config = {{"method", options.method},
                     {"ridge", options.ridge},
                     {"hparams", hparams_to_json(settings.hparams)},
                     {"context_templates", settings.templates},
                     {"cov_sha256", cov_sha256.get()}};
  prepared.config.update(cov);
  if (options.context_templates.empty()) prepared.config["seed"] = common.seed;
  return prepared;
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
    const EditFile file = read_edit_file(given.paths[i], i + 1 == given.paths.size() ? last : FileOrigin::handed_in);
    const bool all = given.numbers.empty() || given.numbers[i] == "all";
    apply_edits(context, model, file, chain, all ? std::nullopt : std::optional(edit_number(given.numbers[i])));
  }
  return chain;
}

void note_base_edits(Json& config, const EditChain& edits) {
  if (!edits.empty()) config["base_edits_sha256"] = edits.sha256();
}

}  // namespace loci::app
