// Seconds of one forward pass through the executor, as JSON: the counterpart of bench/peers/forward.py.
//   forward_bench MODEL --shape 11x12 --shape 8x128 [--device cuda] [--precision tf32] [--repeats 7]
//     [--threads N] [--matrix-extent 2048]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "app/help.h"
#include "bench/ceilings.h"
#include "model/executor/executor.h"
#include "runtime/error.h"

namespace {

using namespace loci;

Plan batch(int64_t sequences, int64_t tokens, int64_t vocabulary) {
  Plan plan;
  for (int64_t s = 0; s < sequences; ++s) {
    Sequence sequence;
    for (int64_t t = 0; t < tokens; ++t)
      sequence.tokens.push_back(static_cast<int32_t>((s * 7919 + t * 104729 + 17) % vocabulary));
    plan.sequences.push_back(std::move(sequence));
  }
  return plan;
}

/// Every position meets the unembedding, as in the peer's forward pass, or only the last one of each sequence.
void want(Plan& plan, bool all) {
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const int64_t rows = plan.sequences[s].row_count();
    for (int64_t t = all ? 0 : rows - 1; t < rows; ++t) plan.wanted.push_back({static_cast<int64_t>(s), t});
  }
}

struct Options {
  std::string model;
  std::vector<std::string> shapes{"11x12", "8x128"};
  std::string device = "cpu", precision = "fp32";
  int repeats = 7, threads = 0;
  double memory_gib = 0;
  int64_t extent = 0;
};

// From the plan on the host to logits on the device, all issued work done.
double median_seconds(Executor& executor, const Plan& plan, int repeats) {
  std::vector<double> seconds;
  for (int i = -1; i < repeats; ++i) {  // the first run only warms up
    const auto start = std::chrono::steady_clock::now();
    const auto run = executor.run(plan);
    executor.context().synchronize();
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (const float value : to_host(executor.context(), run.logits.rows_slice(0, 1)))
      require<NumericalError>(value - value == 0, "the forward pass gave a value that is not finite");
    if (i >= 0) seconds.push_back(elapsed);
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[repeats / 2];
}

void run(const Options& options) {
  Context context({.device = Device::parse(options.device),
                   .precision = parse_precision(options.precision),
                   .threads = options.threads,
                   .memory_budget = static_cast<int64_t>(options.memory_gib * 1024 * 1024 * 1024)});
  const Model model = Model::load(context, options.model);
  // What the device multiplies at best, before it has worked for long and after.
  const auto matrix_rate = [&] { return options.extent ? bench::square_product_flops(context, options.extent) : 0.0; };
  double rate = matrix_rate();
  Executor executor(context, model);
  Json results = Json::array();
  for (const std::string& shape : options.shapes) {
    int64_t sequences = 0, tokens = 0;
    require<InputError>(std::sscanf(shape.c_str(), "%ldx%ld", &sequences, &tokens) == 2 && sequences > 0 && tokens > 0,
                        "--shape {}: use SEQUENCESxTOKENS, such as 11x12", shape);
    Plan all = batch(sequences, tokens, model.config().vocabulary);
    Plan last = all;
    want(all, true);
    want(last, false);
    results.push_back({{"shape", shape},
                       {"seconds", median_seconds(executor, all, options.repeats)},
                       {"seconds_last_position_only", median_seconds(executor, last, options.repeats)}});
  }
  rate = std::max(rate, matrix_rate());
  fmt::print("{}\n", Json{{"threads", context.threads().size()},
                          {"matrix_flops", rate},
                          {"device", context.device_product()},
                          {"precision", precision_name(context.precision())},
                          {"peak_device_bytes", context.peak_bytes()},
                          {"results", results}}
                         .dump());
}

}  // namespace

int main(int argc, char** argv) {
  app::Command command("forward_bench", "seconds of one forward pass, as JSON");
  command.program = "";
  Options options;
  command.add({.name = "model", .value = &options.model, .help = "model folder", .required = true, .positional = true});
  command.add({.name = "shape", .value = &options.shapes, .type = "SxT", .help = "sequences x tokens"});
  command.add({.name = "device", .value = &options.device, .type = "cpu|cuda|cuda:N", .help = "where to compute"});
  command.add({.name = "precision", .value = &options.precision, .choices = {"fp32", "tf32", "bf16"}});
  command.add({.name = "repeats", .value = &options.repeats, .type = "N", .min = 1, .max = 1000});
  command.add({.name = "threads", .value = &options.threads, .type = "N", .help = "CPU threads; 0: all", .min = 0});
  command.add({.name = "memory", .value = &options.memory_gib, .type = "GIB", .help = "of one wave", .min = 0});
  command.add({.name = "matrix-extent",
               .value = &options.extent,
               .type = "N",
               .help = "also measure the rate of square products of this extent"});
  try {
    if (command.read({argv + 1, argv + argc}) == app::Command::Asked::to_run)
      run(options);
    else
      fmt::print("{}", command_help(command));
  } catch (const std::exception& error) {
    fmt::print(stderr, "forward_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
