#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "app/common.h"
#include "runtime/error.h"
#include "runtime/provenance.h"

namespace {

int run(int argc, char** argv) {
  CLI::App app{"loci: locates factual associations in GPT models, edits them, and measures what the edit did", "loci"};
  app.set_version_flag("--version", "loci " + loci::loci_version() + " (" + loci::loci_git_commit() + ")");
  app.require_subcommand(1);
  loci::app::add_info(app);
  loci::app::add_predict(app);
  loci::app::add_generate(app);
  loci::app::add_tokenize(app);
  loci::app::add_cov(app);
  loci::app::add_trace(app);
  loci::app::add_edit(app);
  loci::app::add_eval(app);
  loci::app::add_train(app);
  loci::app::add_export(app);
  try {
    std::vector<std::string> arguments = loci::app::with_configuration({argv + 1, argv + argc});
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("loci"));
  spdlog::set_pattern("%^%l%$: %v");
  try {
    return run(argc, argv);
  } catch (const loci::Error& error) {
    spdlog::error("{}", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    spdlog::error("out of memory: set a smaller --memory or use a machine with more");
    return 5;
  } catch (const std::exception& error) {
    spdlog::error("unexpected: {}", error.what());
    return 70;
  }
}
