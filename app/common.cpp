#include "app/common.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "app/model_name.h"
#include "runtime/error.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/io/json.h"
#include "runtime/processors.h"
#include "runtime/wording.h"

namespace loci::app {

Device CommonOptions::resolved_device() const { return device == "auto" ? Device::best() : Device::parse(device); }

Precision CommonOptions::resolved_precision() const {
  if (precision != "auto") return parse_precision(precision);
  return resolved_device().type == DeviceType::cpu ? Precision::fp32 : Precision::tf32;
}

ContextOptions CommonOptions::context_options() const {
  return {.device = resolved_device(),
          .precision = resolved_precision(),
          .threads = usable_threads(),
          .memory_budget = static_cast<int64_t>(memory_gib * 1024 * 1024 * 1024)};
}

Context CommonOptions::make_context() const { return Context(context_options()); }

int CommonOptions::usable_threads() const {
  const int usable = usable_processors();
  if (threads <= usable) return threads;
  spdlog::warn("--threads {}: this process may use {}, so it runs as many threads; more would only slow it down",
               threads, count(usable, "processor"));
  return usable;
}

void add_machine_options(Command& command, CommonOptions& options, const CommonUse& use) {
  const auto role = [](bool used) { return used ? Role::setting : Role::no_effect; };
  command.add({.name = "device",
               .value = &options.device,
               .type = "cpu|cuda|cuda:N|auto",
               .help = "where to compute; auto: the first GPU where there is one",
               .role = role(use.device),
               .group = Group::machine,
               .hidden = !use.device,
               .environment = "LOCI_DEVICE"});
  command.add({.name = "precision",
               .value = &options.precision,
               .help = "arithmetic of matrix products; auto: tf32 on a GPU, fp32 on the CPU",
               .role = role(use.device),
               .group = Group::machine,
               .hidden = !use.device,
               .choices = {"auto", "fp32", "tf32", "bf16"},
               .environment = "LOCI_PRECISION"});
  command.add({.name = "threads",
               .value = &options.threads,
               .type = "N",
               .help = "CPU threads; 0: one per processor that the process may use, shared by the ranks of a machine",
               .role = Role::no_effect,
               .group = Group::machine,
               .hidden = !use.threads,
               .min = 0,
               .environment = "LOCI_THREADS"});
  command.add({.name = "memory",
               .value = &options.memory_gib,
               .type = "GIB",
               .help = "GiB that one wave of work may use; 0: half of what is free",
               .role = Role::no_effect,
               .group = Group::machine,
               .hidden = !use.device,
               .min = 0,
               .max = 1 << 20});
}

void add_common_options(Command& command, CommonOptions& options, const CommonUse& use) {
  command.add({.name = "model",
               .value = &options.model,
               .type = "DIR",
               .help = "the folder of the model, as Hugging Face writes it",
               .role = Role::input,
               .names = Names::folder,
               .required = true,
               .positional = true});
  add_machine_options(command, options, use);
  command.add({.name = "compat",
               .value = &options.compat,
               .help = "rome: do as the published code does where it differs from the paper",
               .role = use.compat ? Role::setting : Role::no_effect,
               .group = Group::method,
               .hidden = !use.compat,
               .choices = {"none", "rome"}});
  command.add({.name = "seed",
               .value = &options.seed,
               .type = "N",
               .help = "seed of what is drawn: context templates, generated text",
               .role = use.seed.value_or(Role::no_effect),
               .group = Group::method,
               .hidden = !use.seed.has_value()});
  add_json_option(command, options.json);
  command.add({.name = "config",
               .value = &options.config,
               .type = "FILE.json",
               .help = "JSON object whose keys are options without dashes; options on the command line win",
               .role = Role::no_effect,
               .names = Names::file,
               .is_configuration = true,
               .not_empty = true});
}

void add_json_option(Command& command, bool& json) {
  command.add({.name = "json",
               .value = &json,
               .help = "print one JSON object on standard output, and nothing else",
               .role = Role::no_effect});
}

void add_output_options(Command& command, JobOutput& output) {
  command.add({.name = "output",
               .value = &output.path,
               .type = "FILE.h5",
               .help = "result file (HDF5); an interrupted job continues there",
               .role = Role::output,
               .names = Names::file,
               .required = true});
  add_overwrite_option(command, output.overwrite);
}

void add_overwrite_option(Command& command, bool& overwrite) {
  command.add({.name = "overwrite",
               .value = &overwrite,
               .help = "overwrite an existing output",
               .role = Role::no_effect,
               .group = Group::output});
}

void print_done_before(int64_t before, int64_t all, const std::string& items) {
  if (before > 0) fmt::print("{} of {} {} {} done before\n", before, all, items, before == 1 ? "was" : "were");
}

Json resolved_configuration(const Command& command, const CommonOptions& options) {
  Json resolved = {{"command", command.name()}};
  for (const Option& option : command.options()) {
    if (option.role != Role::setting) continue;
    if (const std::optional<Json> value = option.json()) resolved[option.name] = *value;
  }
  if (resolved.contains("device")) {
    resolved["device"] = options.resolved_device().type == DeviceType::cpu ? "cpu" : "cuda";
    resolved["precision"] = precision_name(options.resolved_precision());
  }
  return resolved;
}

ReadyModel load_model(Context& context, const CommonOptions& options) {
  ReadyModel ready{Model::load(context, options.model), Tokenizer::load(options.model)};
  ready.model.checkpoint().require_finite(&context.threads());
  ready.tokenizer.limit_to_embedding(ready.model.config().vocabulary, options.model);
  return ready;
}

Json named_inputs(const Command& command) {
  Json inputs = Json::object();
  for (const Option& option : command.options())
    if (option.role == Role::input && option.given) {
      const std::vector<std::string> paths = option.texts();
      inputs[option.name] = paths.size() == 1 ? Json(paths.front()) : Json(paths);
    }
  return inputs;
}

JobDescription describe_job(const Command& command, const CommonOptions& options, const JobOutput& output) {
  return {.output = output,
          .config = resolved_configuration(command, options),
          .inputs = named_inputs(command),
          .model_name = model_name(options.model)};
}

void check_named_files(const Command& command, const JobOutput& output) {
  std::error_code absent;
  for (const Option& option : command.options()) {
    if (option.role != Role::input || !option.given) continue;
    for (const std::filesystem::path name : option.texts()) {
      require<InputError>(!std::filesystem::equivalent(name, output.path, absent),
                          "--output {}: is the file of {}; choose another output", output.path, option.flag());
      if (option.names == Names::hdf5_file && name.extension() != ".npz") probe_hdf5(name);
    }
  }
  if (output.overwrite || !std::filesystem::exists(output.path, absent)) return;
  try {
    probe_hdf5(output.path);
  } catch (const InputError& error) {
    throw_error<InputError>("{}; give --overwrite to replace it, or another output", error.what());
  }
}

std::string cut_sentence(int64_t cut_documents, int64_t documents, int64_t cut_tokens, int64_t kept_tokens,
                         int64_t limit) {
  return fmt::format("{} of {} documents were cut to {} tokens: {} tokens, {:.1f} % of the text, were left out",
                     cut_documents, documents, limit, cut_tokens,
                     100 * static_cast<double>(cut_tokens) / static_cast<double>(cut_tokens + kept_tokens));
}

void print_json(const Json& object) { fmt::print("{}\n", object.dump()); }

}  // namespace loci::app
