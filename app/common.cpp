#include "app/common.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <set>

#include "runtime/error.h"
#include "runtime/json.h"

namespace loci::app {
namespace {

/// `--config FILE.json`: an object whose keys are the long flags without dashes in front.
class JsonConfig : public CLI::Config {
 public:
  std::string to_config(const CLI::App* command, bool, bool, std::string) const override {
    return resolved_configuration(*command).dump(2);
  }
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    const std::string text(std::istreambuf_iterator<char>(input), {});
    const nlohmann::json object = parse_json(text, "--config");
    require<InputError>(object.is_object(), "--config: the file must hold one JSON object of flags and values");
    std::vector<CLI::ConfigItem> flags;
    for (const auto& [key, value] : object.items()) flags.push_back(item(key, value));
    return flags;
  }

 private:
  static CLI::ConfigItem item(const std::string& key, const nlohmann::json& value) {
    CLI::ConfigItem made;
    made.name = key;
    const auto text = [&](const nlohmann::json& one) { return one.is_string() ? one.get<std::string>() : one.dump(); };
    require<InputError>(!value.is_object() && !value.is_null(), "--config: field \"{}\" must be a value or a list", key);
    if (value.is_array()) {
      for (const auto& one : value) made.inputs.push_back(text(one));
    } else {
      made.inputs.push_back(text(value));
    }
    return made;
  }
};

}  // namespace

Context CommonOptions::make_context() const {
  if (precision != "fp32")
    throw_error<InputError>("--precision {}: the cpu device computes in fp32 only; use --precision fp32", precision);
  return Context({.device = Device::parse(device),
                  .threads = threads,
                  .memory_budget = static_cast<int64_t>(memory_gib * 1024 * 1024 * 1024)});
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  command.add_option("model", options.model, "Hugging Face model directory")->required()->option_text("MODEL");
  command.add_option("--device", options.device, "cpu, cuda or cuda:INDEX")->capture_default_str();
  command.add_option("--precision", options.precision, "arithmetic of matrix products")
      ->check(CLI::IsMember({"fp32", "tf32", "bf16"}))
      ->capture_default_str();
  command.add_option("--compat", options.compat, "rome: reproduce the published code where it differs from the paper")
      ->check(CLI::IsMember({"none", "rome"}))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "seed of everything that is drawn")->capture_default_str();
  command.add_option("--threads", options.threads, "CPU threads (0: all cores)")->check(CLI::Range(0, 4096));
  command.add_option("--memory", options.memory_gib, "GiB that one wave may use (0: half of what is free)")
      ->check(CLI::NonNegativeNumber);
  command.add_flag("--json", options.json, "print one JSON object on standard output");
  command.set_config("--config", "", "JSON file with the same keys as the flags");
  command.config_formatter(std::make_shared<JsonConfig>());
  command.allow_config_extras(CLI::config_extras_mode::error);
}

void add_output_options(CLI::App& command, OutputOptions& options) {
  command.add_option("--output", options.path, "result file (HDF5)")->required()->option_text("FILE.h5");
  command.add_flag("--overwrite", options.overwrite, "start anew where the output exists");
}

nlohmann::json resolved_configuration(const CLI::App& command) {
  static const std::set<std::string> kWithoutEffect = {"threads", "memory",    "json",   "output",
                                                       "config",  "overwrite", "help", "model"};
  nlohmann::json resolved = {{"command", command.get_name()}};
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_single_name();
    if (kWithoutEffect.contains(name)) continue;
    if (option->get_items_expected_max() == 0) {
      resolved[name] = option->count() > 0;
    } else if (option->count() > 0) {
      const auto values = option->results();
      if (values.size() == 1) resolved[name] = values[0];
      else resolved[name] = values;
    } else {
      resolved[name] = option->get_default_str();
    }
  }
  return resolved;
}

void print_json(const nlohmann::json& object) { fmt::print("{}\n", object.dump()); }

}  // namespace loci::app
