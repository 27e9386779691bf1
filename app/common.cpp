#include "app/common.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/libraries.h"
#include "runtime/error.h"
#include "runtime/hdf5_probe.h"
#include "runtime/json.h"

namespace loci::app {
namespace {

/// A configuration value as it would stand on the command line; booleans are flags.
void append_flag(const std::string& path, const std::string& key, const nlohmann::json& value,
                 std::vector<std::string>& arguments) {
  require<InputError>(!value.is_object() && !value.is_null(), "{}: field \"{}\" must be a value or a list", path, key);
  if (value.is_boolean()) {
    if (value.get<bool>()) arguments.push_back("--" + key);
    return;
  }
  for (const auto& one : value.is_array() ? value : nlohmann::json::array({value})) {
    require<InputError>(one.is_string() || one.is_number(), "{}: field \"{}\" must hold texts or numbers", path, key);
    const std::string text = one.is_string() ? one.get<std::string>() : one.dump();
    arguments.push_back(fmt::format("--{}={}", key, text));
  }
}

/// Whether a flag is given, as `--key value` or `--key=value`.
bool is_given(const std::vector<std::string>& arguments, const std::string& key) {
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == "--" + key || argument.starts_with("--" + key + "=");
  });
}

}  // namespace

Device CommonOptions::resolved_device() const { return device == "auto" ? Device::best() : Device::parse(device); }

Precision CommonOptions::resolved_precision() const {
  if (precision != "auto") return parse_precision(precision);
  return resolved_device().type == DeviceType::cpu ? Precision::fp32 : Precision::tf32;
}

ContextOptions CommonOptions::context_options() const {
  return {.device = resolved_device(),
          .precision = resolved_precision(),
          .threads = threads,
          .memory_budget = static_cast<int64_t>(memory_gib * 1024 * 1024 * 1024)};
}

Context CommonOptions::make_context() const { return Context(context_options()); }

void add_machine_options(CLI::App& command, CommonOptions& options) {
  command.add_option("--device", options.device, "cpu, cuda, cuda:INDEX; auto: the first GPU where there is one")
      ->envname("LOCI_DEVICE")
      ->capture_default_str();
  command
      .add_option("--precision", options.precision,
                  "arithmetic of matrix products; auto: tf32 on a GPU, fp32 on the CPU")
      ->check(CLI::IsMember({"auto", "fp32", "tf32", "bf16"}))
      ->envname("LOCI_PRECISION")
      ->capture_default_str();
  command.add_option("--threads", options.threads, "CPU threads (0: all cores, shared by the ranks of a machine)")
      ->check(CLI::Range(0, 4096));
  command.add_option("--memory", options.memory_gib, "GiB that one wave may use (0: half of what is free)")
      ->check(not_negative);
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  // --model is for configurations, whose flags come behind those of the command line: the first one counts.
  command.add_option("model,--model", options.model, "Hugging Face model directory")
      ->required()
      ->type_name("DIR")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeFirst);
  add_machine_options(command, options);
  command.add_option("--compat", options.compat, "rome: reproduce the published code where it differs from the paper")
      ->check(CLI::IsMember({"none", "rome"}))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "seed of what is drawn: context templates, generated text")
      ->check(not_negative)
      ->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object on standard output");
  command.add_option("--config", options.config, "JSON file with the same keys as the flags; flags given here win")
      ->type_name("FILE.json")
      ->check(not_empty);
}

std::vector<std::string> with_configuration(std::vector<std::string> arguments) {
  if (!arguments.empty() && arguments[0] == "train") return arguments;  // its --config is the training itself
  std::string path;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--config" && i + 1 < arguments.size()) path = arguments[i + 1];
    if (arguments[i].starts_with("--config=")) path = arguments[i].substr(std::string("--config=").size());
  }
  if (path.empty()) return arguments;
  const nlohmann::json object = parse_json_file(path);
  require<InputError>(object.is_object(), "{}: the file must hold one JSON object of flags and values", path);
  std::vector<std::string> added;
  for (const auto& [key, value] : object.items()) {
    require<InputError>(key != "config", "{}: field \"config\": a configuration cannot name another one", path);
    if (!is_given(arguments, key)) append_flag(path, key, value, added);
  }
  arguments.insert(arguments.end(), added.begin(), added.end());
  return arguments;
}

std::string not_negative(const std::string& text) {
  double value = 0;
  const bool is_number = CLI::detail::lexical_cast(text, value) && std::isfinite(value);
  return is_number && value >= 0 ? "" : fmt::format("{} is no number from 0 on", text);
}

std::string positive(const std::string& text) {
  double value = 0;
  const bool is_number = CLI::detail::lexical_cast(text, value) && std::isfinite(value);
  return is_number && value > 0 ? "" : fmt::format("{} is no number above 0", text);
}

std::string not_empty(const std::string& text) { return text.empty() ? "the name is empty" : ""; }

UnitStore OutputOptions::open(const nlohmann::json& config, std::optional<UnitGrowth> growth) const {
  spdlog::info("configuration: {}", config.dump());
  return UnitStore(path, config, overwrite ? OnExisting::overwrite : OnExisting::resume, std::move(growth));
}

bool is_complete(const UnitStore& store, const nlohmann::json& config) {
  if (store.complete())
    spdlog::info("{}: {} is complete already", config.at("command").get<std::string>(), store.output().string());
  return store.complete();
}

void add_output_options(CLI::App& command, OutputOptions& options) {
  command.add_option("--output", options.path, "result file (HDF5)")->required()->type_name("FILE.h5");
  command.add_flag("--overwrite", options.overwrite, "start anew where the output exists");
}

Progress start_progress(const std::string& job, const std::string& items, const Units& units, const UnitStore& store) {
  const int64_t all = units.passes * units.items;
  int64_t done = 0;
  for (const int64_t unit : store.done_units()) done += units.size(unit);
  if (done > 0) spdlog::info("{}: {} of {} {} were done before", job, done, all, items);
  return Progress(job, items, all, done);
}

void print_done_before(int64_t before, int64_t all, const std::string& items) {
  if (before > 0) fmt::print("{} of {} {} were done before\n", before, all, items);
}

nlohmann::json resolved_configuration(const CLI::App& command, const CommonOptions& options) {
  static const std::set<std::string> kWithoutEffect = {"threads",           "memory", "json",  "output", "config",
                                                       "overwrite",         "help",   "model", "ranks",  "rank-timeout",
                                                       "checkpoint-seconds"};
  nlohmann::json resolved = {{"command", command.get_name()}};
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_single_name();
    if (kWithoutEffect.contains(name)) continue;
    if (option->get_items_expected_max() == 0) {
      resolved[name] = option->count() > 0;
    } else if (option->count() > 0) {
      const auto values = option->results();
      if (values.size() == 1)
        resolved[name] = values[0];
      else
        resolved[name] = values;
    } else {
      resolved[name] = option->get_default_str();
    }
  }
  resolved["device"] = options.resolved_device().type == DeviceType::cpu ? "cpu" : "cuda";
  resolved["precision"] = precision_name(options.resolved_precision());
  return resolved;
}

ReadyModel load_model(Context& context, const CommonOptions& options) {
  ReadyModel ready{Model::load(context, options.model), Tokenizer::load(options.model)};
  ready.model.checkpoint().require_finite(&context.threads());
  ready.tokenizer.limit_to_embedding(ready.model.config().vocabulary, options.model);
  return ready;
}

nlohmann::json named_inputs(const CLI::App& command) {
  static const std::set<std::string> kNotRead = {"output", "export", "config"};
  nlohmann::json inputs = nlohmann::json::object();
  for (const CLI::Option* option : command.get_options()) {
    const std::string type = option->get_type_name();
    const bool names_files = type.starts_with("FILE") || type.starts_with("DIR") || type == "REQUESTS.json";
    if (names_files && option->count() > 0 && !kNotRead.contains(option->get_single_name()))
      inputs[option->get_single_name()] =
          option->results().size() > 1 ? nlohmann::json(option->results()) : nlohmann::json(option->results().front());
  }
  return inputs;
}

void check_named_files(const CLI::App& command, const OutputOptions& output) {
  const nlohmann::json inputs = named_inputs(command);
  std::error_code absent;
  for (const auto& [option, paths] : inputs.items()) {
    for (const auto& path : paths.is_array() ? paths : nlohmann::json::array({paths})) {
      const std::filesystem::path name = path.get<std::string>();
      require<InputError>(!std::filesystem::equivalent(name, output.path, absent),
                          "--output {}: is the file of --{}; choose another output", output.path, option);
      const bool is_hdf5 = option == "tokens" || option == "edits" || (option == "cov" && name.extension() != ".npz");
      if (is_hdf5) probe_hdf5(name);
    }
  }
  if (output.overwrite || !std::filesystem::exists(output.path, absent)) return;
  try {
    probe_hdf5(output.path);
  } catch (const InputError& error) {
    throw_error<InputError>("{}; give --overwrite to replace it, or another output", error.what());
  }
}

Provenance job_provenance(const CLI::App& command, const Context& context, const Model& model, int64_t ranks,
                          const std::string& base_edits_sha256) {
  Provenance provenance = current_provenance();
  provenance.inputs = named_inputs(command);
  for (std::string& library : numeric_libraries(context)) provenance.libraries.push_back(std::move(library));
  provenance.world_size = ranks;
  provenance.weights_sha256 = model.checkpoint().weights_sha256();
  provenance.base_edits_sha256 = base_edits_sha256;
  return provenance;
}

std::string cut_sentence(int64_t cut_documents, int64_t documents, int64_t cut_tokens, int64_t kept_tokens,
                         int64_t limit) {
  return fmt::format("{} of {} documents were cut to {} tokens: {} tokens, {:.1f} % of the text, were left out",
                     cut_documents, documents, limit, cut_tokens,
                     100 * static_cast<double>(cut_tokens) / static_cast<double>(cut_tokens + kept_tokens));
}

void print_json(const nlohmann::json& object) { fmt::print("{}\n", object.dump()); }

}  // namespace loci::app
