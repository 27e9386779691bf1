#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <string>

#include "app/common.h"
#include "app/ranks.h"
#include "model/train/job.h"
#include "runtime/error.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/io/json.h"

namespace loci::app {
namespace {

struct TrainOptions {
  CommonOptions common;
  RankOptions ranks;
  std::string config;
  std::string output;
  bool overwrite = false;
};

Json to_json(const TrainingSummary& summary, const TrainOptions& options, const TrainingConfig& config) {
  Json made = {{"configuration", training_config_to_json(config)},
               {"output", options.output},
               {"found_complete", summary.outcome == TrainingSummary::Outcome::found_complete},
               {"steps", summary.steps},
               {"tokens", summary.tokens},
               {"seconds", summary.seconds},
               {"tokens_per_second", summary.tokens_per_second}};
  if (!summary.losses.empty()) {
    made["training_loss"] = summary.losses.back().training;
    if (!std::isnan(summary.losses.back().validation)) made["validation_loss"] = summary.losses.back().validation;
  }
  return made;
}

/// Before several ranks use the library.
void check_state(const TrainOptions& options) {
  const std::filesystem::path state = training_state(options.output);
  if (options.overwrite || !std::filesystem::exists(state)) return;
  try {
    probe_hdf5(state);
  } catch (const InputError& error) {
    throw_error<InputError>("{}; give --overwrite to train from the start", error.what());
  }
}

void run_train(const Ranks& ranks, const TrainOptions& options, bool seed_given) {
  TrainingConfig config = training_config_from_json(parse_json_file(options.config), options.config);
  if (seed_given) config.seed = options.common.seed;
  Context context = make_rank_context(ranks, options.common);
  const auto communicator = make_device_communicator(ranks.communicator, context);
  spdlog::debug("configuration: {}", training_config_to_json(config).dump());
  const TrainingSummary summary =
      run_training(context,
                   {.config = config,
                    .output = options.output,
                    .on_existing = options.overwrite ? OnExisting::overwrite : OnExisting::resume,
                    .on_step = {}},
                   {.communicator = communicator.get(), .interruption = &ranks.interruption});
  if (!ranks.is_root()) return;
  if (options.common.json) return print_json(to_json(summary, options, config));
  if (summary.outcome == TrainingSummary::Outcome::found_complete)
    fmt::print("{}: all {} steps were done before\n", options.output, summary.steps);
  else
    fmt::print("{}: {} steps, {} tokens, {:.1f} s, {:.0f} tokens/s\n", options.output, summary.steps, summary.tokens,
               summary.seconds, summary.tokens_per_second);
}

}  // namespace

void add_train(Commands& commands, Launcher& launcher) {
  auto options = std::make_shared<TrainOptions>();
  Command& command = commands.add("train", "train a GPT from scratch, or fine-tune one, on text");
  command.example = "loci train --config training.json --output my_model";
  command.page = "docs/training.md";
  command.add({.name = "config",
               .value = &options->config,
               .type = "FILE.json",
               .help = "the training: model, text, steps, rates",
               .role = Role::input,
               .names = Names::file,
               .required = true});
  command.add({.name = "output",
               .value = &options->output,
               .type = "DIR",
               .help = "folder for the model; an interrupted training continues there",
               .role = Role::output,
               .names = Names::folder,
               .required = true});
  add_overwrite_option(command, options->overwrite);
  command.add({.name = "seed",
               .value = &options->common.seed,
               .type = "N",
               .help = "seed of the training",
               .role = Role::by_content,
               .default_text = "that of the configuration"});
  add_machine_options(command, options->common);
  add_rank_options(command, options->ranks);
  add_json_option(command, options->common.json);
  command.run = [options, &command, &launcher] {
    check_state(*options);
    launcher.run(options->ranks, [&](const Ranks& ranks) { run_train(ranks, *options, command.given("seed")); });
  };
}

}  // namespace loci::app
